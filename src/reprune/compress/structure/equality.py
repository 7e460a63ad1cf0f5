"""Masked-dense and sliced: two ways to remove a channel that must be one function; and how far apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import (
    Architecture,
    AttributeChange,
    Axis,
    ModuleCut,
    Removal,
    apply,
    layout,
)
from reprune.compress.structure.bypass import inside
from reprune.compress.structure.copies import run
from reprune.compress.structure.coupling import Follower, Group, Member
from reprune.compress.structure.layouts import indices
from reprune.compress.structure.separate import separated
from reprune.core.errors import CompressionError
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from reprune.compress.structure.blocks import Block

Kept = Mapping[str, Sequence[int]]
"""Group name to the channels that stay; a group that is not named stays whole."""


def architecture_of(
    module: nn.Module, groups: Iterable[Group], kept: Kept, blocks: Iterable[Block] = ()
) -> Architecture:
    """What leaves exactly `kept` and none of `blocks`; layers in the model's own order, groups of one
    axis merged. What lies in a removed block is not cut as well.

    Raises CompressionError where a layer would have nothing left, or a number that forward() reads
    would not be whole.
    """
    layers = dict(module.named_modules())
    groups, blocks = list(groups), list(blocks)
    names = [block.name for block in blocks]
    removed: dict[tuple[str, Axis], set[int]] = {}
    for group in groups:
        gone = set(range(group.width)) - set(kept.get(group.name, range(group.width)))
        for member in group.members:
            if inside(member.module, names):
                continue
            positions = {index for channel in gone for index in member.positions[channel]}
            if positions:
                removed.setdefault((member.module, member.axis), set()).update(positions)
    cuts = []
    for name, layer in layers.items():
        for axis in ("out", "in"):
            found = layout(layer, axis)
            gone = removed.get((name, axis), set())
            if found is None or not gone:
                continue
            keep = tuple(index for index in range(found.size) if index not in gone)
            if not keep:
                raise CompressionError(
                    f"nothing would be left of it (axis {axis})",
                    where=name,
                    fix="keep at least one channel of every group",
                )
            cuts.append(ModuleCut(module=name, axis=axis, size=found.size, keep=keep))
    order = {name: number for number, name in enumerate(layers)}
    return Architecture(
        cuts=tuple(cuts),
        removed=tuple(
            Removal(module=block.name, returns=block.returns)
            for block in sorted(blocks, key=lambda block: order.get(block.name, -1))
        ),
        attributes=_attributes(groups, kept, names),
        separated=separated(module),
    )


def _attributes(
    groups: Iterable[Group], kept: Kept, removed: Collection[str]
) -> tuple[AttributeChange, ...]:
    """Every follower times the share that is kept of each group that it follows."""
    shares: dict[Follower, Fraction] = {}
    for group in groups:
        left = len(kept.get(group.name, range(group.width)))
        for follower in group.followers:
            if not inside(follower.module, removed):
                share = shares.get(follower, Fraction(1))
                shares[follower] = share * Fraction(left, group.width)
    changes = []
    for follower, share in sorted(
        shares.items(), key=lambda item: (item[0].module, item[0].attribute)
    ):
        after = follower.value * share
        if after.denominator != 1:
            raise CompressionError(
                f"would have to become {after}", where=f"{follower.module}.{follower.attribute}"
            )
        if after != follower.value:
            changes.append(
                AttributeChange(
                    module=follower.module,
                    attribute=follower.attribute,
                    before=follower.value,
                    after=int(after),
                )
            )
    return tuple(changes)


def mask(
    module: nn.Module, groups: Iterable[Group], kept: Kept, blocks: Iterable[Block] = ()
) -> nn.Module:
    """A copy of full size in which no consumer reads a removed channel: those input weights are zero.

    A recurrent layer reads its own hidden units; those weights are zero as well. `blocks` are
    bypassed: there is no other way to run without them.
    """
    removed = tuple(Removal(module=block.name, returns=block.returns) for block in blocks)
    result = apply(module, Architecture(removed=removed))
    layers = dict(result.named_modules())
    for group in groups:
        gone = set(range(group.width)) - set(kept.get(group.name, range(group.width)))
        for member in group.members:
            # A dimension of a score has no reader: its product vanishes where a factor is zero.
            outputs = group.unit == "dimension"
            _silence(layers.get(member.module), member, gone, outputs=outputs)
    return result


def _silence(
    layer: nn.Module | None, member: Member, gone: Iterable[int], *, outputs: bool
) -> None:
    """Zeroes the weights that read the positions; with `outputs` those that make them as well, and
    their biases. A layer that was removed has none.
    """
    found = None if layer is None else layout(layer, member.axis)
    if found is None:
        return
    positions = sorted(index for channel in gone for index in member.positions[channel])
    for span in found.spans:
        tensor: Tensor | None = getattr(layer, span.tensor, None)
        if tensor is not None and (member.axis == "in" or span.reads or outputs):
            places = indices(span, found.size, positions)
            with torch.no_grad():
                tensor.index_fill_(span.dim, places.to(tensor.device), 0.0)


def difference(one: nn.Module, other: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> float:
    """The largest absolute difference of any output on `batches`, in eval mode, float32 as it stands.

    Raises CompressionError if either does not run or the outputs have different shapes. Infinite where
    one of them is not finite and the other is not the same.
    """
    pairs = (pair for inputs in batches for pair in both_outputs(one, other, inputs))
    return max((_largest(_gap(*pair)) for pair in pairs), default=0.0)


def both_outputs(
    one: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Each output of both in eval mode. Raises CompressionError as `difference` does."""
    with evaluating(one), evaluating(other):
        pairs = list(zip(run(one, inputs), run(other, inputs), strict=True))
    for expected, found in pairs:
        if expected.shape != found.shape:
            raise CompressionError(
                f"the shape of an output changes from {tuple(expected.shape)} to {tuple(found.shape)}",
            )
    return pairs


def beyond(expected: Tensor, found: Tensor, tolerance: float, scale: float) -> float:
    """The largest difference of an entry that is off by more than `tolerance` times `scale`, or its own
    size where that is more; 0 where none is. One that is not finite must be the same in both.
    """
    # Its own size, not the largest one: a masked logit of -1e9 says nothing about the others.
    size = torch.where(expected.isfinite(), expected.abs(), torch.zeros_like(expected))
    gap = _gap(expected, found)
    return _largest(gap[~(gap <= tolerance * size.clamp(min=scale))])


def _gap(expected: Tensor, found: Tensor) -> Tensor:
    # Equal infinities (a masked logit) differ by nothing; their subtraction would be NaN.
    return torch.where(expected == found, torch.zeros_like(expected), (expected - found).abs())


def _largest(gap: Tensor) -> float:
    worst = float(gap.max()) if gap.numel() else 0.0
    return float("inf") if math.isnan(worst) else worst
