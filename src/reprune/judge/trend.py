"""Whether a row of numbers, one a generation, rises: the Mann-Kendall test, and the Theil-Sen slope.

Mann (1945) and Kendall (1975) compare every pair of numbers, Theil (1950) and Sen (1968) take the median of
the pairs' slopes: one odd generation moves neither far, and no shape of the noise is assumed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, median

# Of fewer numbers even a perfect rise is no surprise: 1 in 24 of four.
LEAST = 5
# One-sided.
ALPHA = 0.05
# Without ties the exact distribution is counted up to so many numbers.
EXACT = 40


@dataclass(frozen=True, kw_only=True)
class Trend:
    """`slope` is the rise a generation, `p_value` one-sided against "it does not rise", `level` where the
    line through all of them is at the last one, `of` how many they are.
    """

    slope: float
    p_value: float
    level: float
    of: int

    @property
    def rises(self) -> bool:
        return self.slope > 0.0 and self.p_value <= ALPHA

    def generations_to(self, limit: float) -> int | None:
        """How many generations from the last one on the line passes `limit`; None where it does not rise.

        0 where it has passed it.
        """
        if not self.rises:
            return None
        return max(0, math.ceil((limit - self.level) / self.slope - 1e-9))


def trend(values: Sequence[float]) -> Trend | None:
    """The trend of finite numbers in their order; None for fewer than LEAST."""
    if len(values) < LEAST:
        return None
    pairs = list(combinations(range(len(values)), 2))
    slope = median((values[j] - values[i]) / (j - i) for i, j in pairs)
    score = sum(_sign(values[j] - values[i]) for i, j in pairs)
    base = median(value - slope * place for place, value in enumerate(values))
    return Trend(
        slope=slope,
        p_value=_p_value(score, values),
        level=base + slope * (len(values) - 1),
        of=len(values),
    )


def _sign(value: float) -> int:
    return (value > 0.0) - (value < 0.0)


def _p_value(score: int, values: Sequence[float]) -> float:
    """The probability of at least this score where every order is as likely."""
    count = len(values)
    ties = [size for size in Counter(values).values() if size > 1]
    if not ties and count <= EXACT:
        return _exact(score, count)
    variance = _variance_term(count) - sum(map(_variance_term, ties))
    if variance <= 0.0:
        return 1.0
    # A score moves in steps of two, hence the correction by one.
    return 1.0 - NormalDist().cdf((score - 1) / math.sqrt(variance / 18.0))


def _variance_term(count: int) -> int:
    return count * (count - 1) * (2 * count + 5)


def _exact(score: int, count: int) -> float:
    """By counting permutations by their inversions (Kendall's recursion)."""
    ways = [1]
    for size in range(2, count + 1):
        ways = [
            sum(ways[k - j] for j in range(size) if 0 <= k - j < len(ways))
            for k in range(len(ways) + size - 1)
        ]
    most = count * (count - 1) // 2
    # A score of S has (most - S) / 2 inversions.
    inversions = (most - score) // 2
    return sum(ways[: inversions + 1]) / math.factorial(count)
