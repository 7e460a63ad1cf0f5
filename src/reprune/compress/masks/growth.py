"""Masks that grow while the model trains: a little is masked, the model recovers, more is masked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.masks.choosing import tensor_sparsity, verify_masks, zeros_for
from reprune.compress.masks.masked import Masked, cost_of, tell
from reprune.compress.masks.shaper import CRITERIA, Criterion, MaskShaper
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.recover import Recovered, recover
from reprune.compress.training.schedule import sparsity_at
from reprune.core.artifacts import PruneStage, Surgery
from reprune.core.documents import digest_of
from reprune.core.errors import CompressionError, TaskError

if TYPE_CHECKING:
    from torch import nn

    from reprune.core.artifacts import SparsityPlan
    from reprune.core.params import DistillParams, PruneParams, ScheduleParams
    from reprune.task.protocol import Task

# Of one weight every norm is its magnitude.
SAME_AS_MAGNITUDE = ("l1", "l2")


@dataclass(frozen=True, kw_only=True)
class MaskCourse:
    """What is masked and how it learns meanwhile. `digest` names `module`, which is also the teacher."""

    task: Task
    module: nn.Module
    digest: str
    plan: SparsityPlan
    prune: PruneParams
    distill: DistillParams
    seed: int
    say: Callable[[str], None]


def grow_masks(course: MaskCourse, work: Path) -> Masked:
    """A copy of the course's module, masked in `schedule.steps` cuts over `schedule.epochs` of training.

    Cut number k is made at the share (k - 1) / steps of the training (the first after its first
    step), so that the last is followed by recovery too; weights are ranked anew at each one. Training
    is as `distill` says, at a constant rate after the warm-up: the falling rate is the distill step's.
    Of the epochs after the last cut the one with the least loss on `tune` is kept, and its masks are
    exactly the plan. `surgery.stages` has an entry an epoch.

    A killed run goes on from `work` and ends, on a CPU, in the same bits. The module is not changed.
    Raises CompressionError for a criterion that cannot rank in training, for a schedule without
    epochs, and what training raises.
    """
    criterion = _criterion(course.prune.criterion)
    schedule = course.prune.schedule
    epochs = round(schedule.epochs)
    if epochs < 1:
        raise CompressionError(
            f"the schedule '{schedule.kind}' needs training between its cuts",
            where="params.yaml (prune.schedule.epochs)",
            fix="set it to 1 or more, or prune.schedule.kind to one-shot",
        )
    batches = sum(1 for _ in course.task.batches("train", epoch=0, seed=course.seed))
    if not batches:
        raise TaskError("the split 'train' is empty", where="batches()", fix="give it examples")
    share = share_of(schedule, batches * epochs)
    shaper = MaskShaper(
        plan=course.plan,
        share=share,
        share_name=digest_of(schedule),
        criterion=criterion,
        recalibrate=course.prune.recalibrate,
    )
    recovered = recover(
        Lesson(
            task=course.task,
            student=course.module,
            teacher=course.module,
            teacher_digest=course.digest,
        ),
        msgspec.structs.replace(course.distill, epochs=epochs, rate="constant"),
        seed=course.seed,
        work=work,
        say=course.say,
        shapers=[shaper],
    )
    masks = {name: mask.cpu() for name, mask in shaper.masks.items()}
    verify_masks(recovered.module, masks, course.plan)
    surgery = _surgery(course, recovered, share, batches)
    surgery = msgspec.structs.replace(surgery, sparsity=tensor_sparsity(masks, course.plan))
    tell(recovered.module, masks, surgery, course.say)
    return Masked(module=recovered.module, masks=masks, surgery=surgery)


def share_of(schedule: ScheduleParams, steps: int) -> Callable[[int], float]:
    """The part of a plan that is masked once `done` of `steps` optimiser steps are taken: 1 at the end."""

    def share(done: int) -> float:
        cut = min(done * schedule.steps // steps + 1, schedule.steps)
        return sparsity_at(schedule.kind, cut / schedule.steps, final=1.0)

    return share


def _criterion(name: str) -> Criterion:
    known: dict[str, Criterion] = {criterion: criterion for criterion in CRITERIA}
    known |= dict.fromkeys(SAME_AS_MAGNITUDE, "magnitude")
    if name in known:
        return known[name]
    raise CompressionError(
        f"'{name}' cannot rank weights while the model trains",
        where="params.yaml (prune.criterion)",
        fix=f"use one of: {', '.join(CRITERIA)}; or prune.schedule.kind one-shot",
    )


def _surgery(
    course: MaskCourse, recovered: Recovered, share: Callable[[int], float], batches: int
) -> Surgery:
    """Losses on the calibration split: of the dense model, and of what was grown from it."""
    task, seed, cost = course.task, course.seed, cost_of(course.task, course.module)
    examples = first_batches(task, "calibration", examples=course.prune.examples, seed=seed)
    after = mean_loss(task, recovered.module, examples, seed=seed)
    if not math.isfinite(after):
        raise CompressionError(f"the masked model's loss on the calibration split is {after}")
    stages = []
    for record in recovered.recovery.epochs:
        done = share(record.epoch * batches)
        stages.append(
            PruneStage(
                epoch=float(record.epoch),
                share=done,
                macs=cost.macs,
                params=cost.params,
                zeros=zeros_for(course.plan.zeros, done),
                loss_after=record.tune_loss,
            )
        )
    return Surgery(
        criterion=course.prune.criterion,
        groups=(),
        before=cost,
        after=cost,
        equality_max_abs=0.0,
        loss_dense=mean_loss(task, course.module, examples, seed=seed),
        loss_cut=after,
        loss_compensated=None,
        loss_recalibrated=None,
        kept="cut",
        stages=tuple(stages),
        examples=recovered.recovery.examples,
    )
