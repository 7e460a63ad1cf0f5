"""What a module returns, in the one form that records and engines know: a tuple of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reprune.core.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor, nn


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
            fix="return tensors in a fixed order: an engine has no names for anything else",
        )
    return tuple(found)
