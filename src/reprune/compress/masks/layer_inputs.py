"""What flows into a layer on calibration examples, summed up as X'X: all that Wanda and SparseGPT need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from reprune.core.errors import CompressionError
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from reprune.task.protocol import Batch

# Rows of X that are looked at a layer, at least; and columns whose X'X still fits memory.
MIN_ROWS = 32_768
ROWS_PER_COLUMN = 8
MAX_COLUMNS = 8_192
POSITION_SEED = 0


def order_of_use(module: nn.Module, batches: Sequence[Batch]) -> list[str]:
    """The names of the layers in the order in which the first batch goes through them, each once."""
    order: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, layer in module.named_modules()
    ]
    try:
        with evaluating(module):
            for batch in batches[:1]:
                module(*batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


def input_sums(module: nn.Module, name: str, batches: Sequence[Batch]) -> Tensor | None:
    """X'X of what the layer `name` is given while `module` runs on `batches`, over all its calls.

    (groups, columns, columns) in float64: one matrix for each group of a convolution, else one;
    columns are in the order of `reconstruct.to_matrix`.

    Convolutions see at most a fixed number of positions an example, chosen by a fixed seed. None for
    a layer that is no linear layer or (not transposed) convolution, or that is never called. Raises
    CompressionError for one with more than 8,192 inputs, or where one is no finite number. `module` is
    left as it was.
    """
    layer = module.get_submodule(name)
    if isinstance(layer, _ConvTransposeNd) or not isinstance(layer, _ConvNd | nn.Linear):
        return None
    parts = layer.groups if isinstance(layer, _ConvNd) else 1
    weight = layer.weight
    columns = weight[0].numel()
    if columns > MAX_COLUMNS:
        raise CompressionError(
            f"has {columns} inputs; the sums of at most {MAX_COLUMNS} fit memory",
            where=name,
            fix="mask it by magnitude or taylor (prune.criterion), or name it in the task's `keep`",
        )
    budget = math.ceil(max(MIN_ROWS, ROWS_PER_COLUMN * columns) / max(sum(map(len, batches)), 1))
    generator = torch.Generator().manual_seed(POSITION_SEED)
    grams = torch.zeros(parts, columns, columns, dtype=torch.float64)
    rows = 0

    def add(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        nonlocal rows
        x = _rows(layer, (*given, *named.values())[0].detach(), budget, generator)
        grams.add_(torch.einsum("rpi,rpj->pij", x, x))
        rows += len(x)

    hook = layer.register_forward_pre_hook(add, with_kwargs=True)
    try:
        with evaluating(module):
            for batch in batches:
                module(*batch.inputs)
    finally:
        hook.remove()
    if not bool(grams.isfinite().all()):
        raise CompressionError(
            "on calibration examples it is given numbers that are not finite",
            where=name,
            fix="check the dense model and the split 'calibration' for NaN and infinity",
        )
    return grams if rows else None


def _rows(layer: _ConvNd | nn.Linear, x: Tensor, budget: int, generator: torch.Generator) -> Tensor:
    """(rows, groups, columns), float64, on the CPU."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, 1, x.shape[-1]).to("cpu", torch.float64)
    return patches(layer, x, budget, generator).to("cpu", torch.float64)


def patches(layer: _ConvNd, x: Tensor, budget: int, generator: torch.Generator) -> Tensor:
    """The receptive fields of up to `budget` positions, the same ones for every example.

    x is (N, C, *spatial), or (C, *spatial); the result is (N * positions, groups, kernel * C / groups),
    channels last.
    """
    nd = len(layer.kernel_size)
    if x.ndim == nd + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    fields = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    settings = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(settings):
        # (..., positions of this axis, ..., (size - 1) * dilation + 1), thinned to the kernel's own.
        fields = fields.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    places = fields.shape[2 : 2 + nd]
    chosen = torch.randperm(math.prod(places), generator=generator)[:budget].sort().values
    index = torch.unravel_index(chosen.to(x.device), places)
    at: tuple[slice | Tensor, ...] = (slice(None), slice(None), *index)
    found = fields[at].movedim(2, 1)  # N, P, C, *kernel
    found = found.reshape(*found.shape[:2], layer.groups, -1, *found.shape[3:])
    return found.movedim(3, -1).flatten(3).flatten(0, 1)
