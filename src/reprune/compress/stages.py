"""Structured pruning on a schedule: cut a little, recover, cut on from what was learnt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET
from torch import nn

from reprune.compress.paired import batch_losses
from reprune.compress.planning.cut_costs import group_cuts, kept_channels
from reprune.compress.stage_files import StageFacts, read_stage, write_stage
from reprune.compress.structure.architecture import Architecture, apply
from reprune.compress.structure.blocks import groups_inside
from reprune.compress.structure.bypass import inside
from reprune.compress.structure.compose import compose
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structured import CutResult, cost_of, cut
from reprune.compress.training.checkpoint import read_state
from reprune.compress.training.lesson import Lesson, identity_of
from reprune.compress.training.optimizer_state import Moments, moments_of, slice_moments
from reprune.compress.training.recover import CHECKPOINT, recover
from reprune.compress.training.schedule import share_at, sparsity_at
from reprune.core.artifacts import PruneStage, Surgery
from reprune.core.documents import digest_of
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.core.params import DistillParams, PruneParams
    from reprune.task.protocol import Task

STAGE_FILE = "stage.safetensors"

# Each stage draws another order of the examples; runs whose seeds are near must not meet.
STAGE_SEEDS = 100_003


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is cut from what, and how it learns in between from `teacher`, which `digest` names.
    `regroup` finds the groups of a model that was cut already, under their names in `groups`.

    `alignment` is, by group, the number of channels whose multiples the targets want, `block_losses` the
    rise in loss that the plan predicts of each of `blocks`; empty where the plan does not say.
    """

    task: Task
    module: nn.Module
    teacher: nn.Module
    digest: str
    groups: Sequence[Group]
    regroup: Callable[[nn.Module], Sequence[Group]]
    widths: Mapping[str, int]
    blocks: Sequence[Block]
    prune: PruneParams
    distill: DistillParams
    seed: int
    say: Callable[[str], None]
    alignment: Mapping[str, int] = field(default_factory=dict)
    block_losses: Mapping[str, float] = field(default_factory=dict)

    @property
    def stages(self) -> int:
        return self.prune.schedule.steps


@dataclass(frozen=True, kw_only=True)
class _Reached:
    """A model on its way. `moments` is what an optimiser remembers of it."""

    module: nn.Module
    architecture: Architecture
    moments: Moments


def cut_in_stages(course: Course, work: Path) -> CutResult:
    """The course's module cut to its widths in `schedule.steps` cuts, with training between them.

    After each cut the model recovers for its part of `schedule.epochs` (whole epochs, shared out
    evenly, the last cut included) as `distill` says, at a constant rate after the first warm-up: the
    falling rate is the distill step's. What the optimiser remembers of channels that stay is carried
    on; that of removed ones is gone with them. Whole blocks go with the first cut. The final widths
    are exactly those asked for, and the architecture is relative to the module given, which is not
    changed. `surgery.stages` says what each stage left; its losses and repairs are the last cut's.

    Stages that are finished are read from `work`; a killed one goes on at its last checkpoint.
    Raises what `cut` and `recover` raise, and CompressionError for an attention that a stage leaves in a
    shape that no later one can cut, before anything is trained.
    """
    rehearse(course)
    identity = _identity(course)
    reached = _Reached(module=course.module, architecture=Architecture(), moments={})
    found: list[StageFacts] = []
    for number in range(1, course.stages + 1):
        folder = work / f"stage-{number:03d}"
        kept = read_stage(folder / STAGE_FILE, course.module, identity=identity)
        if kept is None:
            kept = _stage(course, reached, number, folder, identity)
            write_stage(folder / STAGE_FILE, *kept)
        else:
            course.say(f"stage {number} of {course.stages}: done before")
        module, facts = kept
        reached = _Reached(
            module=module,
            architecture=facts.architecture,
            moments=_left_over(course, module, folder, number),
        )
        found.append(facts)
    surgery = _surgery(course, found, reached)
    return CutResult(module=reached.module, architecture=reached.architecture, surgery=surgery)


def stage_widths(course: Course, number: int) -> dict[str, int]:
    """Each group's channels after cut `number`, of `course.stages`; exactly the widths after the last."""
    schedule = course.prune.schedule
    widths: dict[str, int] = {}
    for group in course.groups:
        keep = course.widths.get(group.name, group.width)
        sparsity = sparsity_at(
            schedule.kind,
            number / schedule.steps,
            final=1.0 - keep / group.width,
            power=_power(course),
        )
        between = round(group.width * (1.0 - sparsity))
        widths[group.name] = keep if number == schedule.steps else max(keep, between)
    return widths


def _stage(
    course: Course, before: _Reached, number: int, folder: Path, identity: str
) -> tuple[nn.Module, StageFacts]:
    widths = stage_widths(course, number)
    blocks = course.blocks if number == 1 else ()
    groups = _groups_now(course, number, before.module)
    goal = {group.name: widths[group.name] for group in groups}
    module, architecture, surgery = before.module, before.architecture, None
    moments = before.moments
    if blocks or any(goal[group.name] < group.width for group in groups):
        seed = course.seed + number * STAGE_SEEDS
        result = cut(
            course.task, before.module, groups, goal, course.prune, seed, course.say, blocks=blocks
        )
        moments = slice_moments(moments, before.module, result.architecture)
        module, surgery = result.module, result.surgery
        architecture = compose(before.architecture, result.architecture)
    module, examples = _learn(course, module, moments, number, folder)
    tune = batch_losses(
        course.task,
        module,
        course.task.batches("tune", epoch=0, seed=course.seed),
        seed=course.seed,
    )
    cost = cost_of(course.task, module)
    schedule = course.prune.schedule
    stage = PruneStage(
        epoch=schedule.epochs * number / schedule.steps,
        share=_share(course, number),
        macs=cost.macs,
        params=cost.params,
        zeros=0,
        loss_after=tune.mean,
    )
    course.say(
        f"stage {number} of {course.stages}: {cost.params} parameters, tune loss {tune.mean:.4f}"
    )
    return module, StageFacts(
        identity=identity,
        architecture=architecture,
        surgery=surgery,
        stage=stage,
        examples=examples + tune.examples,
    )


def _power(course: Course) -> float | None:
    power = course.prune.schedule.power
    return None if power is UNSET else power


def _share(course: Course, number: int) -> float:
    """The part of the plan that the schedule has done after cut `number`, of all groups' channels
    together.
    """
    schedule = course.prune.schedule
    channels = sum(group.width for group in course.groups)
    left = sum(course.widths.get(group.name, group.width) for group in course.groups)
    removed = (channels - left) / max(1, channels)
    done = number / schedule.steps
    return share_at(schedule.kind, done, final=removed, power=_power(course))


def rehearse(course: Course) -> None:
    """Goes through the cuts by width alone: raises what they would raise after hours of training, UnknownName
    for a schedule that nobody registered and CompressionError for a group that is lost on the way.

    Only attention can be lost (heads of one dimension, queries and values of different sizes).
    """
    stage_widths(course, 1)
    if all(group.unit == "channel" for group in course.groups):
        return
    module = course.module
    for number in range(1, course.stages):
        widths = stage_widths(course, number)
        groups = _groups_now(course, number, module)
        kept = {group.name: range(widths[group.name]) for group in groups}
        blocks = course.blocks if number == 1 else ()
        module = apply(module, architecture_of(module, groups, kept, blocks))
    _groups_now(course, course.stages, module)


def _groups_now(course: Course, number: int, module: nn.Module) -> list[Group]:
    """The course's groups as they are in `module`, before cut `number`.

    They are known by what a channel of theirs is and by the layers that they run through, as far as
    those are still there: the layer that named one may be gone with a block. One that has not the width
    which the last cut left is another (of a single key-value head, say, the query heads that share it)
    and is left alone. Raises CompressionError for a group that must be cut further but can no longer
    be found.
    """
    if number == 1:
        return list(course.groups)
    before, widths = stage_widths(course, number - 1), stage_widths(course, number)
    blocks = [block.name for block in course.blocks]
    names = {_places(group, blocks): group.name for group in course.groups}
    renamed = [
        replace(group, name=names.get(_places(group), group.name))
        for group in course.regroup(module)
    ]
    found = [group for group in renamed if before.get(group.name, 0) == group.width]
    gone = groups_inside(course.groups, blocks)
    there = {group.name for group in found}
    for name, width in widths.items():
        if name not in there and name not in gone and width < before[name]:
            raise CompressionError(
                f"after stage {number - 1} it can no longer be cut, {width} channels were to be left",
                where=name,
                fix="set prune.schedule.kind to one-shot, or name the layer in `keep`",
            )
    return found


def _places(group: Group, gone: Collection[str] = ()) -> tuple[str, frozenset[tuple[str, str]]]:
    """The group's unit, and the layers and axes that it runs through without those inside the blocks
    `gone`. The unit tells heads from their dimensions where one layer makes queries, keys and values.
    """
    return group.unit, frozenset(
        (member.module, member.axis) for member in group.members if not inside(member.module, gone)
    )


def _learn(
    course: Course, module: nn.Module, moments: Moments, number: int, folder: Path
) -> tuple[nn.Module, int]:
    """The module after its part of the schedule's epochs, and the examples that took."""
    params = stage_params(course, number)
    if not params.epochs:
        return module, 0
    lesson = Lesson(
        task=course.task,
        student=module,
        teacher=course.teacher,
        teacher_digest=course.digest,
        moments=moments,
    )
    seed = course.seed + number * STAGE_SEEDS
    done = recover(lesson, params, seed=seed, work=folder, say=course.say)
    return done.module, done.recovery.examples


def stage_params(course: Course, number: int) -> DistillParams:
    """How cut `number` is recovered from: for its share of the epochs, rounded to whole ones. The bar is not
    for it: only what is recovered from the last cut, by the distill step, has to meet that.
    """
    schedule = course.prune.schedule
    ends = [round(schedule.epochs * stage / schedule.steps) for stage in (number - 1, number)]
    first = number == 1 or not ends[0]
    return msgspec.structs.replace(
        course.distill,
        epochs=ends[1] - ends[0],
        rate="constant",
        bar=0.0,
        bar_ratio=0.0,
        warmup_epochs=course.distill.warmup_epochs if first else 0.0,
    )


def _left_over(course: Course, module: nn.Module, folder: Path, number: int) -> Moments:
    """What the optimiser of the stage remembered at its end; nothing where it did not train."""
    params = stage_params(course, number)
    state = read_state(folder / CHECKPOINT) if params.epochs else None
    return {} if state is None else moments_of(state, course.task, module, params)


def _identity(course: Course) -> str:
    lesson = Lesson(
        task=course.task,
        student=course.module,
        teacher=course.teacher,
        teacher_digest=course.digest,
    )
    blocks = [block.name for block in course.blocks]
    model = identity_of(lesson, course.distill, course.seed, ())
    return digest_of((model, course.prune, dict(course.widths), blocks))


def _surgery(course: Course, found: Sequence[StageFacts], reached: _Reached) -> Surgery:
    cuts = [facts.surgery for facts in found if facts.surgery is not None]
    if not cuts:
        raise CompressionError(
            "nothing is cut: every group keeps its full width",
            fix="lower plan.fraction, plan.min_keep or plan.round_to, and make the plan again",
        )
    unfitted = {name: why for one in cuts for name, why in (one.unfitted or {}).items()}
    left = {name: why for one in cuts for name, why in (one.left or {}).items()}
    kept = kept_channels(course.groups, reached.architecture)
    gone = {removal.module for removal in reached.architecture.removed}
    return msgspec.structs.replace(
        cuts[-1],
        groups=group_cuts(course.groups, course.widths, kept, gone),
        before=cuts[0].before,
        after=cost_of(course.task, reached.module),
        equality_max_abs=max(surgery.equality_max_abs for surgery in cuts),
        loss_dense=cuts[0].loss_dense,
        blocks=cuts[0].blocks,
        unfitted=unfitted or UNSET,
        left=left or UNSET,
        stages=tuple(facts.stage for facts in found),
        examples=sum(facts.examples for facts in found),
    )
