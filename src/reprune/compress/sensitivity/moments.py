"""Closed forms from one look at the data: the repair of any single cut.

With the second moments of what a reader of a group is given, the least-squares repair of
`compress.compensate` is a small linear system for every cut, without another forward pass; `slopes` has the
change of a batch's loss under it, to first order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.layer_rows import (
    POSITION_SEED,
    columns_of,
    linear_rows,
    patches,
    row_weights,
    rows_an_example,
    squared_norms,
    usual_square,
)
from reprune.compress.least_squares import fit_within
from reprune.compress.structure.architecture import Axis, apply, layout
from reprune.compress.structure.bypass import inside
from reprune.compress.structure.equality import architecture_of
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.task.protocol import Batch

# The bias is hardly penalised, as in compensate: it is what a removed channel's mean turns into.
BIAS_SHARE = 1e-6
# Inputs of a layer whose moment is held: unlike the problems of compensate, all readers' are at once.
MAX_COLUMNS = 8_192


@dataclass(frozen=True, kw_only=True)
class Refit:
    """A reader's weight and bias (None where it has none) in full shape, zero where an input is gone."""

    weight: Tensor
    bias: Tensor | None


def readers(group: Group) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The layers that read the group's channels: their names to each channel's input positions."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for member in group.members:
        if member.axis == "in":
            before = found.get(member.module)
            joined = (
                zip(before, member.positions, strict=True)
                if before
                else (((), positions) for positions in member.positions)
            )
            found[member.module] = [(*one, *other) for one, other in joined]
    return {name: tuple(positions) for name, positions in found.items()}


def input_moments(
    module: nn.Module, names: Sequence[str], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Second moments E[w x xT] of the rows that each layer of `names` is given in eval mode, float64, with
    the weights w of compensate's least squares; what size is usual is told by the first batch that has any.
    (G, n, n): a moment of its own for each of the layer's groups.

    A 1 is appended to x for a layer with a bias. Layers without `has_moment`, and those whose inputs are
    all zero or not finite, are left out. Convolutions see the positions that compensate would draw. One
    forward pass a batch.
    """
    layers = {name: module.get_submodule(name) for name in names}
    gatherers = {
        name: _Gatherer(layer, sum(len(batch) for batch in batches))
        for name, layer in layers.items()
        if has_moment(layer)
    }
    hooks = [
        layers[name].register_forward_hook(found, with_kwargs=True)
        for name, found in gatherers.items()
    ]
    try:
        with evaluating(module):
            for batch in batches:
                module(*batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    moments = {name: found.mean() for name, found in gatherers.items() if found.rows}
    return {
        name: moment
        for name, moment in moments.items()
        if math.isfinite(scale := _scale(moment, layers[name])) and scale > 0.0
    }


def has_moment(layer: nn.Module) -> TypeGuard[_ConvNd | nn.Linear]:
    """Whether the repair of the layer has a closed form here: Linear and convolutions whose moments, of all
    groups, take no more than that of 8,192 inputs. `compensate` refits larger ones too, and recurrent layers.
    """
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    return _is_plain(layer) and groups * (columns_of(layer) + 1) ** 2 <= (MAX_COLUMNS + 1) ** 2


class _Gatherer:
    """A forward hook that adds up w x xT over sampled rows."""

    def __init__(self, layer: _ConvNd | nn.Linear, examples: int) -> None:
        self.places = rows_an_example(layer, examples)
        self.generator = torch.Generator().manual_seed(POSITION_SEED)
        self.total: Tensor | None = None
        self.usual = 0.0
        self.rows = 0

    def __call__(
        self, layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], made: Tensor
    ) -> None:
        x = (*given, *named.values())[0].detach()
        if isinstance(layer, _ConvNd):
            x, y = patches(layer, x, made, positions=self.places, generator=self.generator)
        else:
            x, y = linear_rows(x), linear_rows(made)
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        x = x.to(torch.float64).reshape(len(x), groups, x.shape[1] // groups).transpose(0, 1)
        if layer.bias is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
        squares = squared_norms(y.detach())
        self.usual = self.usual or usual_square(squares)
        x = x * row_weights(squares, self.usual).sqrt()[:, None]
        square = x.mT @ x
        self.total = square if self.total is None else self.total + square
        self.rows += x.shape[1]

    def mean(self) -> Tensor:
        if self.total is None:
            raise RuntimeError("no row was seen")
        return self.total / self.rows


def refits(
    module: nn.Module,
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    moments: Mapping[str, Tensor],
    ridge: float,
) -> dict[str, Refit]:
    """For each reader of the groups that `kept` cuts, its weights after the cut: what `compensate`
    solves where the reader's inputs that stay are the dense network's; without a moment, or where the
    system has no finite solution within its limit, the plain weights.

    Only linear layers and convolutions are answered for. No data is looked at.
    """
    gone: dict[str, set[int]] = {}
    for group in groups:
        left = set(kept.get(group.name, range(group.width)))
        for name, positions in readers(group).items():
            away = (at for channel, at in enumerate(positions) if channel not in left)
            gone.setdefault(name, set()).update(index for at in away for index in at)
    return {
        name: _refit(layer, sorted(away), moments.get(name), ridge)
        for name, away in gone.items()
        if away and _is_plain(layer := module.get_submodule(name))
    }


def repaired(
    module: nn.Module,
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    made: Mapping[str, Refit],
    blocks: Sequence[Block] = (),
) -> nn.Module:
    """`module` sliced to `kept`, its readers' weights as in `made` (`refits` of the same cut), and without
    `blocks`.
    """
    architecture = architecture_of(module, groups, kept, blocks)
    result = apply(module, architecture)
    keeps = {(cut.module, cut.axis): torch.tensor(cut.keep) for cut in architecture.cuts}
    axes: tuple[Axis, Axis] = ("in", "out")
    gone = [block.name for block in blocks]
    for name, refit in made.items():
        if inside(name, gone):
            continue
        layer: Any = result.get_submodule(name)  # a convolution or Linear
        weight, bias = refit.weight, refit.bias
        for axis in axes:
            found, keep = layout(layer, axis), keeps.get((name, axis))
            if found is not None and keep is not None:
                index = keep.to(weight.device)
                weight = weight.index_select(found.tensors["weight"], index)
                if bias is not None and "bias" in found.tensors:
                    bias = bias.index_select(0, index)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
    return result.eval()


def _is_plain(layer: nn.Module) -> TypeGuard[_ConvNd | nn.Linear]:
    """Whether an input of the layer, or one of each group, has a place of its own in its weight."""
    if isinstance(layer, _ConvNd):
        return layer.groups == 1 or not layer.transposed
    return isinstance(layer, nn.Linear)


def _refit(
    layer: _ConvNd | nn.Linear, gone: Sequence[int], moment: Tensor | None, ridge: float
) -> Refit:
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    transposed = isinstance(layer, _ConvNd) and layer.transposed
    index = torch.tensor(gone, device=weight.device)
    lost = Refit(weight=weight.index_fill(0 if transposed else 1, index, 0.0), bias=bias)
    filters = weight.movedim(0, 1) if transposed else weight
    if moment is None or len(gone) == filters.shape[1]:
        return lost
    away = torch.zeros(filters.shape[1], dtype=torch.bool, device=weight.device)
    away[index] = True
    columns = away.repeat_interleave(filters[0, 0].numel())
    biases = [None] * len(moment) if bias is None else bias.chunk(len(moment))
    made = [
        _solved(part, own, square, columns, ridge)
        for part, own, square in zip(filters.chunk(len(moment)), biases, moment, strict=True)
    ]
    weights = torch.cat([part for part, _ in made])
    return Refit(
        weight=weights.movedim(0, 1) if transposed else weights,
        bias=None if bias is None else torch.cat([own for _, own in made if own is not None]),
    )


def _solved(
    weight: Tensor, bias: Tensor | None, moment: Tensor, gone: Tensor, ridge: float
) -> tuple[Tensor, Tensor | None]:
    """The weights (outputs, inputs, ...) and bias of one group without the columns `gone`."""
    away, inner = gone.nonzero().flatten(), (~gone).nonzero().flatten()
    left = inner if bias is None else torch.cat([inner, inner.new_tensor([len(gone)])])
    rows = weight.flatten(1).T.to(torch.float64)
    penalty = moment.new_full((len(left),), ridge * float(moment.diagonal()[inner].mean()))
    if bias is not None:
        penalty[-1] *= BIAS_SHARE
    now = rows[inner] if bias is None else torch.cat([rows[inner], bias.to(rows.dtype)[None]])
    residual = moment[left][:, away] @ rows[away]
    found = fit_within(moment[left][:, left], residual, now, penalty, len(inner))
    fitted = torch.zeros_like(rows)
    fitted[inner] = rows[inner] if found is None else found[: len(inner)]
    whole = fitted.T.reshape(weight.shape).to(weight.dtype)
    return whole, bias if bias is None or found is None else found[-1].to(bias.dtype)


def _scale(moment: Tensor, layer: nn.Module) -> float:
    """The mean square of the inputs (the appended 1 left out)."""
    squares = moment.diagonal(dim1=1, dim2=2)
    return float((squares[:, :-1] if isinstance(layer.bias, Tensor) else squares).mean())
