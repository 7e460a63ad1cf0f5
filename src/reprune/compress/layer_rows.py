"""What layers are given and give, as rows for least squares, and what each row counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

# Rows of the least-squares problem that are kept a layer, at least.
MIN_ROWS = 32_768
ROWS_PER_COLUMN = 8
POSITION_SEED = 0
# A row whose outputs are, squared, over so many times those of the row at this quantile counts as one of
# that size. Of Gaussian rows, even of a single output, hardly one in a thousand is.
USUAL = 0.75
OUTLIER = 10.0


def columns_of(layer: _ConvNd | nn.Linear) -> int:
    """How many inputs each output of the layer is a sum over: in one group, at all places of the kernel."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def rows_an_example(layer: _ConvNd | nn.Linear, examples: int) -> int:
    """How many places of each example a convolution is looked at."""
    return math.ceil(max(MIN_ROWS, ROWS_PER_COLUMN * columns_of(layer)) / examples)


def row_weights(squares: Tensor, usual: float) -> Tensor:
    """What each row counts in least squares, by the `squares` of its outputs' norm and what is `usual`: 1, or
    less for an outlier, so that it counts no more than a row of OUTLIER times the usual square (bounded
    influence: Huber and Ronchetti, Robust Statistics, 2nd ed., ch. 7).

    Transformers have a few tokens whose activations are a hundred times the others' (Sun et al.,
    arXiv:2402.17762). The normalisation behind them makes them small again, but unweighted least squares
    would pay for them with the answers to all other tokens.
    """
    if not usual > 0.0:
        return torch.ones_like(squares)
    return (OUTLIER * usual / squares).clamp(max=1.0)


def usual_square(squares: Tensor) -> float:
    """The USUAL quantile of rows' squared norms; 0 of no rows."""
    if not len(squares):
        return 0.0
    return float(squares.kthvalue(max(1, math.ceil(USUAL * len(squares)))).values)


def linear_rows(value: Tensor) -> Tensor:
    """(..., K) -> (R, K): what a linear layer is given or gives, a single vector too."""
    return value.reshape(-1, value.shape[-1])


def squared_norms(rows: Tensor) -> Tensor:
    """(R, K) -> (R,), float64."""
    return rows.to(torch.float64).square().sum(dim=1)


def batched(layer: _ConvNd, value: Tensor) -> Tensor:
    """What a convolution is given or gives, (N, C, ...), also where it was called with a single example."""
    return value[None] if value.dim() == 1 + len(layer.kernel_size) else value


def places(size: Sequence[int], most: int, generator: torch.Generator) -> Tensor:
    """Up to `most` of the places of an image of `size` (such as height, width), numbered with the last
    dimension fastest, in order.
    """
    return torch.randperm(math.prod(size), generator=generator)[:most].sort().values


def output_rows(y: Tensor, chosen: Tensor) -> Tensor:
    """(N, K, ...) at `chosen` places -> (N * P, K)."""
    return y.flatten(2)[:, :, chosen].movedim(1, 2).flatten(0, 1)


def input_rows(layer: _ConvNd, x: Tensor, size: Sequence[int], chosen: Tensor) -> Tensor:
    """What the layer reads for the `chosen` places of an output of `size`; for a transposed convolution
    what it adds up there, with a 0 wherever the stride leaves a gap.

    (N, C, ...) -> (N * P, C * kernel), the kernel's places in the order of the weight's.
    """
    x = batched(layer, x)
    where = torch.unravel_index(chosen, tuple(size))
    if layer.transposed:
        fields = _gathered(x, *_sources(layer, x, where))
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        reads = [
            at[:, None] * layer.stride[dim]
            + torch.arange(layer.kernel_size[dim]) * layer.dilation[dim]
            for dim, at in enumerate(where)
        ]
        fields = _gathered(padded, reads)
    return fields.movedim(2, 1).flatten(2).flatten(0, 1)


def _sources(
    layer: _ConvNd, x: Tensor, where: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """For each dimension the inputs (P, kernel) that reach the places `where` of a transposed
    convolution's output, and whether there is one: input i reaches i * stride - padding + k * dilation.
    """
    reads, there = [], []
    for dim, at in enumerate(where):
        steps = torch.arange(layer.kernel_size[dim]) * layer.dilation[dim]
        away = at[:, None] + int(layer.padding[dim]) - steps
        source = torch.div(away, layer.stride[dim], rounding_mode="floor")
        there.append((away % layer.stride[dim] == 0) & (source >= 0) & (source < x.shape[2 + dim]))
        reads.append(source.clamp(0, x.shape[2 + dim] - 1))
    return reads, there


def _gathered(x: Tensor, reads: Sequence[Tensor], there: Sequence[Tensor] = ()) -> Tensor:
    """(N, C, ...) at the places `reads`, (P, kernel) a dimension -> (N, C, P, kernel ...); 0 where one is
    not `there`.
    """

    def spread(index: Tensor, dim: int) -> Tensor:
        shape = [len(index), *(1 for _ in reads)]
        shape[1 + dim] = index.shape[1]
        return index.reshape(shape)

    every = slice(None)
    index: list[slice | Tensor] = [every, every, *map(spread, reads, range(len(reads)))]
    fields = x[tuple(index)]
    for dim, present in enumerate(there):
        fields = fields * spread(present, dim).to(fields.device)
    return fields


def patches(
    layer: _ConvNd, x: Tensor, y: Tensor, *, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The receptive fields of up to `positions` places of `y`, the same places for every example.

    x: (N, C, ...), y: (N, K, ...) -> (N * P, C * kernel), (N * P, K).
    """
    y = batched(layer, y)
    size = tuple(y.shape[2:])
    chosen = places(size, positions, generator)
    return input_rows(layer, x, size, chosen), output_rows(y, chosen)
