"""Verdicts on metrics that are no mean of examples, with and without sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprune.core.artifacts import Judgement, RuleResult
from reprune.core.errors import UnknownName
from reprune.core.records import SCALE, pack_detection
from reprune.judge.evidence import Evidence
from reprune.judge.examples import NEWER
from reprune.judge.grouping import TOGETHER
from reprune.judge.metrics import get_metric
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_quality

COUNT = 1000
EXACT_MARGIN = {"max_drop": 0.02, "max_error_ratio": None}


def columns(noise: float, seed: int = 1, count: int = COUNT) -> dict[str, Sequence[int]]:
    """One arm's columns for every metric; more noise is a worse model. Truths do not depend on it."""
    rng = np.random.default_rng(1)
    own = np.random.default_rng(seed)
    label = rng.integers(0, 2, count)
    score = 2.0 * label + rng.normal(0, 1, count) + own.normal(0, 1, count) * noise
    target = rng.integers(0, SCALE + 1, count)
    predicted = target + (rng.normal(0, 0.05, count) + own.normal(0, 1, count) * noise / 10) * SCALE
    actual = rng.integers(0, 4, count)
    wrong = rng.random(count) * (1 - noise / 4) < 0.1
    answer = np.where(wrong, (actual + 1) % 4, actual)
    right = answer == actual
    surely = np.clip(rng.normal(0.9 + noise / 10, 0.02, count), 0, 1)
    kinds, hits = rng.integers(0, 3, count), rng.random(count) * (1 - noise / 4) > 0.15
    unsure = np.clip(rng.normal(0.6, 0.1, count) + 0.2 * hits, 0, 1) * SCALE
    found = [
        pack_detection(int(k), int(s), bool(h)) for k, s, h in zip(kinds, unsure, hits, strict=True)
    ]
    arrays = {
        "score": score * SCALE,
        "label": label,
        "target": target,
        "predicted": np.clip(predicted, -SCALE, 2 * SCALE),
        "actual": actual,
        "answer": answer,
        "correct": right,
        "confidence": surely * SCALE,
        "detection_000": found,
        "box_000": kinds,
    }
    return {name: np.asarray(each).astype(np.int64).tolist() for name, each in arrays.items()}


def evidence(noise: float, sources: int | None = None, **edits: Any) -> Evidence:
    """Evidence whose candidate is `noise` worse than dense and champion."""
    base, mine = columns(0.0), columns(noise, seed=2)
    arms = {"dense": base, "dense@cpu": base, "champion@cpu": base, "candidate@cpu": mine}
    names = None if sources is None else [f"s{place % sources}" for place in range(COUNT)]
    slices = {"half": [("a", "b")[place % 2] for place in range(COUNT)]}
    found = edit(make_evidence(), "quality", make_quality(arms, slices=slices, sources=names))
    for path, value in edits.items():
        found = edit(found, path.replace("__", "."), value)
    return found


def verdict(given: Evidence, **quality: Any) -> Judgement:
    return judge(given, make_policy(quality=quality, latency=None, size=None))


def rule(found: Judgement, name: str) -> RuleResult:
    return next(one for one in found.rules if one.rule == name)


ALL = {
    "auc": 0.02,
    "average_precision": 0.02,
    "macro_f1": 0.02,
    "f1[2]": 0.04,
    "pearson": 0.04,
    "spearman": 0.04,
    "mae": 0.01,
    "mse": 0.01,
    "ece": 0.02,
    "map": 0.03,
    "ap[1]": 0.06,
    "agreement": 0.05,
}
LESS = {"mae", "mse", "ece"}


@pytest.mark.slow
@pytest.mark.parametrize("sources", [None, 500])
def test_several_metrics_at_once_each_with_its_margin(sources: int | None) -> None:
    """The same model passes all of them; a bad one is shown to have lost more than each allows."""
    rules = {
        name: {"vs_parent": {"max_drop": drop, "max_error_ratio": None}}
        for name, drop in ALL.items()
    }
    same = verdict(evidence(0.0, sources), **rules)
    assert same.outcome == "pass"
    bad = verdict(evidence(2.0, sources), **rules)
    assert bad.outcome == "block"
    for name, drop in ALL.items():
        kept, broken = rule(same, f"{name}.vs_parent"), rule(bad, f"{name}.vs_parent")
        assert kept.outcome == "pass", kept
        assert kept.change == 0.0
        assert broken.outcome in ("block", "inconclusive"), broken
        assert broken.low is not None
        assert broken.high is not None
        assert broken.change is not None
        assert broken.low <= broken.change <= broken.high
        nearest = -broken.low if name in LESS else broken.high
        assert nearest < -drop, broken
        assert (broken.change > 0) == (name in LESS)
        assert abs(broken.limit) == drop
        assert broken.direction == ("at most" if name in LESS else "at least")


@pytest.mark.slow
def test_what_changed_is_counted_where_an_example_cannot_get_worse() -> None:
    """AUC: examples with other records. Macro F1 and correlations: examples that got worse and better."""
    margins = {"vs_parent": EXACT_MARGIN, "slices": {}}
    found = verdict(evidence(1.0), auc=margins, macro_f1=margins, spearman=margins)
    assert f"{COUNT} of {COUNT} examples have other records" in rule(found, "auc.vs_parent").words
    assert "got worse and" in rule(found, "macro_f1.vs_parent").words
    assert "got worse and" in rule(found, "spearman.vs_parent").words
    by_metric = {one.rule.partition(".")[0]: one for one in found.slices if one.slice == "half=a"}
    assert by_metric["auc"].changed == COUNT // 2
    assert by_metric["auc"].right_to_wrong == by_metric["auc"].wrong_to_right == 0
    assert not by_metric["macro_f1"].changed
    assert by_metric["macro_f1"].right_to_wrong > 0


@pytest.mark.slow
def test_a_floor_of_a_statistic_is_judged_on_its_limit() -> None:
    """The limit lies below the value, with and without sources; above the floor it passes."""
    for sources in (None, 50):
        given = evidence(0.5, sources)
        value = rule(verdict(given, auc={"floor": 0.5}), "auc.floor").candidate_value
        assert value is not None
        held = rule(verdict(given, auc={"floor": value - 0.05}), "auc.floor")
        near = rule(verdict(given, auc={"floor": value - 0.001}), "auc.floor")
        broken = rule(verdict(given, auc={"floor": value + 0.05}), "auc.floor")
        assert [one.outcome for one in (held, near, broken)] == ["pass", "inconclusive", "block"]
        assert held.low is not None
        assert held.high is not None
        assert held.low < value < held.high


def test_few_sources_decide_nothing() -> None:
    """Below 20 of them, however clear it looks."""
    for name in ("auc", "mae", "macro_f1"):
        found = verdict(evidence(2.0, 19), **{name: {"vs_parent": EXACT_MARGIN}})
        assert found.outcome == "inconclusive"
        assert "At least 20 independent sources; there are 19" in found.rules[0].decide


def test_agreement_allows_no_ratio_of_errors() -> None:
    """The dense model makes none by definition: the margin is the drop alone."""
    found = verdict(evidence(0.0), agreement={"vs_parent": {"max_drop": 0.02}})
    assert found.outcome == "pass"
    assert found.rules[0].limit == -0.02
    lost = verdict(evidence(1.0), agreement={"vs_parent": {"max_drop": 0.02}, "floor": 0.9})
    assert rule(lost, "agreement.vs_parent").baseline_value == 1.0
    other = edit(evidence(0.0), "quality.arms.dense.columns", {"correct": (1,) * COUNT})
    assert "needs the column answer, which dense has not" in " ".join(
        verdict(other, agreement={"vs_champion": {"max_drop": 0.02}}).reasons
    )


@pytest.mark.slow
def test_examples_newer_than_the_champions_evidence_are_a_slice() -> None:
    """Of every metric with slice rules; without times, or what a champion was judged on, there is none."""
    times = tuple(f"2026-{1 + place // 100:02d}" for place in range(COUNT))
    given = evidence(0.0, champion_newest="2026-07", quality__times=times)
    rules = {"vs_parent": EXACT_MARGIN, "slices": {"required": (NEWER,)}}
    found = verdict(given, auc=rules, accuracy=rules)
    newer = [one for one in found.slices if one.slice == NEWER]
    assert {one.rule for one in newer} == {"auc.slices.vs_parent", "accuracy.slices.vs_parent"}
    assert {one.examples for one in newer} == {300}
    assert all(one.required for one in newer)
    assert found.outcome == "pass"
    for path, value in (("champion_newest", None), ("quality__times", None)):
        again = verdict(edit(given, path.replace("__", "."), value), auc=rules, accuracy=rules)
        assert not [one for one in again.slices if one.slice == NEWER]
        assert again.outcome == "error"
        assert "is not among the examples" in again.reasons[0]
    short = edit(given, "quality.times", times[:-1])
    assert "The times name 999 examples of 1000." in verdict(short, auc=rules).reasons


def test_newer_examples_are_not_asked_for_where_there_can_be_none() -> None:
    """Without a champion, or examples newer than its own; any other name, or no times, is an error still."""
    times = tuple(f"2026-{1 + place // 100:02d}" for place in range(COUNT))
    given = evidence(0.0, champion_newest="2027", quality__times=times)
    first = edit(make_evidence(arms=("candidate", "dense")), "quality", given.quality)

    def asked(one: Evidence, label: str = NEWER) -> Judgement:
        return verdict(one, accuracy={"slices": {"max_drop": 0.5, "required": (label,)}})

    for one in (given, first):
        found = asked(one)
        assert found.outcome == "pass"
        words = rule(found, "accuracy.slices.vs_parent").words
        assert "no example is newer than those that a champion was judged on: the rule" in words
        assert asked(one, "age=newer").outcome == "error"
        assert asked(edit(one, "quality.times", None)).outcome == "error"
    assert "no example is newer" not in asked(first, "half=a").rules[0].words
    assert asked(edit(given, "champion_newest", None)).outcome == "error"


def test_harm_to_the_newest_alone_blocks() -> None:
    """The whole hardly moves; the newer examples lose their order."""
    times = tuple(f"{place:04d}" for place in range(COUNT))
    given = evidence(0.0, champion_newest="0699", quality__times=times)
    score = list(columns(0.0)["score"])
    score[700:] = [-each for each in score[700:]]
    given = edit(given, "quality.arms.candidate@cpu.columns.score", tuple(score))
    rules = {"vs_parent": {"max_drop": 0.6, "max_error_ratio": None}, "slices": {"max_drop": 0.3}}
    found = verdict(given, auc=rules)
    assert found.outcome == "block"
    assert rule(found, "auc.vs_parent").outcome == "pass"
    assert NEWER in rule(found, "auc.slices.vs_parent").words


@pytest.mark.parametrize(
    ("metric", "positives", "states"),
    [
        ("auc", 3, {"not judged"}),
        ("auc", 8, {"harm"}),
        ("average_precision", 8, {"undecided"}),
    ],
)
def test_few_positives_whose_order_is_lost_are_never_ok(
    metric: str, positives: int, states: set[str]
) -> None:
    """Resamples without one of them leave the metric undefined, which is no gain; and a few that lie far
    off say how little is known, not that nothing was lost.
    """
    rng = np.random.default_rng(0)
    label = (rng.random(COUNT) < 0.3).astype(int)
    label[:200], label[:positives] = 0, 1
    score = (rng.normal(0, 1, COUNT) + 3 * label) * SCALE
    base, mine = score.astype(int), score.astype(int)
    mine[:200] *= -1
    arms = {
        key: {"score": each.tolist(), "label": label.tolist()}
        for key, each in (("dense", base), ("champion@cpu", base), ("candidate@cpu", mine))
    }
    sites = ["rare" if place < 200 else "rest" for place in range(COUNT)]
    given = edit(make_evidence(), "quality", make_quality(arms, slices={"site": sites}))
    wide = {"max_drop": 0.6, "max_error_ratio": None}
    found = verdict(given, **{metric: {"vs_parent": wide, "slices": {"max_drop": 0.1}}})
    assert {one.outcome for one in found.slices if one.slice == "site=rare"} == states
    assert rule(found, f"{metric}.slices.vs_parent").outcome != "pass"


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("sources", [None, 250])
def test_a_candidate_without_a_value_does_not_leave_the_slice(
    metric: str, sources: int | None
) -> None:
    """One answer for all of it: the metric has no value then, and counts as the worst."""
    given = evidence(0.0, sources)
    base = columns(0.0)["predicted"]
    mine = [SCALE // 2 if place % 2 else one for place, one in enumerate(base)]
    given = edit(given, "quality.arms.candidate@cpu.columns.predicted", tuple(mine))
    wide = {"max_drop": 1.0, "max_error_ratio": None}
    found = verdict(given, **{metric: {"vs_parent": wide, "slices": {"max_drop": 0.3}}})
    states = {one.slice: one.outcome for one in found.slices}
    assert states == {"half=a": "ok", "half=b": "harm"}
    assert found.outcome == "block"


def test_a_baseline_without_a_value_leaves_a_slice_to_the_small_ones() -> None:
    """Of those that it is compared with, here the champion; the candidate may have lost nothing there."""
    base = columns(0.0)["predicted"]
    flat = [SCALE // 2 if place % 2 else one for place, one in enumerate(base)]
    given = edit(evidence(0.0), "quality.arms.champion@cpu.columns.predicted", tuple(flat))
    wide = {"max_drop": 1.0, "max_error_ratio": None}
    rules = {"vs_parent": wide, "slices": {"max_drop": 0.3}}
    alone = verdict(given, pearson=rules)
    assert {one.outcome for one in alone.slices} == {"ok"}
    beside = verdict(given, pearson={**rules, "vs_champion": wide})
    states = {one.slice: one.outcome for one in beside.slices}
    assert states == {"half=a": "ok", "half=b": "not judged"}


def test_a_slice_without_both_labels_is_not_judged() -> None:
    """AUC is not defined there; it joins the small ones."""
    given = evidence(0.0)
    label = columns(0.0)["label"]
    given = edit(given, "quality.slices", {"is": tuple(map(str, label))})
    found = verdict(given, auc={"vs_parent": EXACT_MARGIN, "slices": {}})
    outcomes = {one.slice: one.outcome for one in found.slices}
    assert outcomes == {"is=0": "not judged", "is=1": "not judged", TOGETHER: "ok"}


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("label", lambda v: (1 - v[0], *v[1:]), "tells the examples, not the model"),
        ("label", lambda v: (2, *v[1:]), "other numbers than 0 and 1 as label"),
        ("confidence", lambda v: (-1, *v[1:]), "hold a confidence outside"),
        ("target", lambda v: (v[0] // 2, *v[1:]), "differs between"),
        ("predicted", lambda v: (5,) * len(v), "the same predicted for every example"),
        ("box_000", lambda v: (10**6, *v[1:]), "hold a box outside"),
        ("answer", lambda v: (-1, *v[1:]), "below 0"),
    ],
)
def test_faulty_columns_are_an_error(column: str, change: Any, words: str) -> None:
    """Each alone, with all metrics asked for."""
    given = edit(evidence(0.0), f"quality.arms.candidate@cpu.columns.{column}", change)
    found = verdict(given, **{name: {"vs_parent": EXACT_MARGIN} for name in ALL})
    assert found.outcome == "error"
    assert words in " ".join(found.reasons)


def test_missing_columns_are_an_error() -> None:
    """A metric whose columns a task does not record is never passed over."""
    given = make_evidence()
    for name in ALL:
        found = verdict(given, **{name: {"vs_parent": {}}})
        assert found.outcome == "error"
        assert f"{name} needs the column" in found.reasons[0]


SOURCE = """
from reprune.judge.metrics import Metric

def right(columns, dense):
    return columns["correct"][None]

CAREFUL = Metric(columns=("correct",), form="binary", derive=right)
"""


def test_a_third_partys_metric_is_named_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By entry point of an installed package; the note says package, version and the file's sha256."""
    (tmp_path / "careful_metrics.py").write_text(SOURCE)
    info = tmp_path / "careful_metrics-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: careful-metrics\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[reprune.metrics]\ncareful = careful_metrics:CAREFUL\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert get_metric("careful").form == "binary"
    found = verdict(evidence(0.0), careful={"vs_parent": EXACT_MARGIN})
    assert found.outcome == "pass"
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    (note,) = [one for one in found.notes if "careful" in one]
    assert note == (
        "The metric careful is the package careful-metrics 2.1's, module careful_metrics "
        f"(sha256:{digest})."
    )
    assert not [one for one in verdict(evidence(0.0), auc={"floor": 0.1}).notes if "package" in one]
    monkeypatch.undo()
    with pytest.raises(UnknownName):
        get_metric("careful")
