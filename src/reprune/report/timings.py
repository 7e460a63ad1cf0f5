"""Figures of time: each unit's ratio, the calls of every arm, and where the dense model's time goes."""

from __future__ import annotations

import math
from statistics import median

from reprune.core.artifacts import Arm, RuleResult, TargetProfile
from reprune.judge.evidence import TargetEvidence
from reprune.report import svg, words
from reprune.report.facts import ReportFacts
from reprune.report.layer_times import layer_times
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.measured import CallTimes, UnitRatio, call_times, unit_ratios

MOST_OPERATORS = 12
MOST_OPERATOR_ROWS = 200
_BASELINES: tuple[Arm, ...] = ("dense", "champion")


def ratio_figures(facts: ReportFacts) -> list[svg.Figure]:
    """For each target and baseline, the ratio of every unit with the median's interval."""
    targets = facts.evidence.targets if facts.evidence is not None else ()
    return [
        _ratio_figure(facts, given, baseline, ratios)
        for given in targets
        for baseline in _BASELINES
        if (ratios := unit_ratios(given, baseline))
    ]


def call_figures(facts: ReportFacts) -> list[svg.Figure]:
    """For each target, how long the calls of each arm took."""
    targets = facts.evidence.targets if facts.evidence is not None else ()
    return [
        _call_figure(facts, given.target, times)
        for given in targets
        if (times := call_times(given))
    ]


def operator_figures(facts: ReportFacts) -> list[svg.Figure]:
    """For each profiled target, the operators that take most of the dense model's time; none where the
    layers of both models were timed, which says more.
    """
    return [
        _operator_figure(profile)
        for profiles in facts.profiles
        for profile in profiles.targets
        if profile.operators and not layer_times(facts, profile.target)
    ]


def _ratio_figure(
    facts: ReportFacts, given: TargetEvidence, baseline: Arm, ratios: tuple[UnitRatio, ...]
) -> svg.Figure:
    rule = _latency_rule(facts, given.target, baseline)
    middle = median(one.ratio for one in ratios)
    name = words.baseline_name(baseline, facts)
    values = [one.ratio for one in ratios] + [1.0]
    if rule is not None:
        values += [v for v in (rule.low, rule.high, rule.limit) if v is not None and v > 0]
    low, high = math.log(min(values)), math.log(max(values))
    pad = 0.08 * (high - low or 0.1)
    y = svg.Scale(low=low - pad, high=high + pad, start=236, end=16)
    x = svg.Scale(low=-0.5, high=len(ratios) - 0.5, start=70, end=670)
    grid = [
        (math.log(v), f"{words.TIMES}{v:g}") for v in svg.ticks(min(values), max(values)) if v > 0
    ]
    marks = [svg.y_axis(y, 70, 670, grid), *_process_bands(ratios, x), *_levels(rule, y, middle)]
    for place, one in enumerate(ratios):
        dot = tag("circle", cx=x.at(place), cy=y.at(math.log(one.ratio)), r=4.5, class_="dot")
        marks.append(dot)
    marks.append(
        svg.label(370, 262, "units, in the order they were taken; bands are processes", "tick mid")
    )
    between = "" if rule is None or rule.low is None else f", interval {_interval(rule)}"
    return svg.Figure(
        key=_key("ratio", given.target, baseline),
        title=f"Latency against {name}, {given.target}",
        description=f"{len(ratios)} units; the median ratio is {words.ratio(middle)}{between}.",
        how=f"Each dot is one freshly made pair of sessions; below {words.TIMES}1 the pruned model "
        "is faster. The shaded band is the interval that the rule was judged on.",
        height=274,
        marks=tuple(marks),
        numbers=_ratio_table(given.target, name, ratios),
    )


def _process_bands(ratios: tuple[UnitRatio, ...], x: svg.Scale) -> list[Safe]:
    """A faint band behind every second process, because units of one process resemble each other."""
    processes = sorted({one.process for one in ratios})
    step = (x.end - x.start) / len(ratios)
    return [
        svg.box(x.at(place) - step / 2, 16, step, 220, "band")
        for place, one in enumerate(ratios)
        if processes.index(one.process) % 2
    ]


def _levels(rule: RuleResult | None, y: svg.Scale, middle: float) -> list[Safe]:
    """The reference lines, each named at its right end; names that would overlap are moved apart."""
    marks: list[Safe] = []
    names = [(y.at(0.0), f"{words.TIMES}1 same speed", "tick")]
    marks.append(svg.line(70, y.at(0.0), 670, y.at(0.0), "zero"))
    if rule is not None and rule.low is not None and rule.high is not None and rule.low > 0:
        top, bottom = y.at(math.log(rule.high)), y.at(math.log(rule.low))
        marks.append(svg.box(70, top, 600, max(2.0, bottom - top), "interval"))
    if rule is not None and rule.limit > 0:
        marks.append(
            svg.line(70, y.at(math.log(rule.limit)), 670, y.at(math.log(rule.limit)), "limit")
        )
        names.append((y.at(math.log(rule.limit)), f"{words.TIMES}{rule.limit:g} limit", "tick"))
    marks.append(svg.line(70, y.at(math.log(middle)), 670, y.at(math.log(middle)), "median"))
    names.append((y.at(math.log(middle)), f"{words.ratio(middle)} median", "strong"))
    below = -20.0
    for place, text, css in sorted(names):
        below = max(place, below + 16)
        marks.append(svg.label(678, below + 4, text, css))
    return marks


def _ratio_table(target: str, name: str, ratios: tuple[UnitRatio, ...]) -> Safe:
    rows = [[esc(one.index), esc(one.process), esc(words.number(one.ratio, 4))] for one in ratios]
    caption = f"Ratio of each unit on {target}, pruned over {name}"
    return html_table(caption, ["Unit", "Process", "Ratio"], rows, numbers=0)


def _call_figure(facts: ReportFacts, target: str, times: tuple[CallTimes, ...]) -> svg.Figure:
    longest = max(one.quantiles_ms[-1] for one in times)
    scale = svg.Scale(low=0.0, high=longest * 1.05, start=150, end=700)
    bottom = 16 + 40.0 * len(times)
    marks = [svg.x_axis(scale, 10, bottom, words.milliseconds_like(longest))]
    for index, one in enumerate(times):
        y = 16 + 40.0 * index + 18
        p5, p25, p50, p75, p95 = (scale.at(value) for value in one.quantiles_ms)
        marks += [
            svg.label(0, y + 4, words.baseline_name(one.arm, facts), "strong", limit=22),
            svg.line(p5, y, p95, y, "whisker plain"),
            svg.box(
                p25, y - 8, max(2.0, p75 - p25), 16, "bar mine" if one.arm == "candidate" else "bar"
            ),
            svg.line(p50, y - 11, p50, y + 11, "median plain"),
            svg.label(712, y + 4, words.milliseconds(one.quantiles_ms[2]), "value"),
        ]
    head = ["Arm", "Calls", "5 %", "25 %", "Median", "75 %", "95 %"]
    rows = [
        [
            esc(words.baseline_name(one.arm, facts)),
            esc(words.count(one.calls)),
            *(esc(words.milliseconds(value)) for value in one.quantiles_ms),
        ]
        for one in times
    ]
    return svg.Figure(
        key=_key("calls", target, ""),
        title=f"How long one call takes, {target}",
        description="Median call time: "
        + "; ".join(f"{one.arm} {words.milliseconds(one.quantiles_ms[2])}" for one in times),
        how="The upright line is the median, the bar the middle half of all calls, the thin line nine "
        "tenths of them. The verdict rests on the paired ratios above, not on these.",
        height=bottom + 26,
        marks=tuple(marks),
        numbers=html_table(f"Call times on {target}", head, rows, numbers=1),
    )


def _operator_figure(profile: TargetProfile) -> svg.Figure:
    ordered = sorted(profile.operators, key=lambda one: -one.share)
    drawn = ordered[:MOST_OPERATORS]
    scale = svg.Scale(low=0.0, high=drawn[0].share or 1.0, start=230, end=650)
    marks: list[Safe] = []
    for index, one in enumerate(drawn):
        y = 8 + 24.0 * index
        marks += [
            svg.label(0, y + 13, one.operator, limit=32),
            svg.box(230, y + 2, scale.at(one.share) - 230, 15, "bar"),
            svg.label(
                scale.at(one.share) + 8,
                y + 14,
                f"{words.percent(one.share, 0)}, {words.milliseconds(one.median_us / 1e3)}",
                "tick",
            ),
        ]
    rows = [
        [
            tag("bdi", esc(one.operator, 120)),
            esc(one.type, 60),
            esc(words.milliseconds(one.median_us / 1e3)),
            esc(words.percent(one.share, 1)),
        ]
        for one in ordered[:MOST_OPERATOR_ROWS]
    ]
    head = ["Operator", "Type", "Median", "Share"]
    return svg.Figure(
        key=_key("operators", profile.target, ""),
        title=f"Where the dense model's time goes, {profile.target}",
        description=f"The {len(drawn)} slowest of {len(ordered)} operators.",
        how="Each bar is one fused operator of the runtime's own graph; long bars are worth cutting.",
        height=14 + 24.0 * len(drawn),
        marks=tuple(marks),
        numbers=html_table(f"Operators on {profile.target}", head, rows, numbers=2),
    )


def _latency_rule(facts: ReportFacts, target: str, baseline: Arm) -> RuleResult | None:
    return next(
        (
            one
            for one in facts.judgement.rules
            if words.family(one) == "latency" and one.target == target and one.baseline == baseline
        ),
        None,
    )


def _interval(rule: RuleResult) -> str:
    return f"{words.ratio(rule.low or 0.0)} to {words.ratio(rule.high or 0.0)}"


def _key(kind: str, target: str, baseline: str) -> str:
    """An id that is unique in the page whatever the target is called."""
    return "-".join(part for part in (kind, target.encode().hex(), baseline) if part)
