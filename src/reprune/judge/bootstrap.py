"""A seeded bootstrap in whole numbers: the same resamples on every processor and numpy version."""

from __future__ import annotations

import math
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
_DRAWS_AT_ONCE = 2_000_000


def resampled_sums(columns: Integers, seed: str) -> Integers:
    """Column sums of `columns` (units, k) over RESAMPLES resamples of its units: (RESAMPLES, k).

    All columns share one multinomial weight matrix. Draws come from PCG64's raw integers (a stream
    that numpy promises to keep); sums are of whole numbers below 2**53, exact in any order.
    Raises OverflowError where they would not be.
    """
    units = columns.shape[0]
    if units * int(np.abs(columns).max(initial=0)) >= EXACT:
        raise OverflowError("sums of these columns would not be exact")
    exact = columns.astype(np.float64)
    bits = np.random.PCG64(seed_number(seed))
    rows_at_once = max(1, _DRAWS_AT_ONCE // units)
    sums = []
    for start in range(0, RESAMPLES, rows_at_once):
        rows = min(rows_at_once, RESAMPLES - start)
        sums.append(_weights(bits, rows, units) @ exact)
    return np.concatenate(sums).astype(np.int64)


def _weights(bits: np.random.PCG64, rows: int, units: int) -> Floats:
    """How often each unit is in each of `rows` resamples: (rows, units), each row sums to units."""
    raw = bits.random_raw(rows * units)
    drawn = ((raw >> np.uint64(32)) * np.uint64(units)) >> np.uint64(32)
    places = drawn.astype(np.int64) + np.repeat(np.arange(rows, dtype=np.int64) * units, units)
    counts = np.bincount(places, minlength=rows * units)
    return counts.reshape(rows, units).astype(np.float64)


def lower_limit(replicates: Floats, units: int, alpha: float) -> float | None:
    """The expanded percentile limit; None where units or RESAMPLES are too few for the level.

    Percentiles are too narrow for few units: the level is that of Student's t, widened by
    sqrt(n / (n - 1)) (Hesterberg 2015, The American Statistician 69, 371-386).
    """
    if units < 2:
        return None
    expanded = tail(math.sqrt(units / (units - 1)) * critical(alpha, units - 1), None)
    rank = int(rounded(expanded * (RESAMPLES + 1)))
    return float(np.sort(replicates)[rank - 1]) if rank >= 1 else None


def upper_limit(replicates: Floats, units: int, alpha: float) -> float | None:
    """As `lower_limit`, from above."""
    mirrored = lower_limit(-replicates, units, alpha)
    return None if mirrored is None else -mirrored


def p_at_most(replicates: Floats, units: int, limit: float) -> float:
    """The p-value against 'the true value is at most `limit`', with the same expansion.

    It is never below what RESAMPLES can show.
    """
    share = (1 + int(np.count_nonzero(replicates <= limit))) / (RESAMPLES + 1)
    if share >= 1.0 or units < 2:
        return 1.0
    return tail(critical(share, None) * math.sqrt((units - 1) / units), units - 1)
