"""Recovery fine-tuning: what a cut took from the model is learnt again from the dense one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from reprune.compress.checkpoint import (
    Progress,
    State,
    read_state,
    restore_optimizer,
    split_optimizer,
    write_state,
)
from reprune.compress.distillation import recovery_loss
from reprune.compress.paired import SEED_STRIDE, batch_losses, seeded
from reprune.core.artifacts import Recovery, RecoveryEpoch
from reprune.core.errors import CompressionError, InputError, TaskError

if TYPE_CHECKING:
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Batch, Task

CHECKPOINT = "recovery.safetensors"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Who learns what from whom. `teacher_digest` names the teacher in the result."""

    task: Task
    student: nn.Module
    teacher: nn.Module
    teacher_digest: str


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """`module` is on the CPU, in eval mode, in float32."""

    module: nn.Module
    recovery: Recovery


def recover(
    lesson: Lesson, params: DistillParams, *, seed: int, work: Path, say: Callable[[str], None]
) -> Recovered:
    """Trains a copy of the student on `train`; the epoch with the least loss on `tune` is kept.

    SGD with momentum, or the task's own `optimizer(params)`; its learning rates rise over the
    warm-up and then fall along a cosine, step by step. The student trains in train mode (its batch
    norms learn the new statistics), the teacher stays in eval mode. Where no epoch beats the student
    as it came, that is kept and `best_epoch` is 0. `Recovery.examples` counts every example that went
    through a model: student, teacher, and the looks at `tune`.

    After each epoch the state is written to `work`; a run that was killed goes on from there and
    ends, on a CPU, in the same bits as one that was not. Lesson's modules are not modified.

    Raises CompressionError where the loss is not finite, InputError for a precision that this
    machine cannot train in, TaskError for a task that cannot be trained.
    """
    pupil = _Pupil.start(lesson, params, seed)
    path = work / CHECKPOINT
    kept = read_state(path)
    if kept is not None:
        pupil.resume(kept)
        say(f"recovery: goes on after epoch {len(kept.progress.epochs)} of {params.epochs}")
    elif params.epochs:
        pupil.begin()
    for epoch in range(len(pupil.epochs) + 1, params.epochs + 1):
        record = pupil.learn(epoch)
        write_state(path, pupil.state())
        say(
            f"recovery: epoch {epoch} of {params.epochs}, train loss {record.train_loss:.4f}, "
            f"tune loss {record.tune_loss:.4f}"
        )
    return pupil.result()


def rate_at(progress_epochs: float, params: DistillParams) -> float:
    """The share of the base learning rate after `progress_epochs`: linear warm-up, then a cosine to 0.

    The warm-up takes at most half of the training.
    """
    warm = min(params.warmup_epochs, params.epochs / 2)
    if progress_epochs < warm:
        return progress_epochs / warm
    return 0.5 * (1.0 + math.cos(math.pi * (progress_epochs - warm) / (params.epochs - warm)))


@dataclass(kw_only=True)
class _Pupil:
    """A training between its epochs. Epochs are numbered from 1; 0 is the student as it came."""

    lesson: Lesson
    params: DistillParams
    seed: int
    accelerator: Any
    student: nn.Module
    teacher: nn.Module
    optimizer: Any
    base_rates: tuple[float, ...]
    steps: int = 0
    examples: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    epochs: list[RecoveryEpoch] = field(default_factory=list)

    @classmethod
    def start(cls, lesson: Lesson, params: DistillParams, seed: int) -> _Pupil:
        accelerator = _accelerator(params.precision)
        student = copy.deepcopy(lesson.student).float().to(accelerator.device)
        teacher = copy.deepcopy(lesson.teacher).float().to(accelerator.device).eval()
        optimizer = _optimizer(lesson.task, student, params)
        return cls(
            lesson=lesson,
            params=params,
            seed=seed,
            accelerator=accelerator,
            student=student,
            teacher=teacher,
            base_rates=tuple(group["lr"] for group in optimizer.param_groups),
            optimizer=accelerator.prepare(optimizer),
            best=_on_cpu(student),
        )

    def begin(self) -> None:
        """Counts the batches of an epoch, for the schedule, and takes the loss to beat."""
        self.steps = sum(1 for _ in self._batches("train", epoch=0))
        if not self.steps:
            raise TaskError("the split 'train' is empty", where="batches()", fix="give it examples")
        self.best_loss = self._tune_loss(0)

    def resume(self, kept: State) -> None:
        progress = kept.progress
        self.student.load_state_dict(kept.model)
        restore_optimizer(self.optimizer, kept.optimizer, progress.scalars)
        if self.accelerator.scaler is not None and progress.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        self.steps, self.examples = progress.steps, progress.examples
        self.best_epoch, self.best_loss = progress.best_epoch, progress.best_loss
        self.best, self.epochs = kept.best, list(progress.epochs)

    def state(self) -> State:
        tensors, scalars = split_optimizer(self.optimizer)
        scaler = self.accelerator.scaler
        return State(
            progress=Progress(
                steps=self.steps,
                best_epoch=self.best_epoch,
                best_loss=self.best_loss,
                examples=self.examples,
                epochs=tuple(self.epochs),
                scaler=scaler.state_dict() if scaler is not None else None,
                scalars=scalars,
            ),
            model=_on_cpu(self.student),
            best=self.best,
            optimizer=tensors,
        )

    def learn(self, epoch: int) -> RecoveryEpoch:
        """One epoch over `train` and a look at `tune`. All randomness is a function of (seed, epoch)."""
        seed = self.seed * SEED_STRIDE + epoch
        generator = torch.Generator().manual_seed(seed)
        total, seen, rate = 0.0, 0, 0.0
        self.student.train()
        with seeded(seed, self.student):
            for index, batch in enumerate(self._batches("train", epoch=epoch)):
                done = epoch - 1 + min((index + 0.5) / self.steps, 1.0)
                rate = self._set_rates(rate_at(done, self.params))
                loss = self._step(batch, generator)
                if not math.isfinite(loss):
                    raise _not_finite("loss", loss, epoch, index)
                total, seen = total + loss * len(batch), seen + len(batch)
        self.examples += seen * (2 if self.params.weight > 0.0 else 1)
        tune_loss = self._tune_loss(epoch)
        if tune_loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, tune_loss
            self.best = _on_cpu(self.student)
        record = RecoveryEpoch(
            epoch=epoch, train_loss=total / seen, tune_loss=tune_loss, learning_rate=rate
        )
        self.epochs.append(record)
        return record

    def result(self) -> Recovered:
        module = copy.deepcopy(self.lesson.student).float().cpu()
        module.load_state_dict(self.best)
        recovery = Recovery(
            epochs=tuple(self.epochs),
            best_epoch=self.best_epoch,
            examples=self.examples,
            teacher=self.lesson.teacher_digest,
        )
        return Recovered(module=module.eval(), recovery=recovery)

    def _step(self, batch: Batch, generator: torch.Generator) -> float:
        with self.accelerator.autocast():
            loss = recovery_loss(
                self.lesson.task, self.student, self.teacher, batch, generator, self.params
            )
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimizer.zero_grad()
            self.accelerator.backward(loss)
            self.optimizer.step()
        return value

    def _tune_loss(self, epoch: int) -> float:
        measured = batch_losses(
            self.lesson.task, self.student, self._batches("tune", epoch=0), seed=self.seed
        )
        if not measured.examples:
            raise TaskError("the split 'tune' is empty", where="batches()", fix="give it examples")
        if not math.isfinite(measured.mean):
            raise _not_finite("loss on tune", measured.mean, epoch, None)
        self.examples += measured.examples
        return measured.mean

    def _batches(self, split: Any, *, epoch: int) -> Iterator[Batch]:
        device = self.accelerator.device
        for batch in self.lesson.task.batches(split, epoch=epoch, seed=self.seed):
            yield replace(
                batch,
                inputs=tuple(tensor.to(device) for tensor in batch.inputs),
                targets=send_to_device(batch.targets, device),
            )

    def _set_rates(self, share: float) -> float:
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * share
        return self.base_rates[0] * share


def _accelerator(precision: str) -> Any:
    """Accelerate's choice of device: a GPU where there is one and ACCELERATE_USE_CPU is not set."""
    try:
        accelerator = Accelerator(mixed_precision=precision)
    except ValueError as error:
        raise InputError(
            f"cannot train in the precision '{precision}': {error}",
            where="params.yaml (distill.precision)",
            fix="use 'no', or another machine",
        ) from error
    if precision == "fp16" and accelerator.scaler is None:
        raise InputError(
            "fp16 needs a GPU: without one, small gradients would be lost",
            where="params.yaml (distill.precision)",
            fix="set it to 'no' or 'bf16'",
        )
    return accelerator


def _optimizer(task: Task, student: nn.Module, params: DistillParams) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not trainable:
        raise CompressionError("the student has no parameter that can be trained", where="distill")
    build = getattr(task, "optimizer", None)
    if build is not None:
        found: torch.optim.Optimizer = build(trainable)
        return found
    return torch.optim.SGD(
        trainable,
        lr=params.learning_rate,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
    )


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


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
