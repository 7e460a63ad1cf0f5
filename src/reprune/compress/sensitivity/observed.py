"""What is seen of cuts, as data: what shards hand to the merge, and what a killed run finds again."""

from __future__ import annotations

import math

from reprune.compress.paired import BatchLosses
from reprune.core.artifacts import Fact


class CutSeen(Fact, kw_only=True):
    """One cut on the first batches: their losses, and what each cost; `slopes` are the first-order
    changes on all batches (none for a block or without a closed form). `moves` are the mean squared changes
    of the outputs (-1 where they cannot be compared). `repair` is which of the trial's repairs was kept.
    """

    slopes: tuple[float, ...]
    losses: tuple[float, ...] = ()
    moves: tuple[float, ...] = ()
    costs: tuple[float, ...] = ()
    repair: int = 0

    @property
    def cost(self) -> float:
        return math.fsum(self.costs)


class JointSeen(Fact, kw_only=True):
    """A joint cut to `widths`, its losses on the first batches, and what that cost."""

    widths: dict[str, int]
    losses: tuple[float, ...]
    cost: float


class Saved(Fact, kw_only=True):
    """What one shard (number, of how many) has finished."""

    shard: tuple[int, int]
    cuts: dict[str, CutSeen]
    joint: dict[str, JointSeen]


class Observed(Fact, kw_only=True):
    """All that shard `shard` of `shards` saw; `base` is the dense model on the same batches, `fixed`
    what the passes cost that every shard makes.
    """

    shard: int
    shards: int
    base: BatchLosses
    fixed: float
    cuts: dict[str, CutSeen]
    joint: dict[str, JointSeen]
