"""The verdict in a terminal, and the one sentence that is the same everywhere."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from reprune.judge.examples import NEWER
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.html import render_html
from reprune.report.junit import render_junit
from reprune.report.markdown import render_markdown
from reprune.report.slices import NEWEST
from reprune.report.terminal import render_explanation, render_terminal
from tests.report.scenes import (
    BLOCKED,
    DRY,
    FIRST,
    HOSTILE,
    PASSED,
    SCENES,
    STRICT,
    TRIPPED,
    UNDECIDED,
    WAIVED,
)
from tests.report.verdicts import write_verdict

Told = Callable[[str], ReportFacts]


@pytest.mark.parametrize("name", sorted(set(SCENES) - {"hostile"}))
def test_the_same_sentence_everywhere(name: str, told: Told) -> None:
    """Terminal, Markdown, HTML and JUnit open with the judge's own headline."""
    known = told(name)
    sentence = known.judgement.headline.replace("`", "")
    page = re.sub("<[^>]+>", "", re.findall("<h1>(.*?)</h1>", render_html(known))[0])
    case = ElementTree.fromstring(render_junit(known)).find("testsuite/testcase")
    assert case is not None
    assert render_terminal(known.verdict).splitlines()[0].replace("`", "").endswith(sentence)
    assert render_markdown(known).splitlines()[1].replace("`", "").endswith(sentence)
    assert html.unescape(page) == sentence
    if len(case):
        assert case[0].attrib["message"].replace("`", "") == sentence


def test_the_table_is_aligned_and_worst_first(told: Told) -> None:
    """Columns line up, the blocked rows stand first, and it fits a usual terminal."""
    table = render_terminal(told("block").verdict).partition("\n\n")[2].splitlines()
    assert len({line.index("vs ") for line in table if "Latency vs" in line}) == 1
    assert [line.split()[0] for line in table[1:4]] == ["blocked", "blocked", "undecided"]
    assert len({len(line) for line in table[1:]}) == 1
    assert max(len(line) for line in table) <= 100
    ends = {re.search(r"\S(?= +[≤≥])", line).end() for line in table[1:]}  # type: ignore[union-attr]
    assert len(ends) == 1


def test_an_explanation_says_why_where_and_what_to_try(tmp_path: Path) -> None:
    """`reprune explain` names the slice, the layers, the knob, and how to judge again."""
    text = render_explanation(write_verdict(BLOCKED, tmp_path))
    for part in (
        "Slice digit=8 changed by",
        "The cut of conv1",
        "plan.fraction: 0.65 (now 0.5)",
        "reprune check artifacts/verdict --recompute",
        "digits v3 is not promoted: champion stays v2.",
    ):
        assert part in text


def test_an_undecided_one_says_what_decides_it(tmp_path: Path) -> None:
    """The title and the number are those of the judge."""
    text = render_explanation(write_verdict(UNDECIDED, tmp_path))
    assert "To decide it\n  - About 620 more examples" in text


def test_nothing_reaches_the_terminal_that_it_would_obey(tmp_path: Path) -> None:
    """Escape sequences and direction overrides in names are shown as code points."""
    scene = replace(PASSED, name=HOSTILE, headline=HOSTILE, reasons=(HOSTILE,), notes=(HOSTILE,))
    text = render_explanation(write_verdict(scene, tmp_path))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_a_terminal_says_who_overrode_and_what_tripped(tmp_path: Path) -> None:
    """`check` and `explain` both: the override above the reasons, the tripped guard with what to do."""
    waived, tripped = write_verdict(WAIVED, tmp_path / "a"), write_verdict(TRIPPED, tmp_path / "b")
    for text in (render_terminal(waived.manifest), render_explanation(waived)):
        assert text.splitlines()[1].startswith(
            "! Override: The champion was promoted by an override"
        )
        assert "until 2026-12-24: accuracy.vs_parent on ort-cpu, latency.vs_parent" in text
    assert "judged on 23 times; the policy warns above 20" in render_explanation(waived)
    assert "- guard tripped: Waiting on ort-cpu: In 38 of 60" in render_terminal(tripped.manifest)
    told = render_explanation(tripped)
    assert (
        "do what is said of waiting on ort-cpu, then dvc repro -s -f benchmark and dvc repro."
        in told
    )
    guards = told.partition("Guards of the measurement\n")[2].splitlines()[:4]
    assert [line.partition(":")[0].strip(" -") for line in guards] == [
        "tripped",
        "not known",
        "off",
        "ok",
    ]
    assert "The machine does not tell how fast its clock ran." in guards[1]


def test_a_dry_run_is_never_taken_for_a_promotion(tmp_path: Path) -> None:
    """Whatever the outcome would be, the text says that nothing is promoted, and offers no override."""
    for scene in (DRY, replace(PASSED, dry_run=True), replace(FIRST, dry_run=True)):
        text = render_explanation(
            write_verdict(scene, tmp_path / scene.outcome / str(scene.champion))
        )
        assert "is not promoted, whatever the outcome: the policy says mode: dry-run" in text
        assert "reprune promote" not in text
        assert "reprune override" not in text


def test_what_blocks_undecided_says_what_would_decide(tmp_path: Path) -> None:
    """Where the policy alone made it a block, there is nothing to cut less, but something to decide."""
    text = render_explanation(write_verdict(STRICT, tmp_path))
    assert "What to try\n  - About 620 more examples" in text
    assert "plan.fraction" not in text
    assert "The policy blocks what is not decided (on_inconclusive: block)." in text


def test_a_metric_without_worse_and_better_says_how_many_changed(tmp_path: Path) -> None:
    """A correlation knows no example that got worse: the slice counts those whose record changed."""
    slices = tuple(
        msgspec.structs.replace(one, changed=17, right_to_wrong=0, wrong_to_right=0)
        for one in BLOCKED.slices
    )
    verdict = write_verdict(replace(BLOCKED, slices=slices), tmp_path)
    known = read_facts(verdict)
    assert "the records of 17 changed" in render_explanation(verdict)
    for text in (render_markdown(known), render_html(known)):
        assert "17 changed" in text
        assert "0 / 0" not in text.rpartition("</style>")[2]


def test_the_newest_slice_has_the_judges_name() -> None:
    """The report finds it by the name that the judge gives it."""
    assert NEWEST == NEWER


def test_the_newest_examples_are_told_apart(told: Told, tmp_path: Path) -> None:
    """Where the champion was never looked at, the change is said in the open, everywhere."""
    said = (
        "On the 120 examples newer than all that the champion was judged on, the change against dense v3 "
        "on ort-cpu is \u22120.83\u00a0pt (\u22124.10 to +2.00\u00a0pt): ok."
    )
    known = told("waived")
    assert said in render_explanation(write_verdict(WAIVED, tmp_path))
    assert said in render_html(known)
    assert render_markdown(known).index(said) < render_markdown(known).index("<summary>Slices: ")
