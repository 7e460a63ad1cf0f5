"""What is read out of evidence: who is compared, over which examples, with which resamples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reprune.core.records import SCALE
from reprune.judge import resampling
from reprune.judge.binary import BinaryComparison, BinaryLevel
from reprune.judge.bootstrap import RESAMPLES, unit_weights
from reprune.judge.evidence import Evidence, QualityEvidence
from reprune.judge.examples import NEWER, read_examples
from reprune.judge.grouping import TOGETHER
from reprune.judge.metrics import ACCURACY, SHARE, Metric, get_metric
from reprune.judge.ratios import Resampled
from reprune.judge.replicated import Replicated
from reprune.judge.resampled import ResampledComparison, ResampledLevel
from reprune.judge.scores import EVERYTHING, Scores, read_scores, record_key
from reprune.judge.studentised import (
    influences,
    ratio_influence,
    statistic_influence,
)
from tests.building import edit, make_evidence, make_policy, make_quality

MINE = "candidate@cpu"
COUNT = 48
RNG = np.random.default_rng(12)
TRUE = {
    "actual": RNG.integers(0, 3, COUNT),
    "target": RNG.integers(0, SCALE, COUNT),
    "label": np.arange(COUNT) % 2,
    "denominator": RNG.integers(3, 9, COUNT),
}
METRICS: dict[str, Metric] = {
    "misses": Metric(columns=("wrong",), form="binary", higher_is_better=False),
    **{
        name: get_metric(name)
        for name in ("accuracy", "agreement", "dice", "mae", "auc", "ece", "macro_f1")
    },
}


def columns(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    answer = np.where(rng.random(COUNT) < 0.7, TRUE["actual"], rng.integers(0, 3, COUNT))
    right = (answer == TRUE["actual"]).astype(int)
    return {
        **TRUE,
        "answer": answer,
        "correct": right,
        "wrong": 1 - right,
        "confidence": rng.integers(SCALE // 2, SCALE, COUNT),
        "score": rng.integers(0, 9, COUNT) + 3 * TRUE["label"],
        "predicted": np.clip(TRUE["target"] + rng.integers(-9, 9, COUNT) * SCALE // 20, 0, SCALE),
        "numerator": rng.integers(0, 4, COUNT),
    }


ARMS = {key: columns(seed) for seed, key in enumerate(("dense", "champion@cpu", MINE))}
SLICES = {"half": ["b", "a"] * (COUNT // 2), "tail": ["y"] * (COUNT - 3) + ["x", "z", "x"]}
SOURCES = [f"s{place % 5}" for place in range(COUNT)]


def evidence(sources: list[str] | None = None, **more: Any) -> Evidence:
    others = {"champion@npu": columns(9), "candidate@npu": columns(8), "dense@cpu": columns(7)}
    quality = make_quality(
        {
            key: {name: each.tolist() for name, each in arm.items()}
            for key, arm in {**ARMS, **others}.items()
        },
        slices=SLICES,
        sources=sources,
    )
    found = edit(make_evidence(), "quality", quality)
    for path, value in more.items():
        found = edit(found, path.replace("__", "."), value)
    return found


def scores_of(given: Evidence, **slices: Any) -> Scores:
    rules = {"vs_parent": {"max_drop": 0.1, "max_error_ratio": None}, **slices}
    policy = make_policy(quality=dict.fromkeys(METRICS, rules))
    return read_scores(given, policy, METRICS)


@pytest.fixture
def scores() -> Scores:
    return scores_of(evidence(), slices={"min_examples": 10})


@pytest.fixture
def by_source() -> Scores:
    return scores_of(evidence(SOURCES))


def test_examples_are_sorted_by_id() -> None:
    """With what belongs to them: sources, slices, times; numbers follow the sorted names."""
    quality = QualityEvidence(
        eval_digest="d",
        ids=("c", "a", "d", "b"),
        slices={"size": ("big", "small", "big", "big"), "day": ("1", "2", "1", "3")},
        sources=("u", "t", "v", "u"),
        arms={},
        times=("2", "3", "4", "1"),
    )
    found = read_examples(quality, "2")
    assert (found.count, found.order.tolist()) == (4, [1, 3, 0, 2])
    assert found.sources is not None
    assert found.sources.tolist() == found.rows.tolist() == [0, 1, 1, 2]
    assert {name: members.tolist() for name, members in found.slices.items()} == {
        "day=1": [2, 3],
        "day=2": [0],
        "day=3": [1],
        "size=big": [1, 2, 3],
        "size=small": [0],
        NEWER: [0, 3],
    }
    assert list(found.slices) == ["day=1", "day=2", "day=3", "size=big", "size=small", NEWER]
    assert found.column((10, 20, 30, 40)).tolist() == [20, 40, 10, 30]
    assert {found.order.dtype, found.sources.dtype, found.column((True,) * 4).dtype} == {
        np.dtype("int64")
    }
    assert found.units_in_all == 3
    assert found.units(np.array([1, 2])) == 1
    assert found.units(np.array([0, 1, 2])) == 2
    for times, newest in ((None, "2"), (("2", "3", "4", "1"), None), (("2",) * 4, "2")):
        given = read_examples(_with(quality, times=times), newest)
        assert NEWER not in given.slices
    alone = read_examples(_with(quality, sources=None))
    assert alone.sources is None
    assert (alone.units_in_all, alone.rows.tolist()) == (4, [0, 1, 2, 3])
    assert alone.rows.dtype == np.dtype("int64")
    assert alone.units(np.array([0, 2, 3])) == 3


def test_slices_are_no_larger_than_their_examples() -> None:
    """As many as there are examples, say one a user, hold each example once."""
    quality = QualityEvidence(
        eval_digest="d",
        ids=tuple(f"{place:05d}" for place in range(20_000)),
        slices={"user": tuple(str(place) for place in range(20_000))},
        sources=None,
        arms={},
    )
    found = read_examples(quality)
    assert len(found.slices) == 20_000
    assert sum(members.nbytes for members in found.slices.values()) == 20_000 * 8
    assert found.slices["user=777"].tolist() == [777]


def _with(quality: QualityEvidence, **changed: Any) -> QualityEvidence:
    return QualityEvidence(
        **{name: changed.get(name, getattr(quality, name)) for name in quality.__struct_fields__}
    )


def test_records_are_those_of_the_arms_that_are_judged() -> None:
    """On the policy's targets, the dense model as trained; a metric's own columns in the order of ids."""
    turned = [f"id-{COUNT - place:03d}" for place in range(COUNT)]
    found = scores_of(evidence(quality__ids=tuple(turned)))
    for name in METRICS:
        assert found.records.keys(name) == [MINE, "champion@cpu", "dense"]
    assert set(found.records.parts) == {
        (name, key)
        for name, metric in METRICS.items()
        for key in ARMS
        if metric.form != "statistic"
    }
    for key, arm in ARMS.items():
        assert found.records.parts["dice", key].tolist() == [
            arm["numerator"][::-1].tolist(), arm["denominator"][::-1].tolist()
        ]  # fmt: skip
        same = arm["answer"] == ARMS["dense"]["answer"]
        assert found.records.parts["agreement", key].tolist() == [same[::-1].astype(int).tolist()]
        assert found.records.tables["auc", key]["score"].tolist() == arm["score"][::-1].tolist()
    assert record_key("dense", "cpu") == "dense"
    assert record_key("champion", "cpu") == "champion@cpu"


def test_arms_and_columns_that_are_not_there_are_left_out() -> None:
    given = evidence()
    quality = given.quality
    arms = {key: one for key, one in quality.arms.items() if key != "champion@cpu"}
    bare = {name: each for name, each in quality.arms[MINE].columns.items() if name != "score"}
    arms[MINE] = type(quality.arms[MINE])(columns=bare)
    found = scores_of(edit(given, "quality.arms", arms))
    assert found.records.keys("dice") == [MINE, "dense"]
    assert found.records.keys("auc") == ["dense"]


def test_binary_metrics_are_compared_as_what_was_right(scores: Scores, by_source: Scores) -> None:
    """Of a metric of which less is better, 1 is turned into 0; a group holds its own examples."""
    mask = np.array(SLICES["half"]) == "a"
    base, mine = (ARMS[key]["correct"] for key in ("dense", MINE))
    for group, rows in ((EVERYTHING, slice(None)), ("half=a", mask)):
        for name in ("accuracy", "misses"):
            found = scores.compare((name, group), "dense", MINE)
            assert isinstance(found, BinaryComparison)
            assert found.lost == int(np.sum(base[rows] & (1 - mine[rows])))
            assert found.gained == int(np.sum((1 - base[rows]) & mine[rows]))
            assert found.examples == len(base[rows])
            assert found.clusters is None
    level = scores.level(("accuracy", "half=a"), MINE)
    assert isinstance(level, BinaryLevel)
    assert (level.right, level.examples) == (int(mine[mask].sum()), COUNT // 2)
    one = by_source.compare(("accuracy", EVERYTHING), "dense", MINE)
    assert isinstance(one, BinaryComparison)
    assert one.clusters is not None
    assert one.clusters[:, 0].tolist() == [10, 10, 10, 9, 9]
    assert by_source.level(("accuracy", EVERYTHING), MINE).units == 5


def test_ratios_are_compared_by_their_sums(scores: Scores, by_source: Scores) -> None:
    """Numerators and denominators, for each example and over each resample of a judged group."""
    mask = np.array(SLICES["half"]) == "a"
    weights = unit_weights(evidence().seed, COUNT)
    for group, rows in ((EVERYTHING, np.ones(COUNT, bool)), ("half=a", mask)):
        found = scores.compare(("dice", group), "champion@cpu", MINE)
        assert isinstance(found, ResampledComparison)
        for one, key in ((found.base, "champion@cpu"), (found.mine, MINE)):
            assert isinstance(one, Resampled)
            top, bottom = ARMS[key]["numerator"], ARMS[key]["denominator"]
            assert one.numerator.tolist() == top[rows].tolist()
            assert one.denominator.tolist() == bottom[rows].tolist()
            assert one.numerator_sums.tolist() == (weights @ (top * rows)).tolist()
            assert one.denominator_sums.tolist() == (weights @ (bottom * rows)).tolist()
            assert one.higher_is_better
        moved = (ARMS["champion@cpu"]["numerator"] != ARMS[MINE]["numerator"]) & rows
        assert (found.units, found.differing, found.moved) == (rows.sum(), moved.sum(), moved.sum())
        assert found.studentised is None
    small = scores.compare(("dice", "tail=x"), "dense", MINE)
    assert isinstance(small, ResampledComparison)
    assert isinstance(small.mine, Resampled)
    assert small.mine.numerator_sums.tolist() == small.mine.denominator_sums.tolist() == []
    mae = scores.level(("mae", EVERYTHING), MINE)
    assert isinstance(mae, ResampledLevel)
    assert not mae.mine.higher_is_better
    assert (mae.units, mae.examples) == (COUNT, COUNT)
    few = replace_sources(by_source)
    one = few.compare(("dice", EVERYTHING), "dense", MINE)
    assert isinstance(one, ResampledComparison)
    codes = np.arange(COUNT) % 5
    moved = ARMS["dense"]["numerator"] != ARMS[MINE]["numerator"]
    assert (one.units, one.moved, one.differing) == (5, moved.sum(), len(set(codes[moved])))


def replace_sources(found: Scores) -> Scores:
    """The same, where but three examples of two sources differ."""
    kept = found.records.tables["dice", "dense"]
    numerator = kept["numerator"].copy()
    numerator[[1, 6, 2]] += 1
    tables = {**found.records.tables, ("dice", MINE): {**kept, "numerator": numerator}}
    records = replace(found.records, tables=tables)
    one = replace(found, records=records).compare(("dice", EVERYTHING), "dense", MINE)
    assert isinstance(one, ResampledComparison)
    assert (one.moved, one.differing) == (3, 2)
    return found


def test_statistics_are_compared_by_their_replicates(scores: Scores) -> None:
    """Of the resamples of a judged group; with marks, bounds and noise where the metric has them."""
    mask = np.array(SLICES["half"]) == "a"
    weights = unit_weights(evidence().seed, COUNT)
    for name in ("auc", "ece", "macro_f1"):
        metric = METRICS[name]
        for group, rows in ((EVERYTHING, np.ones(COUNT, bool)), ("half=a", mask)):
            if ((name, group), MINE) not in scores.resamples.values:
                assert (name, group) == ("auc", "half=a")
                continue
            found = scores.compare((name, group), "dense", MINE)
            assert isinstance(found, ResampledComparison)
            mine = found.mine
            assert isinstance(mine, Replicated)
            own = {column: ARMS[MINE][column][rows] for column in metric.columns}
            assert metric.statistic is not None
            values = metric.statistic(own, np.flatnonzero(rows))(weights.T)
            assert np.array_equal(mine.values, values, equal_nan=True)
            assert mine.statistic == metric.value({c: v.tolist() for c, v in own.items()})
            assert (mine.examples, mine.bounds) == (rows.sum(), metric.bounds)
            assert mine.higher_is_better == metric.higher_is_better
            assert (mine.own is None) == (metric.marks is None)
            assert (mine.noise > 0) == (name == "ece")
            moved = np.any([ARMS["dense"][c][rows] != own[c] for c in own], axis=0)
            assert (found.moved, found.units) == (moved.sum(), rows.sum())
    ece = scores.level(("ece", EVERYTHING), MINE)
    assert isinstance(ece, ResampledLevel)
    assert METRICS["ece"].noise is not None
    own = {column: ARMS[MINE][column] for column in ("confidence", "correct")}
    assert ece.mine.noise == METRICS["ece"].noise(own, np.arange(COUNT))
    macro = scores.level(("macro_f1", EVERYTHING), MINE)
    assert isinstance(macro, ResampledLevel)
    marks = macro.mine.marks()
    assert marks is not None
    assert marks.tolist() == ARMS[MINE]["correct"].tolist()
    small = scores.compare(("macro_f1", "tail=x"), "dense", MINE)
    assert isinstance(small, ResampledComparison)
    assert small.mine.raw().tolist() == []


def test_slices_are_judged_where_every_arm_has_a_value(scores: Scores) -> None:
    """Too small ones together; without an example of either label there is no area under the curve."""
    assert set(scores.slices) == set(METRICS)
    for name, each in scores.slices.items():
        halves = set() if name == "auc" else {"half=a", "half=b"}
        assert halves | {"tail=y"} <= set(each.judged), name
        assert {"tail=x", "tail=z"} <= set(each.small)
        # Three examples are too few; with the halves they are all.
        assert (TOGETHER in each.judged) == (name == "auc")
        assert all(
            (name, label) in scores.groups for label in (*each.judged, *each.small, EVERYTHING)
        )
    # As the group of all is called in every report.
    assert scores.groups["dice", ""].tolist() == list(range(COUNT))
    assert scores.groups["dice", "half=a"].tolist() == list(range(1, COUNT, 2))
    bottom = ARMS["dense"]["denominator"].copy()
    bottom[1::2] = 0
    given = evidence()
    dense = dict(given.quality.arms["dense"].columns)
    for column in ("denominator", "numerator"):
        dense[column] = tuple((np.array(dense[column]) * (bottom > 0)).tolist())
    arms = {**given.quality.arms, "dense": type(given.quality.arms["dense"])(columns=dense)}
    found = scores_of(edit(given, "quality.arms", arms), slices={"min_examples": 10})
    assert "half=a" in found.slices["dice"].small
    assert "half=b" in found.slices["dice"].judged
    assert "half=a" in found.slices["accuracy"].judged
    dense["denominator"] = (0, 1, *dense["denominator"][2:])
    arms = {**arms, "dense": type(given.quality.arms["dense"])(columns=dense)}
    found = scores_of(edit(given, "quality.arms", arms), slices={"min_examples": 10})
    assert "half=a" in found.slices["dice"].judged


def test_sources_are_what_is_drawn(by_source: Scores) -> None:
    """Sums of each source, and each pair's influences under the same draws."""
    codes, weights = np.arange(COUNT) % 5, unit_weights(evidence().seed, 5)
    assert not by_source.slices

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(codes, values, 5).astype(int)

    def influence(name: str, key: str) -> np.ndarray:
        arm, metric = ARMS[key], METRICS[name]
        if name == "dice":
            return ratio_influence(summed(arm["numerator"]), summed(arm["denominator"]))
        if name == "mae":
            misses = summed(np.abs(arm["predicted"] - arm["target"]))
            return -ratio_influence(misses, summed(np.full(COUNT, SCALE)))
        assert metric.statistic is not None
        found = statistic_influence(
            metric.statistic({c: arm[c] for c in metric.columns}, codes), np.arange(5), 5
        )
        return found if metric.higher_is_better else -found

    for name in ("dice", "mae", "auc", "ece", "macro_f1"):
        group = (name, EVERYTHING)
        for base in ("dense", "champion@cpu", MINE):
            known = by_source.resamples.studentised[group, base, MINE]
            expected = influences(influence(name, base), influence(name, MINE))
            assert known.scales == expected.scales
            assert known.whole.tolist() == expected.block.sum(axis=0).tolist()
            assert known.sums.tolist() == (weights @ expected.block).tolist()
            assert known.units == 5
        one = by_source.compare(group, "champion@cpu", MINE)
        level = by_source.level(group, MINE)
        assert isinstance(one, ResampledComparison)
        assert isinstance(level, ResampledLevel)
        assert one.studentised is by_source.resamples.studentised[group, "champion@cpu", MINE]
        assert level.studentised is by_source.resamples.studentised[group, MINE, MINE]
        assert level.units == one.units == 5
    assert set(by_source.resamples.studentised) == {
        ((name, EVERYTHING), base, MINE)
        for name in ("dice", "mae", "auc", "ece", "macro_f1")
        for base in ("dense", "champion@cpu", MINE)
    }
    sums = by_source.resamples.sums[("dice", EVERYTHING), MINE]
    assert sums[:, 0].tolist() == (weights @ summed(ARMS[MINE]["numerator"])).tolist()
    assert sums.shape == (RESAMPLES, 2)


@pytest.mark.parametrize("arm", ["dense", MINE])
def test_a_source_that_alone_can_be_divided_by_has_no_influence(arm: str) -> None:
    """Then that arm's pairs have no bootstrap-t; of a single source no arm has."""
    given = evidence(SOURCES)
    own = dict(given.quality.arms[arm].columns)
    for column in ("denominator", "numerator"):
        own[column] = tuple((np.array(own[column]) * (np.arange(COUNT) % 5 == 1)).tolist())
    arms = {**given.quality.arms, arm: type(given.quality.arms[arm])(columns=own)}
    found = scores_of(edit(given, "quality.arms", arms)).resamples.studentised
    dice = ("dice", EVERYTHING)
    assert (dice, "dense", MINE) not in found
    assert ((dice, "champion@cpu", MINE) in found) == (arm == "dense")
    assert (("auc", EVERYTHING), "dense", MINE) in found
    assert scores_of(evidence(["s"] * COUNT)).resamples.studentised == {}


@pytest.mark.parametrize(("most", "some"), [(4, False), (5, True)])
def test_up_to_so_many_sources_have_a_bootstrap_t(
    most: int, some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "MOST_SOURCES", most)
    found = scores_of(evidence(SOURCES)).resamples
    assert bool(found.studentised) == some
    assert found.sums


def test_nothing_is_drawn_where_all_is_zero_or_one() -> None:
    policy = make_policy(quality={"accuracy": {"vs_parent": {}}})
    found = read_scores(evidence(SOURCES), policy, {"accuracy": ACCURACY}).resamples
    assert (found.sums, found.values, found.studentised) == ({}, {}, {})
    for name in ("dice", "auc"):
        policy = make_policy(quality={name: {"vs_parent": {}}})
        found = read_scores(evidence(), policy, {name: METRICS[name]}).resamples
        assert (len(found.sums), len(found.values)) == ((3, 0) if name == "dice" else (0, 3))


def test_values_of_no_examples_and_of_no_statistic(scores: Scores) -> None:
    none, everybody = np.zeros(0, dtype=np.int64), np.arange(COUNT)
    assert np.isnan(scores.records.value(("auc", EVERYTHING), none, MINE))
    with pytest.raises(TypeError, match="dice is no statistic"):
        scores.records.prepared(("dice", EVERYTHING), everybody, MINE)
    assert SHARE is METRICS["dice"]


def test_an_example_has_moved_where_any_of_its_columns_has() -> None:
    """One of its two detections is another; no example counts twice."""
    base = {"detection_000": [7, 9, 4, 2], "detection_001": [3, 5, 2, 0], "box_000": [0, 0, 0, 0]}
    mine = {**base, "detection_000": [7, 9, 6, 4], "detection_001": [3, 7, 2, 2]}
    arms = {"dense": base, "champion@cpu": base, MINE: mine}
    given = edit(make_evidence(), "quality", make_quality(arms))
    policy = make_policy(quality={"map": {"vs_parent": {"max_drop": 0.1}}})
    found = read_scores(given, policy, {"map": get_metric("map")})
    one = found.compare(("map", EVERYTHING), "dense", MINE)
    assert isinstance(one, ResampledComparison)
    assert (one.moved, one.differing) == (3, 3)


@pytest.mark.parametrize(
    ("key", "judged"),
    [("dense", {"half=b", "tail=y", TOGETHER}), (MINE, {"half=a", "half=b", "tail=y"})],
)
def test_whose_lack_of_a_value_keeps_a_slice_from_being_judged(key: str, judged: set[str]) -> None:
    """One answer for one half: that half has no correlation. The baseline's lack decides, the candidate's
    does not.
    """
    given = evidence()
    own = dict(given.quality.arms[key].columns)
    own["predicted"] = tuple(5 if place % 2 else one for place, one in enumerate(own["predicted"]))
    arms = {**given.quality.arms, key: type(given.quality.arms[key])(columns=own)}
    rules = {"vs_parent": {"max_drop": 0.1}, "slices": {"min_examples": 10}}
    policy = make_policy(quality={"pearson": rules})
    found = read_scores(
        edit(given, "quality.arms", arms), policy, {"pearson": get_metric("pearson")}
    )
    assert judged == set(found.slices["pearson"].judged)
    assert set(found.slices["pearson"].small) == {"half=a", "tail=x", "tail=z"} - judged
