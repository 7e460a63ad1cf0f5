"""HTML and SVG as text that cannot be left unescaped: `Safe` is what has been, and only that is nested."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import NewType, TypeAlias

Safe = NewType("Safe", str)
Attribute: TypeAlias = "str | int | float | bool | None"

_VOID = frozenset({"meta", "br", "hr", "wbr", "img"})

# What a browser, a terminal or a reviewer's eye would obey instead of show: control characters,
# direction overrides, invisible characters and tags, lone surrogates and non-characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)

_SPACES = re.compile("[ \t\r\n]+")


def visible(text: str, limit: int = 400) -> str:
    """One line of at most `limit` characters in which every character can be seen.

    Control characters and direction overrides become their code point in brackets; a text that is
    too long loses its middle, because names differ at both ends.
    """
    shown = _UNSEEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
    line = _SPACES.sub(" ", shown)
    if len(line) <= limit:
        return line
    head = (limit - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (limit - 1 - head) :]}"


def esc(text: object, limit: int = 400) -> Safe:
    """Text from anywhere, made visible and escaped for element content and quoted attributes."""
    return Safe(html.escape(visible(str(text), limit), quote=True))


def join(parts: Iterable[Safe], between: str = "") -> Safe:
    """The parts one after another; `between` is literal text of ours."""
    return Safe(html.escape(between).join(parts))


def tag(name: str, /, *children: Safe, **attributes: Attribute) -> Safe:
    """An element. `class_` is `class`, underscores are hyphens; None and False leave an attribute out."""
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Safe(f"<{name}{shown}>")
    return Safe(f"<{name}{shown}>{''.join(children)}</{name}>")


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Safe]],
    *,
    numbers: int = 99,
    stacked: bool = False,
) -> Safe:
    """A table with a caption; the first cell of a row heads it, cells from `numbers` on are numbers.

    On a narrow screen the cells of one that is `stacked` stand below each other, each with its head.
    """
    heads = [
        tag("th", esc(cell), scope="col", class_="n" if index >= numbers else None)
        for index, cell in enumerate(head)
    ]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(
                tag(
                    "td",
                    cell,
                    class_="n" if index >= numbers else None,
                    data_head=head[index] if stacked else None,
                )
                for index, cell in enumerate(row[1:], start=1)
            ),
        )
        for row in rows
    ]
    whole = tag(
        "table",
        tag("caption", esc(caption)),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        class_="stacked" if stacked else "wide" if len(head) > (4 if numbers < 2 else 3) else None,
    )
    return scroll(whole, f"Table: {caption}")


def scroll(content: Safe, label: str) -> Safe:
    """Content that may be wider than the page: it scrolls inside its own box, by keyboard as well."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def details(summary: str, *content: Safe) -> Safe:
    """Content that opens on demand, without a script."""
    return tag("details", tag("summary", esc(summary)), *content)


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-") if key != "viewBox" else key
    if value is True:
        return f" {name}"
    if isinstance(value, float):
        value = f"{value:.1f}".removesuffix(".0")
    return f' {name}="{html.escape(visible(str(value), 10**7), quote=True)}"'
