"""Limits of a measured rate."""

from __future__ import annotations

from scipy import stats

LEVEL = 0.95


def limits(hits: int, trials: int) -> tuple[float, float, float]:
    """The rate with Clopper and Pearson's two-sided 95 % limits; (0, 0, 1) of no trials."""
    if not trials:
        return 0.0, 0.0, 1.0
    tail = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.isf(tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return hits / trials, low, high
