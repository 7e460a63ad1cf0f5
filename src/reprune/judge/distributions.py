"""Tails and quantiles of the normal, Student's, the beta and the binomial distribution, and Holm.

Written with `math` alone: importing scipy.stats costs more than a whole judgement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from reprune.judge.numeric import halve

_TINY = 1e-300


def alpha_of_attempt(alpha: float, attempt: int) -> float:
    """The level of the i-th look at the sealed data, alpha / (i (i + 1)); over all i they sum to alpha."""
    return alpha / (attempt * (attempt + 1))


def tail(z: float, df: int | None) -> float:
    """P(Z >= z), for Student's t with `df` degrees of freedom, or the normal where `df` is None."""
    if df is None:
        return 0.5 * math.erfc(z / math.sqrt(2.0))
    if math.isinf(z):
        return 0.0 if z > 0 else 1.0
    half = 0.5 * beta_cdf(df / (df + z * z), df / 2, 0.5)
    return half if z > 0 else 1.0 - half


@lru_cache(maxsize=1024)
def critical(alpha: float, df: int | None) -> float:
    """The z above which a share `alpha` lies; `alpha` is below one half."""
    if df is None:
        return -NormalDist().inv_cdf(alpha)
    top = 1.0
    while tail(top, df) > alpha:
        top *= 2
    return halve(lambda z: tail(z, df) > alpha, 0.0, top)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # beyond this the fraction converges slowly: mirror it
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)), by Lentz's method."""
    value = c = 1.0
    d = 0.0
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _not_zero(1.0 + term * d)
        c = _not_zero(1.0 + term / c)
        value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = p; 0 where a is 0, and 1 where b is 0."""
    if a <= 0.0:
        return 0.0
    if b <= 0.0:
        return 1.0
    return halve(lambda x: beta_cdf(x, a, b) < p, 0.0, 1.0)


def binomial_cdf(successes: float, trials: float, p: float) -> float:
    """P(X <= successes); for counts that are not whole, its continuation by the beta function."""
    if successes >= trials:
        return 1.0
    if successes < 0:
        return 0.0
    return beta_cdf(1.0 - p, trials - successes, successes + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; at most `alpha` means rejected (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
