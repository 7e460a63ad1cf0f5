"""A seeded bootstrap in whole numbers: the same resamples on every processor and numpy version."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reprune.judge.distributions import critical, tail
from reprune.judge.numeric import rounded, seed_number

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

RESAMPLES = 4000
EXACT = 2**53
_DRAWS_AT_ONCE = 700_000  # more leave the cache, fewer are all overhead


def resampled_sums(blocks: Sequence[Integers], seed: str) -> list[Integers]:
    """Column sums of every block (units, k) over RESAMPLES resamples of its units: (RESAMPLES, k)."""
    return resampled(blocks, [], blocks[0].shape[0], seed)[0]


def resampled(
    blocks: Sequence[Integers],
    statistics: Sequence[Callable[[Floats], Floats]],
    units: int,
    seed: str,
) -> tuple[list[Integers], list[Floats]]:
    """Column sums of every block (units, k) over RESAMPLES resamples of the units, (RESAMPLES, k), and
    every statistic's values (RESAMPLES,); a statistic takes weights (units, resamples), see judge.weighted.

    All share one multinomial weight matrix. Draws come from PCG64's raw integers (a stream that numpy
    promises to keep); sums are of whole numbers below 2**53, exact in any order.
    Raises OverflowError where they would not be.
    """
    if any(units * int(np.abs(block).max(initial=0)) >= EXACT for block in blocks):
        raise OverflowError("sums of these columns would not be exact")
    # A slice leaves most rows empty: only the others are multiplied.
    parts = [(rows := np.flatnonzero(block.any(axis=1)), block[rows] * 1.0) for block in blocks]
    sums = [np.zeros((RESAMPLES, block.shape[1]), dtype=np.int64) for block in blocks]
    values = [np.empty(RESAMPLES, dtype=np.float64) for _ in statistics]
    bits = np.random.PCG64(seed_number(seed))
    at_once = max(1, _DRAWS_AT_ONCE // units)
    for start in range(0, RESAMPLES, at_once):
        weights = _weights(bits, min(at_once, RESAMPLES - start), units)
        for found, (rows, block) in zip(sums, parts, strict=True):
            found[start : start + at_once] = weights[:, rows] @ block
        turned = np.ascontiguousarray(weights.T) if statistics else weights
        for row, statistic in zip(values, statistics, strict=True):
            row[start : start + at_once] = statistic(turned)
    return sums, values


def unit_weights(seed: str, units: int) -> Floats:
    """How often each of `units` is drawn in each of RESAMPLES resamples: (RESAMPLES, units)."""
    return _weights(np.random.PCG64(seed_number(seed)), RESAMPLES, units)


def _weights(bits: np.random.PCG64, resamples: int, units: int) -> Floats:
    """How often each unit is in each resample: (resamples, units), each row sums to units."""
    raw = bits.random_raw(resamples * units)
    drawn = ((raw >> np.uint64(32)) * np.uint64(units)) >> np.uint64(32)
    places = drawn.astype(np.int64).reshape(resamples, units)
    places += np.arange(resamples, dtype=np.int64)[:, None] * units
    counts = np.bincount(places.reshape(-1), minlength=resamples * units)
    return counts.reshape(resamples, units).astype(np.float64)


def lower_limit(replicates: Floats, units: int, alpha: float) -> float | None:
    """The lower BCa limit at `alpha`; None where units or RESAMPLES are too few for the level.

    A resample that is NaN lies below every limit, and has no part in the skewness.
    Two corrections of the percentile: the level is that of Student's t, widened by sqrt(n / (n - 1))
    for few units (Hesterberg 2015, The American Statistician 69, 371-386), and moved for skewness,
    since rare large losses are rarely seen (Efron 1987, JASA 82, 171-185; bias and acceleration
    are both a sixth of the replicates' skewness, as for a mean).
    """
    if units < 2:
        return None
    sixth = -_skewness(replicates) / 6
    reach = sixth + math.sqrt(units / (units - 1)) * critical(alpha, units - 1)
    if sixth * reach >= 1.0:
        return None
    level = tail(sixth + reach / (1.0 - sixth * reach), None)
    rank = int(rounded(level * (RESAMPLES + 1)))
    if not 1 <= rank <= RESAMPLES:
        return None
    found = float(np.sort(np.where(np.isnan(replicates), -np.inf, replicates))[rank - 1])
    return found if math.isfinite(found) else None


def upper_limit(replicates: Floats, units: int, alpha: float) -> float | None:
    """As `lower_limit`, from above."""
    mirrored = lower_limit(-replicates, units, alpha)
    return None if mirrored is None else -mirrored


def shown_limit(replicates: Floats, units: int, alpha: float) -> float | None:
    """The lower limit that agrees with `p_at_most`: where skewness leaves none, the least resample."""
    limit = lower_limit(replicates, units, alpha)
    undefined = int(np.count_nonzero(np.isnan(replicates)))
    if limit is None and rounded(least_p(units, undefined)) <= rounded(alpha):
        return float(np.nanmin(replicates))
    return limit


def p_at_most(replicates: Floats, units: int, limit: float) -> float:
    """The p-value against 'the true value is at most `limit`', with the same corrections.

    It is never below what the resamples can show (`least_p`), which it is where none is at most the limit:
    a correction for skewness says how far to trust a tail, and there is none to be seen.
    """
    undefined = int(np.count_nonzero(np.isnan(replicates)))
    within = int(np.count_nonzero(replicates <= limit))
    share = (1 + within) / (RESAMPLES - undefined + 1)
    least = least_p(units, undefined)
    if within == 0 or share >= 1.0 or least >= 1.0:
        return least if within == 0 else 1.0
    sixth = -_skewness(replicates) / 6
    beyond = critical(share, None) - sixth
    if sixth * beyond <= -1.0:
        return 1.0
    z = beyond / (1.0 + sixth * beyond) - sixth
    return max(least, tail(z * math.sqrt((units - 1) / units), units - 1))


def least_p(units: int, undefined: int = 0) -> float:
    """The smallest p-value that resamples of so many units can show; `undefined` ones show nothing."""
    share = (1 + undefined) / (RESAMPLES + 1)
    if share >= 1.0 or units < 2:
        return 1.0
    return tail(critical(share, None) * math.sqrt((units - 1) / units), units - 1)


def plain_p(replicates: Floats, limit: float) -> float:
    """The share of the defined resamples that are at most `limit`, one more at least; no correction."""
    defined = replicates[~np.isnan(replicates)]
    return (1 + int(np.count_nonzero(defined <= limit))) / (len(defined) + 1)


def _skewness(replicates: Floats) -> float:
    """The third standardised moment of those that are no NaN; 0 where nothing varies."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) == 0:
        return 0.0
    off = defined - exact_mean(defined)
    square = off * off
    second, third = exact_mean(square), exact_mean(square * off)
    return rounded(third / second**1.5) if second > 1e-24 else 0.0


def exact_mean(values: Floats) -> float:
    """Their mean, the same everywhere: numpy's own sums depend on the processor, fsum's do not."""
    return math.fsum(values.tolist()) / len(values)
