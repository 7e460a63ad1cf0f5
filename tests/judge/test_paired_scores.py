"""The score tests for paired 0/1 records: published values, laws, and error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reprune.judge.binary import BinaryComparison, binary_level, compare_binary, sums_by_source
from reprune.judge.distributions import critical, tail
from reprune.judge.paired import (
    design_effect,
    error_ratio_limits,
    error_ratio_z,
    tango_upper,
    tango_z,
)

counts = st.integers(0, 60)


def tango(table: tuple[int, int, int, int], level: float) -> tuple[float, float]:
    both, lost, gained, neither = table
    z, n = critical((1 - level) / 2, None), both + lost + gained + neither
    return -tango_upper(gained, lost, n, z), tango_upper(lost, gained, n, z)


@pytest.mark.parametrize(
    ("table", "level", "low", "high"),
    [
        ((4, 9, 3, 16), 0.95, -0.027, 0.390),  # Tango 1998
        ((43, 0, 1, 0), 0.90, -0.096, 0.037),  # Tango 1998, Miyanaga's lens trial
        ((53, 16, 8, 9), 0.95, -0.020, 0.207),  # Agresti and Min 2005
        ((1, 1, 7, 12), 0.95, -0.517, -0.026),  # Fagerland, Lydersen and Laake 2014
        ((7, 25, 2, 68), 0.95, 0.139, 0.321),  # Chang 2024
    ],
)
def test_tango_limits_as_published(
    table: tuple[int, int, int, int], level: float, low: float, high: float
) -> None:
    """The score limits of published tables, to the three digits that were printed."""
    assert tango(table, level) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


def test_tango_statistic_as_published() -> None:
    """Non-inferiority of the lens trial at 10 points: Z = 1.709, p = .044."""
    z = tango_z(1, 0, 44, 0.1)
    assert -z == pytest.approx(1.709, abs=5e-4)
    assert tail(-z, None) == pytest.approx(0.044, abs=5e-4)


@pytest.mark.parametrize(("n", "upper"), [(50, 0.051), (200, 0.013), (500, 0.0054), (1000, 0.0027)])
def test_nothing_lost_is_not_certainty(n: int, upper: float) -> None:
    """Where no example flipped the upper limit still shrinks only with n: z^2 / (n + z^2)."""
    found = tango_upper(0, 0, n, critical(0.05, None))
    assert found == pytest.approx(upper, rel=0.03)
    assert found == pytest.approx(2.705543 / (n + 2.705543), rel=1e-6)


@pytest.mark.parametrize(
    ("table", "level", "low", "high", "digits"),
    [
        ((446, 5, 16, 690), 0.90, 0.958, 0.992, 3),  # Tang, Tang and Chan 2003
        ((43, 0, 1, 0), 0.90, 0.904, 1.039, 3),  # Tang, Tang and Chan 2003
        ((1, 1, 7, 12), 0.95, 0.0653, 0.9069, 4),  # DelRocco 2022
    ],
)
def test_error_ratio_limits_as_published(
    table: tuple[int, int, int, int], level: float, low: float, high: float, digits: int
) -> None:
    """The score limits of the ratio of paired rates in published tables."""
    both, one, other, neither = table
    found = error_ratio_limits(one, other, both, neither, critical((1 - level) / 2, None))
    assert tuple(round(x, digits) for x in found) == (low, high)


@given(lost=counts, gained=counts, rest=st.integers(1, 500))
def test_swapping_arms_mirrors_the_drop(lost: int, gained: int, rest: int) -> None:
    """The lower limit is minus the upper one of the swapped arms, and the estimate lies between."""
    n, z = lost + gained + rest, 1.96
    upper, lower = tango_upper(lost, gained, n, z), -tango_upper(gained, lost, n, z)
    assert lower <= (lost - gained) / n <= upper
    assert tango_z(lost, gained, n, upper) == pytest.approx(-z, abs=1e-3) or upper == 1.0


@given(lost=counts, gained=counts, both=st.integers(1, 60), rest=st.integers(1, 500))
def test_swapping_arms_inverts_the_error_ratio(
    lost: int, gained: int, both: int, rest: int
) -> None:
    """The limits of the ratio are the inverse of those of the swapped arms."""
    low, high = error_ratio_limits(lost, gained, both, rest, 1.96)
    swapped_low, swapped_high = error_ratio_limits(gained, lost, both, rest, 1.96)
    assert low <= (both + lost) / (both + gained) <= high
    assert low * swapped_high == pytest.approx(1.0, rel=1e-6)
    assert high * swapped_low == pytest.approx(1.0, rel=1e-6)


@given(lost=counts, gained=counts, rest=st.integers(1, 500), drop=st.floats(0.001, 0.9))
def test_losing_more_is_never_less_evidence(lost: int, gained: int, rest: int, drop: float) -> None:
    """One more lost example, or one less gained, only raises the statistic."""
    n = lost + gained + rest
    assume(lost < n - 1)
    more = tango_z(lost + 1, gained, n, drop)
    assert more >= tango_z(lost, gained, n, drop) - 1e-9
    if gained:
        assert tango_z(lost, gained - 1, n, drop) >= tango_z(lost, gained, n, drop) - 1e-9


def test_error_ratio_without_errors_is_undecided() -> None:
    """Two arms without an error say nothing about their ratio."""
    assert error_ratio_z(0, 0, 0, 100, 1.25) == 0.0


def comparison(
    base: list[int], mine: list[int], codes: list[int] | None = None
) -> BinaryComparison:
    sources = None if codes is None else np.asarray(codes, dtype=np.int64)
    return compare_binary(np.asarray(base), np.asarray(mine), sources)


def test_flips_are_counted_both_ways() -> None:
    """A comparison counts what was lost, gained and wrong in both arms."""
    found = comparison([1, 1, 1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1])
    assert (found.lost, found.gained, found.both_wrong, found.examples) == (2, 1, 2, 8)
    assert (found.baseline, found.candidate, found.loss) == (0.625, 0.5, 0.125)


def test_a_drop_within_its_margin_holds() -> None:
    """The test holds exactly where its upper limit is at or below the limit; p-values are one-sided."""
    base = [1] * 960 + [0] * 40
    mine = [0] * 5 + [1] * 955 + [1] * 5 + [0] * 35
    found = comparison(base, mine)
    test = found.drop_test(0.01, 0.05)
    assert test.holds
    assert test.high is not None
    assert not found.drop_test(test.high * 0.999, 0.05).holds
    assert found.drop_test(test.high, 0.05).holds
    assert test.p_harm == pytest.approx(tail(tango_z(5, 5, 1000, 0.01), None))
    worse = comparison(base, [0] * 60 + [1] * 900 + [0] * 40).drop_test(0.03, 0.05)
    assert worse.low is not None
    assert worse.low > 0.03
    assert worse.p_harm < 1e-3


def test_the_error_ratio_is_written_in_the_loss_s_unit() -> None:
    """25 % more errors on a baseline that errs on 4 % is one point; the interval is scaled alike."""
    base = [1] * 960 + [0] * 40
    mine = [0] * 8 + [1] * 952 + [1] * 4 + [0] * 36
    test = comparison(base, mine).error_test(1.25, 0.05)
    low, high = error_ratio_limits(8, 4, 36, 952, critical(0.05, None))
    assert test.limit == pytest.approx(0.01)
    assert test.low == pytest.approx((low - 1) * 0.04)
    assert test.high == pytest.approx((high - 1) * 0.04)
    assert not test.holds
    assert test.p_harm == pytest.approx(tail(error_ratio_z(8, 4, 36, 952, 1.25), None))


def test_a_baseline_without_errors_allows_none() -> None:
    """No share of more errors than none can be shown, however many examples agree."""
    test = comparison([1] * 5000, [1] * 5000).error_test(1.25, 0.05)
    assert test.limit == 0.0
    assert not test.holds
    assert test.p_harm == 0.5


def test_design_effect_by_hand() -> None:
    """Two sources that differ wholly: variance between them, over that within, with its guards."""
    # Totals 5 and 0 in sources of 5: mean .5, between 2 * (6.25 + 6.25) = 25, within 2.5, worst 5.
    assert design_effect([5, 5], [5.0, 0.0], 5.0) == pytest.approx((25 + 15) / (2.5 + 3))
    # Exchangeable halves: between is 0, and what is assumed keeps it above 1.
    assert design_effect([4, 4], [2.0, 2.0], 4.0) == pytest.approx(12 / (2 + 3))
    assert design_effect([1] * 4, [1.0, 0.0, 1.0, 0.0], 2.0) == pytest.approx((4 / 3 + 3) / 4)
    assert design_effect([2] * 50, [1.0] * 50, 50.0) == 1.0


def test_sources_widen_the_interval() -> None:
    """The same flips inside few sources say less than scattered ones."""
    base, mine = [1] * 600, [0] * 12 + [1] * 588
    together = comparison(base, mine, [place // 12 for place in range(600)])
    apart = comparison(base, mine, [place % 50 for place in range(600)])
    plain = comparison(base, mine)
    uppers = [one.drop_test(0.1, 0.05).high or 0.0 for one in (together, apart, plain)]
    assert uppers[0] > uppers[1] > uppers[2]
    assert together.spread > apart.spread
    assert (together.units, plain.units) == (50, 600)


def test_few_sources_are_not_trusted() -> None:
    """Below 20 sources nothing is decided; without sources anything may be."""
    base = [1] * 190
    assert not comparison(base, base, [place // 10 for place in range(190)]).trusted
    assert comparison([1] * 200, [1] * 200, [place // 10 for place in range(200)]).trusted
    assert comparison([1] * 5, [1] * 5).trusted
    assert comparison([1, 1], [1, 0], [0, 0]).drop_test(0.1, 0.05).high is not None


def test_sums_by_source_keep_whole_numbers() -> None:
    """Rows are summed for each source, in the order of codes, gaps closed."""
    table = np.asarray([[1, 10], [2, 20], [3, 30]], dtype=np.int64)
    assert sums_by_source(table, np.asarray([7, 2, 7])).tolist() == [[2, 20], [4, 40]]


def test_floor_limits_are_exact_and_widen_with_sources() -> None:
    """Clopper and Pearson's limits without sources; with them the effective count is smaller."""
    mine = np.asarray([1] * 430 + [0] * 20)
    plain = binary_level(mine, None)
    low, high = plain.interval(0.025)
    assert (low, high) == (pytest.approx(0.932191656), pytest.approx(0.972644079))
    clustered = binary_level(mine, np.arange(450) // 9)
    wide = clustered.interval(0.025)
    assert wide[0] < low
    assert wide[1] > high
    assert clustered.p_below(0.97) > plain.p_below(0.97)
    assert plain.p_below(0.97) == pytest.approx(0.0574, abs=5e-3)
    assert plain.value == rounded_share(430, 450)
    assert not binary_level(mine[:10], np.arange(10) // 5).trusted


def rounded_share(right: int, count: int) -> float:
    return float(f"{right / count:.9g}")


def simulate(codes: np.ndarray, alike: float, seed: int, runs: int) -> tuple[float, float]:
    """Shares of false passes and false blocks with the true drop at the margin of 2 points, 6 % flips."""
    rng = np.random.default_rng(seed)
    sources = int(codes.max()) + 1
    held = harmed = 0
    for _ in range(runs):
        common, own = rng.random(sources)[codes], rng.random(len(codes))
        draw = np.where(rng.random(len(codes)) < math.sqrt(alike), common, own)
        lost, gained = draw < 0.04, (draw >= 0.04) & (draw < 0.06)
        test = compare_binary(1 - gained, 1 - lost.astype(int), codes if alike else None)
        result = test.drop_test(0.02, 0.05)
        held += result.holds
        harmed += result.p_harm <= 0.05
    return held / runs, harmed / runs


@pytest.mark.parametrize(
    ("sources", "size", "alike"), [(500, 1, 0.0), (100, 5, 0.1), (100, 5, 0.3), (50, 20, 0.3)]
)
def test_errors_at_the_margin_stay_near_their_level(sources: int, size: int, alike: float) -> None:
    """With the truth at the margin both errors stay at 5 %, give or take three standard errors."""
    runs = 400
    held, harmed = simulate(np.arange(sources * size) // size, alike, 11, runs)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert held <= allowed
    assert harmed <= allowed
    assert held + harmed > 0.0
