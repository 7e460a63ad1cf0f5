"""Cuts that are really made, and evaluated a batch at a time from what the dense model left behind."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import TYPE_CHECKING

import msgspec
import torch

from reprune.compress.compensate import batch_norms, renew_statistics
from reprune.compress.importance import lowest_removed
from reprune.compress.paired import SEED_STRIDE, BatchLosses, seeded
from reprune.compress.replay import Timeline, replayed, share_run
from reprune.compress.sensitivity.answers import listened, squared_move
from reprune.compress.sensitivity.moments import (
    Refit,
    has_moment,
    readers,
    refits,
    repaired,
)
from reprune.compress.sensitivity.observed import CutSeen, JointSeen
from reprune.compress.sensitivity.pieces import pieces
from reprune.compress.sensitivity.slopes import Slopes
from reprune.compress.sensitivity.subject import Removable, Subject, bounded
from reprune.measure.outputs import evaluating
from reprune.measure.profile import count_cost

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.structure.groups import Group
    from reprune.core.params import PruneParams
    from reprune.task.protocol import Batch

# BatchNorm statistics are renewed, where nothing better repairs a cut, on so many examples.
RECALIBRATION = 64
# A replay must give the dense loss back, to rounding; else nothing is replayed.
SAME = 1e-5


def block_unit(block: Removable) -> str:
    """The name of the block among groups and blocks: no group has a colon in its name."""
    return f"block:{block.name}"


def repairs_readers(module: nn.Module, group: Group, prune: PruneParams) -> bool:
    """Whether a cut of the group is compensated; else its BatchNorms may be renewed."""
    if prune.compensate and any(has_moment(module.get_submodule(name)) for name in readers(group)):
        return True
    return not (prune.recalibrate and batch_norms(module))


@dataclass(kw_only=True)
class Trials:
    """Evaluates cuts of single groups ("<group>@<keep>"), of blocks ("<block>"), and joint ones.

    `kept` and `refits` are by cut. After `take`, evaluations replay what the dense model's modules
    gave wherever they end before the cut begins, if that is proven to give the dense loss.
    """

    subject: Subject
    prune: PruneParams
    seed: int
    tune: Sequence[Batch]
    calibration: Sequence[Batch]
    scores: Mapping[str, Tensor]
    kept: Mapping[str, Mapping[str, tuple[int, ...]]]
    refits: Mapping[str, Mapping[str, Refit]]
    moments: Mapping[str, Tensor]
    times: Timeline
    _dense: Slopes | None = None
    _shares: dict[str, float] = field(default_factory=dict)
    _proven: dict[str, bool] = field(default_factory=dict)
    _made: dict[str, list[nn.Module]] = field(default_factory=dict)

    def units(self) -> list[str]:
        """The names of the groups, then of the blocks."""
        return [
            *(group.name for group in self.subject.groups),
            *(block_unit(block) for block in self.subject.blocks),
        ]

    def keys(self, unit: str) -> list[str]:
        """The unit's cuts, the gentlest first."""
        return [key for key, channels in self.kept.items() if unit in channels] or [unit]

    def cached_names(self) -> list[str]:
        """The modules whose outputs some unit can start from."""
        return sorted({name for unit in self.units() for name in self._skipped(unit)})

    def take(self, dense: Slopes) -> None:
        """From now on evaluations start from `dense`; also counts what each leaves out."""
        self._dense = dense
        counted = count_cost(self.subject.module, self.tune[0].inputs)
        macs = {profile.layer: profile.macs for profile in counted.layers}
        self._shares = {
            unit: share_run(macs, counted.cost.macs, self._skipped(unit)) for unit in self.units()
        }

    def share(self, unit: str) -> float:
        """The part of a forward pass that an evaluation of the unit runs where all can be replayed."""
        return self._shares[unit]

    def price(self, unit: str, piece: int) -> float:
        """Examples' worth of forward passes that one evaluation of the unit costs on this piece."""
        share = self._shares[unit] if self._replay(unit, piece) else 1.0
        return share * len(self.tune[piece])

    def evaluate(self, unit: str, key: str, before: CutSeen) -> CutSeen:
        """`before` with the next piece's loss and cost. On the first piece every repair that pruning
        would try is tried, and the best one stays; the proof of the replay is paid there too.
        """
        piece = len(before.losses)
        price = self.price(unit, piece)
        candidates = self._candidates(unit, key)
        if piece:
            loss, move = self._loss(candidates[before.repair], unit, piece)
            return msgspec.structs.replace(
                before,
                losses=(*before.losses, loss),
                moves=(*before.moves, move),
                costs=(*before.costs, price),
            )
        tried = [self._loss(candidate, unit, 0) for candidate in candidates]
        best = min(range(len(tried)), key=lambda number: tried[number][0])
        extra = self._proof_cost(unit, key) + RECALIBRATION * (len(candidates) - 1)
        return CutSeen(
            slopes=before.slopes,
            losses=(tried[best][0],),
            moves=(tried[best][1],),
            costs=(price * len(candidates) + extra,),
            repair=best,
        )

    def joint(self, widths: Mapping[str, int], count: int) -> JointSeen:
        """The first `count` pieces' losses with every group cut to `widths`."""
        groups = self.subject.groups
        kept = {name: lowest_removed(self.scores[name], keep) for name, keep in widths.items()}
        made = refits(self.subject.module, groups, kept, self.moments, self.prune.ridge)
        module = repaired(self.subject.module, groups, kept, made)
        extra = 0
        if not self.moments and self._recalibrates(module):
            module = self._recalibrated(module, None)
            extra = RECALIBRATION
        used = self.tune[:count]
        losses = [self._loss(module, None, piece)[0] for piece in range(len(used))]
        return JointSeen(
            widths=dict(widths),
            losses=tuple(losses),
            cost=float(extra + sum(len(batch) for batch in used)),
        )

    def _candidates(self, unit: str, key: str) -> list[nn.Module]:
        if key not in self._made:
            if any(other not in self.keys(unit) for other in self._made):
                self._made.clear()
            self._made[key] = self._make(unit, key)
        return self._made[key]

    def _make(self, unit: str, key: str) -> list[nn.Module]:
        subject = self.subject
        if key in self.kept:
            group = next(group for group in subject.groups if group.name == unit)
            module = repaired(subject.module, [group], self.kept[key], self.refits[key])
            if repairs_readers(subject.module, group, self.prune):
                return [module]
        else:
            module = self._block(unit).cut().eval()
        if not self._recalibrates(module):
            return [module]
        return [module, self._recalibrated(module, unit)]

    def _recalibrates(self, module: nn.Module) -> bool:
        return self.prune.recalibrate and bool(batch_norms(module))

    def _recalibrated(self, module: nn.Module, unit: str | None) -> nn.Module:
        """With the norms renewed behind the unit's cut, or all. What is before it is replayed where that is
        there, and so is the dense model's: renewed norms would count on the other pieces alone, and are no
        cost of this cut.
        """
        result = copy.deepcopy(module)
        before = self._skipped(unit) if unit is not None else ()
        kept = {id(norm) for name in before for norm in result.get_submodule(name).modules()}
        norms = [norm for norm in batch_norms(result) if id(norm) not in kept]
        renew_statistics(result, list(pieces(self.calibration[:1], RECALIBRATION))[:1], norms)
        return result

    def _skipped(self, unit: str) -> tuple[str, ...]:
        for group in self.subject.groups:
            if group.name == unit:
                return self.times.before({member.module for member in group.members})
        return self.times.before(self._block(unit).changed)

    def _block(self, unit: str) -> Removable:
        return next(block for block in self.subject.blocks if block_unit(block) == unit)

    def _replay(self, unit: str, piece: int) -> Mapping[str, Tensor]:
        """What can be replayed for the unit on this piece; nothing where it is not all there, or wrong."""
        if self._dense is None:
            return {}
        names, there = self._skipped(unit), self._dense.outputs[piece]
        if not names or any(name not in there for name in names):
            return {}
        outputs = {name: there[name] for name in names}
        if unit not in self._proven:
            first = self._dense.outputs[0]
            with replayed(self.subject.module, {name: first[name] for name in names}):
                loss, _ = self._loss(self.subject.module, None, 0)
            dense = self._dense.losses.losses[0]
            self._proven[unit] = abs(loss - dense) <= SAME * max(1.0, abs(dense))
        return outputs if self._proven[unit] else {}

    def _proof_cost(self, unit: str, key: str) -> float:
        first = key == self.keys(unit)[0] and unit in self._proven
        return self._shares[unit] * len(self.tune[0]) if first else 0.0

    def _loss(self, module: nn.Module, unit: str | None, piece: int) -> tuple[float, float]:
        """The piece's loss, finite, with the random numbers that the dense model had; and how far the
        outputs are from the dense model's (-1 where that has no answer).
        """
        batch = self.tune[piece]
        outputs = {} if unit is None else self._replay(unit, piece)
        batch_seed = self.seed * SEED_STRIDE + piece
        generator = torch.Generator().manual_seed(batch_seed)
        with (
            evaluating(module),
            replayed(module, outputs),
            seeded(batch_seed, module),
            listened(module) as heard,
        ):
            loss = float(self.subject.task.loss(module, batch, generator))
        if self._dense is None:
            return loss, -1.0
        move = squared_move(heard, self._dense.answers[piece], len(batch))
        single = BatchLosses(losses=(loss if isfinite(loss) else inf,), sizes=(len(batch),))
        return bounded(single, self._dense.losses.mean).losses[0], move if isfinite(move) else -1.0
