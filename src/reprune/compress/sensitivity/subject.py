"""What a sensitivity is measured of, and what comes out: the words that its methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.paired import BatchLosses
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of
from reprune.core.artifacts import BlockSensitivity, GroupSensitivity, JointCheck, block_key
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.planning.costs import CostModel
    from reprune.compress.structure.architecture import Architecture
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.core.artifacts import Cost
    from reprune.task.protocol import Task

# A cut that ruins the model may have a loss that is huge or no number at all, which no file of ours
# holds: this many times the dense loss (at least 1) stands for "ruined".
RUINED = 1000.0


@dataclass(frozen=True, kw_only=True)
class Removable:
    """A block: `cut()` is a copy of the model without it, as `architecture` has it, which differs from the
    dense one in no module that ends before the modules `changed` begin; `cost` is that of the whole copy.
    """

    name: str
    architecture: Architecture
    changed: tuple[str, ...]
    cut: Callable[[], nn.Module]
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is measured, its groups and blocks, and what it costs at any widths."""

    task: Task
    module: nn.Module
    groups: tuple[Group, ...]
    cost: CostModel
    blocks: tuple[Removable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """`base_loss` is the dense model's mean on `examples` of `tune`; `cost` counts examples forwarded,
    a backward pass as two more.
    """

    base_loss: float
    examples: int
    groups: tuple[GroupSensitivity, ...]
    blocks: tuple[BlockSensitivity, ...] = ()
    joint: JointCheck | None = None
    cost: int = 0


def removables(
    module: nn.Module, blocks: Iterable[Block], cost: CostModel
) -> tuple[Removable, ...]:
    """`blocks` of `module`, each to be removed alone; `cost` must know them."""

    def one(block: Block) -> Removable:
        architecture = architecture_of(module, (), {}, [block])
        return Removable(
            name=block.name,
            architecture=architecture,
            changed=(block.name,),
            cut=lambda: apply(module, architecture),
            cost=cost({block_key(block.name): 0}),
        )

    return tuple(one(block) for block in blocks)


def keeps(width: int, cuts: Sequence[float]) -> tuple[int, ...]:
    """The widths that removing each share of `cuts` leaves, falling: at least 1, fewer than all. A share
    that is less than half a channel takes one: what is never cut would look as if it cost nothing.
    """
    found = {max(1, min(width - 1, round(width * (1.0 - cut)))) for cut in cuts}
    return tuple(sorted(found - {width}, reverse=True))


def bounded(measured: BatchLosses, base: float) -> BatchLosses:
    """The losses with "ruined" in place of what is larger, or no number."""
    most = RUINED * max(1.0, abs(base))
    losses = tuple(min(loss, most) if math.isfinite(loss) else most for loss in measured.losses)
    return BatchLosses(losses=losses, sizes=measured.sizes)


def check_finite(loss: float) -> None:
    """Raises CompressionError for a dense loss that is no number."""
    if not math.isfinite(loss):
        raise CompressionError(
            f"the dense model's loss on tune is {loss}",
            where="sensitivity",
            fix="check the dense version: its weights, or the task's loss, are broken",
        )
