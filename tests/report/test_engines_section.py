"""The section on engines tells how they were built and how they begin, beside how near they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from reprune.core.artifacts import BuildFact, LayerError
from reprune.judge.evidence import Phases, Start
from reprune.report.engines import engines_section
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from tests.report.scenes import PASSED
from tests.report.verdicts import facts

STARTS = tuple(
    Start(load_ns=ms * 1_000_000, first_call_ns=2_500_000, peak_bytes=7_000_000)
    for ms in (30, 40, 900)
)


@pytest.fixture
def told(tmp_path: Path) -> ReportFacts:
    found = facts(PASSED, tmp_path)
    (engines,) = found.engines
    built = BuildFact(
        float_layers=("head", "block.<3>"),
        fallbacks=2,
        notes=("int8 on 500 examples of tune: 0.2 points lost",),
        details={"quantised layers": "18 of 20"},
    )
    made = tuple(
        msgspec.structs.replace(
            fact,
            precision="int8",
            built=built,
            worst_layers=(LayerError(layer="stem", relative=0.25),),
        )
        if fact.arm == "candidate"
        else fact
        for fact in engines.engines
    )
    target = made[0].target
    return replace(
        found,
        engines=(msgspec.structs.replace(engines, engines=made),),
        starts={target: {"candidate": STARTS}},
    )


def test_builds_and_starts_are_told(told: ReportFacts) -> None:
    section = engines_section(told)
    assert section is not None
    text = "".join(map(str, section.content))
    for words in (
        "left in float: head",
        "2 layers run elsewhere",
        "0.2 points lost",
        "18 of 20",
        "Which layers differ most, pruned v3, ort-cpu",
        ">stem</text>",
        ">0.250</td>",
    ):
        assert words in text
    # Medians of the three processes, so that one slow start does not count.
    assert "40" in text
    assert "900" not in text
    assert "2.5" in text
    assert "In int8 the policy asks for a cosine of 0.98" in section.lead
    assert "In fp32 the policy asks for a difference" in section.lead


def test_what_a_model_is_called_cannot_break_the_page(told: ReportFacts) -> None:
    page = render_html(told)
    assert "block.<3>" not in page
    assert "block.&lt;3&gt;" in page


def test_what_a_call_on_an_accelerator_is_made_of_is_told(told: ReportFacts) -> None:
    """With the convention of its clock by name; on a CPU there is no such table."""
    phases = Phases(h2d_us=120.0, compute_us=3400.0, d2h_us=380.0)
    clock = "CUDA events around a captured graph, without copies"
    starts = tuple(msgspec.structs.replace(one, phases=phases, clock=clock) for one in STARTS)
    (target,) = told.starts
    section = engines_section(replace(told, starts={target: {"candidate": starts}}))
    assert section is not None
    text = "".join(map(str, section.content))
    for words in (clock, "Computing", "120\u00a0µs", "3.40\u00a0ms", "380\u00a0µs"):
        assert words in text
    plain = engines_section(told)
    assert plain is not None
    assert "Computing" not in "".join(map(str, plain.content))


def test_the_markdown_names_the_clock_of_an_accelerator(told: ReportFacts) -> None:
    clock = "CUDA events around a captured graph, without copies"
    assert told.evidence is not None
    targets = tuple(
        msgspec.structs.replace(
            one, units=tuple(msgspec.structs.replace(unit, clock=clock) for unit in one.units)
        )
        for one in told.evidence.targets
    )
    on_gpu = replace(told, evidence=msgspec.structs.replace(told.evidence, targets=targets))
    assert f"calls are timed by {clock}" in render_markdown(on_gpu)
    assert "calls are timed by" not in render_markdown(told)


def test_without_starts_there_is_no_table_of_them(told: ReportFacts) -> None:
    section = engines_section(replace(told, starts={}))
    assert section is not None
    assert "First call" not in "".join(map(str, section.content))
