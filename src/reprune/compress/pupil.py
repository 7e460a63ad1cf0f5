"""A training at any of its steps: what recover() drives, and what a checkpoint holds of it."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from reprune.compress.checkpoint import (
    Progress,
    Running,
    State,
    restore_optimizer,
    split_optimizer,
)
from reprune.compress.devices import accelerator_of, gradients_are_finite, unscale
from reprune.compress.distillation import recovery_loss
from reprune.compress.paired import SEED_STRIDE, batch_losses, seeded
from reprune.compress.rates import build_optimizer, rate_at
from reprune.compress.shaping import Moment, settled
from reprune.core.artifacts import Recovery, RecoveryEpoch
from reprune.core.documents import canonical
from reprune.core.errors import CompressionError, TaskError

if TYPE_CHECKING:
    from reprune.compress.shaping import Shaper
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Batch, Task


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Who learns what from whom. `teacher_digest` names the teacher in the result."""

    task: Task
    student: nn.Module
    teacher: nn.Module
    teacher_digest: str


@dataclass(kw_only=True)
class Pupil:
    """`epoch` is the one that is running or comes next, from 1; 0 is the student as it came.

    `taken` counts optimiser steps over all epochs, `steps` are batches an epoch. All randomness of a
    step is a function of (seed, taken), so that it can be taken up at any of them.
    """

    lesson: Lesson
    params: DistillParams
    seed: int
    identity: str
    shapers: Sequence[Shaper]
    accelerator: Any
    student: nn.Module
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    prepared: Any
    base_rates: tuple[float, ...]
    steps: int = 0
    taken: int = 0
    examples: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    epochs: list[RecoveryEpoch] = field(default_factory=list)
    running: Running = field(default_factory=Running)

    @classmethod
    def start(
        cls, lesson: Lesson, params: DistillParams, seed: int, shapers: Sequence[Shaper]
    ) -> Pupil:
        accelerator = accelerator_of(params.precision)
        student = copy.deepcopy(lesson.student).float().to(accelerator.device)
        teacher = copy.deepcopy(lesson.teacher).float().to(accelerator.device).eval()
        optimizer = build_optimizer(lesson.task, student, params)
        return cls(
            lesson=lesson,
            params=params,
            seed=seed,
            identity=_identity(lesson, params, seed, shapers),
            shapers=shapers,
            accelerator=accelerator,
            student=student,
            teacher=teacher,
            base_rates=tuple(group["lr"] for group in optimizer.param_groups),
            optimizer=optimizer,
            prepared=accelerator.prepare(optimizer),
            best=on_cpu(student),
        )

    @property
    def epoch(self) -> int:
        return len(self.epochs) + 1

    def begin(self) -> None:
        """Counts the batches of an epoch, for the schedule, and takes the loss to beat."""
        self.steps = sum(1 for _ in self.lesson.task.batches("train", epoch=0, seed=self.seed))
        if not self.steps:
            raise TaskError("the split 'train' is empty", where="batches()", fix="give it examples")
        for shaper in self.shapers:
            shaper.begin(self.student, self.optimizer)
        self._judge(0)

    def resume(self, kept: State) -> bool:
        """Takes up a state that this very training left; False, and nothing done, for another's."""
        progress = kept.progress
        if progress.identity != self.identity:
            return False
        self.student.load_state_dict(kept.model)
        for number, shaper in enumerate(self.shapers):
            shaper.begin(self.student, self.optimizer)
            shaper.restore(_part(kept.more, f"shaper{number}"))
        # Again, for a shaper whose begin() changes the module.
        self.student.load_state_dict(kept.model)
        restore_optimizer(self.prepared, kept.optimizer, progress.scalars)
        if self.accelerator.scaler is not None and progress.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        self.steps, self.taken, self.examples = progress.steps, progress.taken, progress.examples
        self.best_epoch = progress.best_epoch
        self.best_loss = math.inf if progress.best_loss is None else progress.best_loss
        self.best, self.epochs, self.running = kept.best, list(progress.epochs), progress.running
        return True

    def state(self) -> State:
        tensors, scalars = split_optimizer(self.prepared)
        scaler = self.accelerator.scaler
        more = {
            f"shaper{number}/{name}": tensor
            for number, shaper in enumerate(self.shapers)
            for name, tensor in shaper.state().items()
        }
        return State(
            progress=Progress(
                identity=self.identity,
                steps=self.steps,
                taken=self.taken,
                best_epoch=self.best_epoch,
                best_loss=self.best_loss if math.isfinite(self.best_loss) else None,
                examples=self.examples,
                epochs=tuple(self.epochs),
                running=self.running,
                scaler=scaler.state_dict() if scaler is not None else None,
                scalars=scalars,
            ),
            model=on_cpu(self.student),
            best=self.best,
            optimizer=tensors,
            more=more,
        )

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
        self.running = Running()
        return record

    def recovery(self) -> Recovery:
        return Recovery(
            epochs=tuple(self.epochs),
            best_epoch=self.best_epoch,
            examples=self.examples,
            teacher=self.lesson.teacher_digest,
        )

    def _step(self, batch: Batch) -> None:
        index = self.running.batches
        done = self.epoch - 1 + min((index + 0.5) / self.steps, 1.0)
        rate = self._set_rates(rate_at(done, self.params))
        seed = self.seed * SEED_STRIDE + self.taken
        with seeded(seed, self.student):
            loss = self._loss(batch, torch.Generator().manual_seed(seed))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise _not_finite("loss", value, self.epoch, index)
            self._descend(loss)
        self.taken += 1
        self.examples += len(batch) * (2 if self.params.weight > 0.0 else 1)
        self.running = Running(
            batches=index + 1,
            examples=self.running.examples + len(batch),
            loss=self.running.loss + value * len(batch),
            rate=rate,
        )

    def _loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        with self.accelerator.autocast():
            return recovery_loss(
                self.lesson.task, self.student, self.teacher, batch, generator, self.params
            )

    def _descend(self, loss: Tensor) -> None:
        moment = self._moment()
        self.prepared.zero_grad()
        self.accelerator.backward(loss)
        unscale(self.accelerator, self.optimizer)
        # With fp16 a step whose gradients overflowed is left out, by the scaler and so by shapers.
        sound = self.accelerator.scaler is None or gradients_are_finite(self.optimizer)
        for shaper in self.shapers if sound else ():
            shaper.after_backward(self.student, self.optimizer, moment)
        self.prepared.step()
        for shaper in self.shapers:
            shaper.after_step(self.student, self.optimizer, moment)

    def _judge(self, epoch: int) -> float:
        """The loss on `tune`; the state is kept where it is the best of those that may be."""
        measured = batch_losses(
            self.lesson.task, self.student, self._batches("tune", epoch=0), seed=self.seed
        )
        if not measured.examples:
            raise TaskError("the split 'tune' is empty", where="batches()", fix="give it examples")
        if not math.isfinite(measured.mean):
            raise _not_finite("loss on tune", measured.mean, epoch, None)
        self.examples += measured.examples
        ready = settled(self.shapers, self._moment())
        if measured.mean < self.best_loss if ready else not math.isfinite(self.best_loss):
            self.best_epoch, self.best = epoch, on_cpu(self.student)
            self.best_loss = measured.mean if ready else math.inf
        return measured.mean

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


def on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state dict."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _identity(lesson: Lesson, params: DistillParams, seed: int, shapers: Sequence[Shaper]) -> str:
    """Names a training, so that no other's checkpoint is taken for its own."""
    names = [type(shaper).__name__ for shaper in shapers]
    digest = hashlib.sha256(canonical((params, seed, lesson.teacher_digest, names)))
    for name, tensor in on_cpu(lesson.student).items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _not_finite(what: str, value: float, epoch: int, step: int | None) -> CompressionError:
    where = f"epoch {epoch}" + (f", batch {step}" if step is not None else "")
    if epoch == 0:
        return CompressionError(
            f"the {what} is {value} before recovery began",
            where="distill",
            fix="cut less (plan.fraction), or check the task's loss on this model",
        )
    return CompressionError(
        f"the {what} is {value} in {where}",
        where="distill",
        fix="lower distill.learning_rate or lengthen distill.warmup_epochs; with fp16 try bf16 or no",
    )
