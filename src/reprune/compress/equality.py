"""Masked-dense and sliced: two ways to remove a channel that must be one function; and how far apart."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reprune.compress.architecture import Architecture, Axis, ModuleCut, layout
from reprune.compress.copies import run
from reprune.compress.coupling import Group
from reprune.compress.layouts import indices
from reprune.core.errors import CompressionError
from reprune.measure.outputs import evaluating

Kept = Mapping[str, Sequence[int]]
"""Group name to the channels that stay; a group that is not named stays whole."""


def architecture_of(module: nn.Module, groups: Iterable[Group], kept: Kept) -> Architecture:
    """The cuts that leave exactly `kept`; layers in the model's own order, groups of one axis merged.

    Raises CompressionError where a layer would have nothing left.
    """
    layers = dict(module.named_modules())
    removed: dict[tuple[str, Axis], set[int]] = {}
    for group in groups:
        gone = set(range(group.width)) - set(kept.get(group.name, range(group.width)))
        for member in group.members:
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
    return Architecture(cuts=tuple(cuts))


def mask(module: nn.Module, groups: Iterable[Group], kept: Kept) -> nn.Module:
    """A copy of full size in which no consumer reads a removed channel: those input weights are zero.

    A recurrent layer reads its own hidden units; those weights are zero as well.
    """
    result = copy.deepcopy(module)
    layers = dict(result.named_modules())
    for group in groups:
        gone = set(range(group.width)) - set(kept.get(group.name, range(group.width)))
        for member in group.members:
            found = layout(layers[member.module], member.axis)
            positions = sorted(index for channel in gone for index in member.positions[channel])
            for span in found.spans if found else ():
                if member.axis == "in" or span.reads:
                    weight: Tensor = getattr(layers[member.module], span.tensor)
                    places = indices(span, found.size if found else 0, positions)
                    with torch.no_grad():
                        weight.index_fill_(span.dim, places.to(weight.device), 0.0)
    return result


def difference(one: nn.Module, other: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> float:
    """The largest absolute difference of any output on `batches`, in eval mode, float32 as it stands.

    Raises CompressionError if either does not run, the outputs have different shapes, or one of them
    is not finite where the other is.
    """
    worst = 0.0
    with evaluating(one), evaluating(other):
        for inputs in batches:
            pairs = list(zip(run(one, inputs), run(other, inputs), strict=True))
            for expected, found in pairs:
                if expected.shape != found.shape:
                    raise CompressionError(
                        f"the shape of an output changes from {tuple(expected.shape)} to "
                        f"{tuple(found.shape)}",
                    )
                worst = max(worst, _distance(expected, found))
    return worst


def _distance(expected: Tensor, found: Tensor) -> float:
    if expected.numel() == 0:
        return 0.0
    # Equal infinities (a masked logit) differ by nothing; their subtraction would be NaN.
    gap = torch.where(expected == found, torch.zeros_like(expected), (expected - found).abs())
    worst = float(gap.max())
    return worst if worst == worst else float("inf")  # noqa: PLR0124  NaN is not itself
