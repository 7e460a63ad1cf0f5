"""The bootstrap-t over sources, and the noise that an absolute value makes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reprune.core.records import SCALE
from reprune.judge.bootstrap import RESAMPLES, resampled_sums
from reprune.judge.metrics import get_metric
from reprune.judge.scores import EVERYTHING, Scores, read_scores
from reprune.judge.studentised import (
    MOST_SOURCES,
    Studentised,
    influences,
    ratio_influence,
    statistic_influence,
)
from tests.building import edit, make_evidence, make_policy, make_quality

LOSS = (1.0, 0.0)


def of_means(losses: np.ndarray) -> tuple[Studentised, float, np.ndarray]:
    """Mean losses of single examples against a perfect baseline, their value and their replicates."""
    units, whole = len(losses), np.full(len(losses), SCALE)
    mine = whole - losses
    sums = resampled_sums([np.stack([mine, whole], axis=1)], "s")[0]
    found = influences(np.zeros(units), ratio_influence(mine, whole))
    studentised = found.studentised(resampled_sums([found.block], "s")[0])
    return studentised, losses.mean() / SCALE, 1.0 - sums[:, 0] / sums[:, 1]


def test_limits_of_a_mean_are_about_students() -> None:
    """For symmetric losses of 40 sources, on either side; the p-value is the limits' own."""
    quantiles = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    losses = (SCALE * (0.1 + 0.03 * quantiles)).astype(np.int64)
    studentised, value, replicates = of_means(losses)
    error = losses.std(ddof=1) / SCALE / np.sqrt(40)
    reach = stats.t.ppf(0.975, 39) * error
    low, high = studentised.limits(value, replicates, LOSS, 0.025)
    assert low == pytest.approx(value - reach, abs=0.1 * reach)
    assert high == pytest.approx(value + reach, abs=0.1 * reach)
    assert low is not None
    assert studentised.p_at_most(value, replicates, LOSS, low) == pytest.approx(0.025, abs=0.001)
    assert studentised.p_at_most(value, replicates, LOSS, value) == 1.0
    assert studentised.p_at_most(value, replicates, LOSS, -1.0) == 1 / (RESAMPLES + 1)


def test_rare_large_losses_reach_further_than_a_percentile() -> None:
    """Where few sources lose much, the upper limit lies beyond Student's, the lower one nearer."""
    losses = np.full(40, SCALE // 1000)
    losses[:4] = SCALE // 4
    studentised, value, replicates = of_means(losses)
    low, high = studentised.limits(value, replicates, LOSS, 0.05)
    reach = stats.t.ppf(0.95, 39) * losses.std(ddof=1) / SCALE / np.sqrt(40)
    assert low is not None
    assert high is not None
    assert high - value > 1.3 * reach
    assert value - low < reach


def test_levels_beyond_the_resamples_and_equal_sources() -> None:
    """No limit is better than an extreme one; sources that all lose the same leave nothing to chance."""
    studentised, value, replicates = of_means(np.arange(1, 41) * 1000)
    assert studentised.limits(value, replicates, LOSS, 1e-4) == (None, None)
    undefined = np.where(np.arange(RESAMPLES) % 3 == 0, np.nan, replicates)
    assert studentised.limits(value, undefined, LOSS, 0.025) == (None, None)
    assert studentised.p_at_most(value, undefined, LOSS, -1.0) > 0.3
    same, value, replicates = of_means(np.full(40, 1000))
    assert same.limits(value, replicates, LOSS, 0.025) == (value, value)
    assert same.p_at_most(value, replicates, LOSS, 0.0) == 1 / (RESAMPLES + 1)


def test_influence_is_what_a_source_is_worth() -> None:
    """By deleting it, in closed form and through the weights; 0 for sources outside the slice."""
    numerator, denominator = np.array([3, 0, 5, 2]), np.array([4, 2, 6, 8])
    by_hand = [
        3 * (10 / 20 - (10 - n) / (20 - d)) for n, d in zip(numerator, denominator, strict=True)
    ]
    assert ratio_influence(numerator, denominator) == pytest.approx(by_hand)
    assert np.isnan(ratio_influence(np.array([1, 0]), np.array([1, 0]))[0])
    columns = {"label": np.array([1, 0, 1, 0, 1]), "score": np.array([5, 1, 2, 3, 4])}
    auc = get_metric("auc")
    assert auc.statistic is not None
    found = statistic_influence(
        auc.statistic(columns, np.array([0, 0, 1, 2, 2])), np.array([0, 1, 2]), 4
    )
    without = [auc.value({name: rows[kept] for name, rows in columns.items()}) for kept in
               ([2, 3, 4], [0, 1, 3, 4], [0, 1, 2])]  # fmt: skip
    whole = auc.value(columns)
    assert found == pytest.approx([3 * (whole - one) for one in without] + [0.0])


def scored(
    name: str, sources: int | None, base: dict[str, list[int]], mine: dict[str, list[int]]
) -> Scores:
    count = len(next(iter(base.values())))
    arms = {"dense": base, "champion@cpu": base, "candidate@cpu": mine}
    names = None if sources is None else [f"s{place % sources:05d}" for place in range(count)]
    evidence = edit(make_evidence(), "quality", make_quality(arms, sources=names))
    policy = make_policy(quality={name: {"vs_parent": {}}})
    return read_scores(evidence, policy, {name: get_metric(name)})


@pytest.mark.parametrize(("sources", "pairs"), [(None, 0), (30, 3), (MOST_SOURCES + 1, 0)])
def test_few_sources_are_judged_by_the_bootstrap_t(sources: int | None, pairs: int) -> None:
    """Every baseline against the candidate, and the candidate alone; for a ratio and for a statistic."""
    rng = np.random.default_rng(2)
    target = rng.integers(0, SCALE, 1200)
    off = [np.clip(target + rng.normal(0, sd * SCALE, 1200), 0, SCALE) for sd in (0.1, 0.2)]
    base, mine = (
        {"target": target.tolist(), "predicted": each.astype(int).tolist()} for each in off
    )
    for name in ("mae", "pearson"):
        scores = scored(name, sources, base, mine)
        assert len(scores.resamples.studentised) == pairs
        test = scores.compare((name, EVERYTHING), "dense", "candidate@cpu").drop_test(0.01, 0.025)
        assert test.p_harm < 0.01
        assert test.low is not None
        assert test.low > 0


def test_a_calibration_error_is_widened_by_its_noise() -> None:
    """Not where nothing differs; with more errors allowed, by as much more."""
    rng = np.random.default_rng(3)
    sure = rng.uniform(0.6, 0.95, 1000)
    correct = (rng.random(1000) < sure).astype(int).tolist()
    base, mine = (
        {"correct": correct, "confidence": ((sure + more) * SCALE).astype(int).tolist()}
        for more in (0.0, 0.03)
    )
    compared = scored("ece", None, base, mine).compare(
        ("ece", EVERYTHING), "dense", "candidate@cpu"
    )
    noise = compared.base.noise  # type: ignore[attr-defined]  a comparison of statistics has arms
    assert 0.02 < noise < 0.04
    plain = compared.base.replicates()[0] - compared.mine.replicates()[0]  # type: ignore[attr-defined]
    test = compared.drop_test(0.03, 0.05)
    assert test.high is not None
    assert test.low is not None
    assert test.high > float(np.quantile(plain, 0.95)) + 0.7 * noise
    assert test.low < float(np.quantile(plain, 0.05)) - 0.7 * noise
    assert not test.holds
    errors = compared.error_test(2.0, 0.05)
    assert errors.high is not None
    assert errors.high > test.high + 0.7 * noise
    same = scored("ece", None, base, base).compare(("ece", EVERYTHING), "dense", "candidate@cpu")
    assert same.drop_test(0.03, 0.05).holds
