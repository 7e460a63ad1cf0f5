"""One arm's value of a statistic (AUC, AP, correlation, ECE ...) and its replicates, ready to be compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reprune.judge.bootstrap import Floats, Integers, Mask, exact_mean


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """`values` holds the statistic over resamples, NaN where it is not defined.

    `noise` is by how much noise alone makes the arm look worse. `own` are the metric's marks, one an
    example, or None. Where `statistic` itself is NaN, as a candidate's may be that answers everything
    alike, the value counts as the worst, in every resample.
    """

    statistic: float
    values: Floats
    examples: int
    bounds: tuple[float, float]
    higher_is_better: bool
    own: Integers | None
    noise: float = 0.0
    leverage: float = 2.0

    @property
    def value(self) -> float:
        if not math.isnan(self.statistic):
            return self.statistic
        return self.bounds[0] if self.higher_is_better else self.bounds[1]

    @property
    def goodness(self) -> float:
        """The value, turned so that more is better."""
        return self.value if self.higher_is_better else -self.value

    @property
    def best(self) -> float:
        return self.bounds[1] if self.higher_is_better else -self.bounds[0]

    @property
    def worst(self) -> float:
        return self.bounds[0] if self.higher_is_better else -self.bounds[1]

    def replicates(self) -> tuple[Floats, Mask]:
        """Goodness over resamples, and where it is defined."""
        return self._centred, ~np.isnan(self._centred)

    def raw(self) -> Floats:
        """Goodness over resamples; NaN where it is not defined."""
        return self._centred

    @cached_property
    def _centred(self) -> Floats:
        """About the sample's own value: what makes resamples noisier than it (ECE) is no loss."""
        if math.isnan(self.statistic):
            return np.full(len(self.values), self.worst)
        turned = self.values if self.higher_is_better else -self.values
        defined = turned[~np.isnan(turned)]
        return turned - (exact_mean(defined) - self.goodness) if len(defined) else turned

    def marks(self) -> Floats | None:
        return None if self.own is None else self.own.astype(np.float64)
