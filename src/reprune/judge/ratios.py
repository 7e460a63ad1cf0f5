"""Comparisons of sum / sum metrics (Dice, IoU, F1), by the shared bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reprune.judge.bootstrap import (
    Floats,
    Integers,
    Mask,
    exact_mean,
    lower_limit,
    p_at_most,
    upper_limit,
)
from reprune.judge.comparisons import MIN_UNITS, MarginTest, margin_test
from reprune.judge.distributions import critical
from reprune.judge.numeric import rounded


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """One arm's numerators and denominators: for each example, and summed over each resample."""

    numerator: Integers
    denominator: Integers
    numerator_sums: Integers
    denominator_sums: Integers
    higher_is_better: bool

    @property
    def value(self) -> float:
        """0 where there is nothing to divide by, which no judged group may be."""
        whole = int(self.denominator.sum())
        return int(self.numerator.sum()) / whole if whole else 0.0

    @property
    def goodness(self) -> float:
        """The value, turned so that more is better."""
        return self.value if self.higher_is_better else 1.0 - self.value

    def replicates(self) -> tuple[Floats, Mask]:
        """Goodness over resamples, and where it is defined (some denominator was drawn)."""
        defined = self.denominator_sums > 0
        value = self.numerator_sums / np.where(defined, self.denominator_sums, 1)
        return (value if self.higher_is_better else 1.0 - value), defined


@dataclass(frozen=True, kw_only=True)
class RatioComparison:
    """`units` were resampled: sources where they are declared, else examples.

    `differing` counts the units in which the two arms have different records.
    """

    base: Resampled
    mine: Resampled
    units: int
    differing: int

    @property
    def examples(self) -> int:
        return len(self.base.numerator)

    @property
    def trusted(self) -> bool:
        return self.units >= MIN_UNITS

    @property
    def baseline(self) -> float:
        return rounded(self.base.value)

    @property
    def candidate(self) -> float:
        return rounded(self.mine.value)

    @property
    def loss(self) -> float:
        return self.base.goodness - self.mine.goodness

    @property
    def lost(self) -> int:
        """Examples whose own ratio became worse; without a denominator it counts as 0."""
        return int(np.count_nonzero(self._moves() < 0))

    @property
    def gained(self) -> int:
        return int(np.count_nonzero(self._moves() > 0))

    @property
    def spread(self) -> float:
        """sqrt(units) times the standard deviation over resamples."""
        losses = self._losses(-1.0)
        off = losses - exact_mean(losses)
        return math.sqrt(self.units * exact_mean(off * off))

    def drop_test(self, limit: float, alpha: float) -> MarginTest:
        """The interval of the loss."""
        low = lower_limit(self._losses(-1.0), self.units, alpha)
        high = upper_limit(self._losses(1.0), self.units, alpha)
        p_harm = p_at_most(self._losses(-1.0), self.units, limit)
        return margin_test("drop", (low, self._guarded(high, alpha)), limit, p_harm)

    def error_test(self, ratio: float, alpha: float) -> MarginTest:
        """The interval of 'loss less (ratio - 1) times the baseline's errors', moved to the limit."""
        limit = (ratio - 1) * (1.0 - self.base.goodness)
        goodness, _ = self.base.replicates()
        allowed = (ratio - 1) * (1.0 - goodness)
        lowest, highest = self._losses(-1.0) - allowed, self._losses(1.0) - allowed
        low, high = (
            lower_limit(lowest, self.units, alpha),
            upper_limit(highest, self.units, alpha),
        )
        high = None if high is None else limit + high
        interval = (None if low is None else limit + low, self._guarded(high, alpha))
        return margin_test("errors", interval, limit, p_at_most(lowest, self.units, 0.0))

    def _losses(self, undefined: float) -> Floats:
        """Replicates of the loss; where a resample has no denominator, `undefined`."""
        base, base_defined = self.base.replicates()
        mine, mine_defined = self.mine.replicates()
        return np.where(base_defined & mine_defined, base - mine, undefined)

    def _guarded(self, high: float | None, alpha: float) -> float | None:
        """Two arms that hardly differ have not shown that they never will: the bootstrap cannot
        see what did not happen. Below MIN_UNITS differing units the loss that Tango's test could
        not rule out (z^2 / (n + z^2) of the units lost whole) counts as possible.
        """
        if high is None or self.differing >= MIN_UNITS:
            return high
        z = critical(alpha, None)
        return max(high, self.base.goodness * z * z / (self.units + z * z))

    def _moves(self) -> Floats:
        """For each example, by how much its own ratio became better."""
        base, mine = (
            arm.numerator / np.maximum(arm.denominator, 1) for arm in (self.base, self.mine)
        )
        moves: Floats = mine - base
        return moves if self.base.higher_is_better else -moves


@dataclass(frozen=True, kw_only=True)
class RatioLevel:
    """One arm's ratio on its own."""

    mine: Resampled
    units: int

    @property
    def examples(self) -> int:
        return len(self.mine.numerator)

    @property
    def trusted(self) -> bool:
        return self.units >= MIN_UNITS

    @property
    def value(self) -> float:
        return rounded(self.mine.value)

    def interval(self, alpha: float) -> tuple[float | None, float | None]:
        """Expanded percentile limits."""
        values, defined = self.mine.replicates()
        low = lower_limit(np.where(defined, values, 0.0), self.units, alpha)
        high = upper_limit(np.where(defined, values, 1.0), self.units, alpha)
        return None if low is None else rounded(low), None if high is None else rounded(high)

    def p_below(self, floor: float) -> float:
        values, defined = self.mine.replicates()
        return rounded(p_at_most(-np.where(defined, values, 1.0), self.units, -floor))
