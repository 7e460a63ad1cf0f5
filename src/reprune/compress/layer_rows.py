"""What layers are given and give, as rows for least squares: the dense network's outputs and the cut
network's inputs at the same places.

Layers are refitted one after the other, each on what the network gives it by then. What runs before a
layer is final by then and is not computed again: outputs of finished modules are kept, as far as memory
allows, and dense outputs are gathered for many layers in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.replay import Timeline, replayed, size_of, watched
from reprune.task.protocol import Batch

# Rows of the least-squares problem that are kept a layer, at least.
MIN_ROWS = 32_768
ROWS_PER_COLUMN = 8
POSITION_SEED = 0
# A row whose outputs are, squared, over so many times those of the row at this quantile counts as one of
# that size. Of Gaussian rows, even of a single output, hardly one in a thousand is.
USUAL = 0.75
OUTLIER = 10.0
# Dense outputs that are held at a time, and outputs of finished modules of the cut network.
TARGET_BYTES = 2**30
REPLAY_BYTES = 2**30


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


class Targets:
    """The dense network's rows of one layer, a batch each, and where they were taken.

    `places[i]` is None for a layer that is no convolution: all of its rows are there.
    """

    def __init__(self, layer: _ConvNd | nn.Linear, examples: int) -> None:
        self.rows: list[Tensor] = []
        self.places: list[Tensor | None] = []
        self.sizes: list[tuple[int, ...]] = []
        self._layer = layer
        self._generator = torch.Generator().manual_seed(POSITION_SEED)
        self._most = rows_an_example(layer, examples)
        self._usual: float | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows))

    def weights(self, place: int) -> Tensor:
        """What the rows of the batch `place` count, float64; all rows have been added."""
        if self._usual is None:
            self._usual = usual_square(torch.cat([squared_norms(rows) for rows in self.rows]))
        return row_weights(squared_norms(self.rows[place]), self._usual)

    def add(self, made: Tensor) -> None:
        """Takes up what the layer gave for the next batch."""
        made = made.detach()
        chosen = None
        if isinstance(self._layer, _ConvNd):
            made = batched(self._layer, made)
            chosen = places(made.shape[2:], self._most, self._generator)
            rows = output_rows(made, chosen.to(made.device))
        else:
            rows = made.flatten(0, -2).clone()
        self.rows.append(rows.cpu())
        self.places.append(chosen)
        self.sizes.append(tuple(made.shape[2:]))


def dense_targets(
    dense: nn.Module, names: Sequence[str], batches: Sequence[Batch]
) -> Iterator[dict[str, Targets]]:
    """The targets of all layers of `names`, in that order, in portions that fit TARGET_BYTES.

    A layer that is called more than once counts with its first call. One pass a portion.
    """
    left = list(names)
    examples = sum(len(batch) for batch in batches)
    first = _portion(dense, left, batches[:1], examples) if left else {}
    scale = examples / max(1, len(batches[0]))
    while left:
        taken: list[str] = []
        total = 0.0
        for name in left:
            total += size_of(first[name].rows) * scale
            if taken and total > TARGET_BYTES:
                break
            taken.append(name)
        yield _portion(dense, taken, batches, examples)
        left = left[len(taken) :]


def _portion(
    dense: nn.Module, names: Sequence[str], batches: Sequence[Batch], examples: int
) -> dict[str, Targets]:
    layers: dict[str, Any] = {name: dense.get_submodule(name) for name in names}
    targets = {name: Targets(layer, examples) for name, layer in layers.items()}
    for batch in batches:
        waiting = set(names)

        def keep(name: str, made: Tensor, waiting: set[str] = waiting) -> None:
            if name in waiting:
                waiting.discard(name)
                targets[name].add(made)
            if not waiting:
                raise _Seen

        hooks = [
            layer.register_forward_hook(lambda _m, _g, made, name=name: keep(name, made))
            for name, layer in layers.items()
        ]
        _run_until_seen(dense, batch, hooks)
    return targets


class Inputs:
    """What the layers of a network are given, asked for in the order of the forward pass.

    The network may change between two questions, but only in layers that were asked about before and
    in what comes after them. Outputs of modules that have ended are kept for the batches that fit
    REPLAY_BYTES; a module that works in place runs again, since others may see its effect.
    """

    def __init__(self, module: nn.Module, when: Timeline, batches: Sequence[Batch]) -> None:
        self._module, self._when, self._batches = module, when, batches
        self._kept: list[dict[str, Any]] = [{} for _ in batches]
        self._in_place = {
            name for name, layer in module.named_modules() if getattr(layer, "inplace", False)
        }

    def of(self, name: str) -> Iterator[Tensor]:
        """The first argument of the layer's first call, batch by batch; what comes after is not run."""
        wanted = set(self._when.before((name,))) - self._in_place
        used = sum(map(size_of, self._kept))
        for place, batch in enumerate(self._batches):
            kept = self._kept[place]
            new = wanted - set(kept) if used < REPLAY_BYTES else set()
            with replayed(self._module, kept), watched(self._module, new) as seen:
                given = _given(self._module, name, batch)
            # A module that has ended since takes the place of its parts.
            after = {one: made for one, made in {**kept, **seen}.items() if one in wanted}
            if not new:
                after = kept
            used += size_of(after) - size_of(kept)
            self._kept[place] = after
            yield given


def _given(module: nn.Module, name: str, batch: Batch) -> Tensor:
    given, named = arguments(module, name, batch)
    first: Tensor = (*given, *named.values())[0]
    return first.detach().clone()


def arguments(module: nn.Module, name: str, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the layer `name` is called with first, by position and by name; what comes after is not run."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((given, named))
        raise _Seen

    hook = module.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True)
    _run_until_seen(module, batch, [hook])
    return seen[0]


def _run_until_seen(module: nn.Module, batch: Batch, hooks: Sequence[Any]) -> None:
    try:
        module(*batch.inputs)
    except _Seen:
        pass
    finally:
        for hook in hooks:
            hook.remove()


class _Seen(BaseException):
    """Ends a forward pass early; no `except Exception` of a user's forward() may catch it."""
