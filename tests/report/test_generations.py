"""Generations: what the registry remembers beside this one, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from reprune.report.facts import ReportFacts
from reprune.report.generations import Judged, front, judged, since_last
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.report.phrases import as_text
from reprune.report.terminal import render_explanation
from tests.report.scenes import HISTORY, PASSED, RETURNED, before
from tests.report.verdicts import facts, write_verdict

Told = Callable[[str], ReportFacts]


def test_the_generations_are_the_registrys_and_this_one(told: Told) -> None:
    """Oldest first, this one last, with the numbers that its receipt would carry."""
    points = judged(told("returned"))
    assert [one.name for one in points] == [
        "v1 of dense v1",
        "v2 of dense v2",
        "this one of dense v3",
    ]
    assert [one.champion for one in points] == [False, True, False]
    assert points[-1].ratio == 0.619
    assert round(points[-1].drop or 0.0, 6) == round(1 / 450, 6)
    assert judged(told("pass")) == ()


def test_the_same_sentence_since_last_time(told: Told, tmp_path: Path) -> None:
    """Markdown, page and terminal compare with the generation before, in one sentence."""
    known = told("returned")
    (line,) = (as_text(one) for one in since_last(known))
    assert line.startswith("The last one judged was v2 of dense v2 (passed, promoted); ")
    assert (
        "latency \u00d70.633 → \u00d70.619, first metric 0.00\u00a0pt → \u22120.22\u00a0pt" in line
    )
    explained = render_explanation(write_verdict(RETURNED, tmp_path))
    for made in (render_markdown(known), render_html(known), explained):
        assert line in made


def test_one_without_numbers_is_in_the_table_only(tmp_path: Path) -> None:
    """A generation that failed before anything was measured is told, and not drawn."""
    scene = replace(PASSED, history=(*HISTORY, before("3", "error", None, None)))
    page = render_html(facts(scene, tmp_path))
    assert "v3 of dense v3: Error" not in page
    assert ">v3 of dense v3<" in page
    assert "v2 of dense v2: Passed" in page


POINTS = st.lists(
    st.tuples(st.floats(0.1, 2.0) | st.none(), st.floats(-0.5, 0.5) | st.none()), max_size=12
)


@given(POINTS)
def test_the_front_is_what_nothing_beats(values: list[tuple[float | None, float | None]]) -> None:
    """No point beats one of the front in both; every other point is matched or beaten by one of it."""
    points = tuple(
        Judged(name=str(place), outcome="pass", promoted=True, ratio=ratio, drop=drop)
        for place, (ratio, drop) in enumerate(values)
    )
    found = front(points)
    placed = [one for one in points if one.ratio is not None and one.drop is not None]

    def beats(one: Judged, other: Judged) -> bool:
        better = (one.ratio or 0.0) < (other.ratio or 0.0) or (one.drop or 0.0) < (
            other.drop or 0.0
        )
        return better and covers(one, other)

    def covers(one: Judged, other: Judged) -> bool:
        return (one.ratio or 0.0) <= (other.ratio or 0.0) and (one.drop or 0.0) <= (
            other.drop or 0.0
        )

    assert not [1 for one in placed for best in found if beats(one, best)]
    assert all(any(covers(best, one) for best in found) for one in placed)
