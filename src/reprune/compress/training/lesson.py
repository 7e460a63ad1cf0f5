"""What a training is given, what names it, and the words for one that went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reprune.compress.training.crew import ALONE, Crew
from reprune.core.documents import digest_of
from reprune.core.errors import Diverged

if TYPE_CHECKING:
    from reprune.compress.training.optimizer_state import Moments
    from reprune.compress.training.shaping import Shaper
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Task


@dataclass(frozen=True, kw_only=True)
class Second:
    """A second teacher: its logits make up `weight` of what is learnt from logits, the first one's the
    rest. `digest` names it.
    """

    module: nn.Module
    digest: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Who learns what from whom. `teacher_digest` names the teacher in the result; `second` teaches beside
    it, where there is one; `moments` is an optimiser's state to begin with, by parameter name (see
    optimizer_state), where there is one; `crew` are the processes that train together, and has no part in
    the lesson's identity.
    """

    task: Task
    student: nn.Module
    teacher: nn.Module
    teacher_digest: str
    moments: Moments = field(default_factory=dict)
    crew: Crew = ALONE
    second: Second | None = None


def on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state dict."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def identity_of(lesson: Lesson, params: DistillParams, seed: int, shapers: Sequence[Shaper]) -> str:
    """Names a training, so that no other's checkpoint is taken for its own."""
    names = [(type(shaper).__name__, getattr(shaper, "settings", "")) for shaper in shapers]
    moments = {
        f"{name}/{kind}": value
        for name, values in lesson.moments.items()
        for kind, value in values.items()
    }
    tensors = {key: value for key, value in moments.items() if isinstance(value, Tensor)}
    plain = {key: value for key, value in moments.items() if key not in tensors}
    prints = fingerprint(on_cpu(lesson.student)), fingerprint(tensors)
    second = [] if lesson.second is None else [(lesson.second.digest, lesson.second.weight)]
    return digest_of((params, seed, lesson.teacher_digest, names, plain, prints, *second))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 of the tensors' names, types, shapes and bits, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def not_finite(what: str, value: float, epoch: int, step: int | None) -> Diverged:
    where = f"epoch {epoch}" + (f", batch {step}" if step is not None else "")
    if epoch == 0:
        return Diverged(
            f"the {what} is {value} before recovery began",
            where="distill",
            fix="cut less (plan.fraction), or check the task's loss on this model",
        )
    return Diverged(
        f"the {what} is {value} in {where}",
        where="distill",
        fix="lower distill.learning_rate or lengthen distill.warmup_epochs; with fp16 try bf16 or no",
    )
