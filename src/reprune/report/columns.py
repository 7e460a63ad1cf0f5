"""Text in columns of a terminal, by the cells that its characters take."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence


def width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def padded(cells: Sequence[str], widths: Sequence[int], *, right: Collection[int]) -> str:
    """One line of cells, each as wide as its column; those in `right` end together."""
    return "  ".join(
        " " * (wide - width(cell)) + cell if place in right else cell + " " * (wide - width(cell))
        for place, (cell, wide) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def clipped(text: str, room: int) -> str:
    """The text in at most `room` cells; what is cut off shows as a dot."""
    if width(text) <= room:
        return text
    while width(text) > room - 1:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, room: int, *, first: str = "", rest: str = "") -> list[str]:
    """Lines of at most `room` cells, broken at spaces, else anywhere; each begins with `first` or `rest`."""
    lines, line = [], first
    begun = False
    for word in text.split(" "):
        for part in _parts(word, max(1, room - max(width(first), width(rest)))):
            if begun and width(line) + 1 + width(part) > room:
                lines.append(line.rstrip())
                line, begun = rest, False
            line = f"{line} {part}" if begun else f"{line}{part}"
            begun = True
    return [*lines, line.rstrip()]


def laid_out(head: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> Iterator[str]:
    """A table of text; where it would be wider than `columns`, a list of the same cells."""
    table = tabled([head, *rows], columns)
    if table:
        yield from table
        return
    for row in rows:
        told = [f"{name} {cell}".strip() for name, cell in zip(head, row, strict=True) if cell]
        yield from wrapped("; ".join(told), columns, rest="    ")


def tabled(rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Aligned lines; none where they would be wider than `columns`."""
    table = [[cell.replace("\u00a0", " ") for cell in row] for row in rows]
    widths = [max(width(row[at]) for row in table) for at in range(len(rows[0]))]
    if sum(widths) + 2 * (len(widths) - 1) > columns:
        return []
    return [padded(row, widths, right=()) for row in table]


def _parts(word: str, room: int) -> Iterator[str]:
    """The word in pieces of at most `room` cells; one piece where it fits."""
    piece = ""
    for char in word:
        if width(piece + char) > room:
            yield piece
            piece = ""
        piece += char
    yield piece
