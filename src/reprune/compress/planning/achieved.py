"""What a plan predicted beside what came of it: a prior for the next generation's predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET

if TYPE_CHECKING:
    from reprune.core.artifacts import ModelBundle, Plan


@dataclass(frozen=True, kw_only=True)
class Achieved:
    """Rises in loss over the dense model; None where it is not known.

    `sum_of_cuts` is the plan's sum of single cuts on tune (refitted where the plan was), `measured` the
    joint cut's on tune, as the plan measured it; `cut` and `repaired` are on calibration, as prune
    found them before anything was trained; `recovered` is that of the recovered model on all of tune.
    """

    sum_of_cuts: float | None
    measured: float | None
    cut: float | None
    repaired: float | None
    recovered: float | None

    @property
    def factor(self) -> float | None:
        """What came of one unit of predicted rise, before recovery: the next generation's prediction, times
        this, is its prior. From the joint cut on tune, else from prune's repaired model; None where
        either side is unknown or nothing was predicted.
        """
        if self.before is None or self.sum_of_cuts is None or self.sum_of_cuts <= 0.0:
            return None
        return max(self.before, 0.0) / self.sum_of_cuts

    @property
    def before(self) -> float | None:
        """The rise before recovery: the joint cut's on tune, else that of prune's repaired model."""
        return self.measured if self.measured is not None else self.repaired


def achieved(plan: Plan, bundle: ModelBundle, base_loss: float | None = None) -> Achieved:
    """Predicted against achieved, from a plan and the bundle that was made by it (the champion's).

    `base_loss` is the dense model's loss on tune (Sensitivity.base_loss of the same generation): without
    it nothing is known of the rise after recovery, as recovery records losses, not rises. Where no epoch
    beat what training began with, the recovered model is that. Of a gentler cut than the plan's nothing
    is told: the plan predicted nothing of it.
    """
    tried = plan.predicted.tried
    surgery, recovery = bundle.surgery, bundle.recovery
    if surgery is not None and surgery.gentler:
        surgery = recovery = None
    cut = repaired = recovered = None
    if surgery is not None and surgery.untrained:
        kept = {
            "cut": surgery.loss_cut,
            "compensated": surgery.loss_compensated,
            "recalibrated": surgery.loss_recalibrated,
        }[surgery.kept]
        cut = surgery.loss_cut - surgery.loss_dense
        repaired = None if kept is None else kept - surgery.loss_dense
    if recovery is not None and base_loss is not None:
        best = [e.tune_loss for e in recovery.epochs if e.epoch == recovery.best_epoch]
        if recovery.best_epoch == 0 and recovery.start_loss is not UNSET:
            best = [recovery.start_loss]
        recovered = best[0] - base_loss if best else None
    return Achieved(
        sum_of_cuts=plan.predicted.loss_increase,
        measured=None if tried is UNSET else tried.loss_increase,
        cut=cut,
        repaired=repaired,
        recovered=recovered,
    )
