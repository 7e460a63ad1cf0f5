"""What a student learns from its teacher: the loss, and which outputs it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.core.errors import CompressionError, TaskError

if TYPE_CHECKING:
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Batch, Task


@dataclass(frozen=True, kw_only=True)
class Call:
    """One time that a module was called."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: object


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[Call]]:
    """Collects every call of `module` (not of its parts) inside the block."""
    calls: list[Call] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        calls.append(Call(args=args, kwargs=kwargs, output=output))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def recovery_loss(
    task: Task,
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    generator: torch.Generator,
    params: DistillParams,
) -> Tensor:
    """(1 - weight) x the task's loss + weight x the distance to the teacher; a scalar.

    The task's loss runs the student itself; the teacher then sees exactly what the student was
    called with, call by call, so that augmentation and several views are the same for both.
    """
    with calls_of(student) as calls:
        own = task.loss(student, batch, generator)
    if params.weight == 0.0:
        return own
    if not calls:
        raise TaskError(
            "the loss did not call the module as module(...), so there is nothing to distil",
            where=f"{type(task).__name__}.loss",
            fix="call the module itself in loss(), or set distill.weight to 0",
        )
    distances = []
    for call in calls:
        with torch.no_grad():
            taught = teacher(*call.args, **call.kwargs)
        distances.append(distance(call.output, taught, params.temperature))
    return (1.0 - params.weight) * own + params.weight * torch.stack(distances).mean()


def distance(student: object, teacher: object, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the outputs softened by T (Hinton et al. 2015), a scalar.

    Every floating tensor of at least two dimensions in the outputs, however nested, is read as
    logits over dimension 1, as in torch's cross_entropy: (N, C), and (N, C, ...) for segmentation
    and sequences, averaged over the other dimensions; where C is 1, as the logit of a yes or no.
    Several tensors count alike. Outputs that are no logits (boxes, embeddings) need distill.weight 0.

    Raises CompressionError if the two models' outputs are not alike, or hold no such tensor.
    """
    ours, theirs = list(_logits(student)), list(_logits(teacher))
    if not ours or [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        raise CompressionError(
            f"the outputs cannot be distilled: student {_shapes(ours)}, teacher {_shapes(theirs)}",
            where="distill",
            fix="let the model return logits of shape (N, C, ...), or set distill.weight to 0",
        )
    parts = [_softened_kl(s, t, temperature) for s, t in zip(ours, theirs, strict=True)]
    return torch.stack(parts).mean()


def _softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    # In float32 whatever the precision: log-softmax of half floats loses what is to be learnt.
    s, t = student.float() / temperature, teacher.float() / temperature
    if s.shape[1] == 1:
        s, t = (torch.cat([torch.zeros_like(logit), logit], dim=1) for logit in (s, t))
    divergence = F.kl_div(
        F.log_softmax(s, dim=1), F.log_softmax(t, dim=1), reduction="none", log_target=True
    )
    return divergence.sum(dim=1).mean() * temperature**2


def _logits(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.dim() >= 2:
            yield output
    elif isinstance(output, Mapping):
        for key in sorted(output):
            yield from _logits(output[key])
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _logits(item)


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
