"""Every metric against published or independently computed values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reprune.core.errors import UnknownName
from reprune.core.records import (
    MOST_PACKED,
    NOTHING,
    SCALE,
    column_names,
    pack_detection,
    unpack_detection,
)
from reprune.judge.metrics import METRICS, get_metric

Columns = dict[str, Sequence[int]]


def value(name: str, columns: Mapping[str, Sequence[int]], **more: Columns) -> float:
    return get_metric(name).value(columns, **more)


def millionths(values: Sequence[float]) -> list[int]:
    return [round(each * SCALE) for each in values]


def detections(
    found: Sequence[Sequence[tuple[int, float, bool]]], boxes: Sequence[Sequence[int]]
) -> Columns:
    """Columns out of (class, score, matched) and box classes for each example."""
    packed = [[pack_detection(k, round(s * SCALE), m) for k, s, m in each] for each in found]
    columns: Columns = {}
    for prefix, rows in (("detection_", packed), ("box_", boxes)):
        most = max(1, *map(len, rows))
        for place, name in enumerate(column_names(prefix, most)):
            columns[name] = [row[place] if place < len(row) else NOTHING for row in rows]
    return columns


def test_auc_and_average_precision_of_the_documented_example() -> None:
    """scikit-learn's documentation of roc_auc_score and average_precision_score: 0.75 and 0.83."""
    columns = {"label": [0, 0, 1, 1], "score": millionths([0.1, 0.4, 0.35, 0.8])}
    assert value("auc", columns) == 0.75
    assert value("average_precision", columns) == pytest.approx(5 / 6, abs=1e-7)


def test_auc_is_the_mann_whitney_statistic() -> None:
    """With ties, against scipy's count of pairs."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 300)
    score = rng.integers(0, 20, 300) + 4 * label
    pairs = stats.mannwhitneyu(score[label == 1], score[label == 0]).statistic
    expected = pairs / (label.sum() * (1 - label).sum())
    columns: Columns = {"label": label.tolist(), "score": score.tolist()}
    assert value("auc", columns) == pytest.approx(expected, rel=1e-12)


def brute_average_precision(
    scores: Sequence[int], hits: Sequence[int], there: int, *, envelope: bool
) -> float:
    """Threshold by threshold, straight from the definition."""
    curve = []
    for threshold in sorted(set(scores), reverse=True):
        kept = [hit for score, hit in zip(scores, hits, strict=True) if score >= threshold]
        curve.append((sum(kept) / there, sum(kept) / len(kept)))
    total, before = 0.0, 0.0
    for place, (recall, precision) in enumerate(curve):
        best = max(p for _, p in curve[place:]) if envelope else precision
        total += (recall - before) * best
        before = recall
    return total


def test_average_precision_by_brute_force() -> None:
    """Ties, all thresholds, against the definition."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        label = rng.integers(0, 2, 40).tolist()
        label[0] = 1
        score = rng.integers(0, 15, 40).tolist()
        expected = brute_average_precision(score, label, sum(label), envelope=False)
        columns = {"label": label, "score": score}
        assert value("average_precision", columns) == pytest.approx(expected, abs=1e-7)


PADILLA = [  # image, confidence in per cent, whether it is a true positive
    (1, 88, 0), (1, 70, 1), (1, 80, 0), (2, 71, 0), (2, 54, 1), (2, 74, 0), (3, 18, 1), (3, 67, 0),
    (3, 38, 0), (3, 91, 1), (3, 44, 0), (4, 35, 0), (4, 78, 0), (4, 45, 0), (4, 14, 0), (5, 62, 1),
    (5, 44, 0), (5, 95.5, 1), (5, 23, 0), (6, 45, 0), (6, 84, 0), (6, 43, 0), (7, 48, 1), (7, 95, 0),
]  # fmt: skip


def test_detection_ap_of_the_published_example() -> None:
    """Padilla, Netto and da Silva (2020), IWSSIP, 237-242, and its open-source tool: 24 detections of
    15 boxes in 7 images, AP of all points 24.56 % (cut, not rounded). The table ranks the
    hit before the miss at 95 %.
    """
    found = [
        [(0, percent / 100, bool(hit)) for where, percent, hit in PADILLA if where == image]
        for image in range(1, 8)
    ]
    boxes = [[0] * count for count in (2, 2, 3, 1, 2, 2, 3)]
    assert sum(map(len, boxes)) == 15
    columns = detections(found, boxes)
    assert value("map", columns) == pytest.approx(0.2456, abs=1e-4)
    recalls_times_precision = 1 + 2 / 3 + 4 * (3 / 7) + 7 / 23
    assert value("map", columns) == pytest.approx(recalls_times_precision / 15, abs=1e-7)
    assert value("ap[0]", columns) == value("map", columns)
    tied = [[(k, min(s, 0.95), m) for k, s, m in each] for each in found]
    scores = [round(s * 100) for each in tied for _, s, _ in each]
    hits = [int(m) for each in tied for *_, m in each]
    expected = brute_average_precision(scores, hits, 15, envelope=True)
    assert value("map", detections(tied, boxes)) == pytest.approx(expected, abs=1e-7)
    assert expected < 0.23


def test_map_is_the_mean_over_classes_that_have_boxes() -> None:
    """Against brute force; a class without a box does not count, one without detections counts as 0."""
    rng = np.random.default_rng(7)
    boxes = [rng.integers(0, 3, rng.integers(1, 4)).tolist() for _ in range(30)]
    boxes[0].append(4)
    found = []
    for each in boxes:
        hits = [
            (k, float(rng.integers(1, 20)) / 20, True) for k in each if rng.random() < 0.6 and k < 4
        ]
        misses = [
            (int(rng.integers(0, 4)), float(rng.integers(1, 20)) / 20, False) for _ in range(2)
        ]
        found.append(hits + misses)
    columns = detections(found, boxes)
    each_class = []
    for kind in (0, 1, 2):
        rows = [(round(s * 20), int(m)) for each in found for k, s, m in each if k == kind]
        there = sum(each.count(kind) for each in boxes)
        each_class.append(brute_average_precision(*zip(*rows, strict=True), there, envelope=True))
        assert value(f"ap[{kind}]", columns) == pytest.approx(each_class[-1], abs=1e-7)
    assert value("ap[4]", columns) == 0.0
    assert value("map", columns) == pytest.approx(sum(each_class) / 4, abs=1e-7)


def test_macro_f1_of_the_documented_example() -> None:
    """scikit-learn's documentation of f1_score: the macro mean of three classes is 0.26."""
    columns = {"actual": [0, 1, 2, 0, 1, 2], "answer": [0, 2, 1, 0, 0, 1]}
    assert value("macro_f1", columns) == pytest.approx((0.8 + 0 + 0) / 3, rel=1e-12)
    assert value("f1[0]", columns) == pytest.approx(0.8, rel=1e-12)
    assert value("f1[1]", columns) == 0.0


def test_macro_f1_by_counting() -> None:
    """Class by class; an answer outside the actual classes costs its class and founds none."""
    rng = np.random.default_rng(8)
    actual = rng.choice([0, 2, 5], 200).tolist()
    answer = [a if rng.random() < 0.7 else int(rng.integers(0, 7)) for a in actual]
    each = []
    for kind in (0, 2, 5):
        pairs = list(zip(answer, actual, strict=True))
        both = pairs.count((kind, kind))
        each.append(2 * both / (answer.count(kind) + actual.count(kind)))
        columns = {"actual": actual, "answer": answer}
        assert value(f"f1[{kind}]", columns) == pytest.approx(each[-1], rel=1e-12)
    assert value("macro_f1", columns) == pytest.approx(sum(each) / 3, rel=1e-12)
    never_said = {"actual": [0, 1], "answer": [0, 0]}
    assert value("macro_f1", never_said) == pytest.approx((2 / 3 + 0) / 2, rel=1e-12)


def test_correlations_are_scipys() -> None:
    """Pearson and Spearman with ties, against scipy; the sign too."""
    rng = np.random.default_rng(9)
    target = rng.integers(0, 50, 500) * 20_000
    predicted = np.clip(target + rng.normal(0, 2e5, 500), -SCALE, 2 * SCALE).astype(np.int64)
    predicted[:100] = predicted[100:200]
    for turned in (predicted, SCALE - predicted):
        columns: Columns = {"target": target.tolist(), "predicted": turned.tolist()}
        pearson = stats.pearsonr(turned, target).statistic
        spearman = stats.spearmanr(turned, target).statistic
        assert value("pearson", columns) == pytest.approx(pearson, rel=1e-12)
        assert value("spearman", columns) == pytest.approx(spearman, rel=1e-12)
    assert pearson < -0.5


def test_mean_errors_by_hand() -> None:
    """Shares of the range; no example counts more than the whole of it."""
    columns = {"target": [0, 500_000, SCALE], "predicted": [100_000, 500_000, -SCALE]}
    assert value("mae", columns) == pytest.approx(1.1 / 3, rel=1e-12)
    assert value("mse", columns) == pytest.approx((0.01 + 0 + 1) / 3, rel=1e-12)


def test_calibration_error_by_hand() -> None:
    """Three bins of fifteen: |0.5 - 0.55| of 4, |1 - 0.9| of 2 and |0 - 1/15| of 2 examples (the edge
    belongs to the bin below it).
    """
    confidence = [0.54, 0.56, 0.55, 0.55, 0.9, 0.9, 1 / 15, 1 / 15]
    columns = {"confidence": millionths(confidence), "correct": [1, 0, 1, 0, 1, 1, 0, 0]}
    columns["confidence"][6:] = [66_666, 66_666]
    expected = (4 * 0.05 + 2 * 0.1 + 2 * 0.066666) / 8
    assert value("ece", columns) == pytest.approx(expected, rel=1e-9)
    edge = {"confidence": [200_000, 200_001], "correct": [1, 0]}
    assert value("ece", edge) == pytest.approx((0.8 + 0.200001) / 2, rel=1e-9)


def test_agreement_counts_equal_answers() -> None:
    """With the dense model's, whoever is right."""
    dense: Columns = {"answer": [1, 2, 3, 4]}
    assert value("agreement", {"answer": [1, 2, 0, 4]}, dense=dense) == 0.75
    assert value("agreement", dense, dense=dense) == 1.0


def test_packing_is_undone_by_unpacking() -> None:
    """All corners; what cannot be packed is refused."""
    for kind, score, hit in itertools.product((0, 7, 999_999), (0, 1, SCALE), (False, True)):
        packed = pack_detection(kind, score, hit)
        assert 0 <= packed <= MOST_PACKED
        assert unpack_detection(packed) == (kind, score, hit)
    for kind, score in ((-1, 0), (10**6, 0), (0, -1), (0, SCALE + 1)):
        with pytest.raises(ValueError, match="no detection"):
            pack_detection(kind, score, True)


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("auc", {"label": [1, 1], "score": [3, 4]}, "hold no negative example"),
        ("auc", {"label": [0, 0], "score": [3, 4]}, "hold no positive example"),
        ("auc", {"label": [0, 2], "score": [3, 4]}, "other numbers than 0 and 1 as label"),
        ("ece", {"confidence": [0, SCALE + 1], "correct": [0, 1]}, "confidence outside 0..1000000"),
        ("macro_f1", {"answer": [-1, 0], "actual": [0, 0]}, "hold a answer below 0"),
        ("f1[3]", {"answer": [1, 0], "actual": [0, 0]}, "no example of class 3"),
        ("pearson", {"predicted": [1, 2], "target": [5, 5]}, "the same target for every example"),
        ("mae", {"predicted": [3 * SCALE, 2], "target": [5, 5]}, "predicted outside"),
        ("map", detections([[(0, 0.5, True)]], [[1]]), "match more detections of a class"),
        ("map", detections([[(0, 0.5, False)]], [[]]), "no box that could be found"),
        ("ap[2]", detections([[(0, 0.5, False)]], [[1]]), "no box of class 2"),
        ("map", {"detection_000": [-2], "box_000": [0]}, "hold a detection outside"),
    ],
)
def test_numbers_that_cannot_be_are_told(name: str, columns: Columns, words: str) -> None:
    """Each sentence names the column; good columns have no problem."""
    metric = get_metric(name)
    assert metric.problem is not None
    assert words in metric.problem(metric.read(columns))


def test_only_known_metrics_can_be_had() -> None:
    """A class number belongs to metrics that have classes; nothing is guessed."""
    assert all(get_metric(name).columns for name in METRICS)
    for name in ("f1[01]", "f1[-1]", "auc[1]", "f1[]", "ap"):
        with pytest.raises(UnknownName):
            get_metric(name)


@pytest.mark.slow
def test_a_metric_of_a_member_is_that_metric_of_its_records() -> None:
    """Of a set's records it reads its member's and no other's, and says their names where one is missing."""
    label, score = [0, 0, 1, 1], millionths([0.1, 0.4, 0.35, 0.8])
    boxes = detections([[(0, 0.9, True), (1, 0.8, False)], [(1, 0.7, True)]], [[0], [1]])
    own: Columns = {
        "label": label,
        "score": score,
        "correct": [1, 0, 1, 1],
        "confidence": score,
        "numerator": [2, 0, 4, 2],
        "denominator": [4, 2, 4, 4],
        "intersection": [1, 0, 2, 1],
        "union": [3, 2, 2, 3],
        "answer": [0, 1, 2, 2],
        "actual": [0, 1, 1, 2],
        "predicted": score,
        "target": millionths([0.2, 0.3, 0.4, 0.6]),
        **{name: [*column, NOTHING, NOTHING] for name, column in boxes.items()},
    }
    wrong = {name: [0] * len(column) for name, column in own.items()}
    records = {f"eye.{name}": column for name, column in own.items()} | wrong
    for name in (*METRICS, "f1[2]", "ap[1]"):
        metric, mine = get_metric(f"eye.{name}"), get_metric(name)
        dense = {"dense": records} if mine.against_dense else {}
        plain = {"dense": own} if mine.against_dense else {}
        assert metric.value(records, **dense) == mine.value(own, **plain), name
        assert metric.missing(own) == [f"eye.{column}" for column in mine.columns]
        assert not metric.missing(records)
    with pytest.raises(UnknownName):
        get_metric("eye.acuracy")


def test_the_metrics_page_tells_every_metric_as_it_is() -> None:
    """Name, columns, direction and range of each row of the table in docs/metrics.md."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = [line.split("|")[1:5] for line in page.splitlines() if line.startswith("| `")]
    told = {}
    for names, columns, better, spans in rows:
        if better.strip() in ("more", "less"):
            for name in re.findall(r"`([^`]+)`", names):
                told[name] = (set(re.findall(r"`([^`]+)`", columns)), better.strip(), spans.strip())
    assert set(told) == {*METRICS, "f1[3]", "ap[3]"}
    for name, (columns, better, spans) in told.items():
        metric = get_metric(name)
        assert columns == set(metric.columns), name
        assert better == ("more" if metric.higher_is_better else "less"), name
        assert spans == "{:g} to {:g}".format(*metric.bounds), name
