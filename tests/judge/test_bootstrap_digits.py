"""Limits, p-values and replicates of the bootstrap to the last digits, against scipy and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from reprune.judge import bootstrap
from reprune.judge.bootstrap import (
    EXACT,
    RESAMPLES,
    exact_mean,
    least_p,
    lower_limit,
    p_at_most,
    plain_p,
    resampled,
    resampled_sums,
    shown_limit,
    unit_weights,
    upper_limit,
)
from reprune.judge.distributions import critical, tail
from reprune.judge.numeric import halve, rounded, seed_number
from reprune.judge.percentiles import (
    Pool,
    expanded_limits,
    least_calls,
    p_within,
    percentile_of,
    pooled,
    resampled_percentiles,
    tail_ratios,
)
from reprune.judge.ratios import Resampled
from reprune.judge.replicated import Replicated
from tests.judge.test_tails import units_of

T = scipy.stats.t
NORMAL = scipy.stats.norm
# Skewed to the right, and no two alike.
SKEWED = np.exp(NORMAL.ppf((np.arange(RESAMPLES) + 0.5) / RESAMPLES) * 0.3)
FLAT = np.arange(RESAMPLES, dtype=np.float64)


def draws(seed: str, units: int) -> np.ndarray:
    """How often each unit is drawn, from the generator's raw numbers one by one."""
    bits = np.random.PCG64(seed_number(seed))
    counts = np.zeros((RESAMPLES, units), dtype=np.int64)
    for row in counts:
        for raw in bits.random_raw(units).tolist():
            row[((raw >> 32) * units) >> 32] += 1
    return counts


@pytest.mark.slow
def test_the_weights_are_counted_draws() -> None:
    """The upper halves of PCG64's numbers, scaled to the units; sums and statistics use the same ones."""
    counts = draws("x", 7)
    assert unit_weights("x", 7).tolist() == counts.tolist()
    columns = np.array([[3, 0], [0, 0], [-5, 1], [7, 2], [0, 9], [1, 1], [0, 0]])
    nothing = np.zeros((7, 1), dtype=np.int64)
    shapes = []

    def first(weights: np.ndarray) -> np.ndarray:
        shapes.append(weights.shape)
        assert weights.flags.c_contiguous
        return weights[0] - weights[6]

    (one, two), (values,) = resampled([columns, nothing], [first], 7, "x")
    assert one.tolist() == (counts @ columns).tolist()
    assert two.tolist() == (counts @ nothing).tolist()
    assert {one.dtype, two.dtype} == {np.dtype("int64")}
    assert values.tolist() == (counts[:, 0] - counts[:, 6]).tolist()
    assert shapes == [(7, RESAMPLES)]
    assert resampled_sums([columns, nothing], "x")[0].tolist() == one.tolist()


@pytest.mark.parametrize("at_once", [1, 3 * 1500 + 7, 3999 * 3, 4001 * 3])
def test_parts_of_the_draws_join(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are drawn at once, also less than one resample, it is one stream."""
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", at_once)
    counts, columns = draws("y", 3), np.array([[1, 5], [0, -2], [9, 1]])
    sums, values = resampled([columns], [lambda w: w[1]], 3, "y")
    assert sums[0].tolist() == (counts @ columns).tolist()
    assert values[0].tolist() == counts[:, 1].tolist()


def test_draws_at_once_fit_the_cache() -> None:
    """By so many numbers, whatever the units."""
    shapes: list[tuple[int, ...]] = []

    def seen(weights: np.ndarray) -> np.ndarray:
        shapes.append(weights.shape)
        return weights[0]

    resampled([], [seen], 1000, "z")
    assert shapes == [(1000, 700)] * 5 + [(1000, 500)]


def test_sums_are_refused_from_the_first_that_may_not_be_exact() -> None:
    for sign in (1, -1):
        with pytest.raises(OverflowError):
            resampled_sums([np.ones((2, 1)), np.full((2, 1), sign * EXACT // 2)], "s")
        assert resampled_sums([np.full((2, 1), sign * (EXACT // 2 - 1))], "s")[0][0, 0] < EXACT
    assert EXACT == 2**53
    assert resampled_sums([np.zeros((3, 0), dtype=np.int64)], "s")[0].shape == (RESAMPLES, 0)


def skewness(values: np.ndarray) -> float:
    return rounded(float(scipy.stats.skew(values)))


def bca_lower(values: np.ndarray, units: int, alpha: float) -> float | None:
    """Efron's BCa limit with bias and acceleration both a sixth of the skewness, at Student's widened z;
    None where the correction or the rank among RESAMPLES + 1 leaves what there is.
    """
    a = -skewness(values) / 6
    z = a + math.sqrt(units / (units - 1)) * T.isf(alpha, units - 1)
    if a * z >= 1:
        return None
    rank = math.floor(NORMAL.sf(a + z / (1 - a * z)) * (RESAMPLES + 1) + 1e-6)
    return float(np.sort(values)[rank - 1]) if 0 < rank <= RESAMPLES else None


def bca_p(values: np.ndarray, units: int, limit: float) -> float:
    """The level whose limit that is, 1 where no level is; not below that of all but one resample."""
    a = -skewness(values) / 6
    beyond = NORMAL.isf((1 + np.sum(values <= limit)) / (RESAMPLES + 1)) - a
    if a * beyond <= -1:
        return 1.0
    z = min(beyond / (1 + a * beyond) - a, NORMAL.isf(1 / (RESAMPLES + 1)))
    return float(T.sf(z * math.sqrt((units - 1) / units), units - 1))


def far(share: int) -> np.ndarray:
    """Some of the resamples far above the others, of which no two are alike."""
    return np.array(
        [1000.0 + i for i in range(share)] + [i / RESAMPLES for i in range(RESAMPLES - share)]
    )


@pytest.mark.parametrize("units", [2, 3, 20, 400])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01])
@pytest.mark.parametrize(
    "values", [SKEWED, FLAT, *map(far, (1, 8, 16, 17, 18, 19, 20, 25, 60, 400))]
)
def test_limits_are_bca_order_statistics(values: np.ndarray, units: int, alpha: float) -> None:
    """On both sides, from no skewness to more than can be corrected."""
    assert lower_limit(values, units, alpha) == bca_lower(values, units, alpha)
    expected = bca_lower(-values, units, alpha)
    assert upper_limit(values, units, alpha) == (None if expected is None else -expected)


@pytest.mark.parametrize("units", [2, 3, 20, 400])
@pytest.mark.parametrize("values", [SKEWED, FLAT, far(1), far(30), far(200), far(800)])
@pytest.mark.parametrize("place", [0, 40, 900, 2000, 3700, 3998])
def test_p_values_turn_bca_round(values: np.ndarray, units: int, place: int) -> None:
    for some in (values, -values):
        limit = float(np.sort(some)[place])
        assert p_at_most(some, units, limit) == pytest.approx(bca_p(some, units, limit), rel=1e-7)


def test_p_values_at_the_ends() -> None:
    """Never 0; all at or below it, or a single unit, say nothing."""
    lowest = NORMAL.isf(1 / (RESAMPLES + 1)) * math.sqrt(399 / 400)
    assert p_at_most(FLAT, 400, -1.0) == pytest.approx(T.sf(lowest, 399), rel=1e-9)
    assert p_at_most(FLAT, 400, RESAMPLES) == 1.0
    assert p_at_most(FLAT, 1, -1.0) == 1.0
    assert p_at_most(FLAT, 2, -1.0) < 1.0
    assert lower_limit(FLAT, 1, 0.2) is None
    assert lower_limit(FLAT, 2, 0.2) is not None


@pytest.mark.parametrize("values", [SKEWED, FLAT, -SKEWED, far(1), -far(1), -far(60)])
def test_no_skewness_is_corrected_where_there_is_no_tail(values: np.ndarray) -> None:
    """All above the limit: the smallest p-value, by Student's t, whatever they look like; and the least of
    them is the limit where skewness leaves none.
    """
    least = float(T.sf(NORMAL.isf(1 / (RESAMPLES + 1)) * math.sqrt(19 / 20), 19))
    assert least_p(20) == pytest.approx(least, rel=1e-9)
    below = float(values.min()) - 1e-9
    assert p_at_most(values, 20, below) == least_p(20)
    for alpha in (least_p(20), least_p(20) * (1 - 1e-12), 0.2):
        limit = lower_limit(values, 20, alpha)
        assert shown_limit(values, 20, alpha) == (values.min() if limit is None else limit)
    small = least * (1 - 1e-7)
    assert shown_limit(values, 20, small) == lower_limit(values, 20, small)
    assert lower_limit(-far(60), 20, 0.01) is None
    assert shown_limit(-far(60), 20, 0.01) == (-far(60)).min()
    assert (least_p(1), least_p(20, RESAMPLES), p_at_most(values, 1, below)) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("undefined", [1, 30, 400])
def test_undefined_resamples_show_nothing(undefined: int) -> None:
    """They are no part of the tail, nor of the skewness; the p-value is at least their share of all."""
    values = SKEWED.copy()
    values[:undefined] = np.nan
    rest = values[undefined:]
    share = (1 + undefined) / (RESAMPLES + 1)
    least = float(T.sf(NORMAL.isf(share) * math.sqrt(59 / 60), 59))
    assert least_p(60, undefined) == pytest.approx(least, rel=1e-9)
    assert p_at_most(values, 60, 0.0) == least_p(60, undefined)
    limit = float(np.sort(rest)[1000])
    a = -skewness(rest) / 6
    beyond = NORMAL.isf(1002 / (len(rest) + 1)) - a
    z = (beyond / (1 + a * beyond) - a) * math.sqrt(59 / 60)
    assert p_at_most(values, 60, limit) == pytest.approx(T.sf(z, 59), rel=1e-7)
    assert p_at_most(values, 60, float(np.sort(rest)[0])) >= least_p(60, undefined)
    assert plain_p(values, limit) == 1002 / (len(rest) + 1)
    z = a + math.sqrt(60 / 59) * T.isf(0.05, 59)
    rank = int(NORMAL.sf(a + z / (1 - a * z)) * (RESAMPLES + 1))
    expected = rest[rank - 1 - undefined] if rank > undefined else None
    assert lower_limit(values, 60, 0.05) == expected
    nothing = np.full(RESAMPLES, np.nan)
    assert lower_limit(nothing, 60, 0.2) is None
    assert shown_limit(nothing, 60, 0.2) is None
    assert p_at_most(nothing, 60, 9.0) == plain_p(nothing, 9.0) == 1.0


def test_a_level_beyond_the_resamples_gives_no_limit() -> None:
    """A skewness that moves the lower limit above all resamples leaves none, and does not break."""
    ends = [bca_lower(far(share), 400, 0.025) for share in range(10, 40)]
    assert [lower_limit(far(share), 400, 0.025) for share in range(10, 40)] == ends
    assert ends[0] is None
    assert ends[-1] is not None


def test_what_hardly_varies_is_not_skewed() -> None:
    """Below a variance of 1e-24 it is rounding; above it, it is the data's."""
    for scale, some in ((1e-14, False), (1e-9, True)):
        values = (SKEWED - SKEWED.mean()) * scale
        like = SKEWED if some else FLAT
        place = like.tolist().index(bca_lower(like, 20, 0.05))
        assert lower_limit(values, 20, 0.05) == values[place]
    assert exact_mean(np.array([1e100, 1.0, -1e100, 1.0])) == 0.5


@pytest.mark.parametrize("units", [2, 8, 60])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.004])
def test_percentile_limits_are_hesterbergs(units: int, alpha: float) -> None:
    share = NORMAL.sf(math.sqrt(units / (units - 1)) * T.isf(alpha, units - 1))
    rank = int(share * (RESAMPLES + 1))
    turned = SKEWED[::-1].copy()
    ends = (None, None) if rank < 1 else (SKEWED[rank - 1], SKEWED[-rank])
    assert expanded_limits(turned, units, alpha) == ends
    assert expanded_limits(turned, 1, alpha) == (None, None)


@pytest.mark.parametrize("units", [2, 8, 60])
@pytest.mark.parametrize("place", [0, 100, 2500, 3998])
def test_p_values_of_percentiles(units: int, place: int) -> None:
    """A limit counts what lies at it, and what rounding puts a hair above it."""
    limit = float(SKEWED[place])
    z = NORMAL.isf((place + 2) / (RESAMPLES + 1)) * math.sqrt((units - 1) / units)
    expected = pytest.approx(T.sf(z, units - 1), rel=1e-8)
    for one in (limit, limit * (1 - 5e-10)):
        assert p_within(SKEWED, units, one) == expected
    if place:
        assert p_within(SKEWED, units, limit * (1 - 2e-9)) != expected
    assert p_within(SKEWED, units, 100.0) == p_within(SKEWED, 1, limit) == 1.0
    found = p_within(SKEWED, units, limit)
    assert found == rounded(found)


def test_percentiles_of_calls_by_hand() -> None:
    """Nearest rank: of ten calls p90 is the ninth, p95 the tenth, p50 the fifth, p1 the first."""
    calls = np.arange(10, 20)
    pool = Pool(calls=calls, owners=np.zeros(10, dtype=np.int64), units=1)
    assert [percentile_of(pool, p) for p in (1, 10, 11, 50, 90, 91, 99)] == [
        10,
        10,
        11,
        14,
        18,
        19,
        19,
    ]


@pytest.mark.parametrize("calls", [1, 5, 127, 128, 129, 300])
def test_resampled_percentiles_are_those_of_the_drawn_calls(calls: int) -> None:
    rng = np.random.default_rng(calls)
    values, owners = np.sort(rng.integers(0, 90, calls)), rng.integers(0, 4, calls)
    pool = Pool(calls=values, owners=owners, units=4)
    weights = rng.integers(0, 3, (60, 4)).astype(np.float64)
    weights[:, owners[0]] += 1
    for percentile in (1, 50, 90, 99):
        found = resampled_percentiles(pool, percentile, weights)
        assert found.dtype == np.dtype("int64")
        for row, one in zip(weights, found, strict=True):
            drawn = np.sort(np.repeat(values, row[owners].astype(int)))
            assert one == drawn[math.ceil(Fraction(percentile * len(drawn), 100)) - 1]


def test_ratios_of_percentiles_share_their_draws() -> None:
    """Of pooled calls of both blocks; limits and p-values by their own replicates, rounded."""
    rng = np.random.default_rng(5)
    calls = {arm: rng.integers(1000, 9000, (9, 8)) for arm in ("candidate", "dense", "champion")}
    units = units_of(**calls)
    weights = unit_weights("seed", 9)
    pools = {arm: pooled(units, arm) for arm in calls}
    for arm, pool in pools.items():
        assert pool.calls.tolist() == np.sort(calls[arm].reshape(-1)).tolist()
        assert calls[arm][pool.owners[5]].tolist().count(pool.calls[5]) >= 1
        assert np.bincount(pool.owners).tolist() == [8] * 9
        assert pool.units == 9
        assert pool.calls.dtype == pool.owners.dtype == np.dtype("int64")
    limits = [("champion", 1.0), ("dense", 0.9)]
    found = tail_ratios(units, 80, limits, 0.05, "seed")
    for one, (arm, limit) in zip(found, limits, strict=True):
        mine, base = percentile_of(pools["candidate"], 80), percentile_of(pools[arm], 80)
        drawn = [resampled_percentiles(pools[name], 80, weights) for name in ("candidate", arm)]
        replicates = drawn[0] / drawn[1]
        low, high = expanded_limits(replicates, 9, 0.05)
        assert low is not None
        assert high is not None
        assert one.ratio == rounded(mine / base)
        assert (one.low, one.high) == (rounded(low), rounded(high))
        assert one.p_harm == p_within(replicates, 9, limit)
        assert one.values == (mine, base)
        assert {type(each) for each in one.values} == {float}
    none = tail_ratios(units[:1], 80, limits, 0.05, "seed")
    assert [(one.low, one.high, one.p_harm) for one in none] == [(None, None, 1.0)] * 2


def test_equal_calls_keep_the_order_of_their_units() -> None:
    calls = np.random.default_rng(8).integers(0, 3, (300, 4))
    pool = pooled(units_of(candidate=calls), "candidate")
    owners = np.repeat(np.arange(300), 4)
    order = np.lexsort((owners, calls.reshape(-1)))
    assert pool.owners.tolist() == owners[order].tolist()
    thousand = Pool(calls=np.arange(1000), owners=np.zeros(1000, dtype=np.int64), units=1)
    assert [percentile_of(thousand, p) for p in (1, 50, 99)] == [9, 499, 989]


@pytest.mark.parametrize("place", [1, 2, 700])
def test_the_rank_of_a_percentile_limit_is_not_lost_to_rounding(place: int) -> None:
    """Below a whole rank is the one before, unless by less than nine digits tell."""
    for share, rank in ((1 + 1e-7, place), (1 - 1e-7, place - 1), (1 - 1e-12, place)):
        alpha = halve(lambda a, w=place * share: level_of(a) < w, 1e-9, 0.45)
        ends = (SKEWED[rank - 1], SKEWED[-rank]) if rank else (None, None)
        assert expanded_limits(SKEWED, 30, alpha) == ends


def level_of(alpha: float) -> float:
    return tail(math.sqrt(30 / 29) * critical(alpha, 29), None) * (RESAMPLES + 1)


def test_what_lies_at_the_limit_is_within_it() -> None:
    for at in (1.0, 1 + 1e-9):
        replicates = np.where(FLAT < 100, at, 2.0)
        z = NORMAL.isf(101 / (RESAMPLES + 1)) * math.sqrt(59 / 60)
        assert p_within(replicates, 60, 1.0) == pytest.approx(T.sf(z, 59), rel=1e-8)


def test_calls_that_a_percentile_takes() -> None:
    """scipy's binomial: at most one of so many beyond it has a chance of 1 %, and of one less more."""
    for percentile, calls in ((90, 64), (95, 130), (99, 662), (50, 11)):
        assert least_calls(percentile) == calls
        beyond = 1 - percentile / 100
        chances = [scipy.stats.binom.cdf(1, n, beyond) for n in (calls - 1, calls)]
        assert chances[1] <= 0.01 < chances[0]


def test_ratios_by_hand() -> None:
    """Values, replicates, where they are defined, and each example's own mark."""
    parts = {
        "numerator": np.array([1, 0, 3]),
        "denominator": np.array([1, 0, 4]),
        "numerator_sums": np.array([4, 0, 1]),
        "denominator_sums": np.array([6, 0, 1]),
    }
    more = Resampled(**parts, higher_is_better=True)
    less = Resampled(**parts, higher_is_better=False)
    assert (more.examples, more.value, more.goodness) == (3, 4 / 5, 4 / 5)
    assert (less.value, less.goodness) == (4 / 5, 1 - 4 / 5)
    assert (more.best, more.worst, more.leverage, more.noise) == (1.0, 0.0, 1.0, 0.0)
    for one, expected in ((more, [4 / 6, 0.0, 1.0]), (less, [1 - 4 / 6, 1.0, 0.0])):
        values, defined = one.replicates()
        assert values.tolist() == expected
        assert defined.tolist() == [True, False, True]
        raw = one.raw()
        assert np.isnan(raw[1])
        assert raw[[0, 2]].tolist() == [expected[0], expected[2]]
    assert more.marks().tolist() == [1.0, 0.0, 0.75]
    assert less.marks().tolist() == [-1.0, 0.0, -0.75]
    nothing = Resampled(
        **{**parts, "numerator": np.zeros(1), "denominator": np.zeros(1)}, higher_is_better=True
    )
    assert (nothing.value, nothing.goodness) == (0.0, 0.0)
    worst = replace(nothing, higher_is_better=False)
    assert (worst.value, worst.goodness) == (1.0, 0.0)


def replicated(values: Sequence[float], higher: bool, statistic: float = 0.5) -> Replicated:
    return Replicated(
        statistic=statistic,
        values=np.array(values),
        examples=3,
        bounds=(-1.0, 4.0),
        higher_is_better=higher,
        own=np.array([2, -1, 0]),
    )


def test_statistics_by_hand() -> None:
    """Replicates are moved so that they lie about the sample's own value; the ends turn with the sign."""
    nan = float("nan")
    more, less = (replicated([0.25, nan, 0.5], higher) for higher in (True, False))
    assert (more.best, more.worst, more.value, more.goodness) == (4.0, -1.0, 0.5, 0.5)
    assert (less.best, less.worst, less.value, less.goodness) == (1.0, -4.0, 0.5, -0.5)
    assert (more.noise, more.leverage) == (0.0, 2.0)
    for one, expected in ((more, [0.375, 0.625]), (less, [-0.375, -0.625])):
        values, defined = one.replicates()
        assert defined.tolist() == [True, False, True]
        assert values[defined].tolist() == expected
        assert np.isnan(values[1])
        assert one.raw() is values
        marks = one.marks()
        assert marks is not None
        assert marks.tolist() == [2.0, -1.0, 0.0]
        assert marks.dtype == np.dtype("float64")
    assert [replicated([], higher, nan).value for higher in (True, False)] == [-1.0, 4.0]
    assert np.isnan(replicated([nan, nan], True).raw()).all()
    for higher, worst in ((True, -1.0), (False, -4.0)):
        values, defined = replicated([nan, 0.5], higher, nan).replicates()
        assert values.tolist() == [worst, worst]
        assert defined.all()
    assert replicated([], False).raw().tolist() == []
