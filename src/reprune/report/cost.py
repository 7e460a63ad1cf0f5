"""What serving costs, from the measured throughput and the price in params.yaml; no rule is about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from reprune.core.artifacts import Arm
from reprune.core.params import CostParams
from reprune.judge.evidence import BatchUnits, TargetEvidence, Unit
from reprune.judge.median import median_interval
from reprune.judge.throughput import log_mean_time, mean_ratio, typical_rate
from reprune.report import words
from reprune.report.cells import span
from reprune.report.facts import ReportFacts
from reprune.report.phrases import Code, Phrase

# Two-sided 95 % for the median over units.
TAIL = 0.025
CONFIDENCE = "95 %"
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Span:
    """An estimate with the ends of its interval; None where there were too few units for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Saving:
    """The candidate against a baseline: `ratio` of their costs, measured in pairs; below 1 it is cheaper.

    `mine` is the candidate's cost of a million inferences.
    """

    baseline: Arm
    mine: float
    ratio: Span

    @property
    def before(self) -> float:
        """The baseline's cost of a million inferences."""
        return self.mine / self.ratio.value


@dataclass(frozen=True, kw_only=True)
class TargetCost:
    """One target with a price. `rate` is of the candidate, in examples a second, `mine` its cost of a
    million; `savings` is against the dense parent, then against the champion.
    """

    target: str
    batch_size: int
    price_per_hour: float
    rate: float
    mine: Span
    savings: tuple[Saving, ...]


def target_costs(facts: ReportFacts) -> tuple[TargetCost, ...]:
    """Of every target that has a price and was measured. Empty where params.yaml names no price."""
    priced = _priced(facts)
    if priced is None or facts.evidence is None:
        return ()
    found = []
    for given in facts.evidence.targets:
        price = priced.price_per_hour.get(given.target)
        cost = None if price is None else _target_cost(given, price, priced.utilisation)
        if cost is not None:
            found.append(cost)
    return tuple(found)


def cost_lines(facts: ReportFacts) -> list[Phrase]:
    """For each target and baseline what a million inferences, and a year of them, cost before and after,
    and the prices that this assumes.
    """
    priced = _priced(facts)
    if priced is None:
        return []
    lines: list[Phrase] = []
    for one in target_costs(facts):
        where = ("On ", Code(one.target), f" at batch {one.batch_size}, ")
        lines += [(*where, _change(saving, priced, facts)) for saving in one.savings]
        busy = words.percent(priced.utilisation, 0)
        price = f"{one.price_per_hour:g}{words.NBSP}{priced.currency}"
        assumed = f" is taken to cost {price} an hour and to compute {busy} of it"
        year = f"; a year is {words.big(priced.requests_per_year)} requests"
        lines.append((Code(one.target), f"{assumed}{year if priced.requests_per_year else ''}."))
    return lines


def assumptions(facts: ReportFacts) -> list[Phrase]:
    """What has to be so for the costs to be what they say; empty where no cost is told."""
    priced, costs = _priced(facts), target_costs(facts)
    if priced is None or not costs:
        return []
    prices = words.listing(
        [f"{one.target} {one.price_per_hour:g}{words.NBSP}{priced.currency}" for one in costs[:12]]
    )
    lines: list[Phrase] = [
        (f"Price of an hour: {prices} (", Code("cost.price_per_hour"), ")."),
        (
            f"{words.percent(priced.utilisation, 0)} of a paid hour is spent computing (",
            Code("cost.utilisation"),
            "); what the price pays for runs one session, as the benchmark did.",
        ),
        (
            "The rate is the measured throughput, slow calls included, at the measured batch size at "
            "which the dense model is cheapest.",
        ),
        (
            f"Intervals are {CONFIDENCE} for the median over units. What is compared was measured in the "
            "same unit: the cost before is the pruned model's cost over that ratio. Prices count as exact.",
        ),
    ]
    if priced.requests_per_year:
        asked = words.big(priced.requests_per_year)
        lines.append((f"A year has {asked} requests (", Code("cost.requests_per_year"), ")."))
    return lines


def money(value: float, currency: str) -> str:
    """Three significant digits, and the currency."""
    return f"{words.number(value)}{words.NBSP}{currency}"


def requests_per_year(facts: ReportFacts) -> int:
    """0 where params.yaml says nothing about a year."""
    priced = _priced(facts)
    return priced.requests_per_year if priced is not None else 0


def currency(facts: ReportFacts) -> str:
    """The currency of all costs; empty where there are none."""
    priced = _priced(facts)
    return priced.currency if priced is not None else ""


def span_words(span: Span, unit: str) -> str:
    """`low to high unit`; says so where there were too few units for an interval."""
    if span.low is None or span.high is None:
        return "too few units for an interval"
    return f"{words.number(span.low)} to {words.number(span.high)}{words.NBSP}{unit}"


def saved(saving: Saving, factor: float) -> Span:
    """What is saved over `factor` millions of inferences; negative for a loss."""
    mine, ratio = saving.mine * factor, saving.ratio
    return Span(
        value=mine / ratio.value - mine,
        low=None if ratio.high is None else mine / ratio.high - mine,
        high=None if ratio.low is None else mine / ratio.low - mine,
    )


def _priced(facts: ReportFacts) -> CostParams | None:
    return (facts.params.cost or None) if facts.params is not None else None


def _target_cost(given: TargetEvidence, price: float, utilisation: float) -> TargetCost | None:
    """None for a target of which nothing was timed."""
    own = BatchUnits(batch_size=given.batch_size, units=given.units)
    batches = [(one.batch_size, _usable(one.units)) for one in (own, *given.throughput)]
    rated = [
        (rate, size, units)
        for size, units in batches
        if (rate := typical_rate(units, "dense", size)) is not None
    ]
    if not rated:
        return None
    _, size, units = max(rated, key=lambda one: (one[0], -one[1]))
    a_second = price / 3600 / utilisation / size * MILLION
    mine = _typical([a_second * math.exp(log_mean_time(u.arms["candidate"])) / 1e9 for u in units])
    savings = [
        Saving(
            baseline=baseline,
            mine=mine.value,
            ratio=_typical([mean_ratio(unit, baseline) for unit in units]),
        )
        for baseline in _baselines(units)
    ]
    return TargetCost(
        target=given.target,
        batch_size=size,
        price_per_hour=price,
        rate=typical_rate(units, "candidate", size) or 0.0,
        mine=mine,
        savings=tuple(savings),
    )


def _usable(units: Sequence[Unit]) -> list[Unit]:
    """The units in which both the candidate and its parent were timed."""
    return [
        unit
        for unit in units
        if all(
            arm in unit.arms
            and unit.arms[arm].blocks_ns
            and all(block and sum(block) > 0 for block in unit.arms[arm].blocks_ns)
            for arm in ("candidate", "dense")
        )
    ]


def _baselines(units: Sequence[Unit]) -> list[Arm]:
    champion = all(
        "champion" in unit.arms and all(sum(b) > 0 for b in unit.arms["champion"].blocks_ns)
        for unit in units
    )
    return ["dense", "champion"] if champion else ["dense"]


def _typical(values: Sequence[float]) -> Span:
    low, high = median_interval(values, TAIL) or (None, None)
    return Span(value=median(values), low=low, high=high)


def _change(saving: Saving, priced: CostParams, facts: ReportFacts) -> str:
    before, mine, unit = saving.before, saving.mine, priced.currency
    text = (
        f"against {words.baseline_name(saving.baseline, facts)}: {words.number(before)} → "
        f"{money(mine, unit)} per million inferences, {ratio_words(saving)}"
    )
    if priced.requests_per_year:
        factor = priced.requests_per_year / MILLION
        year = saved(saving, factor)
        text += (
            f"; {words.number(before * factor)} → {money(mine * factor, unit)} a year, "
            f"{saving_words(year, unit)}"
        )
    return f"{text}."


def ratio_words(saving: Saving) -> str:
    """The candidate's share of the baseline's cost, with its interval."""
    ratio = saving.ratio
    if ratio.low is None or ratio.high is None:
        return f"{words.ratio(ratio.value)} ({span_words(ratio, '')})"
    ends = span(words.ratio(ratio.low), words.ratio(ratio.high))
    return f"{words.ratio(ratio.value)} ({ends})"


def saving_words(year: Span, unit: str) -> str:
    """What a year saves, or costs more, with its interval."""
    verb = "saves" if year.value >= 0 else "costs more by"
    if year.value < 0:
        year = Span(value=-year.value, low=_minus(year.high), high=_minus(year.low))
    return f"{verb} {money(year.value, unit)} ({span_words(year, unit)})"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
