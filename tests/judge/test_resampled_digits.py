"""Comparisons by the bootstrap and the bootstrap-t, to the last digits, from replicates that are given."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reprune.judge import studentised as module
from reprune.judge.bootstrap import (
    RESAMPLES,
    least_p,
    lower_limit,
    p_at_most,
    plain_p,
    shown_limit,
    unit_weights,
    upper_limit,
)
from reprune.judge.comparisons import MarginTest
from reprune.judge.numeric import rounded
from reprune.judge.replicated import Replicated
from reprune.judge.resampled import ResampledComparison, ResampledLevel
from reprune.judge.studentised import (
    Studentised,
    influences,
    ratio_influence,
    statistic_influence,
)

CLOSE = {"rel": 1e-12, "abs": 1e-15}
# Eighths, the largest of both 1: they are whole numbers of any grain that is a power of two.
BASE = np.array([0.25, -0.5, 1.0, 0.0, -0.75, 0.125, -0.125])
LOSS = np.array([-1.0, 0.5, 0.25, 0.125, 0.375, -0.25, 0.0])


def pair(units: int = 7, seed: str = "s") -> tuple[Studentised, np.ndarray]:
    """Of the first so many sources, and how often each is drawn."""
    weights = unit_weights(seed, units)
    found = influences(BASE[:units], BASE[:units] - LOSS[:units])
    return found.studentised((weights @ found.block).astype(np.int64)), weights


def errors(weights: np.ndarray, of: tuple[float, float], units: int) -> np.ndarray:
    """The standard error of the mean influence, of each row's sources as often as they were drawn."""
    mixed = of[0] * LOSS[:units] + of[1] * BASE[:units]
    spread = weights @ (mixed * mixed) - (weights @ mixed) ** 2 / units
    return np.sqrt(np.maximum(spread, 0) / (units * (units - 1)))


def test_influences_are_kept_in_whole_numbers() -> None:
    """Of the largest of each, in 2**-18; nothing that moves nothing."""
    found = influences(BASE * 4, BASE * 4 - LOSS * 2)
    grain = 2**18
    loss, base = (LOSS * grain).astype(int), (BASE * grain).astype(int)
    assert found.scales == (2 / grain, 4 / grain)
    assert found.block.T.tolist() == [
        each.tolist() for each in (loss, base, loss**2, loss * base, base**2)
    ]
    studentised = found.studentised(np.zeros((RESAMPLES, 5), dtype=np.int64))
    assert studentised.units == 7
    assert studentised.whole.tolist() == found.block.sum(axis=0).tolist()
    assert studentised.scales == found.scales
    assert found.block.dtype == studentised.whole.dtype == np.dtype("int64")
    same = influences(BASE, BASE)
    assert same.scales == (0.0, 1 / grain)
    assert same.block[:, [0, 2, 3]].tolist() == [[0] * 3] * 7
    assert same.block.dtype == np.dtype("int64")
    third = influences(np.array([1.0, 1 / 3, -2 / 3]), np.zeros(3)).block
    assert third[:, 0].tolist() == [grain, round(grain / 3), round(-2 * grain / 3)]


@pytest.mark.parametrize("of", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.25), (0.0, -1.0)])
@pytest.mark.parametrize("alpha", [0.2, 0.05])
def test_limits_of_the_bootstrap_t_by_hand(of: tuple[float, float], alpha: float) -> None:
    """(estimate* - estimate) / se* of every resample, sorted; the upper limit comes from the lowest."""
    studentised, weights = pair()
    value, replicates = 0.375, 0.375 + weights @ (of[0] * LOSS + of[1] * BASE) / 7
    pivots = np.sort((replicates - value) / errors(weights, of, 7))
    error = errors(np.ones((1, 7)), of, 7)[0]
    place = int(alpha * (RESAMPLES + 1))
    low, high = studentised.limits(value, replicates, of, alpha)
    assert low == pytest.approx(value - pivots[-place] * error, **CLOSE)
    assert high == pytest.approx(value - pivots[place - 1] * error, **CLOSE)
    for limit in (value - 2.3 * error, value - 0.4 * error):
        beyond = int(np.sum(pivots >= (value - limit) / error))
        found = studentised.p_at_most(value, replicates, of, limit)
        assert found == (1 + beyond) / (RESAMPLES + 1)
    assert studentised.p_at_most(value, replicates, of, value) == 1.0
    assert studentised.p_at_most(value, replicates, of, value * (1 + 1e-12)) == 1.0
    assert studentised.p_at_most(value, replicates, of, value * (1 - 1e-12)) == 1.0
    assert studentised.p_at_most(value, replicates, of, value + 1) == 1.0
    assert studentised.p_at_most(value * (1 + 1e-12), replicates, of, value) == 1.0
    same = np.all(weights == 1, axis=1)
    as_far = np.where(same, value + 0.25, value - 9)
    assert 0 < same.sum() < 100
    found = studentised.p_at_most(value, as_far, of, value - 0.25)
    assert found == (1 + same.sum()) / (RESAMPLES + 1)


def test_the_place_of_a_level_is_not_lost_to_rounding() -> None:
    """A level of exactly so many of RESAMPLES + 1 is that one, however its product is rounded."""
    studentised, weights = pair()
    replicates = weights @ LOSS / 7
    whole = RESAMPLES + 1
    short = [k for k in range(100, 900) if k / whole * whole < k]
    assert short
    for k in (*short[:3], 800):
        limits = [
            studentised.limits(0.0, replicates, (1.0, 0.0), p / whole) for p in (k, k + 0.9999)
        ]
        below = studentised.limits(0.0, replicates, (1.0, 0.0), (k - 0.5) / whole)
        assert limits[0] == limits[1] != below


def test_resamples_without_an_error_are_beyond_every_limit() -> None:
    """Of two sources every second resample is one of them twice; of three every ninth."""
    studentised, weights = pair(2)
    replicates = 0.1 + weights @ LOSS[:2] / 2
    assert studentised.limits(0.1, replicates, (1.0, 0.0), 0.2) == (None, None)
    share = studentised.p_at_most(0.1, replicates, (1.0, 0.0), -9.0)
    above = int(np.sum(weights[:, 1] == 2))
    assert share == (1 + above) / (RESAMPLES + 1)
    level = np.full(RESAMPLES, 0.1)
    still = int(np.sum(weights[:, 0] != 1))
    assert studentised.p_at_most(0.1, level, (1.0, 0.0), -9.0) == (1 + still) / (RESAMPLES + 1)
    three, weights = pair(3)
    still = int(np.sum(weights.max(axis=1) == 3))
    for count, expected in ((still, None), (still + 1, 0.1)):
        found = three.limits(0.1, level, (1.0, 0.0), (count + 0.5) / (RESAMPLES + 1))
        assert found == (expected, expected)
    replicates = 0.1 + weights @ LOSS[:3] / 3
    low, high = three.limits(0.1, replicates, (1.0, 0.0), 0.2)
    assert low is not None
    assert high is not None
    above, below = (int(np.sum(weights[:, at] == 3)) for at in (1, 0))
    assert 100 < below < 200
    for count, side in ((above + int(np.sum(weights[:, 2] == 3)), 0), (below, 1)):
        at, before = (
            three.limits(0.1, replicates, (1.0, 0.0), (place + 0.5) / (RESAMPLES + 1))[side]
            for place in (count + 1, count)
        )
        assert at is not None
        assert before is None


def test_resamples_that_leave_the_sum_undefined_are_beyond_every_limit() -> None:
    studentised, weights = pair()
    replicates = weights @ LOSS / 7
    replicates[::4] = np.nan
    low, high = studentised.limits(0.0, replicates, (1.0, 0.0), 0.26)
    assert low is not None
    assert high is not None
    assert low < 0 < high
    assert studentised.limits(0.0, replicates, (1.0, 0.0), 0.25) == (None, None)
    assert studentised.p_at_most(0.0, replicates, (1.0, 0.0), -99.0) == 1001 / (RESAMPLES + 1)


def test_the_least_p_value_of_the_bootstrap_t() -> None:
    """One of the resamples and those that show nothing: undefined ones, and those beyond every limit."""
    studentised, weights = pair()
    replicates = weights @ LOSS / 7
    of = (1.0, 0.0)
    assert studentised.least_p(0.0, replicates, of) == 1 / (RESAMPLES + 1)
    replicates[::40] = np.nan
    assert studentised.least_p(0.0, replicates, of) == 101 / (RESAMPLES + 1)
    some = errors(weights, of, 7)[~np.isnan(replicates)]
    pivots = (replicates[~np.isnan(replicates)] - 0.1) / some
    error = errors(np.ones((1, 7)), of, 7)[0]
    beyond = int(np.sum(pivots >= 0.1 / error))
    assert beyond > 101
    assert studentised.p_at_most(0.1, replicates, of, 0.0) == (1 + beyond) / 3901
    two, weights = pair(2)
    replicates = 0.1 + weights @ LOSS[:2] / 2
    above = int(np.sum(weights[:, 1] == 2))
    assert two.least_p(0.1, replicates, of) == (1 + above) / (RESAMPLES + 1)
    alike = replace(two, scales=(0.0, 1.0))
    assert alike.least_p(0.1, replicates, of) == 1 / (RESAMPLES + 1)
    assert replace(two, units=1).least_p(0.1, replicates, of) == 1.0


def test_levels_and_sources_that_are_too_few() -> None:
    studentised, weights = pair()
    replicates = weights @ LOSS / 7
    first, below = 1.001 / (RESAMPLES + 1), 0.999 / (RESAMPLES + 1)
    assert None not in studentised.limits(0.0, replicates, (1.0, 0.0), first)
    assert studentised.limits(0.0, replicates, (1.0, 0.0), below) == (None, None)
    one = replace(studentised, units=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert one.limits(0.0, replicates, (1.0, 0.0), 0.1) == (None, None)
        assert one.p_at_most(0.0, replicates, (1.0, 0.0), -9.0) == 1.0
    alike = replace(studentised, scales=(0.0, 1.0), units=2)
    assert alike.limits(0.5, np.full(RESAMPLES, 0.5), (1.0, 0.0), 0.1) == (0.5, 0.5)
    assert alike.p_at_most(0.5, np.full(RESAMPLES, 0.5), (1.0, 0.0), 0.4) == 1 / (RESAMPLES + 1)
    assert alike.p_at_most(0.5, np.full(RESAMPLES, 0.5), (1.0, 0.0), 0.5) == 1.0


def test_influence_of_deleting_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are deleted at once; sources that are no members count among the units."""
    values = np.array([3.0, 5.0, 7.0, 11.0, 0.0])

    def mean(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = (values @ weights) / weights[:4].sum(axis=0)
        return found

    without = [6.5 - (26 - one) / 3 for one in values[:4]]
    for at_once in (1, 5, 10, 14, 15, 250_000):
        monkeypatch.setattr(module, "_DELETED_AT_ONCE", at_once)
        found = statistic_influence(mean, np.arange(4), 5)
        assert found == pytest.approx([4 * one for one in without] + [0.0], **CLOSE)
    monkeypatch.undo()
    shapes = []

    def seen(weights: np.ndarray) -> np.ndarray:
        shapes.append(weights.shape)
        return weights[0]

    statistic_influence(seen, np.arange(600), 1000)
    assert shapes == [(1000, 1), (1000, 250), (1000, 250), (1000, 100)]
    ratio = ratio_influence(np.array([1, 2, 0]), np.array([2, 4, 1]))
    assert ratio == pytest.approx([2 * (3 / 7 - each) for each in (2 / 5, 1 / 3, 3 / 6)], **CLOSE)
    assert np.isnan(ratio_influence(np.array([0, 1]), np.array([0, 3]))).tolist() == [False, True]
    assert ratio_influence(np.array([1, 1]), np.array([3, 1])).tolist() == [-0.5, 0.5 - 1 / 3]
    assert module.MOST_SOURCES == 1000


def arm(value: float, seed: int, **more: Any) -> Replicated:
    """A statistic within -1 and 1, its replicates about the value; a few are not defined."""
    rng = np.random.default_rng(seed)
    values = value + more.pop("scale", 0.06) * (rng.gamma(4, 1, RESAMPLES) - 4)
    undefined = more.pop("undefined", 2000)
    if undefined is not None:
        values[seed::undefined] = np.nan
    given = {"bounds": (-1.0, 1.0), "higher_is_better": True, "own": None, "examples": 300}
    return Replicated(statistic=value, values=values, **{**given, **more})


def shown_of(one: ResampledComparison) -> np.ndarray:
    """A baseline that is not defined shows nothing; a candidate that is not is the worst."""
    worst = np.nan_to_num(one.mine.raw(), nan=one.mine.worst)
    return np.subtract(one.base.raw(), worst)


def losses(one: ResampledComparison, undefined: float) -> np.ndarray:
    found = one.base.raw() - one.mine.raw()
    return np.where(np.isnan(found), undefined, found)


def ends(low: float | None, high: float | None, reach: float) -> tuple[float, float]:
    assert low is not None
    assert high is not None
    return rounded(max(-reach, min(reach, low))), rounded(max(-reach, min(reach, high)))


def told(test: MarginTest) -> tuple[float | None, float | None]:
    return test.low, test.high


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("differing", [0, 19, 20])
def test_the_interval_of_a_loss(higher: bool, differing: int) -> None:
    """Undefined resamples are the worst for its upper end; a baseline's show no loss. Noise widens it; few
    differing units guard its upper end.
    """
    near: dict[str, Any] = {"scale": 0.025, "bounds": (0.0, 1.0)}
    base = arm(
        0.7, 1, higher_is_better=higher, noise=0.002, undefined=9000 if higher else None, **near
    )
    mine = arm(
        0.68, 2, higher_is_better=higher, noise=0.003, undefined=None if higher else 9000, **near
    )
    one = ResampledComparison(base=base, mine=mine, units=20, differing=differing, moved=5)
    sign = 1 if higher else -1
    assert one.loss == pytest.approx(sign * 0.02, **CLOSE)
    shown = shown_of(one)
    low = lower_limit(shown, 20, 0.05)
    high = upper_limit(losses(one, 1.0), 20, 0.05)
    assert low is not None
    assert high is not None
    if differing:
        low, high = low - 0.003, high + 0.002
    test = one.drop_test(0.03, 0.05)
    assert (test.kind, test.limit) == ("drop", 0.03)
    assert told(test) == pytest.approx(ends(low, high, 1.0), rel=1e-9)
    assert test.p_harm == rounded(p_at_most(shown, 20, 0.03 + 0.003))
    assert test.p_plain == rounded(plain_p(shown, 0.03))
    assert test.p_least == rounded(least_p(20, 1 if higher else 0))
    assert (one.examples, one.baseline, one.candidate, one.changed) == (300, 0.7, 0.68, 5)
    assert one.spread == pytest.approx(math.sqrt(20) * np.nanstd(shown), rel=1e-9)


@pytest.mark.parametrize("ratio", [1.25, 3.0])
def test_the_interval_of_errors(ratio: float) -> None:
    """Loss less what more errors allow, resample by resample, moved to the limit. Ratios of sums are
    defined as 0 where they are not, which then counts as nothing but errors.
    """
    base, mine = arm(0.7, 1, noise=0.002, undefined=9000), arm(0.66, 2, noise=0.003)
    base = replace(base, values=np.nan_to_num(base.values, nan=0.7))
    one = ResampledComparison(base=base, mine=mine, units=60, differing=40)
    allowed, limit = (ratio - 1) * (1.0 - base.raw()), (ratio - 1) * (1.0 - 0.7)
    lowest, highest = shown_of(one) - allowed, losses(one, 2.0) - allowed
    low, high = lower_limit(lowest, 60, 0.05), upper_limit(highest, 60, 0.05)
    assert low is not None
    assert high is not None
    test = one.error_test(ratio, 0.05)
    assert (test.kind, test.limit) == ("errors", rounded(limit))
    expected = ends(limit + low - 0.003, limit + high + ratio * 0.002, 2.0)
    assert told(test) == pytest.approx(expected, rel=1e-9)
    assert test.p_harm == rounded(p_at_most(lowest, 60, 0.003))
    assert test.p_harm > 0.01


@pytest.mark.parametrize("every", [25, 2])
def test_a_baseline_that_is_not_defined_allows_no_errors(every: int) -> None:
    """Such a resample may have lost the whole range, less nothing; it was no number, and moved the limit."""
    base, mine = arm(0.7, 1, undefined=every), arm(0.69, 2, undefined=None)
    one = ResampledComparison(base=base, mine=mine, units=60, differing=40)
    allowed = 0.25 * (1.0 - base.raw())
    lowest = shown_of(one) - allowed
    highest = np.where(np.isnan(lowest), 2.0, lowest)
    test = one.error_test(1.25, 0.05)
    low, high = shown_limit(lowest, 60, 0.05), upper_limit(highest, 60, 0.05)
    assert (
        test.p_harm == rounded(p_at_most(lowest, 60, 0.0)) > (1 + 3999 // every) / (RESAMPLES + 1)
    )
    assert test.low == (None if low is None else rounded(0.075 + low))
    assert test.high == (None if high is None else rounded(min(2.0, 0.075 + high)))
    assert not test.holds


@pytest.mark.parametrize("units", [7, 1])
def test_sources_are_compared_by_the_bootstrap_t(units: int) -> None:
    """Limits and p-values are the Studentised's, of the loss, and of the loss and the errors allowed."""
    known, _ = pair()
    known = replace(known, units=units)
    base, mine = arm(0.7, 1, noise=0.002), arm(0.66, 2, noise=0.003)
    one = ResampledComparison(base=base, mine=mine, units=60, differing=40, studentised=known)
    with np.errstate(divide="ignore", invalid="ignore"):
        drop, errors_ = one.drop_test(0.03, 0.05), one.error_test(1.25, 0.05)
    if units == 1:
        assert told(drop) == told(errors_) == (None, None)
        return
    raw, loss = base.raw() - mine.raw(), 0.7 - 0.66
    low, high = known.limits(loss, raw, (1.0, 0.0), 0.05)
    assert low is not None
    assert high is not None
    assert told(drop) == pytest.approx(ends(low - 0.003, high + 0.002, 2.0), rel=1e-9)
    assert drop.p_harm == rounded(known.p_at_most(loss, raw, (1.0, 0.0), 0.033))
    assert drop.p_plain == rounded(known.p_at_most(loss, raw, (1.0, 0.0), 0.03))
    assert drop.p_least == rounded(known.least_p(loss, raw, (1.0, 0.0)))
    raw = raw - 0.25 * (1.0 - base.raw())
    excess, weights = loss - 0.25 * 0.3, (1.0, 0.25)
    low, high = known.limits(excess, raw, weights, 0.05)
    assert low is not None
    assert high is not None
    expected = ends(0.075 + low - 0.003, 0.075 + high + 1.25 * 0.002, 2.0)
    assert told(errors_) == pytest.approx(expected, rel=1e-9)
    assert errors_.p_harm == rounded(known.p_at_most(excess, raw, weights, 0.003))


def test_errors_of_a_clear_loss_are_harm_by_the_bootstrap_t() -> None:
    """The p-value is of more than the noise, in the sum of loss and errors."""
    known, _ = pair()
    known = replace(known, scales=(known.scales[0] / 50, known.scales[1] / 50))
    base, mine = arm(0.7, 1), arm(0.5, 2, noise=0.1)
    one = ResampledComparison(base=base, mine=mine, units=60, differing=40, studentised=known)
    raw = base.raw() - mine.raw() - 0.25 * (1.0 - base.raw())
    test = one.error_test(1.25, 0.05)
    expected = rounded(known.p_at_most(0.2 - 0.075, raw, (1.0, 0.25), 0.1))
    assert test.p_harm == expected
    assert 0.01 < expected < 0.9


@pytest.mark.parametrize("higher", [True, False])
def test_few_differing_units_do_not_rule_out_more(higher: bool) -> None:
    """z^2 / (n + z^2) of the units, twice for a statistic, lost whole, until twenty of them differ."""
    near: dict[str, Any] = {"scale": 0.002, "undefined": None, "higher_is_better": higher}
    base, mine = arm(0.7, 1, noise=0.002, **near), arm(0.68, 2, **near)
    one = ResampledComparison(base=base, mine=mine, units=40, differing=19)
    z2 = stats.norm.isf(0.05) ** 2
    guard = (base.goodness - base.worst) * 2 * z2 / (40 + z2)
    plain = upper_limit(base.raw() - mine.raw(), 40, 0.05)
    assert plain is not None
    assert plain < guard
    for test in (one.drop_test(0.1, 0.05), replace(one, differing=1).drop_test(0.1, 0.05)):
        assert test.high == pytest.approx(guard + 0.002, rel=1e-8)
    assert replace(one, differing=20).drop_test(0.1, 0.05).high == rounded(plain + 0.002)


def test_a_guard_is_never_more_than_losing_all() -> None:
    """With two units z^2 / (n + z^2), twice, is more than 1; the interval stays within the reach."""
    known, _ = pair()
    base = arm(0.7, 1)
    one = ResampledComparison(base=base, mine=base, units=2, differing=0, studentised=known)
    assert one.drop_test(0.1, 0.05).high == rounded(0.7 + 1.0)
    wide = replace(base, bounds=(-1.0, 0.8))
    assert replace(one, base=wide, mine=wide).drop_test(0.1, 0.05).high == rounded(0.7 + 1.0)
    narrow = replace(base, bounds=(-1.0, 0.6))
    assert replace(one, base=narrow, mine=narrow).drop_test(0.1, 0.05).high == 1.6


def test_marks_tell_what_was_lost_and_gained() -> None:
    base, mine = (
        arm(0.7, 1, own=np.array([1, 2, 3, 4, 5, 0, 7])),
        arm(0.7, 1, own=np.array([2, 1, 3, 9, 5, 1, 7])),
    )
    one = ResampledComparison(base=base, mine=mine, units=20, differing=4, moved=4)
    assert (one.lost, one.gained, one.changed, one.trusted) == (1, 3, None, True)
    none = replace(one, base=arm(0.7, 1), units=19)
    assert (none.lost, none.gained, none.changed, none.trusted) == (0, 0, 4, False)
    half = replace(one, mine=arm(0.7, 1))
    assert (half.lost, half.gained, half.changed) == (0, 0, None)
    few = ResampledComparison(base=base, mine=mine, units=1, differing=0)
    assert few.moved == 0
    assert told(few.drop_test(0.1, 0.05)) == (None, None)


def test_values_are_told_with_nine_digits() -> None:
    base, mine = arm(1 / 3, 1), arm(2 / 3, 1)
    one = ResampledComparison(base=base, mine=mine, units=20, differing=4)
    assert (one.baseline, one.candidate) == (0.333333333, 0.666666667)
    assert ResampledLevel(mine=mine, units=20).value == 0.666666667


@pytest.mark.parametrize("higher", [True, False])
def test_the_interval_of_one_arm(higher: bool) -> None:
    """What is not defined counts as the worst for the lower and the best for the upper limit."""
    mine = arm(0.7, 3, higher_is_better=higher)
    one = ResampledLevel(mine=mine, units=60)
    raw = mine.raw()
    low, high = (np.where(np.isnan(raw), end, raw) for end in (mine.worst, mine.best))
    limits = lower_limit(low, 60, 0.05), upper_limit(high, 60, 0.05)
    assert one.interval(0.05) == ends(*limits, 1.0)
    floor = mine.goodness + 0.01
    expected = rounded(p_at_most(-np.where(np.isnan(raw), mine.best, raw), 60, -floor))
    assert one.p_below(floor) == expected
    assert 0.001 < expected < 0.6
    assert (one.examples, one.value, one.trusted) == (300, 0.7, True)
    assert not replace(one, units=19).trusted
    assert replace(one, units=20).trusted
    assert replace(one, units=1).interval(0.05) == (None, None)
    narrow = replace(one, mine=replace(mine, bounds=(0.699, 0.701)))
    sign = 1 if higher else -1
    assert narrow.interval(0.05) == tuple(sorted((sign * 0.699, sign * 0.701)))


def test_the_interval_of_one_arm_over_sources() -> None:
    """By the bootstrap-t of its own goodness; below a floor by the mirrored one."""
    known, _ = pair()
    known = replace(known, scales=(known.scales[0], known.scales[1] / 40))
    mine = arm(0.7, 3)
    one = ResampledLevel(mine=mine, units=60, studentised=known)
    low, high = known.limits(0.7, mine.raw(), (0.0, 1.0), 0.05)
    assert one.interval(0.05) == ends(low, high, 1.0)
    expected = rounded(known.p_at_most(-0.7, -mine.raw(), (0.0, -1.0), -0.71))
    assert one.p_below(0.71) == expected
    assert 0.01 < expected < 0.9
