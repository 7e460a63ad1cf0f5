"""A cut as the params ask for it: sparse learning first, on a schedule, gentler where the bar is missed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.paired import batch_losses
from reprune.compress.planning.cut_costs import asked_and_done
from reprune.compress.stages import Course, cut_in_stages, rehearse
from reprune.compress.structured import CutResult, cut
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.rates import for_epochs
from reprune.compress.training.reach import bar_of
from reprune.compress.training.recover import recover
from reprune.compress.training.sparse_learning import SparsePush
from reprune.core.errors import Diverged, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.core.artifacts import Surgery

ONE_SHOT = "one-shot"
# The most that a runtime here asks for. Where a plan does not say what it aligned its widths to, those of
# gentler cuts keep what its own have in common, up to this many channels.
ALIGNMENT = 32


def prune_channels(course: Course, work: Path) -> CutResult:
    """The course's module cut as its `prune` params say; the module itself is not changed.

    With `sparse_learning` the model is pushed first. With a `ladder` the cut is tried at once and
    recovers for the ladder's epochs; if that misses the bar of `distill`, or has no finite loss, the next
    gentler cut is tried; the last is taken as it is. `surgery.ladder` says in words what was tried. The
    cut that is taken is then made at once or on the schedule. Whatever was cut when, each group and block
    is on record as what the plan asked of the course's module, and what was done to it, both with costs.

    What was trained is resumed from `work`. Raises what `cut` and `recover` raise, InputError for a
    ladder without a bar; and, before anything trains, what `rehearse` does of any cut that may be taken.
    """
    plan = course
    if course.prune.schedule.kind != ONE_SHOT:
        for fraction in (1.0, *course.prune.ladder.fractions):
            rehearse(_rung(course, fraction))
    course, spent = _pushed(course, work / "sparse-learning")
    course, words, tried = _choose_rung(course, work)
    spent += tried
    if course.prune.schedule.kind == ONE_SHOT:
        result = _cut_at_once(course)
    else:
        result = cut_in_stages(course, work)
        spent += result.surgery.examples or 0
    groups, removals = asked_and_done(
        plan.task, plan.module, plan.groups, plan.widths, plan.blocks, result.architecture
    )
    surgery = msgspec.structs.replace(
        _of_dense(result.surgery, plan),
        groups=groups,
        block_cuts=removals or UNSET,
        ladder=words or UNSET,
        examples=spent or UNSET,
    )
    return replace(result, surgery=surgery)


def _of_dense(surgery: Surgery, plan: Course) -> Surgery:
    """What was done to the model as it came: the cut itself knows the sparsely trained one."""
    method = plan.prune.sparse_learning.method
    if method == "none":
        return surgery
    examples = first_batches(plan.task, "calibration", examples=plan.prune.examples, seed=plan.seed)
    dense = mean_loss(plan.task, plan.module, examples, seed=plan.seed)
    return msgspec.structs.replace(surgery, loss_dense=dense, sparse_learning=method)


def rung_widths(
    groups: Sequence[Group],
    widths: Mapping[str, int],
    fraction: float,
    alignment: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """The widths when only `fraction` of each group's cut is made; never narrower than the plan's.

    A width that is no multiple of the group's `alignment` is lowered to one, but not below the plan's:
    whatever the plan cuts is cut a little. A group without one keeps what the plan's width and the whole one
    share, up to ALIGNMENT channels.
    """
    found = {}
    for group in groups:
        keep = widths.get(group.name, group.width)
        step = (alignment or {}).get(group.name) or math.gcd(keep, group.width, ALIGNMENT)
        wanted = group.width - (group.width - keep) * fraction
        found[group.name] = max(keep, math.floor(wanted / step + 1e-9) * step)
    return found


def rung_blocks(course: Course, fraction: float) -> tuple[Block, ...]:
    """The blocks that go when only `fraction` of the cut is made: at most that share of the plan's, those
    that it predicts to lose least without. All of them where it predicts nothing of one; at least one
    where no group is cut, so that something is.
    """
    names = [block.name for block in course.blocks]
    if not _priced(course):
        return tuple(course.blocks)
    narrower = any(course.widths.get(one.name, one.width) < one.width for one in course.groups)
    number = max(math.floor(len(names) * fraction + 1e-9), 0 if narrower else 1)
    going = sorted(names, key=lambda name: course.block_losses[name])[:number]
    return tuple(block for block in course.blocks if block.name in going)


def _priced(course: Course) -> bool:
    return all(block.name in course.block_losses for block in course.blocks)


def _rung(course: Course, fraction: float) -> Course:
    widths = rung_widths(course.groups, course.widths, fraction, course.alignment)
    return replace(course, widths=widths, blocks=rung_blocks(course, fraction))


def _rung_words(course: Course, rung: Course, fraction: float) -> str:
    """What the rung is, and which of the plan's blocks it leaves in."""
    going = [block.name for block in rung.blocks]
    back = [block.name for block in course.blocks if block.name not in going]
    left = f", {', '.join(back)} not removed" if back else ""
    return f"{fraction:.0%} of the cut{left}"


def _choose_rung(course: Course, work: Path) -> tuple[Course, tuple[str, ...], int]:
    """The course with the widths and blocks of the first rung that reaches the bar; words on each;
    examples.
    """
    ladder = course.prune.ladder
    if not ladder.fractions:
        return course, (), 0
    _check_fractions(ladder.fractions)
    bar, spent = _bar(course)
    *tries, last = (1.0, *ladder.fractions)
    words: list[str] = []

    def note(text: str) -> None:
        words.append(text)
        course.say(f"ladder: {text}")

    if not _priced(course):
        names = ", ".join(block.name for block in course.blocks)
        note(
            f"every cut removes the blocks {names}, of which the plan predicts no loss: only widths are "
            "gentler"
        )
    tried: list[tuple[Mapping[str, int], Sequence[Block]]] = []
    for number, fraction in enumerate(tries):
        rung = _rung(course, fraction)
        name = _rung_words(course, rung, fraction)
        if (rung.widths, rung.blocks) in tried:
            note(f"{name}: the same cut again, not tried")
            continue
        tried.append((rung.widths, rung.blocks))
        try:
            loss, examples = _trial(rung, work / f"rung-{number}")
        except Diverged:
            note(f"{name}: no finite loss: too much")
            continue
        spent += examples
        note(
            f"{name}: loss on tune {loss:.4f} after {ladder.epochs} epoch{'s' * (ladder.epochs > 1)}, "
            f"the bar is {bar:.4f}: {'taken' if loss <= bar else 'too much'}"
        )
        if loss <= bar:
            return rung, tuple(words), spent
    rung = _rung(course, last)
    note(f"{_rung_words(course, rung, last)}: taken without a trial")
    return rung, tuple(words), spent


def _check_fractions(fractions: Sequence[float]) -> None:
    """Raises InputError unless each rung is gentler than the one before it."""
    if any(after >= before for before, after in pairwise(fractions)):
        raise InputError(
            f"the rungs {', '.join(map(str, fractions))} do not fall, so a harsher cut would follow a "
            "gentler one",
            where="params.yaml (prune.ladder.fractions)",
            fix=f"write them as [{', '.join(map(str, sorted(set(fractions), reverse=True)))}]",
        )


def _trial(course: Course, work: Path) -> tuple[float, int]:
    """The best loss on `tune` of a one-shot cut that recovers for the ladder's epochs, and its price."""
    cut_now = _cut_at_once(course)
    lesson = Lesson(
        task=course.task,
        student=cut_now.module,
        teacher=course.teacher,
        teacher_digest=course.digest,
    )
    params = for_epochs(course.distill, course.prune.ladder.epochs)
    done = recover(lesson, params, seed=course.seed, work=work, say=course.say)
    losses = [epoch.tune_loss for epoch in done.recovery.epochs]
    start = done.recovery.start_loss
    return min(losses if start is UNSET else [start, *losses]), done.recovery.examples


def _bar(course: Course) -> tuple[float, int]:
    tune = course.task.batches("tune", epoch=0, seed=course.seed)
    measured = batch_losses(course.task, course.teacher, tune, seed=course.seed)
    bar = bar_of(course.distill, measured.mean)
    if bar is None:
        raise InputError(
            "a ladder needs a bar that tells which cut is too much",
            where="params.yaml (prune.ladder)",
            fix="set distill.bar_ratio, for example to 1.1, or distill.bar",
        )
    return bar, measured.examples


def _pushed(course: Course, work: Path) -> tuple[Course, int]:
    """The course that begins with the sparsely trained model, and the examples that took."""
    params = course.prune.sparse_learning
    if params.method == "none":
        return course, 0
    push = SparsePush(
        method=params.method,
        strength=params.strength,
        groups=course.groups,
        widths=course.widths,
    )
    lesson = Lesson(
        task=course.task,
        student=course.module,
        teacher=course.teacher,
        teacher_digest=course.digest,
    )
    distill = for_epochs(course.distill, params.epochs)
    distill = msgspec.structs.replace(distill, bar=0.0, bar_ratio=0.0)
    done = recover(lesson, distill, seed=course.seed, work=work, say=course.say, shapers=(push,))
    course.say(f"sparse learning: {params.method} for {params.epochs} epochs")
    return replace(course, module=done.module), done.recovery.examples


def _cut_at_once(course: Course) -> CutResult:
    return cut(
        course.task,
        course.module,
        course.groups,
        course.widths,
        course.prune,
        course.seed,
        course.say,
        blocks=course.blocks,
    )
