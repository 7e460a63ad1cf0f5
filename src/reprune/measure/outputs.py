"""What a module returns, as the flat tuple of tensors that engines return and `Task.records` takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reprune.core.errors import TaskError


def run_module(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The module's outputs in eval mode without gradients, in the order that an export gives them."""
    with evaluating(module):
        return flat_outputs(module(*inputs))


def flat_outputs(output: object) -> tuple[Tensor, ...]:
    """The tensors inside an output, depth first, a dictionary's in insertion order.

    Raises TaskError if there is anything but tensors and None.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(output) if leaf is not None]
    strange = {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)}
    if strange or not leaves:
        raise TaskError(
            f"the model returns {', '.join(sorted(strange)) or 'nothing'} where tensors are needed",
            fix="return a tensor, or a tuple or dictionary of tensors",
        )
    return tuple(leaves)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; every submodule is in its own mode again afterwards."""
    training = {inner: inner.training for inner in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for inner, was in training.items():
            inner.training = was
