"""BatchNorm over the whole batch while processes train on shares of it.

torch's SyncBatchNorm does the same on GPUs only, and not for a process that has no example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reprune.compress.training.crew import add_up
from reprune.core.errors import CompressionError

USUAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Sum(torch.autograd.Function):
    """A sum over processes. Each back-propagates its own part of the loss, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004  torch's signature
        total = values.clone()
        add_up(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004  torch's signature
        total = grads[0].clone().contiguous()
        add_up(total)
        return total


@dataclass(kw_only=True)
class JointNorms:
    """What the BatchNorms of one module ask: whether statistics are `joint` now, and if this process's
    examples count; `found` says whether there are any to ask.
    """

    found: bool = False
    joint: bool = False
    counts: bool = True

    @contextmanager
    def stepping(self, *, counts: bool) -> Iterator[None]:
        """Inside, train mode takes statistics over all processes. All of them must step alike."""
        self.joint, self.counts = self.found, counts
        try:
            yield
        finally:
            self.joint = False


def join_norms(module: nn.Module) -> JointNorms:
    """Makes every BatchNorm of `module` ask the result. Raises CompressionError for one whose forward is
    its own, which nobody can make joint.
    """
    norms = JointNorms()
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        if type(layer) not in USUAL:
            raise CompressionError(
                f"a {type(layer).__name__} normalises in its own way, so its statistics cannot be taken "
                "over several processes",
                where=name,
                fix="set distill.processes to 1, or use torch's own BatchNorm",
            )
        # An instance's own attribute is found before the class's method, and is in no state dict.
        norms.found = True
        layer.__dict__["forward"] = _asking(layer, layer.forward, norms)
    return norms


def _asking(
    layer: _BatchNorm, alone: Callable[[Tensor], Tensor], norms: JointNorms
) -> Callable[[Tensor], Tensor]:
    def forward(values: Tensor) -> Tensor:
        if not (norms.joint and layer.training):
            return alone(values)
        layer._check_input_dim(values)  # type: ignore[no-untyped-call]
        mean, var, count = _statistics(values, counts=norms.counts)
        _remember(layer, mean.detach(), var.detach(), count)
        return _normalised(layer, values, mean, var)

    return forward


def _statistics(values: Tensor, *, counts: bool) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance a channel over all processes, in float64; values a channel in all."""
    other = [dim for dim in range(values.dim()) if dim != 1]
    var, mean = torch.var_mean(values.float(), dim=other, correction=0)
    var, mean = var.double(), mean.double()
    own = float(values.numel() // values.shape[1]) if counts else 0.0
    # In float64, so that the difference of squares below keeps what float32 has.
    sums = torch.cat([own * mean, own * (var + mean * mean), mean.new_full((1,), own)])
    total: Tensor = _Sum.apply(sums)  # type: ignore[no-untyped-call]
    count = float(total[-1].detach())
    if count < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {count:.0f}")
    first, second = (total[:-1] / count).chunk(2)
    return first, (second - first * first).clamp_min(0.0), count


def _remember(layer: _BatchNorm, mean: Tensor, var: Tensor, count: float) -> None:
    """The running statistics after this batch, as torch takes them (its variance is unbiased)."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    seen = layer.num_batches_tracked
    if seen is not None:
        seen.add_(1)
    share = layer.momentum
    if share is None:
        share = 1.0 / float(seen) if seen is not None else 0.0
    for buffer, now in (
        (layer.running_mean, mean),
        (layer.running_var, var * count / (count - 1.0)),
    ):
        buffer.mul_(1.0 - share).add_(now.to(buffer.dtype), alpha=share)


def _normalised(layer: _BatchNorm, values: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    scale = (var + layer.eps).rsqrt()
    shape = [1, -1] + [1] * (values.dim() - 2)
    result = (values.float() - mean.float().view(shape)) * scale.float().view(shape)
    if layer.affine:
        result = result * layer.weight.float().view(shape) + layer.bias.float().view(shape)
    return result.to(values.dtype)
