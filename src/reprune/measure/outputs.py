"""Running a module for its outputs alone, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reprune.task.outputs import outputs_of


def run_module(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The module's outputs in eval mode without gradients. Raises TaskError for other than tensors."""
    with evaluating(module):
        return outputs_of(module, inputs)


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
