"""distill: the pruned student learns back from its dense teacher what the cut took."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.compress.training.workers import Order, train_by, train_elsewhere, train_here
from reprune.core.artifacts import (
    DataReport,
    KnownRecovery,
    ModelBundle,
    Previous,
    RateChoice,
    Recovery,
)
from reprune.core.errors import ChainBroken, InputError, RepruneError
from reprune.core.memory import keep_freed
from reprune.core.params import DistillParams, GenerationsParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact, write_bytes
from reprune.steps.known_recovery import known_recovery
from reprune.steps.learning_rate import chosen_rate
from reprune.steps.refusals import refuse_failed_data, refuse_strangers

if TYPE_CHECKING:
    from reprune.compress.masks.choosing import Masks
    from reprune.compress.training.recover import Lesson, Recovered
    from reprune.compress.training.shaping import Shaper


@step("distill")
def distill(
    student: Artifact[ModelBundle],
    teacher: Artifact[ModelBundle],
    data: Artifact[DataReport],
    previous: Artifact[Previous],
    distill: DistillParams,
    generations: GenerationsParams | UnsetType,
    seed: int,
    threads: int,
    ctx: Context,
) -> ModelBundle:
    """Trains the student with its teacher's logits and keeps the best epoch on `tune`.

    With `generations.reuse` it takes as many epochs as the champion needed, and the champion may teach too,
    or be what training begins with. Where the learning rate is "auto", it is the champion's, or else the best
    of some that are tried.
    Weights that are masked stay zero through every step, and their masks stay beside them.
    Resumes where a killed run stopped. With `distill.processes` above 1 it trains in so many. The result
    is a bundle like the student's, with `recovery` and the marks of the examples that it and a champion
    that taught it were made with (see task.trained_on).
    Raises DataRefused; ChainBroken for a student that was not cut from this teacher, or whose task is
    another; CompressionError where training diverges.
    """
    _refuse(student, teacher, data)
    keep_freed()
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.compress.bundle import load_bundle, save_bundle
    from reprune.compress.training.rates import for_epochs
    from reprune.compress.training.recover import Lesson
    from reprune.task.trained_on import TRAINED_ON, together

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    pupil, dense = load_bundle(student), load_bundle(teacher)
    code = student.manifest.task.digest
    known = known_recovery(previous, pupil, dense, distill, generations, seed, ctx.say, code=code)
    if known.fact is not UNSET:
        distill = for_epochs(distill, known.fact.epochs)
    start, champion = known.start or pupil, str((previous.path / "champion").resolve())
    lesson = Lesson(
        task=pupil.task,
        student=start.module,
        teacher=dense.module,
        teacher_digest=teacher.digest,
        second=known.second,
    )
    order = Order(
        student=champion if known.start else str(student.path.resolve()),
        teacher=str(teacher.path.resolve()),
        params=distill,
        seed=seed,
        threads=threads,
        work=str(ctx.work.resolve()),
        second=champion if known.second else "",
        second_weight=known.second.weight if known.second else 0.0,
    )

    def train(params: DistillParams, work: Path) -> Recovered:
        asked = replace(order, params=params, work=str(work.resolve()))
        return _trained(lesson, asked, pupil.masks, ctx)

    own = getattr(pupil.task, "optimizer", None)
    rate = UNSET if own is not None else chosen_rate(distill, previous, generations, train, ctx)
    if rate is not UNSET:
        distill = replace(distill, learning_rate=rate.learning_rate)
    recovered = train(distill, ctx.work)
    save_bundle(ctx.out, recovered.module, start.architecture, student, pupil.masks)
    marks = together(data.file(TRAINED_ON).read_bytes(), known.marks)
    write_bytes(ctx.out / TRAINED_ON, marks)
    return ModelBundle(
        name=student.manifest.name,
        dense_version=student.manifest.dense_version,
        task=student.manifest.task,
        members=student.manifest.members,
        surgery=student.manifest.surgery,
        recovery=_told(recovered.recovery, known.fact, rate),
    )


def _refuse(
    student: Artifact[ModelBundle], teacher: Artifact[ModelBundle], data: Artifact[DataReport]
) -> None:
    """What can be refused before anything is loaded."""
    _refuse_one_of_several()
    refuse_failed_data(data)
    refuse_strangers(teacher, {"student": student, "data report": data})
    if student.manifest.task.digest != teacher.manifest.task.digest:
        raise ChainBroken(
            "student and teacher carry different task code",
            where=f"{student.path} and {teacher.path}",
            fix="run `prune` again",
        )


def _trained(lesson: Lesson, order: Order, masks: Masks, ctx: Context) -> Recovered:
    """The lesson as the order says, here or in its processes."""
    from reprune.compress.masks.shaper import MaskShaper
    from reprune.compress.training.recover import recover

    held = [MaskShaper(masks=dict(masks))] if masks else []
    params, work = order.params, Path(order.work)
    if params.processes == 1 or not params.epochs:
        return recover(lesson, params, seed=order.seed, work=work, say=ctx.say, shapers=held)
    return _recover_together(lesson, order, ctx, held)


def _told(
    recovery: Recovery, known: KnownRecovery | UnsetType, rate: RateChoice | UnsetType
) -> Recovery:
    """The recovery with what it began with, and with the examples that choosing it took."""
    tried = rate.examples if rate else 0
    looked = known.start.cost if known and known.start else 0
    return replace(recovery, known=known, rate=rate, examples=recovery.examples + tried + looked)


def _recover_together(
    lesson: Lesson, order: Order, ctx: Context, shapers: Sequence[Shaper]
) -> Recovered:
    """What the order's processes learn; if they have done so already, that."""
    from reprune.compress.training.recover import recovered

    def found() -> Recovered | None:
        work = Path(order.work)
        return recovered(lesson, order.params, seed=order.seed, work=work, shapers=shapers)

    done = found()
    if done is not None:
        return done
    if ctx.elsewhere is not None:
        train_elsewhere(order, ctx.elsewhere)
    elif order.params.launcher:
        train_by(order.params.launcher, order, ctx.say)
    else:
        train_here(order, ctx.say)
    done = found()
    if done is None:
        raise RepruneError(
            "the processes ended well, but their training is not at its end",
            where=order.work,
            fix="let them work in this folder: all machines must see it under this path",
        )
    return done


def _refuse_one_of_several() -> None:
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise InputError(
            f"was started as one of {count} processes (WORLD_SIZE), each of which would write the result",
            where="distill",
            fix="start it once, without torchrun: it starts the processes of distill.processes, by "
            "distill.launcher where that is set",
        )
