"""Sizes, counts, costs and recovery of two verdicts, and what two plans expect."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from reprune.core.artifacts import Plan
from reprune.judge.numeric import rounded
from reprune.report.cost import MILLION, Span, currency, requests_per_year, target_costs
from reprune.report.differences import Amount, FigureDiff
from reprune.report.facts import ReportFacts

# What is shown of a figure is told by its unit.
Figures = dict[tuple[str, str, str], Amount]


def verdict_figures(before: ReportFacts, after: ReportFacts) -> tuple[FigureDiff, ...]:
    """Each figure that either of them has."""
    return _paired(dict(_of_verdict(before)), dict(_of_verdict(after)))


def plan_figures(before: Plan, after: Plan) -> tuple[FigureDiff, ...]:
    """What each plan says that its model will be."""
    return _paired(dict(_of_plan(before)), dict(_of_plan(after)))


def _paired(was: Figures, now: Figures) -> tuple[FigureDiff, ...]:
    return tuple(
        FigureDiff(what=key[0], unit=key[1], target=key[2], before=was.get(key), after=now.get(key))
        for key in dict.fromkeys((*was, *now))
    )


def _of_verdict(facts: ReportFacts) -> Iterator[tuple[tuple[str, str, str], Amount]]:
    for engines in facts.engines:
        for one in engines.engines:
            if one.arm == "candidate":
                yield ("engine file", "bytes", one.target), Amount(value=float(one.bytes))
    if facts.costs is not None:
        mine = facts.costs[1]
        yield ("parameters", "count", ""), Amount(value=float(mine.params))
        yield ("MACs of one example", "count", ""), Amount(value=float(mine.macs))
    yield from _of_costs(facts)
    recovery = facts.recovery
    if recovery is not None:
        yield ("recovery, epochs", "count", ""), Amount(value=float(len(recovery.epochs)))
        yield ("recovery, examples seen", "count", ""), Amount(value=float(recovery.examples))
        kept = [one.tune_loss for one in recovery.epochs if one.epoch == recovery.best_epoch]
        for loss in kept[:1]:
            yield ("recovery, loss on tune", "loss", ""), Amount(value=loss)


def _of_costs(facts: ReportFacts) -> Iterator[tuple[tuple[str, str, str], Amount]]:
    """A cost in another currency is another figure: it is never compared."""
    unit, year = currency(facts), requests_per_year(facts) / MILLION
    for one in target_costs(facts):
        yield ("cost, million", unit, one.target), _amount(one.mine, 1.0)
        if year:
            yield ("cost, year", unit, one.target), _amount(one.mine, year)


def _amount(span: Span, times: float) -> Amount:
    low, high = (None if end is None else rounded(end * times) for end in (span.low, span.high))
    return Amount(value=rounded(span.value * times), low=low, high=high)


def _of_plan(plan: Plan) -> Iterator[tuple[tuple[str, str, str], Amount]]:
    expected = plan.predicted
    yield ("parameters expected", "count", ""), Amount(value=float(expected.params))
    yield ("MACs expected", "count", ""), Amount(value=float(expected.macs))
    if expected.latency_ratio is not None:
        yield ("latency expected, of dense", "ratio", ""), Amount(value=expected.latency_ratio)
    for target, one in (expected.latencies or {}).items():
        yield ("latency forecast, of dense", "ratio", target), Amount(value=one.forecast)
        if one.measured is not None:
            timed = ("latency timed by the plan, of dense", "ratio", target)
            yield timed, Amount(value=one.measured)
    if expected.loss_increase is not None:
        yield ("loss expected to be added", "loss", ""), Amount(value=expected.loss_increase)
    if expected.joint_loss_increase is not UNSET:
        joint = ("loss expected, as joint cuts came out", "loss", "")
        yield joint, Amount(value=expected.joint_loss_increase)
    if expected.tried is not UNSET:
        tried = ("loss added, measured by the plan", "loss", "")
        yield tried, Amount(value=expected.tried.loss_increase)
    if expected.optimality_gap is not UNSET:
        gap = ("optimality gap", "share", "")
        yield gap, Amount(value=expected.optimality_gap)
