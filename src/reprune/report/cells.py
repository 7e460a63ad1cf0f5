"""The cells of the table of demands: one formatter a unit, so that every rendering shows the same text."""

from __future__ import annotations

from collections.abc import Callable

from reprune.core.artifacts import RuleResult
from reprune.report import words

NOTHING = words.EN_DASH

Format = Callable[[float], str]

# How a rule's `unit` shows its change, its interval and its limit (see judge.verdict). A share is a
# difference in points, unless the rule is about the share itself.
UNITS: dict[str, Format] = {
    "ratio": words.ratio,
    "share": words.points,
    "bytes": words.size,
    "max_abs": words.number,
}


def baseline(result: RuleResult) -> str:
    return _value(result, result.baseline_value)


def candidate(result: RuleResult) -> str:
    return _value(result, result.candidate_value)


def change(result: RuleResult) -> str:
    """The change, or for an absolute rule the value itself."""
    value = measured(result)
    return NOTHING if value is None else amount(result, value)


def measured(result: RuleResult) -> float | None:
    """What is compared with the limit."""
    return result.candidate_value if result.change is None else result.change


def interval(result: RuleResult) -> str:
    """The interval as `low to high`; empty where chance plays no part, or where there is none."""
    if words.family(result) in words.EXACT:
        return ""
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
    return f"{sign} {_EXACT.get(result.unit, amount)(result, result.limit)}"


def amount(result: RuleResult, value: float) -> str:
    """A change, or a limit on it, in the rule's unit. A unit nobody knows here is shown by its name."""
    if result.unit == "share" and words.is_absolute(result):
        return words.percent(value)
    known = UNITS.get(result.unit)
    return known(value) if known else f"{words.number(value)} {result.unit}".rstrip()


# Where people write a limit as a plain number, it reads as they wrote it.
_EXACT: dict[str, Callable[[RuleResult, float], str]] = {
    "ratio": lambda _, value: f"{words.TIMES}{value:g}",
    "max_abs": lambda _, value: f"{value:g}",
}


def _value(result: RuleResult, value: float | None) -> str:
    """The measured value itself, which for a ratio has the unit of what was measured."""
    if value is None:
        return NOTHING
    return _VALUES.get(words.family(result), words.percent)(value)


# Quality and slices are shares.
_VALUES: dict[words.Family, Format] = {
    "latency": words.milliseconds,
    "tail": words.milliseconds,
    "objective": words.milliseconds,
    "throughput": words.rate,
    "memory": words.size,
    "size": words.size,
    "parity": words.number,
}
