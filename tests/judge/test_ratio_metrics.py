"""Metrics of sums, and the bootstrap in whole numbers that judges them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reprune.core.errors import UnknownName
from reprune.judge.bootstrap import (
    RESAMPLES,
    lower_limit,
    p_at_most,
    resampled_sums,
    upper_limit,
)
from reprune.judge.metrics import METRICS, get_metric
from reprune.judge.ratios import Resampled
from reprune.judge.resampled import ResampledComparison as RatioComparison
from reprune.judge.resampled import ResampledLevel as RatioLevel


def resampled(columns: np.ndarray, seed: str = "s", higher: bool = True) -> list[Resampled]:
    """Arms out of (units, 2 * arms) columns of numerators and denominators."""
    sums = resampled_sums([columns.astype(np.int64)], seed)[0]
    return [
        Resampled(
            numerator=columns[:, at],
            denominator=columns[:, at + 1],
            numerator_sums=sums[:, at],
            denominator_sums=sums[:, at + 1],
            higher_is_better=higher,
        )
        for at in range(0, columns.shape[1], 2)
    ]


def compare(columns: np.ndarray, higher: bool = True) -> RatioComparison:
    base, mine = resampled(columns, higher=higher)
    differing = int(np.count_nonzero(np.any(columns[:, :2] != columns[:, 2:], axis=1)))
    return RatioComparison(base=base, mine=mine, units=len(columns), differing=differing)


def dice(units: int, loss: float, seed: int = 1, sd: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(seed)
    whole = rng.integers(800, 1200, units)
    base = np.clip(0.9 + rng.normal(0, 0.02, units), 0, 1)
    mine = np.clip(base - loss - rng.normal(0, sd, units), 0, 1)
    parts = [np.round(base * whole), whole, np.round(mine * whole), whole]
    return np.stack(parts, axis=1).astype(np.int64)


def test_metrics_by_hand() -> None:
    """Accuracy is a mean, Dice a ratio of sums; an unknown name names the nearest."""
    assert get_metric("accuracy").value({"correct": [1, 0, 1, 1]}) == 0.75
    records = {"numerator": [2, 0, 6], "denominator": [4, 2, 6]}
    assert {get_metric(name).value(records) for name in ("dice", "f1")} == {8 / 12}
    assert get_metric("iou").missing(records) == ["intersection", "union"]
    assert get_metric("accuracy").form == "binary"
    less = {name for name in METRICS if not get_metric(name).higher_is_better}
    assert less == {"ece", "mae", "mse"}
    with pytest.raises(UnknownName, match="accuracy"):
        get_metric("acuracy")


def test_resamples_are_the_same_for_ever() -> None:
    """Pinned sums: the stream is PCG64's own, and does not change with numpy or the processor."""
    columns = np.arange(12, dtype=np.int64).reshape(6, 2)
    sums = resampled_sums([columns], "pinned")[0]
    assert sums.shape == (RESAMPLES, 2)
    assert sums[:3].tolist() == resampled_sums([columns], "pinned")[0][:3].tolist()
    assert (sums[:, 1] - sums[:, 0]).tolist() == [6] * RESAMPLES  # each resample draws six units
    assert sums[:4, 0].tolist() == PINNED
    assert resampled_sums([columns], "other")[0][:4, 0].tolist() != PINNED


PINNED = [40, 18, 24, 34]


def test_resamples_of_many_units_are_made_in_parts() -> None:
    """A part's border changes no weight: columns of one are drawn as often as there are units."""
    ones = np.ones((1500, 1), dtype=np.int64)
    assert set(resampled_sums([ones], "s")[0][:, 0].tolist()) == {1500}
    marked = np.zeros((1500, 2), dtype=np.int64)
    marked[7, 0] = marked[7, 1] = 1
    sums = resampled_sums([marked], "s")[0]
    assert np.array_equal(sums[:, 0], sums[:, 1])
    assert sums[:, 0].mean() == pytest.approx(1.0, abs=0.1)
    assert sums[:, 0].var() == pytest.approx(1.0, abs=0.15)
    assert len(set(map(tuple, np.split(sums[:, 0], 4)))) == 4


def test_sums_that_would_not_be_exact_are_refused() -> None:
    """Beyond 2**53 a sum of doubles is no whole number."""
    with pytest.raises(OverflowError):
        resampled_sums([np.full((2, 1), 2**52, dtype=np.int64)], "s")
    assert resampled_sums([np.full((2, 1), 2**51, dtype=np.int64)], "s")[0][0, 0] == 2**52


def test_limits_of_a_mean_are_those_of_student() -> None:
    """For a symmetric mean of 25 units the limits are about t limits, on either side."""
    rng = np.random.default_rng(3)
    units = 25
    values = rng.normal(0, 1, units)
    values = np.concatenate([values, -values])[:, None] * 1e6
    sums = resampled_sums([np.round(values).astype(np.int64)], "s")[0][:, 0] / 1e6 / 50
    deviation = math.sqrt(float((values[:, 0] / 1e6).var()) / 49)
    expected = 2.0096 * deviation  # t with 49 degrees of freedom, 2.5 %
    assert lower_limit(sums, 50, 0.025) == pytest.approx(-expected, rel=0.08)
    assert upper_limit(sums, 50, 0.025) == pytest.approx(expected, rel=0.08)
    assert p_at_most(sums, 50, 0.0) == pytest.approx(0.5, abs=0.03)
    assert p_at_most(sums, 50, -expected) == pytest.approx(0.025, abs=0.006)
    assert p_at_most(sums, 50, expected) == pytest.approx(0.975, abs=0.006)
    assert p_at_most(sums, 50, 10.0) == 1.0
    assert p_at_most(sums, 50, -10.0) == pytest.approx(0.0005, abs=0.0005)


def test_skewness_moves_both_limits_the_same_way() -> None:
    """Where rare units lose much, both limits lie further towards loss than percentiles do."""
    losses = np.zeros((60, 1), dtype=np.int64)
    losses[:6, 0] = (507, 1009, 1511, 2003, 3001, 4999)
    sums = resampled_sums([losses], "s")[0][:, 0] / 60.0
    low, high = lower_limit(sums, 60, 0.05), upper_limit(sums, 60, 0.05)
    assert low is not None
    assert high is not None
    assert low > float(np.quantile(sums, 0.05))
    assert high > float(np.quantile(sums, 0.96))
    assert p_at_most(sums, 60, low - 1e-9) <= 0.05 < p_at_most(sums, 60, low)


def test_levels_beyond_the_resamples_give_no_limit() -> None:
    """A limit that RESAMPLES or units cannot show is None, never an extreme."""
    sums = np.arange(RESAMPLES, dtype=np.float64)
    assert lower_limit(sums, 1000, 1e-4) is None
    assert lower_limit(sums, 1, 0.05) is None
    assert upper_limit(sums, 1, 0.05) is None
    assert p_at_most(sums, 1, 5.0) == 1.0
    assert lower_limit(sums, 1000, 0.05) is not None


def test_swapping_arms_mirrors_the_ratio_interval() -> None:
    """The loss of the swapped arms is the same interval, turned."""
    columns = dice(60, 0.01)
    one, two = compare(columns), compare(columns[:, [2, 3, 0, 1]])
    first, second = one.drop_test(0.02, 0.05), two.drop_test(0.02, 0.05)
    assert (first.low, first.high) == (-(second.high or 0), -(second.low or 0))
    assert (one.lost, one.gained) == (two.gained, two.lost)
    assert one.loss == -two.loss


def test_a_ratio_metric_of_which_less_is_better_turns_the_loss() -> None:
    """Then a larger value is the loss, and gains and losses change places."""
    columns = dice(60, 0.01)
    more, less = compare(columns), compare(columns, higher=False)
    assert less.loss == pytest.approx(-more.loss)
    assert (less.lost, less.gained) == (more.gained, more.lost)
    assert less.baseline == more.baseline
    errors = less.error_test(1.5, 0.05)
    assert errors.limit == pytest.approx(0.5 * more.baseline, rel=1e-6)


def test_a_clear_loss_is_harm_and_a_small_one_holds() -> None:
    """A Dice that lost 3 points breaks a margin of 1; one that lost nothing keeps it."""
    harmed = compare(dice(60, 0.03)).drop_test(0.01, 0.025)
    held = compare(dice(60, 0.0)).drop_test(0.01, 0.025)
    assert not harmed.holds
    assert harmed.p_harm < 0.001
    assert held.holds
    assert held.p_harm > 0.9


def test_errors_of_a_ratio_metric_are_compared_replicate_by_replicate() -> None:
    """25 % more errors on a Dice of .9 allows 2.5 points; the interval is centred on the loss."""
    found = compare(dice(80, 0.01))
    test = found.error_test(1.25, 0.05)
    assert test.limit == pytest.approx(0.25 * (1 - found.base.value), rel=1e-6)
    assert test.low is not None
    assert test.high is not None
    assert test.low < found.loss < test.high
    assert test.holds
    assert test.p_harm > 0.9
    assert compare(dice(80, 0.05)).error_test(1.25, 0.05).p_harm < 0.01


def test_arms_that_hardly_differ_have_not_shown_that_they_never_will() -> None:
    """Identical records on 100 units do not rule out a loss of a point; on 1,000 they do."""
    few = np.tile(dice(100, 0.0)[:, :2], (1, 2))
    many = np.tile(dice(1000, 0.0)[:, :2], (1, 2))
    assert not compare(few).drop_test(0.01, 0.025).holds
    assert compare(many).drop_test(0.01, 0.025).holds
    assert compare(few).drop_test(0.01, 0.025).p_harm == 1.0
    nearly = np.tile(dice(100, 0.0)[:, :2], (1, 2))
    nearly[:19, 2] -= 1
    assert not compare(nearly).drop_test(0.01, 0.025).holds
    nearly[:20, 2] = nearly[:20, 0] - 1
    assert compare(nearly).drop_test(0.01, 0.025).holds


def test_few_units_are_not_trusted() -> None:
    """Below 20 units a bootstrap decides nothing."""
    assert not compare(dice(19, 0.0)).trusted
    assert compare(dice(20, 0.0)).trusted
    level = resampled(dice(19, 0.0))[0]
    assert not RatioLevel(mine=level, units=19).trusted


def test_a_floor_is_judged_on_its_own_limit() -> None:
    """The limits of one arm's value, and how unlikely it is at or above a floor."""
    level = RatioLevel(mine=resampled(dice(60, 0.0))[0], units=60)
    low, high = level.interval(0.025)
    assert low is not None
    assert high is not None
    assert low < level.value < high
    assert high - low < 0.03
    assert level.p_below(0.95) < 0.001
    assert level.p_below(0.85) > 0.99
    assert level.examples == 60


def test_examples_without_a_denominator_may_be_drawn_alone() -> None:
    """A resample without any denominator may have lost everything, and shows no loss."""
    columns = np.zeros((20, 4), dtype=np.int64)
    columns[0] = (9, 10, 9, 10)
    test = compare(columns).drop_test(0.05, 0.05)
    assert (test.low, test.high) == (None, 1.0)
    assert not test.holds
    assert test.p_least > 0.3
    level = RatioLevel(mine=resampled(columns)[0], units=20)
    assert level.interval(0.05) == (0.0, 1.0)
    assert (
        Resampled(
            numerator=columns[1:, 0],
            denominator=columns[1:, 1],
            numerator_sums=columns[:0, 0],
            denominator_sums=columns[:0, 1],
            higher_is_better=True,
        ).value
        == 0.0
    )


def test_spread_is_that_of_one_unit() -> None:
    """sqrt(units) times the standard error: it stays put as units grow."""
    few, many = compare(dice(100, 0.01)).spread, compare(dice(1600, 0.01)).spread
    assert few == pytest.approx(many, rel=0.25)
    assert many == pytest.approx(0.01, rel=0.15)


@pytest.mark.slow
def test_errors_at_the_margin_of_a_ratio_stay_near_their_level() -> None:
    """Forty units, the truth at the margin: both errors stay near 5 %."""
    runs, held, harmed = 150, 0, 0
    for run in range(runs):
        test = compare(dice(40, 0.01, seed=100 + run)).drop_test(0.01, 0.05)
        held += test.holds
        harmed += test.p_harm <= 0.05
    allowed = 0.055 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert 0 < held / runs <= allowed
    assert 0 < harmed / runs <= allowed
