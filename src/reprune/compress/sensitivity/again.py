"""A row of a calibrated table, measured again in the way that made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.importance import lowest_removed
from reprune.compress.paired import BatchLosses, batch_losses
from reprune.compress.sensitivity.calibrated import STRUCTURE, parts_of, trials_of
from reprune.compress.sensitivity.observed import CutSeen
from reprune.compress.sensitivity.pieces import pieces
from reprune.compress.sensitivity.spending import PIECE
from reprune.compress.sensitivity.trials import block_unit
from reprune.core.artifacts import block_key

if TYPE_CHECKING:
    from reprune.compress.sensitivity.cutting import CutTrial
    from reprune.core.params import SensitivityParams
    from reprune.task.protocol import Batch


@dataclass(frozen=True, kw_only=True)
class Row:
    """The losses with the cut and without it, and the examples that were forwarded."""

    after: BatchLosses
    before: BatchLosses
    cost: int


def row_again(
    trial: CutTrial, params: SensitivityParams, batches: Sequence[Batch], name: str, keep: int
) -> Row:
    """The group cut to `keep`, or without the block that has the key `name`, measured on all of `batches`. It
    is made and repaired as the table's cuts were: in closed form from as many calibration examples, not by
    what `trial` does, of which the scores alone are taken.
    """
    subject, prune, seed, tune = (
        trial.subject,
        trial.prune,
        trial.seed,
        list(pieces(batches, PIECE)),
    )
    scores = trial.scores()
    _, calibration = parts_of(subject, params, prune, seed, trial.scored, tune)
    block = next((one for one in subject.blocks if block_key(one.name) == name), None)
    unit = name if block is None else block_unit(block)
    key = f"{name}@{keep}" if block is None else unit
    trials = trials_of(
        subject,
        prune=prune,
        seed=seed,
        scores=scores,
        kept={key: {name: lowest_removed(scores[name], keep)}} if block is None else {},
        tune=tune,
        calibration=calibration,
    )
    seen = CutSeen(slopes=())
    for _ in tune:
        seen = trials.evaluate(unit, key, seen)
    before = batch_losses(subject.task, subject.module, tune, seed=seed)
    moments = sum(len(batch) for batch in calibration) if trials.moments else 0
    return Row(
        after=BatchLosses(losses=seen.losses, sizes=before.sizes),
        before=before,
        cost=STRUCTURE + moments + round(seen.cost) + before.examples,
    )
