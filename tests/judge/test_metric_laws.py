"""What holds of every metric, whatever the records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reprune.core.records import NOTHING, SCALE, pack_detection
from reprune.judge.metrics import Metric, get_metric

LAWS = settings(max_examples=30, deadline=None)
STATISTICS = ("auc", "average_precision", "macro_f1", "pearson", "spearman", "ece", "map")
Columns = dict[str, np.ndarray]


def make_columns(count: int, seed: int) -> Columns:
    """Columns of every metric, with many ties, defined for all of them."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, count)
    label[:2] = 0, 1
    target = rng.integers(0, 5, count) * 100_000
    target[:2] = 0, SCALE
    predicted = np.clip(target + rng.integers(-3, 4, count) * 100_000, 0, SCALE)
    predicted[:2] = 0, SCALE
    actual = rng.integers(0, 3, count)
    columns = {
        "label": label,
        "score": rng.integers(-4, 5, count) + 2 * label,
        "confidence": rng.integers(0, 11, count) * 100_000,
        "correct": rng.integers(0, 2, count),
        "target": target,
        "predicted": predicted,
        "actual": actual,
        "answer": np.where(rng.random(count) < 0.6, actual, rng.integers(0, 4, count)),
    }
    for place in range(2):
        kinds, there = rng.integers(0, 3, count), rng.random(count) < 0.8 - 0.3 * place
        there[0] = True
        scores, hits = rng.integers(0, 8, count) * 100_000, rng.random(count) < 0.6
        packed = [
            pack_detection(int(k), int(s), bool(h))
            for k, s, h in zip(kinds, scores, hits, strict=True)
        ]
        columns[f"detection_00{place}"] = np.where(there, packed, NOTHING)
        columns[f"box_00{place}"] = np.where(there, kinds, NOTHING)
    return columns


def rows_of(columns: Columns, rows: Any) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def whole(name: str, columns: Columns) -> float:
    return get_metric(name).value({key: values.tolist() for key, values in columns.items()})


@pytest.mark.slow
@LAWS
@given(count=st.integers(2, 60), seed=st.integers(0, 10**6), name=st.sampled_from(STATISTICS))
def test_the_order_of_examples_changes_nothing(count: int, seed: int, name: str) -> None:
    """To the last bit."""
    columns = make_columns(count, seed)
    order = np.random.default_rng(seed).permutation(count)
    assert whole(name, rows_of(columns, order)) == whole(name, columns)


@pytest.mark.slow
@LAWS
@given(
    count=st.integers(2, 40),
    seed=st.integers(0, 10**6),
    name=st.sampled_from(STATISTICS),
    sources=st.booleans(),
)
def test_a_weight_is_so_many_copies(count: int, seed: int, name: str, sources: bool) -> None:
    """Whole-number weights, of examples or of their sources, are repeated examples; 0 leaves one out."""
    columns = make_columns(count, seed)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 5, count) if sources else np.arange(count)
    weights = rng.integers(0, 4, (int(rows.max()) + 1, 3))
    metric: Metric = get_metric(name)
    assert metric.statistic is not None
    read = metric.read({key: values.tolist() for key, values in columns.items()})
    found = metric.statistic(read, rows)(weights.astype(np.float64))
    for weighted, one in zip(weights.T, found, strict=True):
        copies = np.repeat(np.arange(count), weighted[rows])
        if len(copies) == 0:
            assert np.isnan(one)
            continue
        expected = whole(name, rows_of(columns, copies))
        assert one == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 40), seed=st.integers(0, 10**6), place=st.integers(0, 39))
@example(count=18, seed=753, place=1)
def test_improving_one_example_never_lowers_a_metric(count: int, seed: int, place: int) -> None:
    """A right answer, a surer positive, a nearer prediction, a hit instead of a miss.

    Without equal scores: a positive that joins a tie in which negatives outnumber the positives is counted
    at that tie's precision, which may be less than where it came from.
    """
    columns = make_columns(count, seed)
    columns["score"] = columns["score"] * count + np.arange(count)
    place %= count
    better = {name: values.copy() for name, values in columns.items()}
    better["answer"][place] = better["actual"][place]
    better["score"][place] += 3 * count if better["label"][place] else -3 * count
    better["correct"][place] = 1
    better["predicted"][place] = (better["predicted"][place] + better["target"][place]) // 2
    if better["detection_000"][place] >= 0:
        better["detection_000"][place] |= 1
    for name in ("auc", "average_precision", "macro_f1", "f1[0]", "map", "accuracy"):
        if name != "f1[0]" or (columns["actual"] == 0).any():
            assert whole(name, better) >= whole(name, columns) - 1e-7, name
    for name in ("mae", "mse"):
        assert whole(name, better) <= whole(name, columns), name


@pytest.mark.slow
@LAWS
@given(
    parts=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=20),
    place=st.integers(0, 19),
)
def test_more_overlap_never_lowers_dice(parts: list[tuple[int, int]], place: int) -> None:
    """Nor IoU or F1: one example with a larger numerator."""
    numerator, denominator = [n % (d + 1) for n, d in parts], [d for _, d in parts]
    better = list(numerator)
    better[place % len(parts)] = denominator[place % len(parts)]
    for name in ("dice", "iou", "f1"):
        metric = get_metric(name)
        above, below = metric.columns
        before = metric.value({above: numerator, below: denominator})
        assert metric.value({above: better, below: denominator}) >= before


@LAWS
@given(seed=st.integers(0, 10**6), name=st.sampled_from(STATISTICS))
def test_values_stay_within_their_bounds(seed: int, name: str) -> None:
    """Over all kinds of weights; NaN where there is nothing to tell."""
    columns = make_columns(30, seed)
    metric = get_metric(name)
    assert metric.statistic is not None
    read = metric.read({key: values.tolist() for key, values in columns.items()})
    weights = np.random.default_rng(seed).poisson(0.4, (30, 50)).astype(np.float64)
    found = metric.statistic(read, np.arange(30))(weights)
    known = found[~np.isnan(found)]
    low, high = metric.bounds
    assert ((known >= low - 1e-12) & (known <= high + 1e-12)).all()


def test_ranks_of_many_examples_stay_exact() -> None:
    """Beyond what products of three ranks can hold, ranks are kept in a coarser grain."""
    rng = np.random.default_rng(4)
    target = rng.integers(0, SCALE, 400_000)
    predicted = np.clip(target + rng.normal(0, 3e5, 400_000), 0, SCALE).astype(np.int64)
    metric = get_metric("spearman")
    assert metric.statistic is not None
    rows = np.arange(400_000)
    found = metric.statistic({"target": target, "predicted": predicted}, rows)
    few = metric.statistic({"target": target, "predicted": predicted}, rows * 0)
    one = float(found(np.ones((400_000, 1)))[0])
    # All of one source: the worst case is 400,000 once, and the same grain.
    assert one == pytest.approx(float(few(np.ones((1, 1)))[0]), rel=1e-5)
