"""Masks that grow while the model trains: a little is masked, the model recovers, more is masked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.masks.choosing import tensor_sparsity, verify_masks, zeros_for
from reprune.compress.masks.masked import Masked, cost_of, tell
from reprune.compress.masks.shaper import CRITERIA, Criterion, MaskShaper
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.recover import Recovered, recover
from reprune.compress.training.schedule import share_at
from reprune.core.artifacts import PruneStage, Surgery
from reprune.core.documents import digest_of
from reprune.core.errors import CompressionError, Diverged, TaskError

if TYPE_CHECKING:
    from torch import nn

    from reprune.core.artifacts import SparsityPlan
    from reprune.core.params import DistillParams, PruneParams, ScheduleParams
    from reprune.task.protocol import Task

# Begin and end as TF-MOT's do: over the whole training, unless told otherwise.
AS_TF_MOT = ("constant", "polynomial")
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

    When the cuts are made says `share_of`; weights are ranked anew at each one. Training is as
    `distill` says, at a constant rate after the warm-up: the falling rate is the distill step's, and so is
    the bar. Of the epochs after the last cut the one with the least loss on `tune` is kept, and its masks are
    exactly the plan. `surgery.stages` has an entry an epoch.

    A killed run goes on from `work` and ends, on a CPU, in the same bits. The module is not changed.
    Raises CompressionError for a criterion that cannot rank in training, for a schedule without
    epochs or that begins above the plan, and what training raises.
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
    share = share_of(schedule, batches * epochs, final=_sparsity(course.plan, schedule))
    shaper = MaskShaper(
        plan=course.plan,
        share=share,
        share_name=digest_of(schedule),
        criterion=criterion,
        regrow=bool(schedule.regrow),
        recalibrate=course.prune.recalibrate,
    )
    recovered = recover(
        Lesson(
            task=course.task,
            student=course.module,
            teacher=course.module,
            teacher_digest=course.digest,
        ),
        msgspec.structs.replace(
            course.distill, epochs=epochs, rate="constant", bar=0.0, bar_ratio=0.0
        ),
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


def share_of(schedule: ScheduleParams, steps: int, *, final: float) -> Callable[[int], float]:
    """The part of a plan of sparsity `final` that is masked once `done` of `steps` optimiser steps are
    taken: 1 at the end.

    From the step at `schedule.begin` on, `schedule.initial` of the weights are masked, from the one at
    `schedule.end` on as many as the plan says, and `schedule.steps` cuts at equal distances lead from
    one to the other: the sparsity of TF-MOT's schedules of that begin_step and end_step, whose
    frequency is this distance. A cut between two steps comes after the second.

    Where neither is given the schedule began one distance before the training, and ends one before its
    end: cut k is made at (k - 1) / schedule.steps of the training, the first after its first step, and
    the last is followed by as much recovery as the others. (The kinds of TF-MOT run from 0 to 1 then.)
    """
    if schedule.begin is UNSET and schedule.end is UNSET and schedule.kind not in AS_TF_MOT:
        distance = Fraction(steps, schedule.steps)
        first, begin, end = 1, -distance, steps - distance
    else:
        first = round(steps * (schedule.begin or 0.0))
        begin = Fraction(first)
        end = Fraction(round(steps * (1.0 if schedule.end is UNSET else schedule.end)))
    power = None if schedule.power is UNSET else schedule.power

    def share(done: int) -> float:
        if done < first:
            return 0.0
        over = 1.0
        if done < end:
            over = (done - begin) * schedule.steps // (end - begin) / schedule.steps
        return share_at(
            schedule.kind, over, final=final, initial=schedule.initial or 0.0, power=power
        )

    return share


def _sparsity(plan: SparsityPlan, schedule: ScheduleParams) -> float:
    """The plan's. Raises CompressionError where the schedule begins above it."""
    found = plan.zeros / max(1, sum(item.size for item in plan.tensors))
    if (schedule.initial or 0.0) > found:
        raise CompressionError(
            f"the schedule begins at a sparsity of {schedule.initial}, the plan's is {found:.4g}",
            where="params.yaml (prune.schedule.initial)",
            fix="set it lower, or plan.sparsity higher",
        )
    return found


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
        raise Diverged(f"the masked model's loss on the calibration split is {after}")
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
