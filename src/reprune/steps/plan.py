"""plan: which groups of channels are cut to what width, and what is expected of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml
from msgspec import UNSET, UnsetType, structs

from reprune.core import store
from reprune.core.artifacts import (
    Cost,
    ModelBundle,
    Plan,
    Previous,
    Profile,
    Sensitivity,
)
from reprune.core.errors import ChainBroken, CompressionError
from reprune.core.lock import Name
from reprune.core.params import GenerationsParams, PlanParams, PruneParams, Target
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.masking import masks_weights, plan_of_masks
from reprune.steps.opening import Dense, open_dense, open_for_masks, refuse_no_choice
from reprune.steps.plan_latency import (
    TimeRatio,
    forecasts,
    idle_tables,
    latency_targets,
    not_timed,
    timers,
)
from reprune.steps.plan_limits import (
    asked_alike,
    dense_milliseconds,
    in_shares,
    refuse_out_of_reach,
    shares_for_people,
)
from reprune.steps.plan_members import members_for_people
from reprune.steps.plan_prior import prior_for_people, with_prior
from reprune.steps.plan_record import recorded
from reprune.steps.plan_trials import with_trials
from reprune.steps.plan_words import for_people, how_to_edit, with_joint
from reprune.steps.refusals import refuse_strangers
from reprune.steps.target_demands import aligned, demands, gains
from reprune.steps.trying import comparing, known_plan

if TYPE_CHECKING:
    from reprune.compress.planning.choose import Choice
    from reprune.compress.planning.latency_table import LatencyTable
    from reprune.compress.planning.options import Options
    from reprune.steps.plan_trials import Trial

PLAN_FILE = "plan.yaml"


@step("plan")
def plan(
    dense: Artifact[ModelBundle],
    profiles: list[Artifact[Profile]],
    table: Artifact[Sensitivity],
    previous: Artifact[Previous],
    plan: PlanParams,
    prune: PruneParams,
    generations: GenerationsParams | UnsetType,
    targets: dict[Name, Target],
    seed: int,
    threads: int,
    ctx: Context,
) -> Plan:
    """Chooses the width of every group under the budget, and says what it predicts.

    With `generations.try_champion` the champion's widths and fresh ones are both cut and compared; in every
    generation number `cold_every` the champion's widths are not looked at.
    With `plan.depth` it also chooses which blocks go. Where `plan.method` masks weights, chooses how
    many of each tensor instead. Widths and blocks that a person set are obeyed. Writes `plan.yaml`, the
    same for people. Raises ChainBroken for artefacts of another model, CompressionError where a
    budget cannot be met or a width cannot be had.
    """
    refuse_strangers(dense, {"sensitivity": table, **{f"profile {p.path}": p for p in profiles}})
    _refuse_other_criterion(table, prune)
    before = _agreed_cost(profiles)
    plan = aligned(plan, targets)
    wishes = [
        *demands(plan, targets),
        *gains(each.manifest for each in profiles),
        *idle_tables(profiles, plan, targets, threads),
    ]
    for wish in wishes:
        ctx.say(f"plan: {wish}")
    if masks_weights(plan):
        whole = open_for_masks(dense, seed=seed, threads=threads, say=ctx.say)
        masking, described = plan_of_masks(whole, before, table, plan, prune, seed)
        _write_for_people(described, wishes, ctx, head=how_to_edit(plan))
        return masking
    opened = open_dense(dense, seed=seed, threads=threads, head_dimensions=plan.head_dimensions)
    refuse_no_choice(opened, plan)
    free = _options(opened, profiles[0].manifest, table, plan)
    _say_uncut(opened, free, plan, ctx)
    options = _by_hand(opened, free, plan, ctx)
    from reprune.compress.planning.choose import choose

    # Nothing below knows of milliseconds or bytes; what is recorded is as a person wrote it.
    written, dense_ms = plan, dense_milliseconds(profiles)
    plan = in_shares(written, before, dense_ms, ctx.say)
    untimed = not_timed(profiles, plan, targets, threads)
    tables = forecasts(profiles, plan, targets, options.full, untimed)
    options = replace(options, forecasts=tables, floors=plan.floors or {}, dense_ms=dense_ms)
    refuse_out_of_reach(written, plan, options, untimed)
    asked = {name: targets[name] for name in latency_targets(plan)}
    with timers(opened, asked, untimed, profiles, seed, threads, ctx) as by_target:
        timer = by_target.get(plan.latency_target) if plan.budget == "latency" else None
        time_ratio = None if timer is None else timer.sure
        if timer is not None and plan.latency_model == "in-model":
            options = replace(options, times=_times(free, timer.once, ctx))
        options = replace(options, timers={name: one.sure for name, one in by_target.items()})
        champion, age = known_plan(previous, generations, ctx)
        champion = asked_alike(champion, written, plan)
        compare = comparing(opened, options, table.manifest, generations, prune, seed, ctx)
        trial = with_trials(options, opened, plan, prune, seed, champion, ctx)
        choice = choose(trial.options, trial.params, time_ratio, trial.champion, ctx.say, compare)
    result = recorded(
        written,
        opened,
        trial.options,
        before,
        choice,
        trial.recorded(
            choice.prediction
            if trial.quality
            else with_joint(choice.prediction, table.manifest.joint, plan.allocator, ctx),
            choice.widths,
        ),
    )
    result = structs.replace(result, age=age if _looked_at(choice, trial) else UNSET)
    if plan.depth and not result.blocks:
        ctx.say("plan: no block is removed: " + _why_no_block(plan))
    result = with_prior(result, previous, generations)
    described = for_people(result, trial.options, choice)
    described["predicted"] |= prior_for_people(result.predicted, ctx)
    described |= shares_for_people(written, plan)
    described |= members_for_people(dense, profiles, plan, trial.options, choice.widths, ctx)
    if opened.skipped:
        described["not_cut"] = dict(opened.skipped)
    if plan.depth and opened.kept_blocks:
        described["not_removable"] = dict(opened.kept_blocks)
    _write_for_people(described, wishes, ctx, head=how_to_edit(plan))
    return result


def _looked_at(choice: Choice, trial: Trial) -> bool:
    """Whether the champion's widths were compared with fresh ones, or were where one that tries began."""
    tries = trial.options.tries
    return choice.champion or (tries is not None and bool(tries.starts))


def _times(options: Options, time_ratio: TimeRatio, ctx: Context) -> LatencyTable:
    """A table of what each option saves in the built model, kept in the work folder."""
    from reprune.compress.planning.latency_table import measure_table

    return measure_table(options.rungs, options.blocks, time_ratio, say=ctx.say)


def _by_hand(opened: Dense, options: Options, params: PlanParams, ctx: Context) -> Options:
    """The options with what a person set, which is said. Raises CompressionError where that cannot be."""
    from reprune.compress.planning.by_hand import ByHand

    widths = params.widths or {}
    removed = None if params.removed_blocks is UNSET else params.removed_blocks
    if not widths and removed is None:
        return options
    hand = ByHand(widths=widths, removed=removed, reasons={**opened.skipped, **opened.kept_blocks})
    fixed = options.by_hand(hand, depth=params.depth)
    kept = [name for name in options.blocks if removed is None and fixed.rungs[name] == (1,)]
    if kept:
        ctx.say(f"plan: stays, for widths inside it are set by hand: {', '.join(kept)}")
    for name, width in widths.items():
        unaligned = "" if width in options.rungs[name] else ", which no allocator would choose"
        ctx.say(f"plan: {name} keeps {width} channels, as set by hand{unaligned}")
    if removed is not None:
        ctx.say(f"plan: blocks that go, as set by hand: {', '.join(removed) or 'none'}")
    return fixed


def _why_no_block(params: PlanParams) -> str:
    if params.removed_blocks is not UNSET:
        return "none is named (plan.removed_blocks)"
    if params.allocator == "uniform":
        return "the uniform allocator only sets widths (plan.allocator)"
    return "narrower widths are predicted to lose less for the same budget"


def _write_for_people(
    described: dict[str, Any], wishes: list[str], ctx: Context, *, head: str = ""
) -> None:
    if wishes:
        described = {**described, "targets": wishes}
    text = yaml.safe_dump(described, sort_keys=False)
    store.write_bytes(ctx.out / PLAN_FILE, (head + text).encode())


def _refuse_other_criterion(table: Artifact[Sensitivity], prune: PruneParams) -> None:
    """Raises ChainBroken where other channels were cut for the table than would be cut now."""
    from reprune.compress.importance import criterion_label

    asked = criterion_label(prune)
    if table.manifest.criterion != asked:
        raise ChainBroken(
            f"the sensitivity was measured with the criterion '{table.manifest.criterion}', "
            f"the section prune asks for '{asked}'",
            where=str(table.path),
            fix="run `sensitivity` again",
        )


def _agreed_cost(profiles: list[Artifact[Profile]]) -> Cost:
    """The dense model's cost, counted alike on every machine; else ChainBroken."""
    first = profiles[0]
    for other in profiles[1:]:
        if other.manifest.cost != first.manifest.cost:
            raise ChainBroken(
                "the profiles disagree about what the dense model costs",
                where=f"{first.path} and {other.path}",
                fix="run `profile` again on both machines, with the same Reprune",
            )
    return first.manifest.cost


def _options(
    opened: Dense, profile: Profile, table: Artifact[Sensitivity], params: PlanParams
) -> Options:
    from reprune.compress.planning.costs import cost_model
    from reprune.compress.planning.curves import fit_blocks, fit_curves
    from reprune.compress.planning.options import Options
    from reprune.compress.structure.alignment import alignments
    from reprune.compress.structure.separate import separated
    from reprune.measure.profile import Counted, count_cost

    measured = [(item.group, item.width) for item in table.manifest.groups]
    if measured != [(group.name, group.width) for group in opened.groups]:
        raise ChainBroken(
            "the sensitivity was measured for other groups than the model has now",
            where=str(table.path),
            fix="run `sensitivity` again",
        )
    counted = Counted(cost=profile.cost, layers=profile.layers, uncounted=profile.uncounted)
    if separated(opened.module):  # the profile knows the attention as one layer
        counted = count_cost(opened.module, opened.task.example_inputs(1))
    blocks = _block_options(opened, table) if params.depth else {}
    curves = fit_curves(table.manifest.groups)
    if blocks:
        curves |= fit_blocks(table.manifest.blocks or ())
    return Options.of(
        curves,
        cost_model(opened.module, opened.groups, counted, opened.blocks),
        params,
        alignments(opened.module, opened.groups, params.round_to),
        blocks,
    )


def _block_options(opened: Dense, table: Artifact[Sensitivity]) -> dict[str, tuple[str, ...]]:
    """The key of each block that was measured, and the groups inside it. Raises ChainBroken where others
    were measured, CompressionError where there is none.
    """
    from reprune.compress.structure.blocks import groups_inside
    from reprune.core.artifacts import block_key

    names = [block.name for block in opened.blocks]
    if names != [item.block for item in table.manifest.blocks or ()]:
        raise ChainBroken(
            "the sensitivity was measured for other blocks than the model has now",
            where=str(table.path),
            fix="run `sensitivity` again",
        )
    if not names:
        raise CompressionError(
            "no block of this model can be removed",
            where="params.yaml (plan.depth)",
            fix="set plan.depth to false, or name what may be removed in the task's `blocks`",
        )
    return {block_key(name): groups_inside(opened.groups, [name]) for name in names}


def _say_uncut(opened: Dense, options: Options, params: PlanParams, ctx: Context) -> None:
    """Names what is not cut and why, and the groups that the params leave no choice for, but those set by
    hand. Raises CompressionError if that is all.
    """
    for layer, reason in opened.skipped.items():
        ctx.say(f"plan: {layer} is not cut: {reason}")
    if params.depth:
        for block, reason in opened.kept_blocks.items():
            ctx.say(f"plan: the block {block} is not removed: {reason}")
    if params.head_dimensions and all(group.unit != "dimension" for group in opened.groups):
        ctx.say("plan: no dimension of an attention head can be cut (plan.head_dimensions)")
    by_hand = params.widths or {}
    whole = [
        name for name, rungs in options.rungs.items() if len(rungs) == 1 and name not in by_hand
    ]
    if len(whole) == len(options.rungs):
        raise CompressionError(
            f"no group is wide enough to be cut to a multiple of {params.round_to} channels",
            where="params.yaml (plan.round_to, plan.min_keep)",
            fix=f"set plan.round_to to less than {params.round_to} (0, the default, is what the targets are "
            "fastest with), or a smaller plan.min_keep",
        )
    if whole:
        ctx.say(f"plan: too narrow to be cut with these params: {', '.join(whole)}")
