"""Tails, quantiles, Holm and the median's interval, against scipy, statsmodels and enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from reprune.judge.distributions import (
    alpha_of_attempt,
    beta_cdf,
    beta_quantile,
    binomial_cdf,
    critical,
    holm,
    tail,
)
from reprune.judge.median import median_interval, median_rank, sign_test
from reprune.judge.numeric import halve, rounded, seed_number


@pytest.mark.parametrize("df", [1, 2, 19, 25, 100, 9_999])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.025, 0.001])
def test_student_agrees_with_scipy(df: int, alpha: float) -> None:
    """Quantiles and tails of Student's t are scipy's to nine digits."""
    expected = float(scipy.stats.t.isf(alpha, df))
    assert critical(alpha, df) == pytest.approx(expected, rel=1e-9)
    assert tail(expected, df) == pytest.approx(alpha, rel=1e-9)
    assert tail(-expected, df) == pytest.approx(1 - alpha, rel=1e-9)


@pytest.mark.parametrize("z", [-3.0, 0.0, 1.6448536269514722, 8.0])
def test_normal_tail_keeps_its_digits_far_out(z: float) -> None:
    """The normal tail is exact where one minus a distribution function would have lost it."""
    assert tail(z, None) == pytest.approx(float(scipy.stats.norm.sf(z)), rel=1e-12)
    assert critical(0.05, None) == pytest.approx(1.6448536269514722, rel=1e-12)


def test_tail_of_an_infinite_statistic() -> None:
    """A statistic without variance is certain, one way or the other."""
    assert tail(math.inf, 10) == 0.0
    assert tail(-math.inf, 10) == 1.0
    assert tail(math.inf, None) == 0.0


@given(
    # Within 1e-12 of an end scipy loses digits where the density is infinite there (a or b below 1).
    x=st.floats(1e-12, 1.0 - 1e-12) | st.sampled_from([0.0, 1.0]),
    a=st.floats(0.5, 3000),
    b=st.floats(0.5, 3000),
)
def test_incomplete_beta_agrees_with_scipy(x: float, a: float, b: float) -> None:
    """The regularised incomplete beta function is scipy's."""
    assert beta_cdf(x, a, b) == pytest.approx(float(scipy.stats.beta.cdf(x, a, b)), abs=1e-10)


@pytest.mark.parametrize(("right", "count"), [(0, 20), (1, 29), (15, 148), (148, 148), (430, 450)])
def test_clopper_pearson_agrees_with_scipy(right: int, count: int) -> None:
    """The exact limits of a proportion are scipy's, published ones among them (15 of 148: .0578, .1617)."""
    exact = scipy.stats.binomtest(right, count).proportion_ci(0.95, method="exact")
    assert beta_quantile(0.025, right, count - right + 1) == pytest.approx(exact.low, abs=1e-9)
    high = 1 - beta_quantile(0.025, count - right, right + 1)
    assert high == pytest.approx(exact.high, abs=1e-9)


@pytest.mark.parametrize("right", [-1, 0, 17, 19, 20, 21])
def test_binomial_cdf_agrees_with_scipy(right: int) -> None:
    """Sums of binomial chances, at and beyond the ends too."""
    expected = float(scipy.stats.binom.cdf(right, 20, 0.9))
    assert binomial_cdf(right, 20, 0.9) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "p_values",
    [
        [0.01],
        [0.01, 0.04, 0.03, 0.005],
        [0.02, 0.02, 0.02],
        [0.9, 0.001, 0.4, 0.5, 0.013],
        [0.0, 1.0],
    ],
)
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    """Adjusted p-values are statsmodels', in the order given."""
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected.tolist())


def test_holm_of_nothing() -> None:
    """No rules, no p-values."""
    assert holm([]) == []


def test_attempts_share_one_alpha() -> None:
    """The levels of all attempts together never exceed alpha, and the first has half of it."""
    assert alpha_of_attempt(0.05, 1) == pytest.approx(0.025)
    assert alpha_of_attempt(0.05, 2) == pytest.approx(0.05 / 6)
    assert math.fsum(alpha_of_attempt(0.05, i) for i in range(1, 10_000)) < 0.05


@pytest.mark.parametrize("count", [1, 4, 8, 15, 30, 121])
@pytest.mark.parametrize("level", [0.005, 0.05, 0.2])
def test_median_rank_is_the_largest_that_is_rare_enough(count: int, level: float) -> None:
    """The rank's tail is within the level, and the next rank's is not."""
    rank = median_rank(count, level)
    largest = -1 if rank is None else rank
    assert largest < 0 or sign_test(largest, count) <= level
    assert sign_test(largest + 1, count) > level


def test_a_tail_that_is_met_exactly_is_met() -> None:
    """Eight values are enough for one in 256."""
    assert median_rank(8, 1 / 256) == 0
    assert median_rank(8, 0.99 / 256) is None


def test_median_interval_misses_on_either_side_exactly_as_rarely_as_promised() -> None:
    """Over all 2^8 patterns of eight values around their median, each side misses at most alpha."""
    count, level = 8, 0.05
    missed_above = 0
    for signs in itertools.product((-1.0, 1.0), repeat=count):
        values = [sign * (1 + 0.1 * place) for place, sign in enumerate(signs)]
        interval = median_interval(values, level)
        assert interval is not None
        missed_above += interval[0] > 0
    assert 0 < missed_above / 2**count <= level


def test_median_interval_needs_enough_values() -> None:
    """Seven values cannot say anything at 1 in 200; eight can, by their extremes."""
    assert median_interval([1.0] * 7, 0.005) is None
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 8.0, 7.0, 6.0], 0.005) == (1.0, 8.0)


def test_median_interval_is_order_statistics() -> None:
    """Fifteen values at 5 %: the fourth from either end."""
    values = [float(v) for v in range(15)]
    assert median_interval(values[::-1], 0.05) == (3.0, 11.0)


def test_rounding_keeps_nine_digits_and_no_minus_zero() -> None:
    """Two numbers that differ in the tenth digit become one."""
    assert rounded(0.12345678949) == 0.123456789
    assert rounded(123456789.49) == 123456789.0
    assert math.copysign(1.0, rounded(-0.0)) == 1.0


def test_halving_finds_the_root_of_two() -> None:
    """Solving by halving ends, at the last bit."""
    assert halve(lambda x: x * x < 2, 0.0, 2.0) == pytest.approx(math.sqrt(2), rel=1e-15)


def test_seeds_are_functions_of_their_text() -> None:
    """Equal texts, equal seeds; others differ; all 128 bits are used."""
    assert seed_number("a") == seed_number("a") != seed_number("b")
    assert seed_number("a") == 0xCA978112CA1BBDCAFAC231B39A23DC4D
