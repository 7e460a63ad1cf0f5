"""The moving average of a model that trains: often better than any of its moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def average(mean: nn.Module, module: nn.Module, *, decay: float, taken: int) -> None:
    """Moves `mean` towards `module` after its optimiser step number `taken` (from 0), in float32.

    mean <- d mean + (1 - d) module, with d = min(decay, (1 + taken) / (10 + taken)), so that the
    first steps do not drag the start along (as tf.train.ExponentialMovingAverage does). Floating
    buffers (BatchNorm's statistics) are averaged too, counters copied, and so is every number that has
    no finite mean: the -inf of an attention mask. A weight that is exactly 0 in `module` becomes exactly 0
    in `mean`: what is masked stays masked.
    """
    share = 1.0 - min(decay, (1.0 + taken) / (10.0 + taken))
    with torch.no_grad():
        for name, value in module.named_parameters():
            kept = mean.get_parameter(name)
            _move(kept, value.detach(), share)
            kept.masked_fill_(value == 0, 0.0)  # a product would leave -0.0
        for name, buffer in module.named_buffers():
            held = mean.get_buffer(name)
            if buffer.is_floating_point():
                _move(held, buffer, share)
            else:
                held.copy_(buffer)


def _move(mean: Tensor, value: Tensor, share: float) -> None:
    moved = mean.lerp(value.to(mean.dtype), share)
    # Between -inf and -inf there is no distance to go a share of: the formula would give NaN.
    mean.copy_(torch.where(moved.isfinite(), moved, value))
