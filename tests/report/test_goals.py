"""docs/reports.md names the tests of what the reports promise; here are those that are nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reprune.doors.cli import main
from reprune.judge.verdict import judge
from reprune.report.facts import ReportFacts
from reprune.report.markdown import render_markdown
from reprune.steps.diff import diff
from tests.building import edit, make_evidence, make_policy
from tests.report.scenes import BROKEN, PASSED, SCENES
from tests.report.verdicts import write_verdict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
Told = Callable[[str], ReportFacts]


def test_every_promise_names_tests_that_there_are() -> None:
    """Fifteen, in order, each with at least one test by file and name."""
    rows = _ROW.findall(PAGE)
    assert [int(number) for number, _ in rows] == list(range(1, 16))
    for number, row in rows:
        named = _TEST.findall(row)
        assert named, f"goal {number} names no test"
        for file, name in named:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), (
                f"goal {number}: {file}::{name}"
            )


@pytest.mark.parametrize(
    ("scene", "exit_code"), [("pass", 0), ("block", 3), ("inconclusive", 4), ("error", 2)]
)
def test_the_command_says_the_same_sentence(
    scene: str,
    exit_code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In JSON and in the terminal, the headline of the report; the outcome is the exit code."""
    monkeypatch.chdir(tmp_path)
    write_verdict(SCENES[scene], tmp_path)
    assert main(["check", "verdict", "--json"]) == exit_code
    told = json.loads(capsys.readouterr().out)["judgement"]["headline"]
    assert main(["check", "verdict"]) == exit_code
    assert capsys.readouterr().out.splitlines()[0].endswith(told)
    assert told == SCENES[scene].headline


@pytest.mark.parametrize("name", sorted(set(SCENES) - {"hostile"}))
def test_no_report_shows_or_links_what_lies_elsewhere(name: str, told: Told) -> None:
    """No image, no address, no advertisement: a comment loads nothing and leads nowhere."""
    text = render_markdown(told(name))
    assert not re.search(r"!\[|\]\(|https?:|<img|<a ", text)


def test_a_metric_that_vanished_is_an_error() -> None:
    """Its records are gone from the candidate: never a pass, and the words name arm and column."""
    records = "quality.arms.candidate@cpu.columns"
    assert judge(make_evidence(), make_policy()).outcome == "pass"
    found = judge(edit(make_evidence(), records, {}), make_policy())
    assert found.outcome == "error"
    assert "candidate" in found.headline
    assert "correct" in found.headline


def test_a_demand_that_vanished_is_said(tmp_path: Path) -> None:
    """Compared with the verdict before, each demand that an unusable one no longer judges is gone."""
    write_verdict(PASSED, tmp_path / "a")
    write_verdict(replace(BROKEN, champion=PASSED.champion), tmp_path / "b")
    told = diff(tmp_path, "a/verdict", "b/verdict").verdicts
    assert told is not None
    assert {one.moved for one in told.rules} == {"gone"}
    assert len(told.rules) == len(PASSED.rules)
