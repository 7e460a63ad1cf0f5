"""The question that a plan answers, as a spot check asks it of a table: all that can be counted, no clock."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace

from reprune.core.artifacts import Plan, Sensitivity
from reprune.core.errors import CompressionError
from reprune.core.limits import SIZE_BYTES, bounded
from reprune.core.params import PlanParams
from reprune.steps.measuring import CutWork

if TYPE_CHECKING:
    from reprune.compress.planning.allocate import Problem

# The allocator that a spot check plans by, and so the only one whose plan can stand for its own.
PLANS_BY = "sensitivity"
# Multiples of channels where `plan.round_to` leaves them to the targets, and the champion's plan does not say
# what those wanted (it is older).
USUAL = 8


def problem_of(work: CutWork, table: Sensitivity, champion: Plan | None) -> Problem:
    """What `plan` will be asked, of `table`: its budgets (see budgets), floors, alignment, and the widths and
    blocks that were set by hand. `champion` is the plan that the champion was made by. Where the alignment is
    left to the targets it is the champion's.

    Raises CompressionError for widths or blocks set by hand that cannot be had.
    """
    from reprune.compress.planning.by_hand import ByHand
    from reprune.compress.planning.curves import fit_blocks, fit_curves
    from reprune.compress.planning.options import Options
    from reprune.compress.structure.alignment import alignments
    from reprune.compress.structure.blocks import groups_inside

    subject, plan = work.subject, work.knobs.plan
    known = champion.round_to if champion is not None else 0
    plan = replace(plan, round_to=plan.round_to or known or USUAL)
    keys = fit_blocks(table.blocks or ())
    names = [block.block for block in table.blocks or ()]
    options = Options.of(
        fit_curves(table.groups) | keys,
        subject.cost,
        plan,
        alignments(subject.module, subject.groups, plan.round_to),
        {key: groups_inside(subject.groups, [name]) for key, name in zip(keys, names, strict=True)},
    )
    options = dataclasses.replace(options, floors=plan.floors or {})
    if plan.widths or plan.removed_blocks is not UNSET:
        hand = ByHand(
            widths=plan.widths or {},
            removed=None if plan.removed_blocks is UNSET else plan.removed_blocks,
            reasons=work.reasons,
        )
        options = options.by_hand(hand, depth=plan.depth)
    (first, fraction), *others = budgets(plan, champion, subject.cost({}).bytes).items()
    return options.problem(first, fraction, dict(others))


def budgets(plan: PlanParams, champion: Plan | None, dense_bytes: int) -> dict[str, float]:
    """Every budget that can be counted, as a fraction of the dense model's, the first one first.

    Latencies are asked as MACs: those that the champion's plan came to where it was asked for the same
    latencies, else the least of their own fractions; milliseconds, which only a profile makes a share of,
    ask nothing then.
    """
    asked = {plan.budget: plan.fraction, **(plan.limits or {})}
    times = _times(plan)
    found = {name: share for name, share in asked.items() if name not in times}
    if SIZE_BYTES in found:
        found["bytes"] = min(1.0, found.pop(SIZE_BYTES) / dense_bytes)
    if not times:
        return found
    share = min((most for name, most in times.items() if bounded(name) == name), default=1.0)
    if champion is not None and champion.before.macs and _times(champion) == times:
        share = champion.predicted.macs / champion.before.macs
    return found | {"macs": min(found.get("macs", 1.0), share)}


def planned(problem: Problem) -> dict[str, int]:
    """The least loss within the budgets and floors; as little as can be left where nothing is: then `plan`
    says that they cannot be met.
    """
    from reprune.compress.planning.allocate import allocate

    try:
        return allocate(PLANS_BY, problem)
    except CompressionError:
        return problem.least


def champions_widths(
    problem: Problem, plan: PlanParams, champion: Plan | None
) -> dict[str, int] | None:
    """The champion's widths, where they are what was planned from its table as `planned` would: by the same
    allocator for the same budgets, none of them a latency, and still allowed. Else None.
    """
    from reprune.compress.planning.champions import QUESTION
    from reprune.core.artifacts import block_key

    if champion is None or _times(plan) or champion.allocator != PLANS_BY:
        return None
    if any(getattr(champion, name) != getattr(plan, name) for name in QUESTION):
        return None
    if champion.predicted.additivity:  # measured joint cuts decided too
        return None
    gone = {block_key(block) for block in champion.blocks or ()}
    widths = {item.group: item.keep for item in champion.groups}
    widths |= {name: int(name not in gone) for name in problem.blocks}
    fits = widths.keys() == problem.rungs.keys() and all(
        widths[name] in rungs for name, rungs in problem.rungs.items()
    )
    return widths if fits and problem.allows(widths) else None


def _times(asked: PlanParams | Plan) -> dict[str, float]:
    """The latencies among the budgets that were asked for, and their fractions."""
    first = {asked.budget: asked.fraction} if asked.budget == "latency" else {}
    return first | {name: most for name, most in (asked.limits or {}).items() if "@" in name}
