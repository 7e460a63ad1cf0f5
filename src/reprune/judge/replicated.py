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

    `own` are the metric's marks, one an example, or None. Where `statistic` itself is NaN, which no
    judged group may be, the value counts as the worst.
    """

    statistic: float
    values: Floats
    examples: int
    bounds: tuple[float, float]
    higher_is_better: bool
    own: Integers | None
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
        """Goodness over resamples, and where it is defined.

        A statistic that noise makes larger (ECE) is too large in the sample, and twice as much too
        large in its resamples: the bias that they show is taken out of both.
        """
        return self._unbiased, ~np.isnan(self.values)

    @cached_property
    def _unbiased(self) -> Floats:
        raw = self.raw()
        defined = raw[~np.isnan(raw)]
        return raw - 2 * (exact_mean(defined) - self.goodness) if len(defined) else raw

    def raw(self) -> Floats:
        """Goodness over resamples; NaN where it is not defined."""
        return self.values if self.higher_is_better else -self.values

    def marks(self) -> Floats | None:
        return None if self.own is None else self.own.astype(np.float64)
