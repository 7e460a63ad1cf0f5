"""The bootstrap-t over sources: each resample is measured by its own standard error.

For few independent units a percentile is too narrow; the pivot (estimate* - estimate) / se* is not
(Hall 1988, The Annals of Statistics 16, 927-953; Efron and Tibshirani 1993, An Introduction to the
Bootstrap, section 12.5). The standard errors come from the jackknife influence of each source, weighted by
how often the resample drew it: influences are whole numbers of a grain, so that their sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reprune.judge.bootstrap import RESAMPLES, Floats, Integers
from reprune.judge.numeric import rounded

# With more sources than this the limits of `bootstrap.lower_limit` are as good, and cheaper.
MOST_SOURCES = 1000
_GRAIN = 2**18
_DELETED_AT_ONCE = 250_000


@dataclass(frozen=True, kw_only=True)
class Studentised:
    """Two arms' influences over `units` sources: of the loss, and of the baseline's goodness.

    `whole` and the rows of `sums` hold, for all sources and for each resample, the sums of: loss, base,
    loss^2, loss * base, base^2, in the grains that `scales` (of loss, of base) turn into goodness.
    """

    units: int
    scales: tuple[float, float]
    whole: Integers
    sums: Integers

    def limits(
        self, value: float, replicates: Floats, weights: tuple[float, float], alpha: float
    ) -> tuple[float | None, float | None]:
        """One-sided limits at `alpha` each of loss and base times `weights`, summed.

        `value` and `replicates` are that sum's; NaN where a resample leaves it undefined.
        """
        error, pivots = self._pivots(value, replicates, weights)
        place = int(rounded(alpha * (RESAMPLES + 1)))
        if self.units < 2 or place < 1:
            return None, None
        if error == 0.0:
            return value, value
        lowest = np.sort(np.where(np.isnan(pivots), -np.inf, pivots))[place - 1]
        highest = np.sort(np.where(np.isnan(pivots), np.inf, pivots))[-place]
        low, high = value - float(highest) * error, value - float(lowest) * error
        return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)

    def p_at_most(
        self, value: float, replicates: Floats, weights: tuple[float, float], limit: float
    ) -> float:
        """The p-value against 'the true sum is at most `limit`'; never below `least_p`."""
        error, pivots = self._pivots(value, replicates, weights)
        if self.units < 2 or rounded(value) <= rounded(limit):
            return 1.0
        least = self.least_p(value, replicates, weights)
        if error == 0.0:
            return least
        defined = pivots[~np.isnan(replicates)]
        beyond = np.isnan(defined) | (defined >= (value - limit) / error)
        return max(least, (1 + int(np.count_nonzero(beyond))) / (len(defined) + 1))

    def least_p(self, value: float, replicates: Floats, weights: tuple[float, float]) -> float:
        """The smallest p-value that the resamples can show: undefined ones, and those beyond every limit,
        show nothing.
        """
        if self.units < 2:
            return 1.0
        error, pivots = self._pivots(value, replicates, weights)
        nothing = np.isnan(replicates) | ((pivots == np.inf) & (error > 0.0))
        return (1 + int(np.count_nonzero(nothing))) / (RESAMPLES + 1)

    def _pivots(
        self, value: float, replicates: Floats, weights: tuple[float, float]
    ) -> tuple[float, Floats]:
        """The standard error of all sources, and each resample's pivot; NaN where there is none."""
        error = float(self._errors(self.whole[None], weights)[0])
        errors = self._errors(self.sums, weights)
        off = replicates - value
        some = errors > 0.0
        pivots: Floats = np.where(
            some,
            off / np.where(some, errors, 1.0),
            np.where(off == 0.0, np.nan, np.copysign(np.inf, off)),
        )
        return error, np.where(np.isnan(off), np.nan, pivots)

    def _errors(self, sums: Integers, weights: tuple[float, float]) -> Floats:
        loss, base = (weight * scale for weight, scale in zip(weights, self.scales, strict=True))
        first = loss * sums[:, 0] + base * sums[:, 1]
        second = loss * loss * sums[:, 2] + 2 * loss * base * sums[:, 3] + base * base * sums[:, 4]
        spread = np.maximum(second - first * first / self.units, 0.0)
        errors: Floats = np.sqrt(spread / (self.units * (self.units - 1)))
        return errors


@dataclass(frozen=True, kw_only=True)
class Influences:
    """The block (sources, 5) whose resampled sums a Studentised needs, and its scales."""

    block: Integers
    scales: tuple[float, float]

    def studentised(self, sums: Integers) -> Studentised:
        return Studentised(
            units=self.block.shape[0],
            scales=self.scales,
            whole=self.block.sum(axis=0, dtype=np.int64),
            sums=sums,
        )


def influences(base: Floats, mine: Floats) -> Influences:
    """From the influence of every source on two arms' goodness. They must be finite."""
    loss, loss_scale = _in_grains(base - mine)
    level, level_scale = _in_grains(base)
    columns = [loss, level, loss * loss, loss * level, level * level]
    return Influences(block=np.stack(columns, axis=1), scales=(loss_scale, level_scale))


def _in_grains(influence: Floats) -> tuple[Integers, float]:
    largest = float(np.abs(influence).max())
    if largest == 0.0:
        return np.zeros(len(influence), dtype=np.int64), 0.0
    return np.rint(influence / largest * _GRAIN).astype(np.int64), largest / _GRAIN


def ratio_influence(numerator: Integers, denominator: Integers) -> Floats:
    """Of each source on sum / sum; NaN for one without which nothing could be divided by."""
    top, bottom = numerator.sum(), denominator.sum()
    rest = bottom - denominator
    without = np.where(rest > 0, (top - numerator) / np.maximum(rest, 1), np.nan)
    return _influence(float(top / bottom), without)


def statistic_influence(
    statistic: Callable[[Floats], Floats], members: Integers, units: int
) -> Floats:
    """Of each source on a statistic of weights (see judge.weighted); 0 for those that are not `members`."""
    value = float(statistic(np.ones((units, 1)))[0])
    without = np.full(units, value)
    at_once = max(1, _DELETED_AT_ONCE // units)
    for start in range(0, len(members), at_once):
        some = members[start : start + at_once]
        weights = np.ones((units, len(some)))
        weights[some, np.arange(len(some))] = 0.0
        without[some] = statistic(weights)
    return _influence(value, without)


def _influence(value: float, without: Floats) -> Floats:
    found: Floats = (len(without) - 1) * (value - without)
    return found
