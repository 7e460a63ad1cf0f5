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

from reprune.compress.paired import batch_losses
from reprune.compress.stages import Course, cut_in_stages
from reprune.compress.structured import CutResult, cut
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.reach import bar_of
from reprune.compress.training.recover import recover
from reprune.compress.training.sparse_learning import SparsePush
from reprune.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprune.compress.structure.groups import Group

ONE_SHOT = "one-shot"
# Widths of gentler cuts keep the alignment that the plan's have, up to this many channels.
ALIGNMENT = 8


def prune_channels(course: Course, work: Path) -> CutResult:
    """The course's module cut as its `prune` params say; the module itself is not changed.

    With `sparse_learning` the model is pushed first. With a `ladder` the cut is tried at once and
    recovers for the ladder's epochs; if that misses the bar of `distill`, the next gentler cut is
    tried; the last is taken as it is. `surgery.ladder` says in words what was tried; the groups'
    `requested` widths stay the plan's. The cut that is taken is then made at once or on the schedule.

    What was trained is resumed from `work`. Raises what `cut` and `recover` raise, InputError for a
    ladder without a bar.
    """
    plan = course.widths
    course, spent = _pushed(course, work / "sparse-learning")
    course, words, tried = _choose_rung(course, work)
    spent += tried
    if course.prune.schedule.kind == ONE_SHOT:
        result = _cut_at_once(course)
    else:
        result = cut_in_stages(course, work)
        spent += result.surgery.examples or 0
    surgery = msgspec.structs.replace(
        result.surgery,
        groups=tuple(
            msgspec.structs.replace(item, requested=plan.get(item.group, item.width))
            for item in result.surgery.groups
        ),
        ladder=words or UNSET,
        examples=spent or UNSET,
    )
    return replace(result, surgery=surgery)


def rung_widths(
    groups: Sequence[Group], widths: Mapping[str, int], fraction: float
) -> dict[str, int]:
    """The widths when only `fraction` of each group's cut is made; never narrower than the plan's.

    A width that is no multiple of what the plan's width and the whole one share (up to 8) is lowered
    to one: an alignment that the target wants is kept, and whatever the plan cuts is cut a little.
    """
    found = {}
    for group in groups:
        keep = widths.get(group.name, group.width)
        step = math.gcd(keep, group.width, ALIGNMENT)
        wanted = group.width - (group.width - keep) * fraction
        found[group.name] = max(keep, math.floor(wanted / step + 1e-9) * step)
    return found


def _choose_rung(course: Course, work: Path) -> tuple[Course, tuple[str, ...], int]:
    """The course with the widths of the first rung that reaches the bar; words on each; examples."""
    ladder = course.prune.ladder
    if not ladder.fractions:
        return course, (), 0
    _check_fractions(ladder.fractions)
    bar, spent = _bar(course)
    *tries, last = (1.0, *ladder.fractions)
    words: list[str] = []
    if course.blocks:
        names = ", ".join(block.name for block in course.blocks)
        words.append(f"every cut removes the blocks {names}: only widths are gentler")
        course.say(f"ladder: {words[-1]}")
    tried: list[dict[str, int]] = []
    for number, fraction in enumerate(tries):
        rung = replace(course, widths=rung_widths(course.groups, course.widths, fraction))
        if rung.widths in tried:
            words.append(f"{fraction:.0%} of the cut: the same widths again, not tried")
            course.say(f"ladder: {words[-1]}")
            continue
        tried.append(dict(rung.widths))
        loss, examples = _trial(rung, work / f"rung-{number}")
        spent += examples
        words.append(
            f"{fraction:.0%} of the cut: loss on tune {loss:.4f} after {ladder.epochs} epochs, "
            f"the bar is {bar:.4f}: {'taken' if loss <= bar else 'too much'}"
        )
        course.say(f"ladder: {words[-1]}")
        if loss <= bar:
            return rung, tuple(words), spent
    words.append(f"{last:.0%} of the cut: taken without a trial")
    course.say(f"ladder: {words[-1]}")
    rung = replace(course, widths=rung_widths(course.groups, course.widths, last))
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
    params = msgspec.structs.replace(course.distill, epochs=course.prune.ladder.epochs)
    done = recover(lesson, params, seed=course.seed, work=work, say=course.say)
    return min(epoch.tune_loss for epoch in done.recovery.epochs), done.recovery.examples


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
    distill = msgspec.structs.replace(course.distill, epochs=params.epochs, bar=0.0, bar_ratio=0.0)
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
