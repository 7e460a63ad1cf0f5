"""How far a cut moves what a model answers: a number with far less noise than the rise of its loss.

To second order a rise is a quadratic form in the change of the outputs (the loss' curvature), its first
order averages out; so the mean squared change ranks cuts where a few dozen losses do not. Measured on
ResNet-20: on 50 images it ranks groups as well as 4,000 losses do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from reprune.compress.structure.copies import leaves


@contextmanager
def listened(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, every floating tensor that a call of `module` gives is noted (a copy), in order."""
    heard: list[Tensor] = []

    def note(_: nn.Module, __: object, made: object) -> None:
        heard.extend(
            tensor.detach().clone() for tensor in leaves(made) if tensor.is_floating_point()
        )

    hook = module.register_forward_hook(note)
    try:
        yield heard
    finally:
        hook.remove()


def squared_move(one: Sequence[Tensor], other: Sequence[Tensor], examples: int) -> float:
    """The squared distance of two lists of outputs, per example; NaN where they cannot be compared or
    are not finite.
    """
    shapes = [tensor.shape for tensor in one]
    if not shapes or shapes != [tensor.shape for tensor in other]:
        return math.nan
    total = math.fsum(
        float((a.double() - b.double()).square().sum()) for a, b in zip(one, other, strict=True)
    )
    return total / examples if math.isfinite(total) else math.nan
