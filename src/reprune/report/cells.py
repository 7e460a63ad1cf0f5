"""The cells of the table of demands: one formatter a unit, so that every rendering shows the same text."""

from __future__ import annotations

from collections.abc import Callable

from reprune.core.artifacts import RuleResult
from reprune.report import words

NOTHING = words.EN_DASH

Format = Callable[[float], str]

# How a rule's `unit` shows its change, its interval and its limit.
CHANGES: dict[str, Format] = {
    "ratio": words.ratio,
    "points": words.points,
    "share": words.percent,
    "bytes": words.size,
    "ms": words.milliseconds,
}


def baseline(result: RuleResult) -> str:
    return _value(result, result.baseline_value)


def candidate(result: RuleResult) -> str:
    return _value(result, result.candidate_value)


def change(result: RuleResult) -> str:
    return NOTHING if result.change is None else amount(result, result.change)


def interval(result: RuleResult) -> str:
    """The interval as `low to high`; empty where there is none (a size is not estimated)."""
    if result.low is None and result.high is None:
        return ""
    low = "unbounded" if result.low is None else amount(result, result.low)
    high = "unbounded" if result.high is None else amount(result, result.high)
    return span(low, high)


def span(low: str, high: str) -> str:
    """`low to high`, the unit said once: on the left a sign that both share, on the right the unit."""
    number, _, unit = high.rpartition(words.NBSP)
    if number and low.endswith(words.NBSP + unit):
        low = low.removesuffix(words.NBSP + unit)
    if low.startswith(words.TIMES) and high.startswith(words.TIMES):
        high = high[1:]
    return f"{low} to {high}"


def limit(result: RuleResult) -> str:
    """The policy's demand with its direction, as `≤ 5 MB`."""
    sign = "≤" if result.direction == "at most" else "≥"
    return f"{sign} {amount(result, result.limit)}"


def amount(result: RuleResult, value: float) -> str:
    """A change, or a limit on it, in the rule's unit. A unit nobody knows here is shown by its name."""
    known = CHANGES.get(result.unit)
    return known(value) if known else f"{words.number(value)} {result.unit}".rstrip()


def _value(result: RuleResult, value: float | None) -> str:
    """The measured value itself, which for a ratio has the unit of what was measured."""
    if value is None:
        return NOTHING
    kind = words.family(result)
    if kind == "latency":
        return words.milliseconds(value)
    if kind == "size":
        return words.size(value)
    return words.percent(value) if abs(value) <= 1 else words.number(value)
