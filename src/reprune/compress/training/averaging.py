"""The moving average of a model that trains: often better than any of its moments."""

from __future__ import annotations

import torch
from torch import nn


def average(mean: nn.Module, module: nn.Module, *, decay: float, taken: int) -> None:
    """Moves `mean` towards `module` after its optimiser step number `taken` (from 0), in float32.

    mean <- d mean + (1 - d) module, with d = min(decay, (1 + taken) / (10 + taken)), so that the
    first steps do not drag the start along (as tf.train.ExponentialMovingAverage does). Floating
    buffers (BatchNorm's statistics) are averaged too, counters copied. A weight that is exactly 0 in
    `module` becomes exactly 0 in `mean`: what is masked stays masked.
    """
    share = 1.0 - min(decay, (1.0 + taken) / (10.0 + taken))
    with torch.no_grad():
        for name, value in module.named_parameters():
            kept = mean.get_parameter(name)
            kept.lerp_(value.detach().to(kept.dtype), share)
            kept.masked_fill_(value == 0, 0.0)  # a product would leave -0.0
        for name, buffer in module.named_buffers():
            held = mean.get_buffer(name)
            if buffer.is_floating_point():
                held.lerp_(buffer.to(held.dtype), share)
            else:
                held.copy_(buffer)
