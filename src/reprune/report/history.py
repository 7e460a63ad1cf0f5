"""The generations of a model in a terminal: two lines of bars, a table, and what waits for a person.

Plain text of at most `columns` cells a line, no colour at all, nothing in it that a terminal would obey.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reprune.registry.generations import Figure, Generation, History, Waiting
from reprune.report import words
from reprune.report.columns import padded, width, wrapped
from reprune.report.markup import visible
from reprune.report.rows import (
    MOST_TEXT,
    amount,
    cell,
    head,
    plain,
    said,
    shared_metric,
    sign,
    without_outcome,
)
from reprune.report.trends import trend_words

WIDTH = 100
MOST_BARS = 60
_BARS = "▁▂▃▄▅▆▇█"
_GAP = "  "
_COMMAND = re.compile(r"`[^`]{1,80}`|\d %")

# The columns, and what is left out where they would be too wide.
_ALL = ("version", "dense", "state", "latency", "quality", "size", "date")
_COLUMNS = (
    _ALL,
    tuple(column for column in _ALL if column != "size"),
    ("version", "dense", "state", "latency alone", "quality alone", "date"),
    ("version", "state", "latency alone", "quality alone"),
    # Here the figures stand below.
    ("version", "state", "date"),
)
_LEGEND = {
    "✓": "passed", "✗": "blocked", "?": "inconclusive", "!": "error", "+": "adopted, unjudged",
    "●": "serves",
}  # fmt: skip
_WHY = {
    "champion_lost": "The champion is lost",
    "champion_foreign": "The champion is nobody's we trust",
    "override": "An override is not used yet",
    "not_promoted": "A pass was never promoted",
    "inconclusive": "A verdict is inconclusive",
    "refused": "A version cannot be run",
}


def render_history(told: History, *, columns: int = WIDTH) -> str:
    """Head, bars, table, gaps of the chain; the last line says what else there is."""
    head = [*_head(told, columns), ""]
    if not told.total:
        return "\n".join([*head, "Nothing was judged yet.", *_waits(told, columns)])
    lines = [*head, *_bars(told.generations, columns), *_table(told.generations, columns)]
    if told.gaps:
        gaps = [f"! {visible(gap, MOST_TEXT)}" for gap in told.gaps]
        lines += ["", *(line for gap in gaps for line in _wrapped(gap, "  ", columns))]
    for text in trend_words(told.trends):
        lines += _wrapped(f"! {text}", "  ", columns)
    shown = f"{len(told.generations)} of {words.plural(told.total, 'version')}"
    if len(told.generations) < told.total:
        shown += "; `reprune history --all` shows every one"
    return "\n".join([*lines, "", *_wrapped(shown, "  ", columns), *_waits(told, columns)])


def render_waiting(told: History, *, columns: int = WIDTH) -> str:
    """What waits for a person, each with what it is, why, and the command to run next."""
    lines = [*_head(told, columns), ""]
    if not told.waiting:
        return "\n".join([*lines, "Nothing waits for a person."])
    for number, each in enumerate(told.waiting, start=1):
        lines += [*_waiting(number, each, columns), ""]
    return "\n".join(lines).rstrip()


def _head(told: History, columns: int) -> list[str]:
    serving = f"champion {visible(told.champion, 40)}" if told.champion else "no champion"
    parts = [f"{visible(told.name, 60)} in {visible(told.registry, 60)}", serving]
    if told.anchor:
        parts.append(f"anchor {visible(told.anchor, 40)}")
    lines = _wrapped(" · ".join(parts), "  ", columns)
    if told.unchecked:
        why = f"! No signature was checked: {visible(told.unchecked, MOST_TEXT)}"
        lines += _wrapped(why, "  ", columns)
    return lines


def _waits(told: History, columns: int) -> list[str]:
    if not told.waiting:
        return []
    verb = "waits" if len(told.waiting) == 1 else "wait"
    what = f"{words.plural(len(told.waiting), 'thing')} {verb} for a person: `reprune history --waiting`"
    return _wrapped(what, "  ", columns)


def _waiting(number: int, each: Waiting, columns: int) -> list[str]:
    about = [f"version {visible(each.version, 40)}"] if each.version else []
    about += [f"dense {visible(each.dense, 40)}"] if each.dense else []
    title = f"{number}. {_WHY[each.why]}" + (f" ({', '.join(about)})" if about else "")
    return [
        *_wrapped(title, "   ", columns),
        *_wrapped(f"   {visible(without_outcome(each.words), 2 * MOST_TEXT)}", "   ", columns),
        *_wrapped(f"   next: {visible(each.next, 2 * MOST_TEXT)}", "         ", columns),
    ]


def _bars(generations: Sequence[Generation], columns: int) -> list[str]:
    """Speed and quality of each verdict, oldest first, each in a column with its outcome below."""
    judged = [each for each in reversed(generations) if each.kind == "judged"]
    # An override registers the same verdict a second time.
    judged = list({each.verdict: each for each in judged}.values())[-min(MOST_BARS, columns - 16) :]
    lines = []
    for label, figures, unit in (
        ("latency", [each.latency for each in judged], "of the dense model's"),
        ("quality", [each.quality for each in judged], "against the dense model"),
    ):
        known = [figure for figure in figures if figure is not None]
        if len(known) > 1:
            ends = f"{amount(known[0], known[0].change)} → {amount(known[-1], known[-1].change)}"
            lines += _beside(f"  {label}  {spark(figures)}", f"{ends} {unit}", columns)
    if not lines:
        return []
    signs = "".join("●" if each.serves else sign(each) for each in judged)
    legend = _GAP.join(f"{sign} {text}" for sign, text in _LEGEND.items() if sign in signs)
    return [*lines, *_beside(f"           {signs}", legend, columns), ""]


def _beside(line: str, text: str, columns: int) -> list[str]:
    """The text after the line where there is room, else below it."""
    if width(line) + len(_GAP) + width(text) <= columns:
        return [f"{line}{_GAP}{text}"]
    return [line, *wrapped(text, columns, first=" " * 11, rest=" " * 11)]


def spark(figures: Sequence[Figure | None]) -> str:
    """One bar a figure, its height between the least and the greatest of them; a dot where there is none.

    Of latency a low bar is fast; of quality a high bar is good, whatever the metric's direction.
    """
    heights = [None if each is None else _height(each) for each in figures]
    known = [height for height in heights if height is not None]
    if not known:
        return "·" * len(heights)
    low, high = min(known), max(known)
    span = high - low
    return "".join(
        "·"
        if height is None
        else _BARS[round((height - low) / span * (len(_BARS) - 1))]
        if span
        else _BARS[3]
        for height in heights
    )


def _height(figure: Figure) -> float:
    return figure.change if figure.rule == "latency.vs_parent" else -figure.loss


def _table(generations: Sequence[Generation], columns: int) -> list[str]:
    """A row a version; a person's words, or what is wrong, where figures would be, or below them."""
    table = next(
        (fits for one in _COLUMNS if (fits := _laid_out(generations, one)).room <= columns),
        _laid_out(generations, _COLUMNS[-1]),
    )
    below = not any(column.startswith("latency") for column in table.columns)
    right = {place for place, column in enumerate(table.columns) if column == "size"}
    lines = [padded(table.head, table.widths, right=right)]
    for each, row in zip(generations, table.rows, strict=True):
        if each.latency or each.quality or below:
            lines.append(padded(row, table.widths, right=right))
            texts = [*(_figures(each) if below else ()), *said(each)]
            lines += [line for text in texts for line in _wrapped(f"     {text}", "     ", columns)]
        else:
            lines += _spoken(each, row, table)
    return lines


def _figures(each: Generation) -> Iterator[str]:
    """What the table has no column for."""
    told = [
        f"{head(column, '')} {cell(each, column, '')}"
        for column, figure in (("latency", each.latency), ("quality", each.quality))
        if figure is not None
    ]
    if told:
        yield "; ".join(told)


@dataclass(frozen=True, kw_only=True)
class _Laid:
    """A table as it would be with these columns."""

    columns: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def widths(self) -> list[int]:
        return [max(map(width, cells)) for cells in zip(self.head, *self.rows, strict=True)]

    @property
    def room(self) -> int:
        return sum(self.widths) + len(_GAP) * (len(self.head) - 1)


def _laid_out(generations: Sequence[Generation], columns: Sequence[str]) -> _Laid:
    metric = shared_metric(generations)
    return _Laid(
        columns=columns,
        head=[head(column, metric) for column in columns],
        rows=[[cell(each, column, metric) for column in columns] for each in generations],
    )


def _spoken(each: Generation, row: Sequence[str], table: _Laid) -> Iterator[str]:
    """The row of a version without figures: its words stand in their place, before the date."""
    widths = table.widths
    first = next(at for at, name in enumerate(table.columns) if name.startswith("latency"))
    before, room = widths[:first], sum(widths[first:-1]) + len(_GAP) * (len(widths) - first - 2)
    texts = [line for text in said(each) or [""] for line in wrapped(text, room)]
    indent = " " * (sum(before) + len(_GAP) * len(before))
    yield padded([*row[:first], texts[0], row[-1]], [*before, room, widths[-1]], right=())
    yield from (f"{indent}{text}" for text in texts[1:])


def _wrapped(text: str, indent: str, columns: int) -> list[str]:
    """Lines of at most `columns` cells; those after the first begin with `indent`, and so does the first if
    `text` does. A command between backticks stays on one line.
    """
    lead = text[: len(text) - len(text.lstrip(" "))]
    bound = _COMMAND.sub(lambda match: match[0].replace(" ", words.NBSP), text.strip())
    return [plain(line) for line in wrapped(bound, columns, first=lead, rest=indent)]
