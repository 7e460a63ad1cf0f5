"""A few cuts of a new model, measured beside it on the same examples: what a spot check looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from reprune.compress.paired import BatchLosses, at_most, batch_losses, paired_increase
from reprune.compress.sensitivity.again import row_again
from reprune.compress.sensitivity.cutting import CutTrial
from reprune.compress.sensitivity.pieces import pieces
from reprune.compress.sensitivity.reuse import Unit
from reprune.compress.sensitivity.subject import bounded, check_finite
from reprune.core.artifacts import JointTrial, block_key
from reprune.core.errors import NonFiniteWeights
from reprune.measure.fidelity import CORRECT
from reprune.measure.records import checked_records, module_answer

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.sensitivity.subject import Subject
    from reprune.compress.structure.blocks import Block
    from reprune.core.params import PruneParams, SensitivityParams
    from reprune.task.protocol import Batch

# What a rise of the loss by a share of itself stands for in examples answered wrongly: `build` allows
# 0.005 of the one or 0.02 of the other, so a tolerance in examples is four times as much in loss.
LOSS_FOR_SHARE = 4.0
# Calibration examples that a whole plan is repaired from, in whole batches: a repair forwards them eight
# times, and beside that the check looks at some hundred examples once.
REPAIR_EXAMPLES = 64
PIECE = 32


@dataclass
class Spot:
    """The model, at most `examples` of `tune`, and the cuts that are tried on them. Rows of a table that was
    `calibrated` with these params are measured as it measured them: another repair is another rise.
    """

    subject: Subject
    prune: PruneParams
    seed: int
    examples: int
    blocks: tuple[Block, ...] = ()
    calibrated: SensitivityParams | None = None
    looked: int = 0
    _batches: list[Batch] = field(default_factory=list)
    _base: BatchLosses | None = None
    _trial: CutTrial | None = None
    _plans: CutTrial | None = None

    @property
    def spent(self) -> int:
        """Examples forwarded so far, a backward pass as two more."""
        made = [trial for trial in (self._trial, self._plans) if trial is not None]
        return self.looked + sum(trial.scored + trial.forwarded for trial in made)

    @property
    def batches(self) -> list[Batch]:
        if not self._batches:
            self._batches = list(
                at_most(self.subject.task, "tune", examples=self.examples, seed=self.seed)
            )
        return self._batches

    @property
    def base(self) -> BatchLosses:
        """The model's own losses. Raises CompressionError where they are not finite."""
        if self._base is None:
            self._base = self.losses(self.subject.module)
            check_finite(self._base.mean)
        return self._base

    def losses(self, module: nn.Module) -> BatchLosses:
        self.looked += sum(len(batch) for batch in self.batches)
        return batch_losses(self.subject.task, module, self.batches, seed=self.seed)

    def piecewise(self, module: nn.Module) -> BatchLosses:
        """The losses of a model on pieces of PIECE examples, so that few large batches show a spread too."""
        self.looked += sum(len(batch) for batch in self.batches)
        cut = list(pieces(self.batches, PIECE))
        return batch_losses(self.subject.task, module, cut, seed=self.seed)

    def rise(self, unit: Unit) -> tuple[float, float]:
        """The unit's rise in loss, and its standard error (see paired_increase)."""
        if self.calibrated is not None:
            return self._calibrated_rise(unit, self.calibrated)
        block = next((b for b in self.subject.blocks if block_key(b.name) == unit.name), None)
        trial = self._cutting()
        module = trial.cut({unit.name: unit.keep}) if block is None else trial.without(block)
        return paired_increase(bounded(self.losses(module), self.base.mean), self.base)

    def compare(
        self, known: Mapping[str, int], fresh: Mapping[str, int], tolerance: float, chance: float
    ) -> JointTrial:
        """Both whole cuts on the same examples: by examples answered wrongly where records tell that, else
        by loss, of which `tolerance` allows LOSS_FOR_SHARE times as large a share. Blocks by their keys. Both
        are repaired from about REPAIR_EXAMPLES, onwards from the first change: that is nearer to what
        recovery makes of them than a repair of the readers alone, which tells plans apart by more than what
        will be left of it. The known cut is refused by mistake with `chance`: Student's t over pieces of
        PIECE examples.
        """
        before, modules = self.spent, [self._whole(known), self._whole(fresh)]
        wrong = [self._wrong(module) for module in modules]
        if wrong[0] is not None and wrong[1] is not None:
            first, second, unit, allowed = wrong[0], wrong[1], "share", tolerance
        else:
            first, second = (bounded(self.piecewise(m), self.base.mean) for m in modules)
            unit, allowed = "loss", tolerance * LOSS_FOR_SHARE * abs(self.base.mean)
        worse, error = paired_increase(first, second)
        quantile = float(stats.t.isf(chance, max(1, len(first.losses) - 1)))
        return JointTrial(
            known=dict(known),
            fresh=dict(fresh),
            unit="share" if unit == "share" else "loss",
            worse=worse,
            standard_error=error,
            allowed=allowed,
            examples=sum(len(batch) for batch in self.batches),
            cost=self.spent - before,
            chance=chance,
            worse_low=worse - quantile * error,
        )

    def _calibrated_rise(self, unit: Unit, params: SensitivityParams) -> tuple[float, float]:
        found = row_again(self._cutting(), params, self.batches, unit.name, unit.keep)
        self.looked += found.cost
        return paired_increase(bounded(found.after, found.before.mean), found.before)

    def _cutting(self) -> CutTrial:
        if self._trial is None:
            self._trial = CutTrial(self.subject, self.prune, self.seed)
        return self._trial

    def _whole(self, widths: Mapping[str, int]) -> nn.Module:
        gone = [block for block in self.blocks if widths.get(block_key(block.name), 1) == 0]
        if self._plans is None:
            self._plans = self._cutting().onwards(REPAIR_EXAMPLES)
        return self._plans.cut(widths, gone)

    def _wrong(self, module: nn.Module) -> BatchLosses | None:
        """The share of each PIECE examples that is answered wrongly; None where the records do not tell."""
        found: list[np.ndarray] = []
        for batch in self.batches:
            self.looked += len(batch)
            try:
                answer = module_answer(module, batch)
                column = checked_records(self.subject.task, answer, batch).get(CORRECT)
            except NonFiniteWeights:  # a ruined model answers nothing rightly
                column = np.zeros(len(batch), np.int64)
            if column is None or not np.isin(column, (0, 1)).all():
                return None
            found += np.array_split(column, -(-len(column) // PIECE))
        shares = tuple(1.0 - float(piece.mean()) for piece in found)
        return BatchLosses(losses=shares, sizes=tuple(map(len, found)))
