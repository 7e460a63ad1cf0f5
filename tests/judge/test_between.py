"""How far two measurements lie apart: the laws of the interval, and that it covers."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.judge.between import Estimate, difference, factor


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    value = draw(st.floats(-5, 5))
    return Estimate(
        value=value,
        low=draw(st.none() | st.floats(0, 3).map(lambda width: value - width)),
        high=draw(st.none() | st.floats(0, 3).map(lambda width: value + width)),
    )


@given(estimates(), estimates())
def test_swapping_the_two_mirrors_it(one: Estimate, other: Estimate) -> None:
    there, back = difference(one, other), difference(other, one)
    assert back.value == pytest.approx(-there.value, abs=1e-8)
    for end, mirrored in ((there.low, back.high), (there.high, back.low)):
        assert (end is None) is (mirrored is None)
        if end is not None and mirrored is not None:
            assert end == pytest.approx(-mirrored, abs=1e-7)


@given(estimates(), estimates())
def test_it_holds_the_gap_and_is_no_narrower_than_either(one: Estimate, other: Estimate) -> None:
    found = difference(one, other)
    if found.low is not None and other.low is not None and one.high is not None:
        reach = found.value - found.low
        assert reach >= max(other.value - other.low, one.high - one.value) - 1e-7
    if found.high is not None:
        assert found.high >= found.value - 1e-9


def test_an_end_that_is_missing_leaves_its_side_open() -> None:
    """B's low end and A's high end make the low end; nothing else does."""
    whole = Estimate(value=1.0, low=0.5, high=1.5)
    found = difference(whole, Estimate(value=2.0, low=None, high=2.5))
    assert (found.low, found.high) == (None, pytest.approx(1.0 + math.hypot(0.5, 0.5)))


def test_a_factor_is_of_ratios() -> None:
    """Three quarters of a half is 1.5; of what is not above 0 there is none."""
    found = factor(
        Estimate(value=0.5, low=0.45, high=0.55), Estimate(value=0.75, low=0.7, high=0.8)
    )
    assert found is not None
    assert found.value == pytest.approx(1.5)
    assert found.low is not None
    assert found.high is not None
    assert 1.3 < found.low < 1.5 < found.high < 1.7
    assert factor(Estimate(value=0.0), Estimate(value=1.0)) is None


def test_an_estimate_is_bounded_by_either_end() -> None:
    assert Estimate(value=1.0, low=0.5).bounded
    assert Estimate(value=1.0, high=1.5).bounded
    assert not Estimate(value=1.0).bounded


def test_gaps_and_factors_have_nine_digits() -> None:
    one, two = Estimate(value=1.0, low=0.7, high=1.3), Estimate(value=1 / 3, low=0.3, high=0.36)
    gap, times = difference(one, two), factor(one, two)
    assert times is not None
    assert (gap.value, times.value) == (-0.666666667, 0.333333333)
    for number in (gap.low, gap.high, times.low, times.high):
        assert number is not None
        assert number == float(f"{number:.9g}")


def test_a_factor_needs_values_above_zero_and_takes_such_ends() -> None:
    """An end at or below 0, or none, leaves open what it would have made."""
    one = Estimate(value=1.0, low=0.5, high=2.0)
    for nothing in (0.0, -1.0):
        assert factor(one, Estimate(value=nothing)) is None
        assert factor(Estimate(value=nothing), one) is None
    for end in (None, 0.0, -1.0):
        low = factor(one, Estimate(value=1.0, low=end, high=2.0))
        high = factor(one, Estimate(value=1.0, low=0.5, high=end))
        assert low is not None
        assert high is not None
        assert (low.low is None, low.high is None) == (True, False)
        assert (high.low is None, high.high is None) == (False, True)
    alike = factor(one, one)
    assert alike is not None
    assert alike.high == pytest.approx(2 ** math.sqrt(2), rel=1e-8)
    assert alike.low == pytest.approx(2 ** -math.sqrt(2), rel=1e-8)


def test_it_covers_as_often_as_the_two_intervals_do() -> None:
    """Two means of normal values with their 95 % intervals: the true gap is inside 95 times in 100."""
    chance = random.Random(5)
    inside = 0
    for _ in range(4000):
        ends = []
        for true, deviation in ((0.3, 0.05), (0.5, 0.12)):
            value = chance.gauss(true, deviation)
            reach = 1.959964 * deviation
            ends.append(Estimate(value=value, low=value - reach, high=value + reach))
        found = difference(*ends)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.2 <= found.high
    assert inside / 4000 == pytest.approx(0.95, abs=0.012)
