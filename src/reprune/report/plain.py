"""Text from anywhere as literal Markdown: shown as it is, on GitHub, GitLab and in plain CommonMark."""

from __future__ import annotations

import re

from reprune.report.markup import visible

# Everything that CommonMark, its tables, or GitHub's and GitLab's additions could obey.
_ESCAPED = {
    **{char: f"\\{char}" for char in "\\`*{}[]|~$^"},
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
}
_TABLE = str.maketrans(_ESCAPED)

# A zero-width space breaks what is linked after rendering, where an escape is no longer seen:
# @mentions, #123, !123, www. and bare addresses.
_LINKED = re.compile(r"(@|#|!|://|www\.|\b(?:mailto|xmpp):|\bGH-)(?=\S)", re.IGNORECASE)
_LIST = re.compile(r"^(\d+)([.)])(?=\s|$)")
_RULE = re.compile(r"^()([-+=])(?=[\s=-]|$)")
_HEADING = re.compile(r"^()(#{1,6})(?=\s|$)")
_EMPHASIS = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ZERO_WIDTH = "&#8203;"

_PLAIN_CODE = re.compile(r"[A-Za-z0-9 .,_/=:+()%@#…-]+")


def text(value: str, limit: int = 600) -> str:
    """A sentence in which nothing is markup, a mention or a link, on one line."""
    escaped = visible(value, limit).translate(_TABLE)
    broken = _LINKED.sub(lambda match: match[0] + _ZERO_WIDTH, escaped)
    for pattern in (_LIST, _RULE, _HEADING):
        broken = pattern.sub(r"\1\\\2", broken)
    return _EMPHASIS.sub(r"\\_", broken)


def code(value: str, limit: int = 80) -> str:
    """A name as code: inside a table or outside, whatever characters it has."""
    shown = visible(value, limit)
    if _PLAIN_CODE.fullmatch(shown) and shown.strip() == shown:
        return f"`{shown}`"
    # Inside <code> GitHub links nothing; as entities, no character can close the element or the cell.
    literal = "".join(
        char if char.isalnum() or char == " " or ord(char) > 127 else f"&#{ord(char)};"
        for char in shown
    )
    return f"<code>{literal or '&nbsp;'}</code>"


def table(head: list[str], rows: list[list[str]], *, numbers: int) -> list[str]:
    """The lines of a table whose cells are Markdown already; columns from `numbers` on are right-aligned."""
    rule = ["---" if index < numbers else "--:" for index in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def fold(summary: str, lines: list[str]) -> list[str]:
    """Lines that open on demand. The blank lines make GitHub read Markdown inside."""
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>", ""]
