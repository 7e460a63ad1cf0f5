"""What a model costs at any widths of its groups, without cutting it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from reprune.compress.structure.architecture import Axis, layout
from reprune.compress.structure.bypass import inside
from reprune.core.artifacts import Cost, block_key

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.measure.profile import Counted

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# The axis that is in place of one that a term does not depend on; its length is always 1.
ONE = 0
AXES: tuple[Axis, ...] = ("out", "in")


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """cost(widths) = fixed + sum of coefficient x length of one axis x length of another.

    A convolution or linear layer costs the product of its outputs and inputs, a norm its channels.
    `lengths` are the full lengths of all axes; `lost[g]` lists, for each axis that group g lies on,
    by how much it is shorter with 0, 1, ... of the group's channels left. A group in `crossing` cuts
    each channel of the others on the same axis alike, so that their shares multiply. `blocks[b]` is
    what block b costs beside its terms, and which terms lie in it.
    """

    groups: tuple[str, ...]
    lengths: Integers
    lost: tuple[tuple[tuple[int, Integers], ...], ...]
    terms: Integers
    coefficients: Integers
    fixed: Integers
    crossing: frozenset[str] = frozenset()
    blocks: Mapping[str, tuple[Integers, Integers]] = field(default_factory=dict)

    def __call__(self, widths: Mapping[str, int]) -> Cost:
        """The whole model's cost with these groups cut to these widths, the others whole; a block's
        key (see `block_key`) with the width 0 removes it.

        Equal to what `measure.profile.count_cost` says of the cut model wherever a group's channels
        take the same number of positions each, and MACs are spent in layers; else at least that.
        """
        left, across = self.lengths.copy(), self.lengths.copy()
        for name, lost in zip(self.groups, self.lost, strict=True):
            if name in widths:
                for axis, table in lost:
                    (across if name in self.crossing else left)[axis] -= table[widths[name]]
        left = left * across // self.lengths
        products = left[self.terms[:, 0]] * left[self.terms[:, 1]]
        fixed = self.fixed
        for name, (own, terms) in self.blocks.items():
            if widths.get(block_key(name), 1) == 0:
                products[terms] = 0
                fixed = fixed - own
        params, macs, size = (int(value) for value in self.coefficients @ products + fixed)
        return Cost(params=params, macs=macs, bytes=size)


def cost_model(
    module: nn.Module, groups: Sequence[Group], counted: Counted, blocks: Sequence[Block] = ()
) -> CostModel:
    """The model of `module`'s cost, anchored at `counted`: at full widths it gives exactly that.

    `blocks` are those that may be removed, none inside another.

    Multiply-accumulates outside the groups' layers (products that forward() makes itself) are taken
    as they are in the dense model, so that a budget is rather met with something to spare.
    """
    layers = dict(module.named_modules())
    macs = {profile.layer: profile.macs for profile in counted.layers}
    numbers: dict[tuple[str, Axis], int] = {}
    lengths = [1]
    for group in groups:
        for member in group.members:
            found = layout(layers[member.module], member.axis)
            if found is not None and (member.module, member.axis) not in numbers:
                numbers[member.module, member.axis] = len(lengths)
                lengths.append(found.size)
    rows: list[tuple[int, int, tuple[int, int, int]]] = []
    homes: list[str] = []
    for name in dict.fromkeys(name for name, _ in numbers):
        own = _layer_terms(layers[name], name, numbers, macs.get(name, 0))
        rows += own
        homes += [name] * len(own)
    full = np.array(lengths, dtype=np.int64)
    terms = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    coefficients = np.array([row[2] for row in rows], dtype=np.int64).reshape(-1, 3).T
    dense = np.array([counted.cost.params, counted.cost.macs, counted.cost.bytes], dtype=np.int64)
    at_full = full[terms[:, 0]] * full[terms[:, 1]]
    return CostModel(
        groups=tuple(group.name for group in groups),
        lengths=full,
        lost=tuple(_lost(group, numbers) for group in groups),
        terms=terms,
        coefficients=coefficients,
        fixed=dense - coefficients @ at_full,
        crossing=frozenset(group.name for group in groups if group.across is not None),
        blocks={
            block.name: (
                _inside_cost(module, counted, block.name) - coefficients[:, lie] @ at_full[lie],
                lie,
            )
            for block in blocks
            for lie in [_indices(homes, block.name)]
        },
    )


def _indices(homes: Sequence[str], block: str) -> Integers:
    return np.array([i for i, name in enumerate(homes) if inside(name, [block])], dtype=np.int64)


def _inside_cost(module: nn.Module, counted: Counted, block: str) -> Integers:
    """(params, macs, bytes) that are gone with the block: what it shares with others stays."""
    profiles = [profile for profile in counted.layers if inside(profile.layer, [block])]
    stored = module.state_dict(keep_vars=True)
    outside = {id(tensor) for name, tensor in stored.items() if not inside(name, [block])}
    own = {
        id(tensor): tensor
        for name, tensor in stored.items()
        if inside(name, [block]) and id(tensor) not in outside
    }
    parameters = {id(parameter) for parameter in module.parameters()}
    return np.array(
        [
            sum(tensor.numel() for key, tensor in own.items() if key in parameters),
            sum(profile.macs for profile in profiles),
            sum(tensor.numel() * tensor.element_size() for tensor in own.values()),
        ],
        dtype=np.int64,
    )


def _lost(
    group: Group, numbers: Mapping[tuple[str, Axis], int]
) -> tuple[tuple[int, Integers], ...]:
    """For each axis the group lies on, how many positions are gone by the number of channels kept.

    Which channels stay is not known here: those with the most positions, so that no cost is missed.
    """
    tables = []
    for member in group.members:
        counts = sorted((len(positions) for positions in member.positions), reverse=True)
        kept = np.array([0, *accumulate(counts)], dtype=np.int64)
        tables.append((numbers[member.module, member.axis], kept[-1] - kept))
    return tuple(tables)


def _layer_terms(
    layer: nn.Module, name: str, numbers: Mapping[tuple[str, Axis], int], macs: int
) -> list[tuple[int, int, tuple[int, int, int]]]:
    """(axis, axis, (params, macs, bytes)) for each tensor of the layer that a cut shortens."""
    layouts = {
        axis: found
        for axis in AXES
        if (name, axis) in numbers and (found := layout(layer, axis)) is not None
    }
    weights = sum(
        tensor.numel()
        for tensor_name, tensor in layer.named_parameters(recurse=False)
        if tensor_name.startswith("weight")
    )
    spans = [(axis, span) for axis, found in layouts.items() for span in found.spans]
    rows = []
    for tensor_name in dict.fromkeys(span.tensor for _, span in spans):
        tensor: Tensor | None = getattr(layer, tensor_name, None)
        if tensor is None:
            continue
        # Twice the same axis for the weights with which a recurrent layer reads itself.
        axes = [axis for axis, span in spans if span.tensor == tensor_name]
        full = math.prod(layouts[axis].size for axis in axes)
        each = tensor.numel() // full
        first, second = ([numbers[name, axis] for axis in axes] + [ONE])[:2]
        # Multiply-accumulates go with the weights: as many for each of their numbers.
        spent = macs * tensor.numel() // weights if tensor_name.startswith("weight") else 0
        rows.append(
            (
                first,
                second,
                (
                    each if tensor_name in dict(layer.named_parameters(recurse=False)) else 0,
                    spent // full,
                    each * tensor.element_size(),
                ),
            )
        )
    return rows
