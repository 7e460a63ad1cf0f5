"""Where it is the dense parent that got worse, and not the compression: nothing to try with the plan."""

from __future__ import annotations

from collections.abc import Sequence

from reprune.core.artifacts import RuleResult
from reprune.report import cells, words
from reprune.report.facts import ReportFacts
from reprune.report.phrases import Code, Phrase


def mostly_the_parents(quality: Sequence[RuleResult], facts: ReportFacts) -> list[Phrase]:
    """The candidate's distance from the champion is its distance from its parent plus the parent's from
    the champion; the first part is compression's.
    """
    parents = [one for one in quality if words.is_parent(one)]
    blocked = [one for one in quality if not words.is_parent(one) and one.outcome == "block"]
    if not blocked or not parents or any(one.outcome == "block" for one in parents):
        return []
    ours = _largest(parents)
    whole = _largest([one for one in blocked if one.baseline_value is not None])
    if ours > whole / 2 and any(one.outcome != "pass" for one in parents):
        return []
    dense = words.version(facts.verdict.dense_version)
    share = f" (its share is {_loss(ours)} of {_loss(whole)})" if whole > ours else ""
    return [
        _retrain(
            f"Compression is not the cause{share}: the dense parent {dense} is itself worse", dense
        )
    ]


def missed_by_the_parent(quality: Sequence[RuleResult], facts: ReportFacts) -> list[Phrase]:
    """A floor or ceiling that the dense parent does not reach either."""
    dense = words.version(facts.verdict.dense_version)
    for one in quality:
        was = _parents_value(one, quality)
        if one.outcome == "block" and one.required and was is not None and _misses(was, one):
            told = f"the dense parent {dense} is itself at {words.percent(was)}, and the policy demands "
            told += f"{cells.limit(one)}, so that no plan can pass"
            return [_retrain(f"Compression is not the cause: {told}", dense)]
    return []


def _parents_value(one: RuleResult, quality: Sequence[RuleResult]) -> float | None:
    """What the dense parent reaches where a rule compares with nothing but its limit; None: not known."""
    if not words.is_absolute(one):
        return None
    same = [
        each.baseline_value
        for each in quality
        if words.is_parent(each)
        and (words.metric(each), each.target) == (words.metric(one), one.target)
    ]
    return next((value for value in same if value is not None), None)


def _misses(value: float, one: RuleResult) -> bool:
    return value > one.limit if one.direction == "at most" else value < one.limit


def _retrain(why: str, dense: str) -> Phrase:
    return (
        f"{why}. Look at the training data and labels of {dense}, retrain, then ",
        Code("reprune update"),
        " and ",
        Code("dvc repro"),
        ".",
    )


def _largest(rules: Sequence[RuleResult]) -> float:
    return max((abs(one.change) for one in rules if one.change is not None), default=0.0)


def _loss(change: float) -> str:
    return words.points(-abs(change)).lstrip(words.MINUS)
