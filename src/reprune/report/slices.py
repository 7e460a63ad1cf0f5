"""Slices: the forest plot of each group that was judged together, and the table of all."""

from __future__ import annotations

from reprune.core.artifacts import Outcome, SliceResult
from reprune.report import cells, svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.phrases import Phrase

# Examples that are newer than all that the champion was judged on (see judge.examples).
NEWEST = "age=newer than the champion's evidence"
MOST_FIGURES = 6
MOST_SLICES = 40
MOST_ROWS = 400
_ROW = 26.0
_ORDER = {"harm": 0, "undecided": 1, "ok": 2, "not judged": 3}
_MARK: dict[str, Outcome] = {"harm": "block", "undecided": "inconclusive", "ok": "pass"}
_CHIP = {**_MARK, "not judged": "advisory"}


def ordered(facts: ReportFacts) -> list[SliceResult]:
    """All slices: the harmed ones first, then the undecided, by how much they lost; those not judged last."""
    growing = words.growing_is_worse(facts.judgement.rules)
    return sorted(
        facts.judgement.slices,
        key=lambda one: (_ORDER[one.outcome], -words.worsening(one, growing)),
    )


def groups(facts: ReportFacts) -> list[list[SliceResult]]:
    """Slices that were judged together, by one rule on one target, each in order."""
    found: dict[tuple[str, str], list[SliceResult]] = {}
    for one in ordered(facts):
        found.setdefault((one.rule, one.target), []).append(one)
    return list(found.values())


def compared(one: SliceResult, facts: ReportFacts) -> str:
    """What a slice was compared with, and where; empty where no rule says so."""
    rule = words.rule_of(one, facts)
    return "" if rule is None else words.against(rule, facts)


def newest(facts: ReportFacts) -> list[Phrase]:
    """How the candidate does where the champion was never looked at; a harmed slice is told elsewhere."""
    return [_newest(one, facts) for one in ordered(facts) if one.slice == NEWEST]


def _newest(one: SliceResult, facts: ReportFacts) -> Phrase:
    examples = words.plural(one.examples, "example")
    about = compared(one, facts)
    start = f"On the {examples} newer than all that the champion was judged on"
    if one.outcome == "not judged":
        return (f"{start}, too few to judge them alone.",)
    word = "harmed" if one.outcome == "harm" else one.outcome
    changed = f" the change {about}".rstrip()
    return (f"{start},{changed} is {words.points(one.change)} ({spread(one)}): {word}.",)


def slice_figures(facts: ReportFacts) -> list[svg.Figure]:
    """One figure for each group of slices that were judged together, the worst groups first."""
    drawn = [
        (judged, group)
        for group in groups(facts)
        if (judged := [one for one in group if one.outcome != "not judged"])
    ]
    return [
        _figure(facts, judged[:MOST_SLICES], group, place)
        for place, (judged, group) in enumerate(drawn[:MOST_FIGURES])
    ]


def slices_table(slices: list[SliceResult], caption: str) -> Safe:
    """Slices with their flips both ways, in the order given."""
    shown = slices[:MOST_ROWS]
    rows = [
        [
            tag("bdi", esc(one.slice, 120)),
            tag("span", esc(one.outcome), class_=f"chip {_CHIP[one.outcome]}"),
            esc(words.count(one.examples)),
            esc(words.both_ways(one)),
            esc(words.points(one.change)),
            esc(spread(one) or words.EN_DASH),
            esc(detectable(one) or words.EN_DASH),
        ]
        for one in shown
    ]
    head = ["Slice", "Outcome", "Examples", "Got worse / better", "Change", "Interval"]
    left = f"; the first {len(shown)} of {len(slices)}" if len(shown) < len(slices) else ""
    return html_table(f"{caption}{left}", [*head, "Loss it would show"], rows, numbers=2)


def spread(one: SliceResult) -> str:
    """The interval of a slice's change; empty where it was not judged."""
    if one.outcome == "not judged":
        return ""
    return cells.span(words.points(one.low), words.points(one.high))


def detectable(one: SliceResult) -> str:
    """The smallest loss that would have been called harm; empty where none would."""
    return words.points(one.detectable).lstrip("+") if one.detectable < 1 else ""


def _figure(
    facts: ReportFacts, drawn: list[SliceResult], group: list[SliceResult], place: int
) -> svg.Figure:
    rule = words.rule_of(drawn[0], facts)
    limit = None if rule is None else rule.limit
    ends = [v for one in drawn for v in (one.low, one.high, one.change)] + [0.0, limit or 0.0]
    pad = 0.06 * (max(ends) - min(ends) or 1.0)
    top, bottom = 30.0, 30.0 + _ROW * len(drawn)
    scale = svg.Scale(low=min(ends) - pad, high=max(ends) + pad, start=200, end=640)
    marks = [
        svg.x_axis(scale, top, bottom, _points_axis),
        svg.line(scale.at(0.0), top, scale.at(0.0), bottom, "zero"),
    ]
    if limit is not None:
        x = scale.at(limit)
        edge = scale.start if limit < 0 else scale.end
        marks += [
            svg.box(min(x, edge), top, abs(edge - x), bottom - top, "forbidden"),
            svg.line(x, top - 6, x, bottom, "limit"),
            svg.label(x, top - 12, f"a slice may lose {words.points(abs(limit))[1:]}", "tick mid"),
        ]
    for index, one in enumerate(drawn):
        marks += _row(one, scale, top + _ROW * (index + 0.5))
    harmed = sum(one.outcome == "harm" for one in group)
    about = compared(drawn[0], facts)
    name = "" if rule is None else f"{words.sentence_case(words.metric(rule))} by slice {about}"
    return svg.Figure(
        key=f"slices-{place}",
        title=name or "Change by slice",
        description=f"{len(drawn)} of {len(group)} slices, the worst first; {harmed} were harmed.",
        how="A slice is harmed, a square, when its interval lies wholly beyond the dashed limit; "
        "a ring is undecided. Intervals hold for all slices together.",
        height=bottom + 26,
        marks=tuple(marks),
        numbers=slices_table(group, f"Slices {about}".strip()),
    )


def _row(one: SliceResult, scale: svg.Scale, y: float) -> list[Safe]:
    outcome = _MARK[one.outcome]
    text = f"{words.points(one.change)}, n = {words.count(one.examples)}"
    return [
        svg.label(0, y + 4, one.slice, "strong" if one.outcome == "harm" else "", limit=26),
        svg.whisker(scale.at(one.low), scale.at(one.high), y, f"whisker {outcome}"),
        svg.mark(scale.at(one.change), y, outcome),
        svg.label(652, y + 4, text, "tick"),
    ]


def _points_axis(value: float) -> str:
    text = f"{100 * value:+.3g}".replace("-", words.MINUS) if value else "0"
    return f"{text}{words.NBSP}pt"
