"""Percentiles of single calls: their ratio by a bootstrap over units, and how many calls one needs.

The percentile is of the pooled calls of the drawn units (nearest rank: the smallest call at or below
which so many per cent of the calls lie). Calls of one unit are alike, so whole units are drawn,
all arms of a unit together (Davison and Hinkley 1997, Bootstrap Methods and their Application, 3.8;
Field and Welsh 2007, JRSS B 69, 369-390). Everything is counted in whole numbers, so the same
evidence gives the same percentiles on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reprune.judge.bootstrap import RESAMPLES, Floats, Integers, unit_weights
from reprune.judge.distributions import binomial_cdf, critical, tail
from reprune.judge.evidence import Unit
from reprune.judge.numeric import rounded

_BINS = 128  # balances counting whole bins against looking into one, for 10,000s of calls


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One arm's calls of some units in rising order, in ns; `owners` says which unit each is of."""

    calls: Integers
    owners: Integers
    units: int


@dataclass(frozen=True, kw_only=True)
class TailRatio:
    """A ratio of percentiles, candidate over baseline; `values` are the two percentiles in ns.

    `low` and `high` are one-sided limits; None where the units are too few for the level.
    """

    ratio: float
    low: float | None
    high: float | None
    p_harm: float
    values: tuple[float, float]


@lru_cache(maxsize=16)
def least_calls(percentile: int) -> int:
    """How many calls a percentile takes: 64 for p90, 130 for p95, 662 for p99.

    The fewest of which, with 99 % confidence, more than one lies beyond the percentile: P(at most 1 of
    n beyond) <= 1 %. That is the floor of MLPerf LoadGen's early stopping, which asks the binomial
    distribution the same (mlcommons/inference, loadgen/early_stopping.cc, one query over).
    """
    calls, beyond = 2, 1 - percentile / 100
    while binomial_cdf(1, calls, beyond) > 0.01:
        calls += 1
    return calls


def pooled(units: Sequence[Unit], arm: str) -> Pool:
    """All calls of one arm, both blocks of every unit; not empty."""
    blocks = [(place, block) for place, u in enumerate(units) for block in u.arms[arm].blocks_ns]
    calls = np.array([call for _, block in blocks for call in block], dtype=np.int64)
    owners = np.repeat(
        np.array([place for place, _ in blocks], dtype=np.int64),
        [len(block) for _, block in blocks],
    )
    order = np.argsort(calls, kind="stable")
    return Pool(calls=calls[order], owners=owners[order], units=len(units))


def percentile_of(pool: Pool, percentile: int) -> int:
    """The nearest-rank percentile of all its calls, in ns."""
    return int(pool.calls[-(-percentile * len(pool.calls) // 100) - 1])


def resampled_percentiles(pool: Pool, percentile: int, weights: Floats) -> Integers:
    """The percentile in each resample, (resamples,) in ns; `weights` (resamples, units) are draws.

    Calls are counted by bins first; only the bin that holds the wanted rank is looked into.
    """
    calls = len(pool.calls)
    width = -(-calls // _BINS)
    bins = np.arange(calls) // width
    count = int(bins[-1]) + 1
    cells = np.bincount(pool.owners * count + bins, minlength=pool.units * count)
    upto = np.cumsum(weights @ cells.reshape(pool.units, count).astype(np.float64), axis=1)
    ranks = -(-percentile * upto[:, -1].astype(np.int64) // 100)
    place = (upto < ranks[:, None]).sum(axis=1)
    found = np.zeros(len(weights), dtype=np.int64)
    for one in np.unique(place):
        rows = np.flatnonzero(place == one)
        inside = slice(int(one) * width, (int(one) + 1) * width)
        below = upto[rows, one - 1] if one else np.zeros(len(rows))
        within = np.cumsum(weights[np.ix_(rows, pool.owners[inside])], axis=1)
        reached = within + below[:, None] >= ranks[rows, None]
        found[rows] = pool.calls[inside][np.argmax(reached, axis=1)]
    return found


def tail_ratios(
    units: Sequence[Unit],
    percentile: int,
    limits: Sequence[tuple[str, float]],
    alpha: float,
    seed: str,
) -> list[TailRatio]:
    """The candidate's percentile over that of each arm in `limits` (arm, largest ratio allowed).

    One set of resamples serves all arms, so that what shook a whole unit cancels.
    """
    weights = unit_weights(seed, len(units))
    mine = pooled(units, "candidate")
    mine_drawn = resampled_percentiles(mine, percentile, weights)
    found = []
    for arm, limit in limits:
        base = pooled(units, arm)
        replicates = mine_drawn / resampled_percentiles(base, percentile, weights)
        values = percentile_of(mine, percentile), percentile_of(base, percentile)
        low, high = expanded_limits(replicates, len(units), alpha)
        found.append(
            TailRatio(
                ratio=rounded(values[0] / values[1]),
                low=None if low is None else rounded(low),
                high=None if high is None else rounded(high),
                p_harm=p_within(replicates, len(units), limit),
                values=(float(values[0]), float(values[1])),
            )
        )
    return found


def expanded_limits(
    replicates: Floats, units: int, alpha: float
) -> tuple[float | None, float | None]:
    """One-sided percentile limits at `alpha`, at the level of Student's t and widened for few units.

    Hesterberg's expanded percentile interval (2015, The American Statistician 69, 371-386, section
    3.4). Not accelerated: the skewness that the correction for a mean rests on says little about a
    quantile. None for both where units or RESAMPLES are too few for the level.
    """
    if units < 2:
        return None, None
    level = tail(math.sqrt(units / (units - 1)) * critical(alpha, units - 1), None)
    rank = int(rounded(level * (RESAMPLES + 1)))
    if rank < 1:
        return None, None
    ordered = np.sort(replicates)
    return float(ordered[rank - 1]), float(ordered[RESAMPLES - rank])


def p_within(replicates: Floats, units: int, limit: float) -> float:
    """The p-value against 'the true ratio is at most `limit`', with the same widening."""
    share = (1 + int(np.count_nonzero(replicates <= limit * (1 + 1e-9)))) / (RESAMPLES + 1)
    if share >= 1.0 or units < 2:
        return 1.0
    return rounded(tail(critical(share, None) * math.sqrt((units - 1) / units), units - 1))
