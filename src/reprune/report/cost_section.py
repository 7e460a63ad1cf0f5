"""The page's section on cost: each target before and after, drawn and in numbers, and what it assumes."""

from __future__ import annotations

from dataclasses import dataclass

from reprune.report import svg, words
from reprune.report.cost import (
    MILLION,
    Span,
    TargetCost,
    assumptions,
    currency,
    money,
    ratio_words,
    requests_per_year,
    saved,
    saving_words,
    span_words,
    target_costs,
)
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, join, tag
from reprune.report.markup import table as html_table
from reprune.report.phrases import as_html
from reprune.report.sections import Section

MOST_TARGETS = 40


@dataclass(frozen=True, kw_only=True)
class _Bar:
    target: str
    name: str
    span: Span
    mine: bool


def cost_section(facts: ReportFacts) -> Section | None:
    """None where params.yaml names no price, or nothing was timed."""
    costs = target_costs(facts)[:MOST_TARGETS]
    if not any(one.savings for one in costs):
        return None
    listed = tag("ul", *(tag("li", as_html(line)) for line in assumptions(facts)))
    assumed = tag("div", tag("h3", esc("What this assumes")), listed)
    return Section(
        key="cost",
        title="Cost",
        lead="What a million inferences cost by the measured throughput and the price in params.yaml. "
        "It informs; no demand is about it.",
        content=(svg.framed(_figure(facts, costs)), _table(facts, costs), assumed),
    )


def _bars(facts: ReportFacts, one: TargetCost) -> list[_Bar]:
    bars = [
        _Bar(
            target=one.target,
            name=words.baseline_name(saving.baseline, facts),
            span=Span(value=saving.before),
            mine=False,
        )
        for saving in one.savings
    ]
    name = words.baseline_name("candidate", facts)
    return [*bars, _Bar(target=one.target, name=name, span=one.mine, mine=True)]


def _figure(facts: ReportFacts, costs: tuple[TargetCost, ...]) -> svg.Figure:
    unit = currency(facts)
    groups = [_bars(facts, one) for one in costs if one.savings]
    bars = [bar for group in groups for bar in group]
    longest = max(max(bar.span.value, bar.span.high or 0.0) for bar in bars)
    scale = svg.Scale(low=0.0, high=longest or 1.0, start=230, end=650)
    marks: list[Safe] = []
    y = 4.0
    for group in groups:
        marks.append(svg.label(0, y + 14, group[0].target, "strong", limit=40))
        y += 22
        for bar in group:
            marks += _bar_marks(bar, scale, y, unit)
            y += 26
        y += 8
    return svg.Figure(
        key="cost",
        title="Cost of a million inferences",
        description="; ".join(
            f"{bar.target}, {bar.name}: {money(bar.span.value, unit)}" for bar in bars[:24]
        ),
        how="Shorter is cheaper. The line at the end of the pruned model's bar is the interval of its "
        "cost.",
        height=y,
        marks=tuple(marks),
        numbers=_rates(facts, costs),
    )


def _bar_marks(bar: _Bar, scale: svg.Scale, y: float, unit: str) -> list[Safe]:
    end = scale.at(bar.span.value)
    marks = [
        svg.label(14, y + 14, bar.name, limit=30),
        svg.box(230, y + 2, end - 230, 16, "bar mine" if bar.mine else "bar"),
    ]
    if bar.span.low is not None and bar.span.high is not None:
        low, high = scale.at(bar.span.low), scale.at(bar.span.high)
        marks.append(svg.whisker(low, high, y + 10, "whisker over"))
        end = max(end, high)
    return [*marks, svg.label(end + 10, y + 15, money(bar.span.value, unit), "value")]


def _table(facts: ReportFacts, costs: tuple[TargetCost, ...]) -> Safe:
    unit, yearly = currency(facts), requests_per_year(facts) / MILLION
    head = ["Target, batch", "Against", "Before", "Now", "Share (interval)"]
    head += ["A year"] if yearly else []
    rows = []
    for one in costs:
        for saving in one.savings:
            share, _, spread = ratio_words(saving).partition(" (")
            row = [
                tag("bdi", esc(f"{one.target}, batch {one.batch_size}")),
                tag("bdi", esc(words.baseline_name(saving.baseline, facts))),
                esc(money(saving.before, unit)),
                esc(money(saving.mine, unit)),
                join([esc(share), tag("small", esc(f"({spread}"))]),
            ]
            if yearly:
                both = (
                    f"{words.number(saving.before * yearly)} → {money(saving.mine * yearly, unit)}"
                )
                year = tag("small", esc(saving_words(saved(saving, yearly), unit)))
                row.append(join([esc(both), year]))
            rows.append(row)
    return html_table("Cost of a million inferences, before and after", head, rows, numbers=2)


def _rates(facts: ReportFacts, costs: tuple[TargetCost, ...]) -> Safe:
    unit = currency(facts)
    rows = [
        [
            tag("bdi", esc(one.target)),
            esc(one.batch_size),
            esc(words.rate(one.rate)),
            esc(money(one.price_per_hour, unit)),
            esc(f"{money(one.mine.value, unit)} ({span_words(one.mine, unit)})"),
        ]
        for one in costs
    ]
    head = ["Target", "Batch", "Examples a second", "Price of an hour", "A million (interval)"]
    name = words.baseline_name("candidate", facts)
    return html_table(f"What the cost of {name} is made of", head, rows, numbers=1)
