"""What a training is given, what names it, and the words for one that went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reprune.core.documents import canonical
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.training.optimizer_state import Moments
    from reprune.compress.training.shaping import Shaper
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Task


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Who learns what from whom. `teacher_digest` names the teacher in the result; `moments` is an
    optimiser's state to begin with, by parameter name (see optimizer_state), where there is one.
    """

    task: Task
    student: nn.Module
    teacher: nn.Module
    teacher_digest: str
    moments: Moments = field(default_factory=dict)


def on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state dict."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def identity_of(lesson: Lesson, params: DistillParams, seed: int, shapers: Sequence[Shaper]) -> str:
    """Names a training, so that no other's checkpoint is taken for its own."""
    names = [type(shaper).__name__ for shaper in shapers]
    digest = hashlib.sha256(canonical((params, seed, lesson.teacher_digest, names)))
    for name, tensor in on_cpu(lesson.student).items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def not_finite(what: str, value: float, epoch: int, step: int | None) -> CompressionError:
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
