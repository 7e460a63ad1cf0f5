"""Figures of metrics to the last digits: against whole numbers, fractions and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from reprune.core.records import NOTHING, SCALE, pack_detection
from reprune.judge.bootstrap import EXACT
from reprune.judge.calibration import ECE
from reprune.judge.metrics import get_metric
from reprune.judge.weighted import MOST_WEIGHT, cumulated, divided, dot, levels, of_everything, sums
from tests.judge.test_metric_laws import STATISTICS, make_columns, rows_of, whole

CLOSE = {"rel": 1e-13, "abs": 1e-15}


def value(name: str, **columns: Sequence[int]) -> float:
    return get_metric(name).value(columns)


def arrays(**columns: Sequence[int]) -> dict[str, np.ndarray]:
    return {name: np.asarray(each, dtype=np.int64) for name, each in columns.items()}


def problem(name: str, **columns: Sequence[int] | Sequence[Sequence[int]]) -> str:
    found = get_metric(name).problem
    assert found is not None
    return found({name: np.asarray(each, dtype=np.int64) for name, each in columns.items()})


def packed(*of_example: Sequence[tuple[int, int, bool]]) -> np.ndarray:
    """Rows of detections, NOTHING where an example has fewer."""
    most = max(1, *map(len, of_example))
    rows = [[pack_detection(*one) for one in each] for each in of_example]
    return np.array([[*row, *[NOTHING] * (most - len(row))] for row in rows]).T


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("ties", [True, False])
def test_weights_are_copies(name: str, ties: bool) -> None:
    """Of examples and of sources; nothing weighs in one resample."""
    count, rng = 24, np.random.default_rng(11)
    columns = make_columns(count, 11)
    if not ties:
        columns["score"] = columns["score"] * count + rng.permutation(count)
        columns["target"] = columns["target"] // 2 + rng.permutation(count)
        columns["predicted"] = columns["predicted"] // 2 + rng.permutation(count)
    metric = get_metric(name)
    assert metric.statistic is not None
    read = metric.read({key: values.tolist() for key, values in columns.items()})
    for rows in (np.arange(count), rng.integers(0, 7, count)):
        weights = rng.integers(0, 3, (int(rows.max()) + 1, 4)).astype(np.float64)
        weights[:, 2] = 0
        found = metric.statistic(read, rows)(weights)
        assert np.isnan(found[2])
        for place in (0, 1, 3):
            copies = np.repeat(np.arange(count), weights[rows, place].astype(int))
            expected = whole(name, rows_of(columns, copies))
            assert found[place] == pytest.approx(expected, **CLOSE)


def test_marks_say_which_example_is_better() -> None:
    """Right is better than wrong; nearer is better, on either side."""
    marks = get_metric("macro_f1").marks
    assert marks is not None
    assert marks(arrays(answer=[0, 1, 2], actual=[0, 2, 2])).tolist() == [1, 0, 1]
    for name in ("pearson", "spearman"):
        marks = get_metric(name).marks
        assert marks is not None
        assert marks(arrays(predicted=[5, 1, 9], target=[5, 4, 2])).tolist() == [0, -3, -7]


def test_the_problem_of_one_class() -> None:
    """One example of it will do; what else is wrong comes first."""
    assert problem("f1[1]", answer=[0, 0], actual=[0, 1]) == ""
    assert problem("f1[2]", answer=[0, 0], actual=[0, 1]) == "hold no example of class 2"
    assert problem("f1[2]", answer=[-1, 0], actual=[0, 1]) == "hold a answer below 0"
    one = packed([(1, 7, True)], [])
    assert problem("ap[1]", **{"detection_*": one, "box_*": [[1, 2]]}) == ""
    assert problem("ap[3]", **{"detection_*": one, "box_*": [[1, 2]]}) == "hold no box of class 3"
    assert "match more" in problem("ap[3]", **{"detection_*": one, "box_*": [[0, 1]]})


def test_the_problem_of_scores_and_of_what_does_not_vary() -> None:
    """Both kinds are wanted; both columns have to vary."""
    assert problem("auc", score=[1, 2], label=[1, 0]) == ""
    assert problem("auc", score=[1, 2], label=[1, 1]) == "hold no negative example"
    assert problem("auc", score=[2**63 - 1, 2], label=[1, 1]).startswith("hold a score outside")
    for name in ("pearson", "spearman"):
        assert problem(name, predicted=[1, 2], target=[3, 4]) == ""
        still = problem(name, predicted=[2, 2], target=[3, 4])
        assert still == "hold the same predicted for every example"
        still = problem(name, predicted=[2, 2], target=[4, 4])
        assert still == "hold the same target for every example"
        assert problem(name, predicted=[2, 2], target=[-1, 4]) == "hold a target outside 0..1000000"


def test_the_problem_of_detections() -> None:
    """Each example and class may have as many hits as boxes; misses and other examples do not count."""

    def told(found: np.ndarray, *boxes: Sequence[int]) -> str:
        return problem("map", **{"detection_*": found, "box_*": boxes})

    found = packed([(2, 5, True), (2, 9, True), (2, 4, False)], [(0, 1, True)], [])
    assert told(found, [2, 0, 1], [2, 1, NOTHING]) == ""
    more = "match more detections of a class than an example has boxes of it"
    assert told(found, [2, 0, 2], [1, 1, NOTHING]) == more
    assert told(found, [2, 1, 2], [2, NOTHING, 0]) == more
    assert told(found, [NOTHING] * 3) == "hold no box that could be found"
    assert told(packed([(0, 1, False)], []), [NOTHING, 0]) == ""
    assert told(packed([], []), [0, NOTHING]) == ""
    assert told(np.array([[-2, 1]]), [NOTHING, NOTHING]).startswith("hold a detection outside")


def test_average_precision_is_summed_in_its_grain() -> None:
    """(1 + 2/3) / 2 and (1/2 + 2/4 + 3/5) / 3, each precision in 2**-26."""
    third = Fraction(round(Fraction(2, 3) * 2**26), 2**26)
    assert value("average_precision", score=[3, 2, 1], label=[1, 0, 1]) == float((1 + third) / 2)
    fifths = Fraction(round(Fraction(3, 5) * 2**26), 2**26)
    found = value("average_precision", score=[9, 8, 7, 6, 5], label=[0, 1, 0, 1, 1])
    assert found == float((1 + fifths) / 3)


def test_average_precision_of_classes_by_hand() -> None:
    """Class 0 best first: precisions 1, 1/2 (then 2/3 at the next recall), of 4 boxes; class 1 none;
    class 2 is found and has no box, so it does not count.
    """
    found = packed([(0, 900, True), (0, 700, True), (2, 999_999, False)], [(0, SCALE, False)], [])
    found[:, 1] = [pack_detection(0, 800, False), NOTHING, NOTHING]
    columns = {"detection_*": found, "box_*": np.array([[0, 0, 1], [0, 0, NOTHING]])}
    grain = Fraction(round(Fraction(2, 3) * 2**26), 2**26)
    zero = float((1 + grain) / 4)
    for name, expected in (("ap[0]", zero), ("ap[1]", 0.0), ("map", zero / 2)):
        statistic = get_metric(name).statistic
        assert statistic is not None
        assert of_everything(statistic, columns) == expected
    ap = get_metric("ap[0]").statistic
    assert ap is not None
    weighed = ap(columns, np.arange(3))(np.array([[1.0, 0, 2], [0, 1, 1], [1, 1, 1]]))
    assert weighed.tolist() == pytest.approx([1.0, 0.0, 0.6], abs=1e-7)


def rank_correlation(x: np.ndarray, y: np.ndarray, grain: int) -> float:
    """Pearson's, in whole numbers, of twice the centred ranks in a grain."""
    one, two = (
        [int(r) // grain for r in 2 * stats.rankdata(each) - (len(each) + 1)] for each in (x, y)
    )
    n, xy = len(one), sum(a * b for a, b in zip(one, two, strict=True))
    xx, yy = (n * sum(a * a for a in each) - sum(each) ** 2 for each in (one, two))
    return (n * xy - sum(one) * sum(two)) / math.sqrt(xx) / math.sqrt(yy)


@pytest.mark.parametrize(
    ("most", "rows", "grain"),
    [
        (30, 40, 1), (460, 359, 1), (531, 311, 2), (512, 512, 2), (5, 52_429, 4), (512, 812, 4),
        (520, 801, 8),
    ],
)  # fmt: skip
def test_ranks_get_coarser_only_where_sums_would_not_be_exact(
    most: int, rows: int, grain: int
) -> None:
    """Where the cube of the largest number of examples passes 2**52, 2**54, 2**56."""
    rng = np.random.default_rng(most)
    target = rng.integers(0, 40, most + 1)
    predicted = target + rng.integers(0, 9, most + 1)
    statistic = get_metric("spearman").statistic
    assert statistic is not None
    place = np.array([*[0] * most, rows - 1])
    found = statistic({"target": target, "predicted": predicted}, place)(np.ones((rows, 2)))
    expected = [rank_correlation(predicted, target, g) for g in (1, 2, 4, 8)]
    assert found.tolist() == pytest.approx([expected[grain.bit_length() - 1]] * 2, **CLOSE)
    assert min(abs(a - b) for a, b in pairwise(expected)) > 1e-9
    target, predicted = rng.permutation(most + 1), rng.permutation(most + 1)
    found = statistic({"target": target, "predicted": predicted}, place)(np.ones((rows, 2)))
    assert found.tolist() == pytest.approx(
        [rank_correlation(predicted, target, grain)] * 2, **CLOSE
    )


def test_correlations_far_from_zero_keep_their_digits() -> None:
    """Predictions that differ by two millionths, near the end of the range; twice as many copies of some."""
    rng = np.random.default_rng(2)
    target = rng.integers(SCALE - 2, SCALE + 1, 3000)
    predicted = 2 * SCALE - 2 + rng.integers(0, 3, 3000)
    predicted[:900] = target[:900] + SCALE
    columns = {"predicted": predicted, "target": target}
    x, y = (each - each.min() for each in columns.values())
    expected = stats.pearsonr(x, y).statistic
    assert value("pearson", **columns) == pytest.approx(expected, rel=1e-12)
    assert value("spearman", **columns) == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-12)


def test_a_correlation_ends_at_one_and_is_none_where_nothing_varies() -> None:
    """Rounding would give 1.0000000000000002."""
    x = [15, 18, 29, 21, 18]
    assert value("pearson", predicted=[22 * each for each in x], target=x) == 1.0
    assert value("pearson", predicted=[-22 * each for each in x], target=x) == -1.0
    for name in ("pearson", "spearman"):
        assert math.isnan(value(name, predicted=[5, 5, 5], target=[1, 2, 3]))
        assert math.isnan(value(name, predicted=[1, 2, 3], target=[5, 5, 5]))
        assert math.isnan(value(name, predicted=[4, 4], target=[5, 5]))


def test_mean_errors_are_kept_in_their_grain() -> None:
    """Misses in millionths of the range, squares in 1e-9 of its square, halves up."""
    columns = arrays(target=[0, 0, 0, 100], predicted=[22, 23, -SCALE, 100])
    parts = [get_metric(name).parts(columns, {}) for name in ("mae", "mse")]
    assert {each.dtype for each in parts} == {np.dtype("int64")}
    mae, mse = (each.tolist() for each in parts)
    assert mae == [[22, 23, SCALE, 0], [SCALE] * 4]
    assert mse == [[0, 1, 10**9, 0], [10**9] * 4]
    exact = {"target": arrays(a=[0, 0])["a"], "predicted": arrays(a=[SCALE // 1000, 50])["a"]}
    assert get_metric("mse").parts(exact, {})[0].tolist() == [1000, 3]  # 2500 / 1000 is 2.5


def test_detections_of_every_class_and_score() -> None:
    """At the corners of what is packed: a hit at each score, a miss at the same or the next one."""
    pairs = {
        (0, 0): 0.5, (1, 0): 1.0, (0, 1): 0.5, (SCALE, SCALE - 1): 1.0, (5, 0): 1.0,
        (SCALE, 0): 1.0, (SCALE - 1, SCALE): 0.5, (SCALE, SCALE): 0.5, (SCALE, SCALE // 2): 1.0,
    }  # fmt: skip
    for kind in (0, 1, 2, 7, 999_999):
        both = [get_metric(name) for name in ("map", f"ap[{kind}]")]
        for (hit, miss), precision in pairs.items():
            found = packed([(kind, hit, True), (kind, miss, False)], [])
            columns = {"detection_*": found, "box_*": np.array([[kind, NOTHING]])}
            for metric in both:
                assert metric.problem is not None
                assert metric.statistic is not None
                assert metric.problem(columns) == ""
                assert of_everything(metric.statistic, columns) == precision


def test_only_classes_that_a_resample_has_are_meant() -> None:
    """Of three examples of three classes the first alone: its class is found, the others do not count."""
    alone = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    macro, mean = get_metric("macro_f1").statistic, get_metric("map").statistic
    assert macro is not None
    assert mean is not None
    columns = arrays(answer=[0, 2, 1], actual=[0, 1, 2])
    assert macro(columns, np.arange(3))(alone).tolist() == [1 / 3, 1.0]
    found = packed([(0, 5, True)], [(2, 5, False)], [(1, 5, False)])
    columns = {"detection_*": found, "box_*": np.array([[0, 1, 2]])}
    assert mean(columns, np.arange(3))(alone).tolist() == [1 / 3, 1.0]


def test_calibration_by_fractions() -> None:
    """Of many confidences, against the definition in whole numbers."""
    rng = np.random.default_rng(1)
    confidence = rng.integers(0, SCALE + 1, 500)
    confidence[:6] = [0, 1, 66_666, 66_667, 933_334, SCALE]
    correct = rng.integers(0, 2, 500)
    total = 0
    for place in range(15):
        inside = [
            (int(c), int(r))
            for c, r in zip(confidence, correct, strict=True)
            if place * SCALE < 15 * c <= (place + 1) * SCALE or (c == 0 and place == 0)
        ]
        total += abs(sum(c - SCALE * r for c, r in inside))
    found = value("ece", confidence=confidence, correct=correct)
    assert found == float(Fraction(total, 500 * SCALE))


def test_calibration_noise_by_hand() -> None:
    """sqrt(2 / pi) times the standard errors of the bins' gaps, each with half an example more; of sources
    that have several examples in a bin, their sums; an edge belongs to the bin below it.
    """
    assert ECE.noise is not None
    columns = arrays(
        confidence=[300_000, 320_000, 310_000, 200_000, 190_000, 0], correct=[1, 0, 0, 1, 0, 0]
    )
    own = [0.3 - 1, 0.32, 0.31]
    other = [0.2 - 1, 0.19]
    off = [[one - sum(gap) / len(gap) for one in gap] for gap in (own, other)]
    single = [math.sqrt(sum(a * a for a in each) + 0.25) for each in (*off, [0.0])]
    expected = math.sqrt(2 / math.pi) * sum(single) / 6
    assert ECE.noise(columns, np.arange(6)) == pytest.approx(expected, **CLOSE)
    summed = [
        math.sqrt(off[0][0] ** 2 + (off[0][1] + off[0][2]) ** 2 + 0.25),
        math.sqrt(sum(off[1]) ** 2 + 0.25),
        0.5,
    ]
    expected = math.sqrt(2 / math.pi) * sum(summed) / 6
    sources = np.array([7, 4, 4, 9, 9, 2])
    assert ECE.noise(columns, sources) == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("largest", [5, 2**23, 2**24 - 1, 2**24, 2**25, 2**40, 2**52])
def test_sums_are_those_of_whole_numbers(largest: int) -> None:
    """Of either sign; rows that several examples share, and a row that none has."""
    columns = np.array([[largest, -largest, 1, -1, largest - 1], [-1, -1, 0, 0, -largest]])
    rows = np.array([4, 0, 4, 1, 1])
    weights = np.array(
        [[1.0, 3.0, 0.0], [2.0, 0.0, 0.0], [9.0, 9.0, 9.0], [9.0, 9.0, 9.0], [1, 2, 1]]
    )
    expected = [
        [
            sum(int(v) * int(w) for v, w in zip(column, weights[rows, at], strict=True))
            for at in range(3)
        ]
        for column in columns
    ]
    found = sums(columns, rows)(weights)
    assert found.shape == (2, 3)
    assert found.tolist() == [[float(one) for one in column] for column in expected]
    limbs = len(sums(columns, rows).limbs)
    assert limbs == (1 if largest < 2**24 - 1 else 2 if largest < 2**47 else 3)


def test_levels_hold_equal_numbers() -> None:
    found = levels(np.array([5, -1, 5, 3, -1, 5]))
    assert found.order.tolist() == [1, 4, 3, 0, 2, 5]
    assert found.ends.tolist() == [2, 3, 6]
    assert found.level.tolist() == [0, 0, 1, 2, 2, 2]
    many = np.random.default_rng(0).integers(0, 5, 3000)
    assert levels(many).order.tolist() == np.lexsort((np.arange(3000), many)).tolist()
    assert {each.dtype for each in (found.order, found.ends, found.level)} == {np.dtype("int64")}


def test_nothing_is_divided_by_zero() -> None:
    found = divided(np.array([1.0, 0.0, 3.0, 6.0]), np.array([0.0, 0.0, 1.0, -4.0]))
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [3.0, -1.5]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9, 10, 30])
def test_cumulated_is_numpys(count: int) -> None:
    rows = np.random.default_rng(count).integers(0, 9, (count, 3)).astype(np.float64)
    kept = rows.copy()
    assert cumulated(rows).tolist() == np.cumsum(rows, axis=0).tolist()
    assert cumulated(rows, np.maximum).tolist() == np.maximum.accumulate(rows, axis=0).tolist()
    assert (rows == kept).all()


def test_dot_multiplies_and_sums_each_column() -> None:
    a, b = np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6], [7, 8]])
    assert dot(a, b).tolist() == [26.0, 44.0]
    assert dot(a, b, b).tolist() == [172.0, 328.0]
    # Twice as many pairs as a resample of so many examples can have are still counted exactly.
    assert MOST_WEIGHT == 2**26
    assert 2 * MOST_WEIGHT**2 == EXACT
