"""Widths that a target's kernels like: how many channels must go together so that no axis is odd."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from reprune.compress.structure.architecture import layout
from reprune.compress.structure.groups import Group


def alignments(module: nn.Module, groups: Iterable[Group], round_to: int) -> dict[str, int]:
    """For each group the least number of its channels whose multiples make every one of its axes a
    multiple of `round_to` long.

    That is `round_to` for plain channels and fewer where a channel is several positions (an attention
    head, a place in each group of a convolution, a flattened channel). Dimensions that cross heads go
    `round_to` at a time, so that it holds whatever heads are left. A group whose channels are not all of
    one size cannot be aligned but whole: its own width.
    """
    return {group.name: _step(module, group, round_to) for group in groups}


def _step(module: nn.Module, group: Group, round_to: int) -> int:
    if group.across is not None:
        return round_to  # what is left is so many times the other group's channels, however few
    step = 1
    for member in group.members:
        found = layout(module.get_submodule(member.module), member.axis)
        each = found.per_position if found else 1
        counts = {len(positions) * each for positions in member.positions}
        size = math.gcd(*counts)
        if len(counts) > 1 and size % round_to:
            return group.width
        step = math.lcm(step, round_to // math.gcd(round_to, size))
    return step
