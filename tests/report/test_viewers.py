"""The Markdown for the Kubeflow UI, which shows tags as text: the same words, and not one tag."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from markdown_it import MarkdownIt

from reprune.report.facts import ReportFacts
from reprune.report.markdown import render_markdown
from reprune.report.viewers import untagged
from tests.report.scenes import SCENES

# As the UI's renderer: tables, and no HTML, so that a tag would come out as text.
RENDERED = MarkdownIt("commonmark", {"html": False}).enable("table")
WITH_TAGS = MarkdownIt("commonmark", {"html": True}).enable("table")
TAG = re.compile(r"&lt;!?/?(?:details|summary|sub|code|br|a|img|p)\b|&lt;!--", re.IGNORECASE)


def words(page: str) -> list[str]:
    """What a reader sees, without the marker that is a comment."""
    return re.sub(r"<!--.*?-->|<[^>]*>", " ", page, flags=re.DOTALL).split()


@pytest.mark.parametrize("name", sorted(set(SCENES) - {"hostile"}))
def test_no_tag_is_seen_and_no_word_is_lost(name: str, told: Callable[[str], ReportFacts]) -> None:
    report = render_markdown(told(name))
    page = RENDERED.render(untagged(report))
    assert not TAG.search(page)
    assert TAG.search(RENDERED.render(report))
    assert words(page) == words(WITH_TAGS.render(report))


def test_what_was_folded_is_a_section(told: Callable[[str], ReportFacts]) -> None:
    """Its summary is a heading, and its table still a table."""
    report = untagged(render_markdown(told("block")))
    page = RENDERED.render(report)
    assert page.count("<h4>") == render_markdown(told("block")).count("<details>")
    assert page.count("<table>") == 4
    assert report.startswith("### ❌ Blocked")


def test_hostile_names_stay_text(told: Callable[[str], ReportFacts]) -> None:
    """A name with tags, pipes, backticks and an address is literal: no element, cell or link of its own."""
    report = untagged(render_markdown(told("hostile")))
    page = RENDERED.render(report)
    assert "<script" not in page
    assert "<a " not in page
    assert "://\u200b" not in report
    assert "&#8203;" not in report
    for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL):
        assert len(re.findall(r"<t[dh]", row)) in (4, 5, 6)
    own = re.findall(r"</?(\w+)", page)
    assert set(own) <= {
        *(
            "h3",
            "h4",
            "p",
            "strong",
            "ul",
            "li",
            "code",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        ),
    }
