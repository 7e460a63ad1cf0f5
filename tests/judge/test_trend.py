"""A trend over generations: its size without one, what it sees with one, and when a limit is passed."""

from __future__ import annotations

import math
from itertools import permutations
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reprune.judge.trend import LEAST, trend

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=LEAST, max_size=12)


def test_fewer_than_five_say_nothing() -> None:
    assert trend([1.0, 2.0, 3.0, 4.0]) is None
    found = trend([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    assert found.rises


@given(values=VALUES)
def test_the_slope_is_theils(values: list[float]) -> None:
    found = trend(values)
    assert found is not None
    slope, intercept, *_ = stats.theilslopes(values)
    assert found.slope == pytest.approx(slope, abs=1e-9)
    rest = median(value - found.slope * place for place, value in enumerate(values))
    assert found.level == pytest.approx(rest + found.slope * (len(values) - 1))
    assert math.isfinite(float(intercept))


@given(values=st.lists(st.integers(-99, 99), min_size=LEAST, max_size=9, unique=True))
def test_the_exact_probability_is_kendalls(values: list[int]) -> None:
    found = trend([float(value) for value in values])
    assert found is not None
    expected = stats.kendalltau(
        range(len(values)), values, alternative="greater", method="exact"
    ).pvalue
    assert found.p_value == pytest.approx(float(expected))


def test_five_of_all_orders_are_called_a_rise_as_often_as_allowed() -> None:
    orders = [trend([float(one) for one in order]) for order in permutations(range(5))]
    share = np.mean([one is not None and one.rises for one in orders])
    assert 0.0 < share <= 0.05


@given(values=VALUES)
def test_what_rises_does_not_rise_backwards_or_upside_down(values: list[float]) -> None:
    found, back = trend(values), trend([-value for value in values])
    assert found is not None
    assert back is not None
    assert not (found.rises and back.rises)


def test_equal_numbers_have_no_trend_and_pass_nothing() -> None:
    found = trend([2.0] * 9)
    assert found is not None
    assert not found.rises
    assert found.generations_to(1.0) is None


def test_when_the_line_passes_a_limit() -> None:
    """0.2 a generation, at 1.0 now: the limit of 1.5 is passed by the third from here."""
    found = trend([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found is not None
    assert found.generations_to(1.5) == 3
    assert found.generations_to(0.9) == 0
