"""Forest plots: every interval against its limit, for the policy's rules and for slices."""

from __future__ import annotations

import math

from reprune.core.artifacts import RuleResult, SliceResult
from reprune.report import cells, svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table

MOST_RULES = 60
MOST_SLICES = 40
MOST_SLICE_ROWS = 400
_ROW = 46.0
_SLICE_ROW = 26.0


def rules_figure(facts: ReportFacts) -> svg.Figure | None:
    """Every judged rule: its interval, seen from its limit. None where nothing was judged."""
    rules = words.worst_first(facts.judgement.rules)
    drawn = [one for one in rules if one.change is not None][:MOST_RULES]
    if not drawn:
        return None
    reach = _reach(drawn)
    top, bottom = 34.0, 34.0 + _ROW * len(drawn)
    left, right, middle = 250.0, 560.0, 405.0
    marks = [
        svg.box(middle, top, right - middle, bottom - top, "forbidden"),
        svg.box(left, top, middle - left, bottom - top, "allowed"),
        svg.label(middle - 10, 22, "allowed", "tick end"),
        svg.label(middle + 10, 22, "not allowed", "tick"),
    ]
    for index, one in enumerate(drawn):
        y = top + _ROW * (index + 0.5)
        scale = svg.Scale(low=-reach[one.unit], high=reach[one.unit], start=left, end=right)
        marks += _rule_row(one, facts, scale, y)
    marks.append(svg.line(middle, top - 6, middle, bottom + 6, "limit"))
    passed = sum(one.outcome == "pass" for one in drawn)
    return svg.Figure(
        key="rules",
        title="Every demand, seen from its limit",
        description=f"{len(drawn)} demands; {passed} lie wholly on the allowed side of their limit.",
        how="The dashed line is the policy's limit. A demand passes when its whole interval lies to "
        "the left; it blocks when the whole interval lies to the right. Rows of one unit share a scale.",
        height=bottom + 12,
        marks=tuple(marks),
        numbers=rules_table(facts),
    )


def rules_table(facts: ReportFacts) -> Safe:
    """What was demanded and what was measured, one row a rule, the blocked ones first."""
    rows = [
        [
            outcome_cell(one),
            Safe(
                f"{esc(words.label(one))} "
                + tag("span", Safe(words.arrow(one)), title=_better(one), class_="arrow")
                + tag("small", tag("bdi", esc(words.against(one, facts))))
            ),
            esc(cells.baseline(one)),
            esc(cells.candidate(one)),
            Safe(
                tag("strong", esc(cells.change(one)))
                + tag("small", esc(cells.interval(one)), class_="spread")
            ),
            esc(cells.limit(one)),
        ]
        for one in words.worst_first(facts.judgement.rules)
    ]
    mine = f"pruned {words.version(facts.verdict.dense_version)}"
    head = ["Outcome", "Demand", "Baseline", mine, "Change (interval)", "Limit"]
    return html_table("What was demanded, and what was measured", head, rows, numbers=2)


def outcome_cell(result: RuleResult) -> Safe:
    css = result.outcome if result.required or result.outcome == "pass" else "advisory"
    return tag("span", esc(words.state(result)), class_=f"chip {css}")


def slices_figure(facts: ReportFacts) -> svg.Figure | None:
    """Slices by how much they changed, the worst first. None where there are none."""
    slices = sorted(facts.judgement.slices, key=lambda one: (one.outcome == "ok", one.change))
    drawn = [one for one in slices if one.outcome != "not judged"][:MOST_SLICES]
    if not drawn:
        return None
    limit = _slice_limit(facts)
    ends = [v for one in drawn for v in (one.low, one.high, one.change)] + [0.0, -(limit or 0.0)]
    pad = 0.06 * (max(ends) - min(ends) or 1.0)
    top, bottom = 26.0, 26.0 + _SLICE_ROW * len(drawn)
    scale = svg.Scale(low=min(ends) - pad, high=max(ends) + pad, start=190, end=610)
    marks = [
        svg.x_axis(scale, top, bottom, words.points),
        _zero(scale, top, bottom),
    ]
    if limit is not None:
        x = scale.at(-limit)
        marks += [
            svg.box(190, top, x - 190, bottom - top, "forbidden"),
            svg.line(x, top - 6, x, bottom, "limit"),
            svg.label(
                x, top - 12, f"most that a slice may lose, {words.points(-limit)}", "tick mid"
            ),
        ]
    for index, one in enumerate(drawn):
        marks += _slice_row(one, scale, top + _SLICE_ROW * (index + 0.5))
    return svg.Figure(
        key="slices",
        title="Change by slice",
        description=f"{len(drawn)} of {len(slices)} slices, the worst first; "
        f"{sum(one.outcome == 'harm' for one in slices)} were harmed.",
        how="Left of zero the slice got worse. A slice is harmed, a square, when its interval lies "
        "wholly beyond the dashed limit.",
        height=bottom + 26,
        marks=tuple(marks),
        numbers=slices_table(facts),
    )


def slices_table(facts: ReportFacts) -> Safe:
    """Every slice with its flips both ways, the harmed ones first."""
    order = {"harm": 0, "ok": 1, "not judged": 2}
    slices = sorted(facts.judgement.slices, key=lambda one: (order[one.outcome], one.change))
    css = {"harm": "block", "ok": "pass", "not judged": "advisory"}
    shown = slices[:MOST_SLICE_ROWS]
    rows = [
        [
            tag("bdi", esc(one.slice, 120)),
            tag("span", esc(one.outcome), class_=f"chip {css[one.outcome]}"),
            esc(words.count(one.examples)),
            esc(f"{one.right_to_wrong} / {one.wrong_to_right}"),
            esc(words.points(one.change)),
            esc(cells.span(words.points(one.low), words.points(one.high))),
            esc(words.points(one.detectable).lstrip("+")),
        ]
        for one in shown
    ]
    head = ["Slice", "Outcome", "Examples", "Right to wrong / wrong to right", "Change", "Interval"]
    left = f"; the first {len(shown)} of {len(slices)}" if len(shown) < len(slices) else ""
    caption = f"Slices, the worst first{left}"
    return html_table(caption, [*head, "Smallest loss it could show"], rows, numbers=2)


def _reach(drawn: list[RuleResult]) -> dict[str, float]:
    """For each unit, how far its rows reach from their limits; they share a scale."""
    reach: dict[str, float] = {}
    for one in drawn:
        ends = [value for value in (one.change, one.low, one.high) if value is not None]
        # A value that equals its limit still needs a scale.
        far = max([abs(_beyond(one, value)) for value in ends], default=0.0) or 1e-9
        reach[one.unit] = max(reach.get(one.unit, 0.0), far * 1.12)
    return reach


def _beyond(one: RuleResult, value: float) -> float:
    """How far `value` lies beyond the limit; a ratio by its logarithm. Positive is not allowed."""
    if one.unit == "ratio" and value > 0 and one.limit > 0:
        distance = math.log(value / one.limit)
    else:
        distance = value - one.limit
    return distance if one.direction == "at most" else -distance


def _rule_row(one: RuleResult, facts: ReportFacts, scale: svg.Scale, y: float) -> list[Safe]:
    change = one.change if one.change is not None else one.limit
    ends = [_beyond(one, end) for end in (one.low, one.high) if end is not None]
    marks = [
        svg.label(0, y - 3, f"{words.label(one)} {words.arrow(one)}", "strong", limit=34),
        svg.label(0, y + 13, words.against(one, facts), "tick", limit=40),
    ]
    if len(ends) == 2:
        marks.append(
            svg.whisker(scale.at(min(ends)), scale.at(max(ends)), y, f"whisker {one.outcome}")
        )
    spread = cells.interval(one)
    return [
        *marks,
        svg.mark(scale.at(_beyond(one, change)), y, one.outcome),
        svg.label(574, y - 3, f"{cells.change(one)}, limit {cells.limit(one)}", "value"),
        svg.label(
            574, y + 13, f"{words.state(one)}{f', {spread}' if spread else ''}", "tick", limit=44
        ),
    ]


def _slice_row(one: SliceResult, scale: svg.Scale, y: float) -> list[Safe]:
    outcome = "block" if one.outcome == "harm" else "pass"
    return [
        svg.label(0, y + 4, one.slice, "strong" if one.outcome == "harm" else "", limit=26),
        svg.whisker(scale.at(one.low), scale.at(one.high), y, f"whisker {outcome}"),
        svg.mark(scale.at(one.change), y, "block" if one.outcome == "harm" else "pass"),
        svg.label(
            622, y + 4, f"{words.points(one.change)}, n = {words.count(one.examples)}", "tick"
        ),
    ]


def _slice_limit(facts: ReportFacts) -> float | None:
    """The margin that slices are judged by, where all metrics share one."""
    quality = facts.policy.quality.values() if facts.policy is not None else ()
    limits = {rules.slices.max_drop for rules in quality if rules.slices is not None}
    return limits.pop() if len(limits) == 1 else None


def _zero(scale: svg.Scale, top: float, bottom: float) -> Safe:
    return svg.line(scale.at(0.0), top, scale.at(0.0), bottom, "zero")


def _better(result: RuleResult) -> str:
    return "lower is better" if words.arrow(result) == "↓" else "higher is better"
