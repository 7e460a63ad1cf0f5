"""Sentences with names in them. A renderer sets the names as code; nobody parses backticks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from reprune.report import plain
from reprune.report.markup import Safe, esc, join, tag, visible


@dataclass(frozen=True)
class Code:
    """A name, a knob or a command inside a sentence."""

    text: str


_PERCENT = re.compile(r"(?<=\d) %")

Phrase: TypeAlias = tuple[str | Code, ...]


def sentence(text: str) -> Phrase:
    """A sentence of ours that names commands between backticks. Unpaired ones stay as they are."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return (text,)
    return tuple(Code(part) if index % 2 else part for index, part in enumerate(parts) if part)


def as_markdown(phrase: Phrase, limit: int = 600) -> str:
    """`limit` is of characters in each part, before they are escaped."""
    return "".join(
        plain.code(part.text, min(80, limit)) if isinstance(part, Code) else plain.text(part, limit)
        for part in phrase
    )


def as_html(phrase: Phrase) -> Safe:
    return join(
        tag("code", tag("bdi", esc(part.text, 160)))
        if isinstance(part, Code)
        else unbroken(esc(part, 2000))
        for part in phrase
    )


def unbroken(sentence: Safe) -> Safe:
    """The same, with each number and its per cent sign on one line."""
    return Safe(_PERCENT.sub("\u00a0%", sentence))


def as_text(phrase: Phrase) -> str:
    """For a terminal, where a name needs no mark."""
    return "".join(
        visible(part.text, 160) if isinstance(part, Code) else visible(part, 2000)
        for part in phrase
    )
