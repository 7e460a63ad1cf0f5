"""Comparisons of metrics that are no mean of 0 and 1, by the shared bootstrap.

Without sources: BCa limits at Student's level (judge.bootstrap). With sources: the bootstrap-t over them
(judge.studentised).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from reprune.judge.bootstrap import (
    Floats,
    Mask,
    exact_mean,
    least_p,
    lower_limit,
    p_at_most,
    plain_p,
    shown_limit,
    upper_limit,
)
from reprune.judge.comparisons import MIN_UNITS, MarginTest, margin_test
from reprune.judge.distributions import critical
from reprune.judge.numeric import rounded
from reprune.judge.studentised import Studentised

_LOSS = (1.0, 0.0)
_BASE = (0.0, 1.0)


class Arm(Protocol):
    """One arm over one group of examples. Goodness is the value, turned so that more is better.

    `best` and `worst` are the ends of goodness, `noise` the most by which noise alone makes it look
    worse. `leverage` is by how much more than its share of the units a part that is lost whole can
    move the value.
    """

    @property
    def examples(self) -> int: ...
    @property
    def value(self) -> float: ...
    @property
    def goodness(self) -> float: ...
    @property
    def best(self) -> float: ...
    @property
    def worst(self) -> float: ...
    @property
    def leverage(self) -> float: ...
    @property
    def noise(self) -> float: ...
    @property
    def higher_is_better(self) -> bool: ...

    def replicates(self) -> tuple[Floats, Mask]:
        """Goodness over resamples, and where it is defined."""

    def raw(self) -> Floats:
        """Goodness over resamples; NaN where it is not defined."""

    def marks(self) -> Floats | None:
        """For each example how good it is on its own; None where that makes no sense."""


@dataclass(frozen=True, kw_only=True)
class ResampledComparison:
    """`units` were resampled: sources where they are declared, else examples.

    `differing` counts the units in which the two arms have different records, `moved` the examples.
    """

    base: Arm
    mine: Arm
    units: int
    differing: int
    moved: int = 0
    studentised: Studentised | None = None

    @property
    def examples(self) -> int:
        return self.base.examples

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
        """Examples whose own mark became worse; 0 where they have none."""
        return int(np.count_nonzero(self._moves() < 0))

    @property
    def gained(self) -> int:
        return int(np.count_nonzero(self._moves() > 0))

    @property
    def changed(self) -> int | None:
        """Examples with another record, where 'worse' and 'better' make no sense for one of them."""
        return self.moved if self.base.marks() is None else None

    @property
    def spread(self) -> float:
        """sqrt(units) times the standard deviation over resamples."""
        losses = self._shown()
        losses = losses[~np.isnan(losses)]
        off = losses - exact_mean(losses)
        return math.sqrt(self.units * exact_mean(off * off))

    def drop_test(self, limit: float, alpha: float) -> MarginTest:
        """The interval of the loss."""
        beyond = limit + self.mine.noise
        if self.studentised is not None:
            raw = self.base.raw() - self.mine.raw()
            low, high = self.studentised.limits(self.loss, raw, _LOSS, alpha)
            p_harm, p_plain = (
                self.studentised.p_at_most(self.loss, raw, _LOSS, most) for most in (beyond, limit)
            )
            p_least = self.studentised.least_p(self.loss, raw, _LOSS)
        else:
            shown = self._shown()
            low = shown_limit(shown, self.units, alpha)
            high = upper_limit(self._feared(), self.units, alpha)
            p_harm, p_plain = p_at_most(shown, self.units, beyond), plain_p(shown, limit)
            p_least = least_p(self.units, int(np.count_nonzero(np.isnan(shown))))
        low, high = self._widened(low, self._guarded(high, alpha), self.base.noise)
        found = margin_test("drop", (low, high), limit, p_harm, reach=self._reach)
        return replace(found, p_least=rounded(p_least), p_plain=rounded(p_plain))

    def error_test(self, ratio: float, alpha: float) -> MarginTest:
        """The interval of 'loss less (ratio - 1) times the baseline's errors', moved to the limit."""
        more = ratio - 1
        limit = more * (self.base.best - self.base.goodness)
        if self.studentised is not None:
            raw = self.base.raw() - self.mine.raw() - more * (self.base.best - self.base.raw())
            excess, weights = self.loss - limit, (1.0, more)
            low, high = self.studentised.limits(excess, raw, weights, alpha)
            p_harm = self.studentised.p_at_most(excess, raw, weights, self.mine.noise)
        else:
            goodness, defined = self.base.replicates()
            # What is not defined has made no errors that would allow more of them.
            allowed = np.where(defined, more * (self.base.best - goodness), 0.0)
            lowest, highest = self._shown() - allowed, self._feared() - allowed
            low = shown_limit(lowest, self.units, alpha)
            high = upper_limit(highest, self.units, alpha)
            p_harm = p_at_most(lowest, self.units, self.mine.noise)
        high = None if high is None else limit + high
        low = None if low is None else limit + low
        # Errors that are only noise allow no more of them.
        interval = self._widened(low, self._guarded(high, alpha), ratio * self.base.noise)
        return margin_test("errors", interval, limit, p_harm, reach=self._reach)

    def _widened(
        self, low: float | None, high: float | None, above: float
    ) -> tuple[float | None, float | None]:
        """The baseline may be better than it looks by `above`, the candidate by its noise.

        Where no record differs, both are so alike.
        """
        if self.differing == 0:
            return low, high
        return (
            None if low is None else low - self.mine.noise,
            None if high is None else high + above,
        )

    @property
    def _reach(self) -> float:
        return self.base.best - self.base.worst

    def _shown(self) -> Floats:
        """Replicates of the loss; a resample in which the baseline is undefined shows none: NaN. A candidate
        that is undefined alone is the worst.
        """
        base, base_defined = self.base.replicates()
        mine, mine_defined = self.mine.replicates()
        lost = base - np.where(mine_defined, mine, self.mine.worst)
        return np.where(base_defined, lost, np.nan)

    def _feared(self) -> Floats:
        """Replicates of the loss; a resample that leaves it undefined may have lost the whole range."""
        base, base_defined = self.base.replicates()
        mine, mine_defined = self.mine.replicates()
        return np.where(base_defined & mine_defined, base - mine, self._reach)

    def _guarded(self, high: float | None, alpha: float) -> float | None:
        """Two arms that hardly differ have not shown that they never will: the bootstrap cannot
        see what did not happen. Below MIN_UNITS differing units the loss that Tango's test could
        not rule out (z^2 / (n + z^2) of the units lost whole) counts as possible.
        """
        if high is None or self.differing >= MIN_UNITS:
            return high
        z = critical(alpha, None)
        share = min(1.0, self.base.leverage * z * z / (self.units + z * z))
        return max(high, (self.base.goodness - self.base.worst) * share)

    def _moves(self) -> Floats:
        """For each example, by how much its own mark became better."""
        base, mine = self.base.marks(), self.mine.marks()
        if base is None or mine is None:
            return np.zeros(0)
        moves: Floats = mine - base
        return moves


@dataclass(frozen=True, kw_only=True)
class ResampledLevel:
    """One arm's value on its own; more is better."""

    mine: Arm
    units: int
    studentised: Studentised | None = None

    @property
    def examples(self) -> int:
        return self.mine.examples

    @property
    def trusted(self) -> bool:
        return self.units >= MIN_UNITS

    @property
    def value(self) -> float:
        return rounded(self.mine.value)

    def interval(self, alpha: float) -> tuple[float | None, float | None]:
        """One-sided limits at `alpha` each, within the metric's range."""
        if self.studentised is not None:
            raw = self.mine.raw()
            low, high = self.studentised.limits(self.mine.goodness, raw, _BASE, alpha)
        else:
            values, defined = self.mine.replicates()
            low = lower_limit(np.where(defined, values, self.mine.worst), self.units, alpha)
            high = upper_limit(np.where(defined, values, self.mine.best), self.units, alpha)
        return self._within(low), self._within(high)

    def p_below(self, floor: float) -> float:
        if self.studentised is not None:
            # 'At least the floor' is 'at most minus the floor' of the mirrored goodness.
            raw, weights = -self.mine.raw(), (0.0, -1.0)
            return rounded(self.studentised.p_at_most(-self.mine.goodness, raw, weights, -floor))
        values, defined = self.mine.replicates()
        return rounded(p_at_most(-np.where(defined, values, self.mine.best), self.units, -floor))

    def _within(self, limit: float | None) -> float | None:
        if limit is None:
            return None
        return rounded(min(self.mine.best, max(self.mine.worst, limit)))
