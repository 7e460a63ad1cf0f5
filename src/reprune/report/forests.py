"""The table of demands, and the forest plot of every demand's interval against its limit."""

from __future__ import annotations

import math

from reprune.core.artifacts import RuleResult
from reprune.report import cells, svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table

MOST_RULES = 60
_ROW = 46.0


def rules_figure(facts: ReportFacts) -> svg.Figure | None:
    """Every judged rule: its interval, seen from its limit. None where nothing was judged."""
    rules = words.worst_first(facts.judgement.rules)
    # Engines that compute what their models compute are no news; the table has them.
    drawn = [
        one
        for one in rules
        if cells.measured(one) is not None
        and not (words.family(one) == "parity" and one.outcome == "pass")
    ][:MOST_RULES]
    if not drawn:
        return None
    reach = _reach(drawn)
    top, bottom = 34.0, 34.0 + _ROW * len(drawn)
    left, right, middle = 240.0, 570.0, 405.0
    marks = [
        svg.box(middle, top, right - middle, bottom - top, "forbidden"),
        svg.box(left, top, middle - left, bottom - top, "allowed"),
        svg.label(middle - 10, 22, "allowed", "tick end"),
        svg.label(middle + 10, 22, "not allowed", "tick"),
    ]
    for index, one in enumerate(drawn):
        y = top + _ROW * (index + 0.5)
        scale = svg.Scale(low=-reach[_unit(one)], high=reach[_unit(one)], start=left, end=right)
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
    return html_table(
        "Every demand of the policy, what stops a promotion first",
        head,
        rows,
        numbers=2,
        stacked=True,
    )


def outcome_cell(result: RuleResult) -> Safe:
    css = result.outcome if result.required or result.outcome == "pass" else "advisory"
    chip = tag("span", esc(words.ROW_WORD[result.outcome]), class_=f"chip {css}")
    if result.required:
        return chip
    aside = "advisory" if result.outcome == "pass" else "advisory: does not decide"
    return Safe(chip + tag("small", esc(aside)))


def _unit(one: RuleResult) -> tuple[str, bool]:
    """What shares a scale. A slice's interval is so wide that next to it others would be dots."""
    return one.unit, words.family(one) == "slices"


def _reach(drawn: list[RuleResult]) -> dict[tuple[str, bool], float]:
    """For each unit, how far its rows reach from their limits."""
    reach: dict[tuple[str, bool], float] = {}
    for one in drawn:
        ends = [value for value in (cells.measured(one), one.low, one.high) if value is not None]
        # A value that equals its limit still needs a scale.
        far = max([abs(_beyond(one, value)) for value in ends], default=0.0) or 1e-9
        reach[_unit(one)] = max(reach.get(_unit(one), 0.0), far * 1.12)
    return reach


def _beyond(one: RuleResult, value: float) -> float:
    """How far `value` lies beyond the limit; a ratio by its logarithm. Positive is not allowed."""
    if one.unit == "ratio" and value > 0 and one.limit > 0:
        distance = math.log(value / one.limit)
    else:
        distance = value - one.limit
    return distance if one.direction == "at most" else -distance


def _rule_row(one: RuleResult, facts: ReportFacts, scale: svg.Scale, y: float) -> list[Safe]:
    change = cells.measured(one)
    place = one.limit if change is None else change
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
    text = f"{cells.change(one)} ({spread})" if spread else cells.change(one)
    return [
        *marks,
        svg.mark(scale.at(_beyond(one, place)), y, one.outcome),
        svg.label(584, y - 3, text, "value"),
        svg.label(584, y + 13, f"{words.brief_state(one)}, limit {cells.limit(one)}", "tick"),
    ]


def _better(result: RuleResult) -> str:
    return "lower is better" if words.arrow(result) == "↓" else "higher is better"
