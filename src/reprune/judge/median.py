"""The median's distribution-free interval and its sign test, exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from reprune.judge.numeric import rounded


def sign_test(at_or_below: int, count: int) -> float:
    """P(X <= at_or_below) for X of `count` fair coins: how surprising so few values at or below a
    limit would be if the median were not above it.
    """
    ways: int = sum(math.comb(count, k) for k in range(at_or_below + 1))
    return ways / int(2**count)


@lru_cache(maxsize=1024)
def median_rank(count: int, tail: float) -> int | None:
    """The largest k with sign_test(k, count) <= tail; None where even k = 0 is too likely."""
    total = 0
    for k in range(count):
        total += math.comb(count, k)
        if rounded(total / 2**count) > rounded(tail):
            return k - 1 if k else None
    return count - 1


def median_interval(values: Sequence[float], tail: float) -> tuple[float, float] | None:
    """Order statistics that miss the median with probability at most `tail` on either side.

    Holds for independent values of any distribution. None where there are too few of them.
    """
    rank = median_rank(len(values), tail)
    if rank is None:
        return None
    ordered = sorted(values)
    return ordered[rank], ordered[len(ordered) - 1 - rank]
