"""What all figures are drawn with: a scale, an axis, marks that need no colour, and the figure's frame.

Colours are CSS classes, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reprune.core.artifacts import Outcome
from reprune.report.markup import Safe, details, esc, join, tag, visible

WIDTH = 820.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with all that a reader needs to understand it, or to do without it.

    `description` says in words what the drawing shows; `how` is the one sentence on how to read it;
    `numbers` is the table of what was drawn.
    """

    key: str
    title: str
    description: str
    how: str
    height: float
    marks: tuple[Safe, ...]
    numbers: Safe
    width: float = WIDTH


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps [low, high] to pixels [start, end]; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def framed(figure: Figure) -> Safe:
    """The figure as HTML: caption, drawing with title and description, its numbers on demand."""
    name, words = f"fig-{figure.key}", f"fig-{figure.key}-desc"
    drawing = tag(
        "svg",
        tag("title", esc(figure.title), id=name),
        tag("desc", esc(figure.description, 1000), id=words),
        *figure.marks,
        role="img",
        aria_labelledby=f"{name} {words}",
        viewBox=f"0 0 {figure.width:g} {figure.height:g}",
    )
    caption = tag(
        "figcaption",
        tag("strong", esc(figure.title)),
        Safe(" "),
        tag("span", esc(figure.how, 1000), class_="how"),
    )
    box = tag(
        "div",
        drawing,
        class_="scroll plot",
        tabindex=0,
        role="region",
        aria_label=visible(f"Figure: {figure.title}"),
    )
    return tag("figure", caption, box, details("The numbers", figure.numbers))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Safe:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str) -> Safe:
    return tag("rect", x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=class_)


def label(x: float, y: float, text: str, class_: str = "", *, limit: int = 60) -> Safe:
    """Text at a point; a name that was shortened shows itself whole as a tooltip."""
    shown = visible(text, limit)
    whole = () if shown == visible(text) else (tag("title", esc(text)),)
    return tag("text", *whole, esc(shown), x=x, y=y, class_=class_ or None)


def path(points: Iterable[tuple[float, float]], class_: str) -> Safe:
    """A line through the points."""
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def mark(x: float, y: float, outcome: Outcome) -> Safe:
    """An estimate: a dot passed, a square is blocked, a ring is undecided, a cross is an error."""
    if outcome == "pass":
        return tag("circle", cx=x, cy=y, r=5.5, class_="mark ok")
    if outcome == "block":
        return tag("rect", x=x - 5.5, y=y - 5.5, width=11, height=11, class_="mark bad")
    if outcome == "inconclusive":
        return tag("circle", cx=x, cy=y, r=5, class_="mark open")
    return tag("path", d=f"M{x - 5:.1f},{y - 5:.1f}l10,10m0,-10l-10,10", class_="mark broken")


def whisker(low: float, high: float, y: float, class_: str) -> Safe:
    """An interval with its ends."""
    return join(
        [
            line(low, y, high, y, class_),
            line(low, y - 5, low, y + 5, class_),
            line(high, y - 5, high, y + 5, class_),
        ]
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], about as many as asked for."""
    span = high - low
    # Ends that rounding cannot tell apart have no room for a second tick.
    if not 1e-9 * max(abs(low), abs(high), 1e-200) < span < math.inf:
        return [low]
    raw = span / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [
        float(f"{index * step:.12g}") for index in range(first, math.floor(high / step + 1e-9) + 1)
    ]


def x_axis(scale: Scale, top: float, bottom: float, words: Callable[[float], str]) -> Safe:
    """Grid lines with their values below."""
    return join(
        join(
            [
                line(scale.at(value), top, scale.at(value), bottom, "grid"),
                label(scale.at(value), bottom + 16, words(value), "tick mid"),
            ]
        )
        for value in ticks(scale.low, scale.high)
    )


def y_axis(scale: Scale, left: float, right: float, values: Iterable[tuple[float, str]]) -> Safe:
    """Grid lines with their values to the left."""
    return join(
        join(
            [
                line(left, scale.at(value), right, scale.at(value), "grid"),
                label(left - 8, scale.at(value) + 4, words, "tick end"),
            ]
        )
        for value, words in values
    )
