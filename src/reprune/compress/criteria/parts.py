"""A group's channels, part by part: one row of scores for each layer that the group runs through."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import layout
from reprune.compress.structure.groups import Group, Member
from reprune.compress.structure.layouts import Layout, Span, by_position
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams

Measure = Callable[[Tensor], Tensor]


def summed(
    module: nn.Module,
    group: Group,
    measure: Measure,
    *,
    weights_only: bool = False,
    readers_only: bool = False,
) -> Tensor:
    """`measure` of every number that a channel has in the group, summed by member: (members, width).

    With `weights_only` biases are left out, with `readers_only` all but the numbers that read the channel (a
    recurrent layer reads its own). A member with none of them (a norm without scale) has no row. float64, on
    the CPU.
    """
    rows = []
    for member in group.members:
        layer = module.get_submodule(member.module)
        found = layout(layer, member.axis)
        parts = [
            _by_channel(by_position(_plain(measure(tensor)), span, found.size).sum(1), member)
            for span, tensor in _parameters(layer, found, weights_only=weights_only)
            if found is not None and (not readers_only or span.reads or member.axis == "in")
        ]
        if parts:
            rows.append(torch.stack(parts).sum(0))
    return _stacked(rows, group)


def vectors(module: nn.Module, group: Group) -> list[Tensor]:
    """For each convolution, linear or recurrent layer of the group: (width, numbers a channel).

    What the layer makes or reads of each channel, as one vector; shorter ones end in zeros.
    """
    found = []
    for member in group.members:
        layer = module.get_submodule(member.module)
        axis = layout(layer, member.axis)
        parts = [
            by_position(_plain(tensor), span, axis.size)
            for span, tensor in _parameters(layer, axis, weights_only=True)
            if axis is not None and tensor.ndim > 1
        ]
        if not parts:
            continue
        rows = torch.cat(parts, dim=1)
        longest = max(len(indices) for indices in member.positions)
        vector = torch.zeros(group.width, longest, rows.shape[1], dtype=torch.float64)
        for channel, indices in enumerate(member.positions):
            vector[channel, : len(indices)] = rows[list(indices)]
        found.append(vector.flatten(1))
    return found


def by_channel(values: Tensor, member: Member) -> Tensor:
    """One number a position of the member's axis, summed for each channel of the group. float64."""
    return _by_channel(_plain(values), member)


def fold(rows: Tensor, group: Group, reduction: str) -> Tensor:
    """(members, width) to (width,): "sum", "mean", "max", "prod" over the members, or the "first".

    Raises CompressionError for another word.
    """
    if reduction == "sum":
        return rows.sum(0)
    if reduction == "mean":
        return rows.mean(0)
    if reduction == "max":
        return rows.amax(0)
    if reduction == "prod":
        return rows.prod(0)
    if reduction == "first":
        return rows[0]
    raise CompressionError(
        f"there is no reduction '{reduction}'",
        where=group.name,
        fix="set prune.reduction to one of: first, max, mean, prod, sum",
    )


def folded(
    rows: dict[str, Tensor], groups: Sequence[Group], params: PruneParams
) -> dict[str, Tensor]:
    """`fold` with `params.reduction` for every group."""
    return {group.name: fold(rows[group.name], group, params.reduction) for group in groups}


def _parameters(
    layer: nn.Module, found: Layout | None, *, weights_only: bool
) -> list[tuple[Span, nn.Parameter]]:
    return [
        (span, tensor)
        for span in (found.spans if found else ())
        if isinstance(tensor := getattr(layer, span.tensor, None), nn.Parameter)
        and not (weights_only and not span.tensor.startswith("weight"))
    ]


def _stacked(rows: list[Tensor], group: Group) -> Tensor:
    if not rows:
        raise CompressionError("no layer of it has parameters", where=group.name)
    return torch.stack(rows)


def _plain(values: Tensor) -> Tensor:
    return values.detach().to(device="cpu", dtype=torch.float64)


def _by_channel(sums: Tensor, member: Member) -> Tensor:
    channels = [c for c, indices in enumerate(member.positions) for _ in indices]
    positions = [index for indices in member.positions for index in indices]
    result = torch.zeros(len(member.positions), dtype=torch.float64)
    return result.index_add_(0, torch.tensor(channels), sums[torch.tensor(positions)])
