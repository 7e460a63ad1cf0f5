"""How a number, a rule and an outcome read: the same in Markdown, HTML and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from msgspec import UNSET

from reprune.core.artifacts import Judgement, Outcome, RuleResult, SliceResult
from reprune.report.facts import ReportFacts
from reprune.report.markup import visible

Family: TypeAlias = Literal[
    "latency", "tail", "objective", "throughput", "memory", "size", "parity", "slices", "quality"
]
_LABELS: dict[Family, str] = {
    "latency": "Latency",
    "tail": "Latency, tail",
    "objective": "Slow calls",
    "throughput": "Throughput",
    "memory": "Peak memory",
    "size": "Engine size",
    "parity": "Engine parity",
}
_BATCH = re.compile(r"throughput\.b(\d+)\.")

_SECTIONS: dict[str, Family] = {
    "latency": "latency",
    "throughput": "throughput",
    "memory": "memory",
    "size": "size",
}
# Where chance plays no part, an interval says nothing.
EXACT: tuple[Family, ...] = ("size", "memory", "parity")

ICON: dict[Outcome, str] = {"pass": "✅", "block": "❌", "inconclusive": "❔", "error": "⚠️"}
WORD: dict[Outcome, str] = {
    "pass": "Passed",
    "block": "Blocked",
    "inconclusive": "Undecided",
    "error": "Error",
}
ROW_WORD: dict[Outcome, str] = {
    "pass": "ok",
    "block": "blocked",
    "inconclusive": "undecided",
    "error": "error",
}
# Worst first: what stops a promotion is read before what does not.
RANK: dict[Outcome, int] = {"block": 0, "error": 1, "inconclusive": 2, "pass": 3}

MINUS = "\u2212"
TIMES = "\u00d7"
EN_DASH = "\u2013"
NOT_DECIDING = "\u2796"  # a heavy minus: neither passed nor blocked
NBSP = "\u00a0"  # a number and its unit stay on one line


def state(result: RuleResult) -> str:
    """The outcome of a rule as a word; a rule that only informs says so."""
    word = ROW_WORD[result.outcome]
    if result.required:
        return word
    return "ok, advisory" if result.outcome == "pass" else f"{word}, advisory: does not decide"


def brief_state(result: RuleResult) -> str:
    """The same in at most two words, where there is little room."""
    return ROW_WORD[result.outcome] + ("" if result.required else ", advisory")


def icon(result: RuleResult) -> str:
    """The outcome as a sign; what only informs never carries the sign of a decision."""
    return ICON[result.outcome] if result.required or result.outcome == "pass" else NOT_DECIDING


def worst_first(results: Iterable[RuleResult]) -> list[RuleResult]:
    """Blocked, error, undecided, passed; within each, required rules first, then the policy's order."""
    return sorted(results, key=lambda one: (not_deciding(one), RANK[one.outcome], not one.required))


def not_deciding(result: RuleResult) -> bool:
    """Whether a result can be left out without hiding why the verdict is what it is."""
    return result.outcome == "pass" or not result.required


def growing_is_worse(rules: Iterable[RuleResult]) -> frozenset[tuple[str, str | None]]:
    """Rules, each with its target, whose metric is better the lower it is."""
    return frozenset((one.rule, one.target) for one in rules if one.direction == "at most")


def worsening(one: SliceResult, growing: frozenset[tuple[str, str | None]]) -> float:
    """How much a slice lost, positive where it got worse; `growing` is `growing_is_worse` of the rules."""
    return one.change if (one.rule, one.target) in growing else -one.change


def moved(judgement: Judgement) -> list[SliceResult]:
    """The slices that were harmed, the worst first."""
    harmed = [one for one in judgement.slices if one.outcome == "harm"]
    growing = growing_is_worse(judgement.rules)
    return sorted(harmed, key=lambda one: -worsening(one, growing))


def both_ways(one: SliceResult) -> str:
    """How many examples got worse and better; of a metric that knows neither, how many changed."""
    if one.changed is not UNSET:
        return f"{count(one.changed)} changed"
    return f"{one.right_to_wrong} / {one.wrong_to_right}"


def family(result: RuleResult) -> Family:
    """What kind of demand a rule is; a rule named after a metric is one of quality."""
    if result.rule == "parity":
        return "parity"
    if ".slices." in result.rule:
        return "slices"
    if result.rule.startswith("latency.tail."):
        return "tail"
    if result.rule == "latency.objective":
        return "objective"
    first = result.rule.partition(".")[0]
    return _SECTIONS.get(first, "quality")


def metric(result: RuleResult) -> str:
    """The metric that a quality rule is about, as the policy spells it."""
    return result.rule.partition(".slices.")[0].rpartition(".")[0] or result.rule.partition(".")[0]


def label(result: RuleResult) -> str:
    """What a rule is about, in one to three words."""
    kind = family(result)
    if kind in _LABELS:
        other = batch(result)
        return f"{_LABELS[kind]}, batch {other}" if other else _LABELS[kind]
    name = sentence_case(metric(result))
    return f"{name}, worst slice" if kind == "slices" else name


def batch(result: RuleResult) -> str:
    """The batch size that a throughput rule names; empty at the target's own."""
    found = _BATCH.match(result.rule)
    return found[1] if found else ""


def arrow(result: RuleResult) -> str:
    """Which way is better."""
    return "↓" if result.direction == "at most" else "↑"


def is_absolute(result: RuleResult) -> bool:
    """Whether a rule compares with nothing but its limit."""
    return result.baseline == "absolute"


def is_parent(result: RuleResult) -> bool:
    """Whether the rule compares with the dense model that the candidate was made from."""
    return result.baseline == "dense" and family(result) != "parity"


def against(result: RuleResult, facts: ReportFacts) -> str:
    """What a rule compares with, and on which target."""
    where = f" on {result.target}" if result.target else ""
    bound = _objective_ms(result, facts)
    if bound is not None:
        return f"longer than {milliseconds(bound)}{where}"
    if is_absolute(result):
        kind = result.rule.rpartition(".")[2]
        return f"against the policy's {kind if kind in ('floor', 'ceiling') else 'limit'}{where}"
    name = baseline_name(result.baseline, facts)
    if family(result) == "parity":
        return f"of {name}{where}"
    return f"against {name}{where}"


def _objective_ms(result: RuleResult, facts: ReportFacts) -> float | None:
    """How long a call may last, where the rule counts calls that last longer."""
    if family(result) != "objective" or facts.policy is None or facts.policy.latency is None:
        return None
    objective = facts.policy.latency.objective
    return None if objective is None else objective.max_ms


def rule_of(one: SliceResult, facts: ReportFacts) -> RuleResult | None:
    """The rule that a slice's result is a part of."""
    return next(
        (
            result
            for result in facts.judgement.rules
            if result.rule == one.rule and (result.target or "") == one.target
        ),
        None,
    )


def baseline_name(arm: str, facts: ReportFacts) -> str:
    """An arm as a person names it, with its version."""
    verdict, previous = facts.verdict, facts.previous
    anchor = previous.anchor if previous is not None else None
    if arm == "candidate":
        return f"pruned {version(verdict.dense_version)}"
    if arm == "dense":
        return f"dense {version(verdict.dense_version)}"
    if arm == "champion" and verdict.champion is not None:
        return f"champion {version(verdict.champion.version)}"
    if arm == "anchor" and anchor is not None:
        return f"anchor {version(anchor.version)}"
    return arm.replace("_", " ")


def version(text: str) -> str:
    """A version as people call it; of a set, which has one of every member, their numbers alone."""
    if "=" in text:
        return "v" + "+".join(part.partition("=")[2] for part in text.split("+"))
    return full_version(text)


def full_version(text: str) -> str:
    """A version as people call it, of a set with its members' names."""
    return f"v{text}" if text[:1].isdigit() else text


def sentence_case(text: str) -> str:
    spaced = visible(text.replace("_", " "))
    return spaced[:1].upper() + spaced[1:]


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, no exponent where people expect none, and a true minus sign."""
    if not math.isfinite(value):
        return "unbounded" if math.isinf(value) else "not a number"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace("-", MINUS).replace(",", NBSP)


def signed(value: float, digits: int = 3) -> str:
    """As `number`, with a plus sign where it rose."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def count(value: int) -> str:
    """A whole number in groups of three, from five digits on."""
    return f"{value:,}".replace(",", NBSP) if value >= 10_000 else str(value)


def ratio(value: float) -> str:
    """Three decimals, so that an interval around 1 keeps its width."""
    return f"{TIMES}{value:.3f}" if 0.001 <= abs(value) < 100 else f"{TIMES}{number(value)}"


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}{NBSP}%".replace("-", MINUS)


def points(change: float) -> str:
    """A change of a share, in percentage points."""
    value = round(100 * change, 2)
    text = f"{abs(value):.2f}{NBSP}pt"
    return text if value == 0 else f"{'+' if value > 0 else MINUS}{text}"


def size(count_bytes: float) -> str:
    """Decimal units, as file managers and registries show them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count_bytes) >= scale:
            return f"{number(count_bytes / scale)}{NBSP}{unit}"
    return f"{number(count_bytes)}{NBSP}B"


def milliseconds(value: float) -> str:
    return f"{number(value * 1e3)}{NBSP}µs" if abs(value) < 1 else f"{number(value)}{NBSP}ms"


def milliseconds_like(longest: float) -> Callable[[float], str]:
    """How the values of one axis read: all in the unit that suits the longest."""
    if longest < 1:
        return lambda value: f"{value * 1e3:g}{NBSP}µs"
    return lambda value: f"{value:g}{NBSP}ms"


def rate(value: float) -> str:
    """Examples a second."""
    return f"{big(value)}/s" if value >= 1e4 else f"{number(value)}{NBSP}/s"


def big(value: float) -> str:
    """A count of operations or parameters."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{number(value / scale)}{NBSP}{unit}"
    return number(value)


def short(digest: str) -> str:
    """Enough of a digest to compare by eye."""
    return f"{digest[:19]}…" if digest.startswith("sha256:") else visible(digest, 24)


def listing(names: list[str]) -> str:
    """Names as a phrase: a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def plural(amount: int, one: str, many: str = "") -> str:
    return f"{count(amount)} {one if amount == 1 else many or one + 's'}"
