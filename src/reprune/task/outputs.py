"""What a module returns, in the one form that records and engines know, and what a task says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from reprune.core.errors import TaskError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.task.protocol import Task

Kind: TypeAlias = str | float
"""What one output is: logits (classes in dimension 1, or the last), a number for values in units of it,
unread (nobody learns from it), undeclared (nobody may before somebody says); empty where nothing is said.
"""
KINDS = ("logits", "logits-last", "unread", "undeclared", "")


def outputs_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`module(*inputs)` as a tuple: a tensor alone, or tensors in a tuple or list. Raises TaskError.

    Gradients and train or eval mode are the caller's.
    """
    import torch

    returned = module(*inputs)
    found = (returned,) if isinstance(returned, torch.Tensor) else returned
    if (
        not isinstance(found, tuple | list)
        or not found
        or not all(isinstance(output, torch.Tensor) for output in found)
    ):
        raise TaskError(
            f"returns {type(returned).__name__}, not a tensor or a tuple of tensors",
            where=type(module).__name__,
            fix="return tensors in a fixed order: an engine has no names for anything else (docs/task.md)",
        )
    return tuple(found)


def said_of_outputs(task: Task) -> Kind | tuple[Kind, ...]:
    """The task's `outputs_are`: one kind for all outputs, or one each. Raises TaskError for no kind."""
    said = getattr(task, "outputs_are", "")
    each = tuple(said) if isinstance(said, list | tuple) else (said,)
    for kind in each:
        number = isinstance(kind, int | float) and not isinstance(kind, bool)
        if kind in KINDS if isinstance(kind, str) else number and kind > 0:
            continue
        raise TaskError(
            f"says {kind!r}; {nearest(str(kind), KINDS[:3])}",
            where="outputs_are",
            fix="say what the outputs are by one of these, or by a number above 0 for values in units of it",
        )
    return each if isinstance(said, list | tuple) else each[0]
