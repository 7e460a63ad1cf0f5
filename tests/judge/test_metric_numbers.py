"""What each metric says of itself, and its figures by hand, digit by digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reprune.core.errors import UnknownName
from reprune.judge import metrics
from reprune.judge.metrics import ACCURACY, METRICS, SHARE, Metric, get_metric, out_of_range

SHARES = ("f1", "dice", "iou")
# Form, whether more is better, bounds, truths, and then which of these it has.
TOLD = {
    "accuracy": ("binary", True, (0.0, 1.0), (), "relative problem"),
    "agreement": ("binary", True, (0.0, 1.0), (), "against_dense derive problem"),
    "auc": ("statistic", True, (0.0, 1.0), ("label",), "relative problem statistic"),
    "average_precision": ("statistic", True, (0.0, 1.0), ("label",), "relative problem statistic"),
    **dict.fromkeys(SHARES, ("ratio", True, (0.0, 1.0), (), "relative")),
    "ece": ("statistic", False, (0.0, 1.0), (), "noise relative problem statistic"),
    "macro_f1": ("statistic", True, (0.0, 1.0), ("actual",), "marks relative problem statistic"),
    "mae": ("ratio", False, (0.0, 1.0), ("target",), "derive relative problem"),
    "mse": ("ratio", False, (0.0, 1.0), ("target",), "derive relative problem"),
    "map": ("statistic", True, (0.0, 1.0), ("box_*",), "relative problem statistic"),
    "ap[3]": ("statistic", True, (0.0, 1.0), ("box_*",), "relative problem statistic"),
    "f1[3]": ("ratio", True, (0.0, 1.0), ("actual",), "derive relative problem"),
    **dict.fromkeys(
        ("pearson", "spearman"),
        ("statistic", True, (-1.0, 1.0), ("target",), "marks relative problem statistic"),
    ),
}
GOOD = {
    **{name: [0, 1, 1] for name in ("label", "correct", "numerator", "score", "confidence")},
    **{name: [3, 1, 0] for name in ("answer", "actual", "predicted", "target", "box_000")},
    "denominator": [1, 1, 2],
    "detection_000": [-1, -1, -1],
    "intersection": [0, 1, 1],
    "union": [1, 1, 2],
}
HAS = ("against_dense", "derive", "marks", "noise", "relative", "problem", "statistic")


def test_every_metric_says_what_it_is() -> None:
    """A wrong bound, direction or truth is a wrong judgement without a wrong number."""
    assert set(TOLD) == {*METRICS, "ap[3]", "f1[3]"}
    for name, told in TOLD.items():
        one = get_metric(name)
        has = " ".join(sorted(word for word in HAS if getattr(one, word)))
        said = (one.form, one.higher_is_better, one.bounds, one.truths)
        assert (*said, has) == (*told[:4], " ".join(sorted(told[4].split()))), name
        assert one.member == ""
        value = one.value(GOOD, GOOD)
        assert one.bounds[0] <= value <= one.bounds[1]


def test_reach_is_the_width_of_the_bounds() -> None:
    assert replace(SHARE, bounds=(-1.0, 3.0)).reach == 4.0
    assert get_metric("pearson").reach == 2.0
    assert ACCURACY.reach == 1.0


def test_columns_are_read_by_their_whole_names_and_in_order() -> None:
    """A column that only begins like another is not it; places of several are sorted; all are int64."""
    assert ACCURACY.missing(["correction", "correct_2", "correc"]) == ["correct"]
    assert ACCURACY.missing({"correct": [1]}) == []
    both = Metric(columns=("box_*",), form="statistic")
    records = {"box_001": [3, 4], "box": [9, 9], "boxes": [8, 8], "box_000": [1, 2]}
    read = both.read(records)["box_*"]
    assert read.tolist() == [[1, 2], [3, 4]]
    assert both.missing(["box", "boxes"]) == ["box_*"]
    told: list[Sequence[int]] = [[True, False], np.array([1, 0], dtype=np.int8), []]  # type: ignore[list-item]
    assert {ACCURACY.read({"correct": one})["correct"].dtype for one in told} == {np.dtype("int64")}


def test_what_columns_may_hold() -> None:
    """Known ones their range, both ends in it; others whatever they like."""
    for column, low, high in (("correct", 0, 1), ("confidence", 0, 10**6), ("score", -2, 2)):
        at = {column: np.array([low, high])}
        assert out_of_range(at) == ""
    for values in ([], [-5, 3], [-3, -2], [7, 8]):
        assert out_of_range({"of_a_package": np.array(values, dtype=np.int64)}) == ""
    told = {
        ("label", 0, 2): "hold other numbers than 0 and 1 as label",
        ("label", -1, 1): "hold other numbers than 0 and 1 as label",
        ("score", 0, 2**62 + 1): f"hold a score outside {-(2**62)}..{2**62}",
        ("numerator", -1, 4): "hold a numerator below 0",
        ("confidence", -1, 1): "hold a confidence outside 0..1000000",
        ("predicted", 0, 2_000_001): "hold a predicted outside -1000000..2000000",
        ("box_*", 0, 1_000_000): "hold a box outside -1..999999",
        ("detection_*", 0, 2 * 10**6 * (10**6 + 1)): "hold a detection outside -1..2000001999999",
    }
    for (column, *values), words in told.items():
        assert out_of_range({"of_a_package": np.ones(2), column: np.array(values)}) == words


def test_what_is_registered_as_a_metric_has_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No metric at all; a statistic without its function; a function that no form asks for."""
    for name in ("NO_METRIC", "NO_FUNCTION", "NO_FORM"):
        monkeypatch.setitem(metrics.METRICS, "odd", f"{__name__}:{name}")
        with pytest.raises(UnknownName, match="the metric 'odd' is no Metric"):
            get_metric("odd")


NO_METRIC = 7
NO_FUNCTION = Metric(columns=("correct",), form="statistic")
NO_FORM = Metric(columns=("correct",), form="ratio", statistic=get_metric("auc").statistic)


def test_packages_add_metrics_and_replace_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By entry points of their own group; one with the name of ours makes it unknown."""
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    points = info / "entry_points.txt"
    monkeypatch.syspath_prepend(tmp_path)
    points.write_text("[reprune.metrics]\nhits.all = reprune.judge.metrics:ACCURACY\n")
    assert get_metric("hits.all") is ACCURACY
    points.write_text("[reprune.metrics]\nap = reprune.judge.metrics:ACCURACY\n")
    with pytest.raises(UnknownName, match="two packages register the metrics 'ap'"):
        get_metric("ap[3]")


@pytest.mark.parametrize("name", ["acuracy", "auc[1]", "eye.acuracy", "acuracy[2]"])
def test_the_unknown_name_is_told_as_it_was_given(name: str) -> None:
    kind = name.rpartition(".")[2].replace("[", r"\[")
    with pytest.raises(UnknownName, match=f"there is no metrics called '{kind}"):
        get_metric(name)
