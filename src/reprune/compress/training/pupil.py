"""A training at any of its steps: what recover() drives."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from msgspec import UNSET
from torch import Tensor, nn

from reprune.compress.compensate import batch_norms, renew_statistics
from reprune.compress.losses import until
from reprune.compress.paired import SEED_STRIDE, BatchLosses, batch_losses, seeded
from reprune.compress.training.averaging import average
from reprune.compress.training.checkpoint import Running
from reprune.compress.training.devices import accelerator_of, gradients_are_finite, unscale
from reprune.compress.training.joint_norms import JointNorms, join_norms
from reprune.compress.training.layout import lay_out
from reprune.compress.training.lesson import Lesson, identity_of, not_finite, on_cpu
from reprune.compress.training.optimizer_state import give_moments
from reprune.compress.training.quantization import FakeQuantizer
from reprune.compress.training.rates import build_optimizer, freeze, rate_at, without_dropout
from reprune.compress.training.reach import bar_of, why_stop
from reprune.compress.training.shaping import Moment, recalibrating, settled
from reprune.compress.training.shares import PROBED_BATCHES, check_crew, check_shares, share_of
from reprune.compress.training.teaching import TEACHERS, Teaching, second_of, teacher_of
from reprune.core.artifacts import Recovery, RecoveryEpoch
from reprune.core.errors import TaskError

if TYPE_CHECKING:
    from reprune.compress.training.shaping import Shaper
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Batch


# Ranges of training for integers, and BatchNorm statistics beside masks, are read off this many examples,
# each time the model is judged.
CALIBRATION_EXAMPLES = 512
BITS = {"int8": 8, "int4": 4}


@dataclass(kw_only=True)
class Pupil:
    """`epoch` is the one that is running or comes next, from 1; 0 is the student as it came.

    `taken` counts optimiser steps over all epochs, `steps` are batches an epoch. All randomness of a
    step is a function of (seed, taken), so that it can be taken up at any of them. What all processes
    of the lesson's crew do alike is counted once. `start_loss` is on `tune`, infinite where a shaper did not
    call the start settled; `unsettled` is the last epoch at whose end one did not.
    """

    lesson: Lesson
    params: DistillParams
    seed: int
    identity: str
    shapers: Sequence[Shaper]
    accelerator: Any
    student: nn.Module
    judged: nn.Module
    teaching: Teaching
    quantizers: dict[str, FakeQuantizer]
    optimizer: torch.optim.Optimizer
    prepared: Any
    norms: JointNorms
    base_rates: tuple[float, ...] = ()
    steps: int = 0
    taken: int = 0
    examples: int = 0
    bar: float | None = None
    start_loss: float = math.inf
    unsettled: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    epochs: list[RecoveryEpoch] = field(default_factory=list)
    running: Running = field(default_factory=Running)

    @classmethod
    def start(
        cls, lesson: Lesson, params: DistillParams, seed: int, shapers: Sequence[Shaper]
    ) -> Pupil:
        if lesson.crew.together:
            check_crew(params, shapers)
        accelerator = accelerator_of(params.precision)
        task, device = lesson.task, accelerator.device
        student = copy.deepcopy(lesson.student).float().to(device)
        lay_out(student, task, params)
        freeze(student, params.freeze)
        judged = copy.deepcopy(student).requires_grad_(False) if params.ema else student
        teacher = teacher_of(lesson, params, judged).to(device)
        lay_out(teacher, task, params)
        second = second_of(lesson, device)
        if second is not None:
            lay_out(second.module, task, params)
        teaching = Teaching.of(task, teacher, params, accelerator.autocast, second)
        optimizer = build_optimizer(task, student, params)
        pupil = cls(
            lesson=lesson,
            params=params,
            seed=seed,
            identity=identity_of(lesson, params, seed, shapers),
            shapers=shapers,
            accelerator=accelerator,
            student=student,
            judged=judged,
            teaching=teaching,
            quantizers=_quantizers(params, student, judged),
            optimizer=optimizer,
            prepared=None,
            norms=join_norms(student) if lesson.crew.together else JointNorms(),
            best=on_cpu(student),
        )
        if params.epochs:
            pupil._add_projections()
        if not params.dropout:
            without_dropout(student)
        pupil.base_rates = tuple(group["lr"] for group in optimizer.param_groups)
        pupil.prepared = accelerator.prepare(optimizer)
        return pupil

    def _add_projections(self) -> None:
        for batch in islice(self._batches("train", epoch=0), 1):
            self.teaching.project(self.student, batch, seed=self.seed)
        if self.teaching.projections is not None:
            found = list(self.teaching.projections.parameters())
            if found:
                rate = self.optimizer.param_groups[0]["lr"]
                self.optimizer.add_param_group({"params": found, "lr": rate})

    @property
    def epoch(self) -> int:
        return len(self.epochs) + 1

    def begin(self) -> None:
        """Counts the batches of an epoch, for the schedule, and takes the loss to beat."""
        self.prepare_teacher()
        self.examples = self.teaching.spent
        for shaper in self.shapers:
            shaper.begin(self.student, self.optimizer)
        self.judged.load_state_dict(self.student.state_dict())
        if self.params.bar > 0.0 or self.params.bar_ratio > 0.0:
            self.bar = bar_of(self.params, self._dense_loss())
        give_moments(self.optimizer, self.student, self.lesson.moments)
        self.examples += self.check_crew()
        loss = self._judge(0)
        self.start_loss = loss if settled(self.shapers) else math.inf

    def check_crew(self) -> int:
        """Whether several processes learn what one would, and begin alike; the examples that took."""
        if not self.lesson.crew.together:
            return 0
        spent = check_shares(self, islice(self._batches("train", epoch=0), PROBED_BATCHES))
        self.lesson.crew.check_alike(self.student.state_dict())
        return spent

    def steps_of_epoch(self) -> Iterator[None]:
        """Takes the epoch's steps that are left, one each time it is asked."""
        self.student.train()
        for batch in self._batches("train", epoch=self.epoch, start=self.running.batches):
            self._step(batch)
            yield

    def close_epoch(self) -> RecoveryEpoch:
        """The look at `tune` after the last step of an epoch; the next epoch comes next."""
        epoch, running = self.epoch, self.running
        tune_loss = self._judge(epoch)
        record = RecoveryEpoch(
            epoch=epoch,
            train_loss=running.loss / running.examples,
            tune_loss=tune_loss,
            learning_rate=running.rate,
        )
        self.epochs.append(record)
        if not settled(self.shapers):
            self.unsettled = epoch
        self.running = Running()
        self.lesson.crew.check_alike(self.student.state_dict())
        return record

    @property
    def stopped(self) -> str:
        """Why training ends here although epochs are left, in words; empty: it goes on."""
        if not settled(self.shapers):
            return ""
        done, of = len(self.epochs), self.params.epochs
        # What was less masked or pushed than it will be is another model, and no part of this curve.
        losses = [epoch.tune_loss for epoch in self.epochs[self.unsettled :]]
        why = why_stop(
            losses, self.params, start=self.start_loss, remaining=of - done, bar=self.bar
        )
        return f"after epoch {done} of {of}: {why}" if why else ""

    def recovery(self) -> Recovery:
        kept = self.epochs and not self.best_epoch and math.isfinite(self.best_loss)
        return Recovery(
            epochs=tuple(self.epochs),
            best_epoch=self.best_epoch,
            examples=self.examples,
            teacher=TEACHERS.get(self.params.teacher, self.lesson.teacher_digest),
            start_loss=self.best_loss if kept else UNSET,
            stopped=self.stopped or UNSET,
        )

    def _step(self, batch: Batch) -> None:
        index = self.running.batches
        done = self.epoch - 1 + min((index + 0.5) / self.steps, 1.0)
        rate = self._set_rates(rate_at(done, self.params))
        crew = self.lesson.crew
        part = share_of(batch, crew)
        seed = crew.seed(self.seed * SEED_STRIDE + self.taken)
        with seeded(seed, self.student), self.norms.stepping(counts=part.weight > 0.0):
            generator = torch.Generator().manual_seed(seed)
            with self.accelerator.autocast():
                loss, ran = self.teaching.loss(self.student, part.batch, generator)
            value, taught = part.summed(crew, loss, ran)
            if not math.isfinite(value):
                raise not_finite("loss", value, self.epoch, index)
            self._descend(loss * part.weight if crew.together else loss)
        self.taken += 1
        self.examples += len(batch) + taught
        self.running = Running(
            batches=index + 1,
            examples=self.running.examples + len(batch),
            loss=self.running.loss + value * len(batch),
            rate=rate,
        )

    def _descend(self, loss: Tensor) -> None:
        moment = self._moment()
        self.prepared.zero_grad()
        self.accelerator.backward(loss)
        self.lesson.crew.sum_gradients(self.optimizer)
        unscale(self.accelerator, self.optimizer)
        # With fp16 a step whose gradients overflowed is left out, by the scaler and so by shapers.
        sound = self.accelerator.scaler is None or gradients_are_finite(self.optimizer)
        for shaper in self.shapers if sound else ():
            shaper.after_backward(self.student, self.optimizer, moment)
        if self.params.clip_norm > 0.0:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.params.clip_norm)
        self.prepared.step()
        for shaper in self.shapers:
            shaper.after_step(self.student, self.optimizer, moment)
        if self.params.ema:
            average(self.judged, self.student, decay=self.params.ema, taken=self.taken)

    def _judge(self, epoch: int) -> float:
        """The loss on `tune`; the state is kept where it is the best of those that may be."""
        self._calibrate()
        loss = self._tune_loss()
        if recalibrating(self.shapers) and batch_norms(self.judged):
            loss = self._renew_statistics(loss)
        if not math.isfinite(loss):
            raise not_finite("loss on tune", loss, epoch, None)
        ready = settled(self.shapers)
        if loss < self.best_loss if ready else not math.isfinite(self.best_loss):
            self.best_epoch, self.best = epoch, on_cpu(self.judged)
            self.best_loss = loss if ready else math.inf
        return loss

    def _tune_loss(self) -> float:
        measured = self._tune_losses(self.judged)
        if not measured.examples:
            raise TaskError("the split 'tune' is empty", where="batches()", fix="give it examples")
        return measured.mean

    def _tune_losses(self, module: nn.Module) -> BatchLosses:
        """Each process of the crew runs some batches, and knows all losses."""
        crew, batches = self.lesson.crew, self._batches("tune", epoch=0)
        own = batch_losses(
            self.lesson.task, module, batches, seed=self.seed, part=(crew.rank, crew.world)
        )
        self.examples += own.examples
        return replace(own, losses=tuple(crew.sums(list(own.losses))))

    def _renew_statistics(self, loss: float) -> float:
        """Gives BatchNorms the statistics of `calibration` where that lowers `loss`; the loss then.

        After n steps a running mean still holds 0.9^n of what it was, but counts in units of the
        running deviation: in a channel that masks have all but emptied, 0.9^(n/2) of the error stays.
        """
        before = {name: value.clone() for name, value in self.judged.named_buffers()}
        batches = list(until(self._batches("calibration", epoch=0), CALIBRATION_EXAMPLES))
        renew_statistics(self.judged, batches)
        self.examples += sum(len(batch) for batch in batches)
        fresh = self._tune_loss()
        if fresh < loss or not math.isfinite(loss):
            return fresh
        for name, value in self.judged.named_buffers():
            value.copy_(before[name])
        return loss

    def prepare_teacher(self) -> None:
        """Counts the batches of an epoch, and asks the teacher for all of them where that pays."""
        sizes = [len(batch) for batch in self.lesson.task.batches("train", epoch=0, seed=self.seed)]
        if not sizes:
            raise TaskError("the split 'train' is empty", where="batches()", fix="give it examples")
        self.steps = len(sizes)
        self.teaching.remember(
            lambda: self._batches("train", epoch=0), examples=sum(sizes), seed=self.seed
        )

    def _calibrate(self) -> None:
        """Renews the ranges of training for integers from `calibration`, as building an engine would."""
        for quantizer in self.quantizers.values():
            batches = until(self._batches("calibration", epoch=0), CALIBRATION_EXAMPLES)
            self.examples += quantizer.calibrate(batches)

    def _dense_loss(self) -> float:
        """The lesson's own teacher's loss on `tune`, whoever teaches."""
        dense = copy.deepcopy(self.lesson.teacher).float().to(self.accelerator.device)
        return self._tune_losses(dense).mean

    def _moment(self) -> Moment:
        return Moment(
            step=self.taken, steps=self.steps * self.params.epochs, steps_per_epoch=self.steps
        )

    def _batches(self, split: Any, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        device = self.accelerator.device
        order = {"epoch": epoch, "seed": self.seed, "start": start}
        for batch in self.lesson.task.batches(split, **order):
            yield replace(
                batch,
                inputs=tuple(tensor.to(device) for tensor in batch.inputs),
                targets=send_to_device(batch.targets, device),
            )

    def _set_rates(self, share: float) -> float:
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * share
        return self.base_rates[0] * share


def _quantizers(
    params: DistillParams, student: nn.Module, judged: nn.Module
) -> dict[str, FakeQuantizer]:
    if params.quantize == "none":
        return {}
    models = {"student": student} | ({} if judged is student else {"judged": judged})
    bits = BITS[params.quantize]
    return {
        name: FakeQuantizer(module=module, bits=bits).attach() for name, module in models.items()
    }
