"""Statistics against other implementations, and what sources that only lose make the judge assume."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar

from reprune.judge.binary import compare_binary
from reprune.judge.distributions import beta_quantile, binomial_cdf, critical, tail
from reprune.judge.latency import Sequential, follow
from reprune.judge.median import median_interval, sign_test
from reprune.judge.paired import assumed_differing, design_effect, tango_upper, tango_z

FLIPS = [(0, 1), (1, 7), (3, 9), (20, 40), (115, 80), (5, 0)]


@pytest.mark.parametrize(("lost", "gained"), FLIPS)
def test_the_sign_test_is_mcnemar_s_exact_test(lost: int, gained: int) -> None:
    """Twice its smaller tail is the exact p-value of McNemar's test in statsmodels."""
    few, count = min(lost, gained), lost + gained
    expected = mcnemar([[50, lost], [gained, 30]], exact=True).pvalue
    assert min(1.0, 2 * sign_test(few, count)) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize(("lost", "gained"), FLIPS)
def test_tango_s_test_without_a_margin_is_mcnemar_s(lost: int, gained: int) -> None:
    """Its square is McNemar's statistic (Tango 1998, section 3), whatever the number of examples."""
    expected = mcnemar([[50, lost], [gained, 30]], exact=False, correction=False)
    z = tango_z(lost, gained, 80 + lost + gained, 0.0)
    assert z * z == pytest.approx(float(expected.statistic), rel=1e-10)
    assert 2 * tail(abs(z), None) == pytest.approx(float(expected.pvalue), rel=1e-9)


@pytest.mark.parametrize(("lost", "gained", "examples"), [(6, 16, 161), (40, 20, 160), (0, 9, 70)])
def test_tango_s_limits_solve_the_score_equation(lost: int, gained: int, examples: int) -> None:
    """At either limit the statistic is the quantile, by a formula written out anew: the restricted
    discordance maximises the likelihood under the drop (found here by scipy, not by the closed form).
    """
    z = critical(0.025, None)
    for drop, wanted in (
        (-tango_upper(gained, lost, examples, z), z),
        (tango_upper(lost, gained, examples, z), -z),
    ):
        rest = examples - lost - gained

        def unlikely(gain: float, drop: float = drop, rest: int = rest) -> float:
            parts = ((lost, gain + drop), (gained, gain), (rest, 1 - 2 * gain - drop))
            return -math.fsum(n * math.log(max(p, 1e-300)) for n, p in parts if n)

        bounds = (max(0.0, -drop), (1 - drop) / 2)
        best = scipy.optimize.minimize_scalar(unlikely, bounds=bounds, options={"xatol": 1e-12})
        variance = examples * (2 * best.x + drop - drop * drop)
        assert (lost - gained - examples * drop) / math.sqrt(variance) == pytest.approx(
            wanted, rel=1e-4
        )


@pytest.mark.parametrize("p", [0.001, 0.025, 0.3, 0.9])
@pytest.mark.parametrize(("a", "b"), [(0.5, 4.0), (3.0, 200.0), (40.0, 41.0)])
def test_beta_quantiles_agree_with_scipy(p: float, a: float, b: float) -> None:
    """To nine digits."""
    assert beta_quantile(p, a, b) == pytest.approx(float(scipy.stats.beta.ppf(p, a, b)), rel=1e-9)


@pytest.mark.parametrize("p", [0.01, 0.37, 0.99])
def test_every_binomial_tail_agrees_with_scipy(p: float) -> None:
    """All counts of 60 trials."""
    for count in range(61):
        expected = float(scipy.stats.binom.cdf(count, 60, p))
        assert binomial_cdf(count, 60, p) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("law", ["cauchy", "expon", "bimodal"])
@pytest.mark.parametrize(("count", "level"), [(8, 0.005), (15, 0.005), (30, 0.025), (60, 0.005)])
def test_the_median_s_interval_covers_whatever_the_law(law: str, count: int, level: float) -> None:
    """Each end misses the true median as rarely as promised and no rarer than its rank makes it."""
    random = np.random.default_rng(12)
    runs = 4000
    values = {
        "cauchy": random.standard_cauchy((runs, count)),
        "expon": random.exponential(1.0, (runs, count)) - math.log(2),
        "bimodal": random.choice([-1.0, 1.0], (runs, count))
        * random.uniform(0.5, 1, (runs, count)),
    }[law]
    ends = np.array([median_interval(row.tolist(), level) for row in values])
    rank = int(scipy.stats.binom.ppf(level, count, 0.5))
    while scipy.stats.binom.cdf(rank, count, 0.5) > level:
        rank -= 1
    exact = float(scipy.stats.binom.cdf(rank, count, 0.5))
    assert 0 < exact <= level
    for missed in (int((ends[:, 0] > 0).sum()), int((ends[:, 1] < 0).sum())):
        assert scipy.stats.binomtest(missed, runs, exact).pvalue > 1e-4


@pytest.mark.slow
def test_all_looks_together_err_as_rarely_as_promised() -> None:
    """The default looks, the truth at the limit, heavy tails: at most half the policy's alpha pass."""
    random = np.random.default_rng(13)
    plan = Sequential(looks=(8, 15, 30, 60, 120), alpha=0.025, rules=1)
    runs = 5000
    ratios = 1.05 * np.exp(0.01 * random.standard_t(2, (runs, 120)))
    ends = [follow(row.tolist(), 1.05, plan) for row in ratios]
    for wrong in (sum(end.passes for end in ends), sum(end.blocks for end in ends)):
        # 1.396 % by the exact walk over all looks; 2.5 % is promised.
        assert scipy.stats.binomtest(wrong, runs, 0.01396).pvalue > 1e-4
        assert wrong / runs < 0.025


def test_one_sided_differences_prove_less() -> None:
    """Balanced differences, gains, or none assume half a one more; nothing but losses 14.5."""
    assert assumed_differing(0, 0) == assumed_differing(7, 7) == assumed_differing(0, 9) == 0.5
    assert assumed_differing(9, 0) == 14.5
    assert assumed_differing(6, 2) == 7.5


@pytest.mark.parametrize(("lost", "gained"), [(12, 0), (9, 3), (3, 9)])
def test_the_drop_of_sources_by_hand(lost: int, gained: int) -> None:
    """Tango's test on counts over the design effect, with what one-sidedness makes it assume."""
    base = [0] * gained + [1] * (600 - gained)
    mine = [1] * (600 - lost) + [0] * lost
    codes = np.arange(600) // 6
    moves = np.reshape(np.subtract(base, mine), (100, 6)).sum(axis=1)
    effects = [
        design_effect([6] * 100, moves.tolist(), lost + gained, assumed_differing(*counts))
        for counts in ((lost, gained), (gained, lost))
    ]
    assert min(effects) > 1.0
    assert effects[0] != pytest.approx(effects[1], rel=1e-3)
    found = compare_binary(np.array(base), np.array(mine), codes)
    test, z = found.drop_test(0.05, 0.025), critical(0.025, 99)
    above = (lost / effects[0], gained / effects[0], 600 / effects[0])
    below = (gained / effects[1], lost / effects[1], 600 / effects[1])
    assert test.high == pytest.approx(tango_upper(*above, z), rel=1e-8)
    assert test.low == pytest.approx(-tango_upper(*below, z), rel=1e-8)
    harm = tail(tango_z(lost / effects[1], gained / effects[1], 600 / effects[1], 0.05), 99)
    assert test.p_harm == pytest.approx(harm, rel=1e-8)
    mirrored = compare_binary(np.array(mine), np.array(base), codes).drop_test(0.05, 0.025)
    assert (mirrored.low, mirrored.high) == (-(test.high or 0.0), -(test.low or 0.0))
