"""Text from anywhere is shown, never obeyed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from reprune.report import plain
from reprune.report.markup import esc, table, tag, visible
from reprune.report.phrases import Code, as_html, as_markdown, as_text, sentence
from tests.report.scenes import HOSTILE

NASTY = st.text(
    alphabet=st.one_of(
        st.sampled_from("|`*_<>[]()#&\\!@~$^:+-=.1 \"'{}\n\t\u202e\u200b/"),
        st.characters(codec="utf-8"),
    ),
    max_size=60,
)
PARSER = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])


def inline(markdown: str) -> list[Token]:
    tokens = PARSER.parse(markdown)
    return [child for token in tokens for child in token.children or []]


def shown(tokens: list[Token]) -> str:
    return "".join(token.content for token in tokens if token.type == "text").replace("\u200b", "")


def collapsed(text: str) -> str:
    """As a browser shows it: Markdown drops spaces at the ends of a line."""
    return re.sub(" +", " ", text).strip()


@given(NASTY)
@example(HOSTILE)
@example("1. not a list")
@example("- neither")
@example("=====")
@example("a_b_ _c_ __d__")
def test_a_sentence_is_shown_as_it_is(text: str) -> None:
    """Escaped text, parsed as Markdown, is one paragraph of plain text that equals the visible text."""
    tokens = PARSER.parse("- " + plain.text(text, 2000))
    kinds = {token.type.removesuffix("_open").removesuffix("_close") for token in tokens}
    children = [child for token in tokens for child in token.children or []]
    assert kinds <= {"bullet_list", "list_item", "paragraph", "inline"}
    assert {child.type for child in children} <= {"text", "text_special"}
    assert collapsed(shown(children)) == collapsed(visible(text, 2000))


@pytest.mark.slow
@given(NASTY)
def test_a_sentence_stays_in_its_cell(text: str) -> None:
    """In a table, no character of a sentence ends the cell or the row."""
    tokens = PARSER.parse(f"| a | b |\n| --- | --- |\n| {plain.text(text, 2000)} | end |\n")
    cells = [token.children or [] for token in tokens if token.type == "inline"][2:]
    assert collapsed(shown(cells[0])) == collapsed(visible(text, 2000))
    assert shown(cells[1]) == "end"
    assert len(cells) == 2


@given(NASTY)
@example("#")
@example("## not a heading")
def test_a_sentence_alone_is_one_paragraph(text: str) -> None:
    """Also at the start of a line nothing becomes a heading, a list, a rule or a block of code."""
    tokens = PARSER.parse("x\n\n" + plain.text(text, 2000).strip() + "\n\nx")
    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}


@given(NASTY)
@example("``` | `")
@example("a|b")
def test_a_name_is_shown_as_code(text: str) -> None:
    """A name is one code element holding exactly the visible name, in a cell as well."""
    for before, after in (("", ""), ("| a | b |\n| --- | --- |\n| ", " | end |\n")):
        tokens = inline(before + plain.code(text) + after)
        mine = tokens[2:-1] if before else tokens
        if before:
            assert tokens[-1].content == "end"
        code = "".join(t.content for t in mine if t.type in ("code_inline", "text"))
        assert collapsed(code.replace("\u00a0", " ")) == collapsed(
            visible(text, 80).replace("\u00a0", " ")
        )
        assert {t.content for t in mine if t.type == "html_inline"} <= {"<code>", "</code>"}


@pytest.mark.parametrize(
    "text", ["@everyone", "see #12", "http://evil.test", "www.evil.test", "a@b.c"]
)
def test_nothing_is_linked_after_rendering(text: str) -> None:
    """Mentions, issue numbers and addresses, which hosts link in rendered text, are broken up."""
    rendered = shown(inline(plain.text(text)))
    assert rendered == text
    raw = "".join(t.content for t in inline(plain.text(text)) if t.type == "text")
    assert not re.search(r"@\w|#\d|://\w|www\.\w", raw)


@pytest.mark.parametrize(
    "char", ["\u202e", "\u2066", "\u200b", "\x1b", "\x00", "\x07", "\u00ad", "\u2028"]
)
def test_what_cannot_be_seen_is_named(char: str) -> None:
    """Direction overrides, control and invisible characters become their code point."""
    assert visible(f"a{char}b") == f"a[U+{ord(char):04X}]b"


def test_a_long_name_keeps_both_ends() -> None:
    """A name is cut in the middle, because names differ at both ends."""
    name = "first-" + "x" * 400 + "-last"
    cut = visible(name, 60)
    assert len(cut) == 60
    assert cut.startswith("first-")
    assert cut.endswith("-last")


@given(NASTY)
@example(HOSTILE)
def test_html_shows_text_as_it_is(text: str) -> None:
    """Escaped text in an element and in an attribute is read back as the visible text by a parser."""
    element = ElementTree.fromstring(tag("p", esc(text, 2000), title=text))
    assert (element.text or "") == visible(text, 2000)
    assert element.get("title") == visible(text, 2000)


def test_a_table_names_its_parts() -> None:
    """A table has a caption, column heads and a head in each row, all with their scope."""
    root = ElementTree.fromstring(table("What", ["A", "B"], [[esc("x"), esc("1")]], numbers=1))
    assert root.findtext("table/caption") == "What"
    assert [cell.get("scope") for cell in root.iter("th")] == ["col", "col", "row"]


def test_commands_between_backticks_are_code() -> None:
    """A sentence of the judge that names a command shows it as code; an unpaired backtick is text."""
    assert sentence("run `dvc repro` now") == ("run ", Code("dvc repro"), " now")
    assert sentence("a ` b") == ("a ` b",)
    phrase = sentence("run `dvc repro`.")
    assert as_markdown(phrase) == "run `dvc repro`."
    assert as_html(phrase) == "run <code><bdi>dvc repro</bdi></code>."
    assert as_text(phrase) == "run dvc repro."
