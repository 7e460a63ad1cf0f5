"""How a number, a rule and an outcome read: the same in Markdown, HTML and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

from reprune.core.artifacts import Outcome, RuleResult, SliceResult
from reprune.report.facts import ReportFacts
from reprune.report.markup import visible

Family: TypeAlias = Literal["latency", "size", "parity", "slices", "quality"]

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


def icon(result: RuleResult) -> str:
    """The outcome as a sign; what only informs never carries the sign of a decision."""
    return ICON[result.outcome] if result.required or result.outcome == "pass" else NOT_DECIDING


def worst_first(results: Iterable[RuleResult]) -> list[RuleResult]:
    """Blocked, error, undecided, passed; within each, required rules first, then the policy's order."""
    return sorted(results, key=lambda one: (not_deciding(one), RANK[one.outcome], not one.required))


def not_deciding(result: RuleResult) -> bool:
    """Whether a result can be left out without hiding why the verdict is what it is."""
    return result.outcome == "pass" or not result.required


def moved(slices: Iterable[SliceResult]) -> list[SliceResult]:
    """The slices that were harmed, the worst first."""
    return sorted((s for s in slices if s.outcome == "harm"), key=lambda one: one.change)


def family(result: RuleResult) -> Family:
    """What kind of demand a rule is; a rule named after a metric is one of quality."""
    words = re.split(r"[^a-z]+", result.rule.lower())
    for name in ("slices", "latency", "size", "parity"):
        if name in words:
            return name
    return "quality"


def metric(result: RuleResult) -> str:
    """The metric that a quality rule is about, as the policy spells it."""
    parts = [part for part in result.rule.split(".") if part != "quality"]
    return parts[0] if parts else result.rule


def label(result: RuleResult) -> str:
    """What a rule is about, in one or two words."""
    kind = family(result)
    subject = {"latency": "Latency", "size": "Engine size", "parity": "Engine parity"}.get(kind)
    if subject is None:
        subject = sentence_case(metric(result))
        return f"{subject} by slice" if kind == "slices" else subject
    return subject


def arrow(result: RuleResult) -> str:
    """Which way is better."""
    return "↓" if family(result) in ("latency", "size") else "↑"


def is_parent(result: RuleResult) -> bool:
    """Whether the rule compares with the dense model that the candidate was made from."""
    return result.baseline.removeprefix("vs_") in ("parent", "dense")


def against(result: RuleResult, facts: ReportFacts) -> str:
    """What a rule compares with, and on which target."""
    name = baseline_name(result.baseline, facts)
    where = f" on {result.target}" if result.target else ""
    return f"against {name}{where}"


def baseline_name(baseline: str, facts: ReportFacts) -> str:
    """An arm's or rule's baseline as a person names it."""
    verdict, previous = facts.verdict, facts.previous
    anchor = previous.anchor if previous is not None else None
    kind = baseline.removeprefix("vs_")
    if kind in ("parent", "dense"):
        return f"dense {version(verdict.dense_version)}"
    if kind == "champion" and verdict.champion is not None:
        return f"champion {version(verdict.champion.version)}"
    if kind == "anchor" and anchor is not None:
        return f"anchor {version(anchor.version)}"
    if kind in ("", "floor", "ceiling", "policy", "none", "absolute"):
        return f"the policy's {kind}" if kind in ("floor", "ceiling") else "the policy"
    return kind.replace("_", " ")


def version(text: str) -> str:
    """A registry's version number as people write it."""
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
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace("-", MINUS).replace(",", NBSP)


def signed(value: float, digits: int = 3) -> str:
    """As `number`, with a plus sign where it rose."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def count(value: int) -> str:
    """A whole number in groups of three, from five digits on."""
    return f"{value:,}".replace(",", NBSP) if value >= 10_000 else str(value)


def ratio(value: float) -> str:
    return f"{TIMES}{number(value)}"


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
    return f"{number(value * 1e3)}{NBSP}µs" if abs(value) < 0.1 else f"{number(value)}{NBSP}ms"


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
