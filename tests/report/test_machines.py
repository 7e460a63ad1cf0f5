"""What machines read: JUnit for CI, metrics for DVC."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from reprune.report.facts import ReportFacts
from reprune.report.junit import render_junit
from reprune.report.metrics import drop, render_metrics
from tests.report.scenes import (
    BLOCKED,
    BROKEN,
    HOSTILE,
    PASSED,
    SCENES,
    UNDECIDED,
    WAITED,
    accuracy,
    latency,
)
from tests.report.verdicts import bare

Told = Callable[[str], ReportFacts]


def suite(known: ReportFacts) -> ElementTree.Element:
    root = ElementTree.fromstring(render_junit(known))
    (found,) = root.findall("testsuite")
    return found


@pytest.mark.parametrize("name", sorted(SCENES))
def test_one_case_a_rule_and_one_for_the_verdict(name: str, told: Told) -> None:
    """The suite has a case for each rule and the verdict, and its counts are those of its cases."""
    known = told(name)
    found = suite(known)
    assert len(found.findall("testcase")) == len(known.judgement.rules) + 1
    for element, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(found.findall(f"testcase/{element}")) == int(found.attrib[count])
    assert int(found.attrib["tests"]) == len(known.judgement.rules) + 1


def test_only_a_pass_is_green() -> None:
    """A blocked verdict fails, an undecided or unusable one is an error; none can be taken for a pass."""
    counts = {
        scene.outcome: (suite(bare(scene)).attrib["failures"], suite(bare(scene)).attrib["errors"])
        for scene in (PASSED, BLOCKED, UNDECIDED, BROKEN)
    }
    assert counts == {
        "pass": ("0", "0"),
        "block": ("3", "1"),
        "inconclusive": ("0", "2"),
        "error": ("0", "1"),
    }


def test_an_advisory_rule_is_skipped_not_failed() -> None:
    """A rule that decides nothing does not turn a pass red."""
    advisory = msgspec.structs.replace(latency("dense", "block", 0.08, 1.2), required=False)
    found = suite(bare(replace(PASSED, rules=(*PASSED.rules, advisory))))
    assert (found.attrib["failures"], found.attrib["skipped"]) == ("0", "1")


def test_hostile_text_is_valid_xml() -> None:
    """Names with control characters, quotes and tags parse, and read as they are shown elsewhere."""
    rules = tuple(msgspec.structs.replace(one, words=HOSTILE, rule="x") for one in BLOCKED.rules)
    found = suite(bare(replace(BLOCKED, name=HOSTILE, headline=HOSTILE, rules=rules)))
    message = found.findall("testcase/failure")[0].attrib["message"]
    assert message.startswith("<script>alert(1)</script> | `x`")
    assert "[U+001B]" in message


@pytest.mark.parametrize("name", sorted(SCENES))
def test_metrics_are_flat(name: str, told: Told) -> None:
    """metrics.json is one object of numbers and words, which is all that DVC shows."""
    values = json.loads(render_metrics(told(name)))
    assert values["outcome"] == told(name).judgement.outcome
    assert all(isinstance(value, int | float | str) for value in values.values())


def test_metrics_say_what_people_compare(told: Told) -> None:
    """Ratio, drop and size have the numbers of the rules, under names that say against whom."""
    values = json.loads(render_metrics(told("block")))
    assert values["latency_ratio.ort-cpu"] == pytest.approx(0.619)
    assert values["latency_ratio_vs_champion.ort-cpu"] == pytest.approx(0.979)
    assert values["quality_drop.accuracy.ort-cpu"] == pytest.approx(0.06)
    assert values["quality.accuracy.ort-cpu"] == pytest.approx(0.92)
    assert values["engine_bytes.ort-cpu"] == 76_875
    assert values["slices_harmed"] == 1


def test_what_was_not_measured_is_left_out(told: Told) -> None:
    """An error has no ratio at all; it never reads as 0."""
    values = json.loads(render_metrics(told("error")))
    assert not [name for name in values if "ratio" in name or "quality" in name]


def test_a_drop_is_positive_where_the_model_got_worse() -> None:
    """Also for a metric of which less is better, and never as a negative zero."""
    worse = accuracy("dense", "pass", (430, 440), 0.01)
    rising = msgspec.structs.replace(worse, change=0.02, limit=0.03, direction="at most")
    unmoved = msgspec.structs.replace(worse, change=0.0)
    assert drop(worse) == pytest.approx(10 / 450)
    assert drop(rising) == pytest.approx(0.02)
    assert str(drop(unmoved)) == "0.0"


@pytest.mark.slow
def test_dvc_shows_the_metrics(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc metrics show` lists every one of them."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.json").write_text(render_metrics(told("pass")), encoding="utf-8")
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        shown = repo.metrics.show(targets=["metrics.json"])[""]["data"]["metrics.json"]["data"]
    assert shown == json.loads(render_metrics(told("pass")))


def test_junit_tells_of_overrides_dry_runs_and_guards(told: Told) -> None:
    """What belongs to no case is a property of the suite; a suite without any has no properties."""
    told_of = {
        name: [(p.attrib["name"], p.attrib["value"]) for p in suite(told(name)).iter("property")]
        for name in ("pass", "waived", "dry_run", "tripped")
    }
    assert told_of["pass"] == []
    assert told_of["dry_run"] == [("dry_run", "true")]
    ((key, override),) = told_of["waived"]
    assert key == "override"
    assert "override of Ada Lovelace (the old model misreads 8 for 3" in override
    assert told_of["tripped"] == [
        (
            "guard_tripped",
            f"Waiting on ort-cpu: {WAITED}",
        )
    ]


def test_metrics_name_every_kind_of_demand(told: Told) -> None:
    """Slow calls, throughput by batch and memory each have a number of their own."""
    values = json.loads(render_metrics(told("waived")))
    assert values["latency_ratio.ort-cpu"] == pytest.approx(0.619)
    assert values["tail_ratio.ort-cpu"] == 0.622
    assert values["tail_ms.ort-cpu"] == 0.0561
    assert values["throughput_ratio.ort-cpu.b32"] == 1.53
    assert values["examples_per_second.ort-cpu.b32"] == 18_200
    assert values["memory_ratio.ort-cpu"] == 0.889
    assert values["peak_memory_bytes.ort-cpu"] == 27_900_000
    assert values["guards_tripped"] == 0
    assert json.loads(render_metrics(told("tripped")))["guards_tripped"] == 1
    assert "guards_tripped" not in json.loads(render_metrics(told("pass")))
