"""What a cut took away, group by group: what was to be expected of it beside what is counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
from torch import nn

from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.architecture import Architecture, apply
from reprune.compress.structure.blocks import Block
from reprune.compress.structure.bypass import inside
from reprune.compress.structure.equality import Kept, architecture_of
from reprune.compress.structure.groups import Group
from reprune.core.artifacts import BlockCut, Cost, GroupCut, block_key
from reprune.measure.profile import count_cost
from reprune.task.protocol import Task

NOTHING = Cost(params=0, macs=0, bytes=0)


def kept_channels(groups: Sequence[Group], architecture: Architecture) -> dict[str, list[int]]:
    """The channels of each group that `architecture` leaves, whatever cuts it was composed of. A group that
    lies in a removed block is whole: nothing of it was cut.
    """
    left = {(cut.module, cut.axis): frozenset(cut.keep) for cut in architecture.cuts}
    found = {}
    for group in groups:
        axes = [
            (member.positions, left[member.module, member.axis])
            for member in group.members
            if (member.module, member.axis) in left
        ]
        # A position may be gone with another group on its axis (a head's dimension): one that stays tells.
        found[group.name] = [
            channel
            for channel in range(group.width)
            if all(
                not positions[channel] or keep.intersection(positions[channel])
                for positions, keep in axes
            )
        ]
    return found


def group_cuts(
    groups: Sequence[Group], widths: Mapping[str, int], kept: Kept, gone: Collection[str] = ()
) -> tuple[GroupCut, ...]:
    """Every group's widths: before, as `widths` ask for it, and as many channels as are `kept`. A group that
    is gone with the blocks `gone` is as was asked: none of it is left to be wider.
    """
    found = []
    for group in groups:
        requested = widths.get(group.name, group.width)
        keep = requested if lies_in(group, gone) else len(kept[group.name])
        found.append(GroupCut(group=group.name, width=group.width, requested=requested, keep=keep))
    return tuple(found)


def lies_in(group: Group, blocks: Collection[str]) -> bool:
    """Whether all layers that the group runs through are in `blocks`."""
    return all(inside(member.module, blocks) for member in group.members)


def asked_and_done(
    task: Task,
    module: nn.Module,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    blocks: Sequence[Block],
    architecture: Architecture,
) -> tuple[tuple[GroupCut, ...], tuple[BlockCut, ...]]:
    """Every group's and every one of the `blocks`' record, with costs, against the dense `module`.

    `planned` is what the cost model says of the plan's `widths` and of the block gone; `removed` is counted
    on the model with this group alone cut, or this block alone removed, as `architecture` does it. Of a group
    that is gone with its blocks both are nothing: it is counted with them.
    """
    inputs = task.example_inputs(1)
    whole = count_cost(module, inputs)
    predicted = cost_model(module, groups, whole, blocks)
    kept = kept_channels(groups, architecture)
    gone = {removal.module for removal in architecture.removed}

    def counted(alone: Architecture) -> Cost:
        return _less(whole.cost, count_cost(apply(module, alone), inputs).cost)

    cuts = []
    for group, item in zip(groups, group_cuts(groups, widths, kept, gone), strict=True):
        planned = removed = NOTHING
        if not lies_in(group, gone):
            planned = _less(whole.cost, predicted({item.group: item.requested}))
        if item.keep < item.width and not lies_in(group, gone):
            removed = counted(architecture_of(module, [group], {item.group: kept[item.group]}))
        cuts.append(msgspec.structs.replace(item, planned=planned, removed=removed))
    removals = [
        BlockCut(
            block=block.name,
            planned=_less(whole.cost, predicted({block_key(block.name): 0})),
            removed=counted(architecture_of(module, [], {}, [block]))
            if block.name in gone
            else NOTHING,
        )
        for block in blocks
    ]
    return tuple(cuts), tuple(removals)


def _less(before: Cost, after: Cost) -> Cost:
    return Cost(
        params=before.params - after.params,
        macs=before.macs - after.macs,
        bytes=before.bytes - after.bytes,
    )
