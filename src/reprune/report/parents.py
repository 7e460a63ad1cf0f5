"""Where it is the dense parent that got worse, and not the compression: nothing to try with the plan."""

from __future__ import annotations

from collections.abc import Sequence

from reprune.core.artifacts import RuleResult
from reprune.report import cells, words
from reprune.report.facts import ReportFacts
from reprune.report.phrases import Code, Phrase


def mostly_the_parents(quality: Sequence[RuleResult], facts: ReportFacts) -> list[Phrase]:
    """The candidate's distance from the champion is its distance from its parent plus the parent's from
    the champion; the first part is compression's. Told where for every demand that blocks, that part of
    the same metric on the same target is at most half; what a floor says is `missed_by_the_parent`'s.
    """
    needed = [one for one in quality if one.required]
    blocked = [one for one in needed if one.outcome == "block" and not words.is_absolute(one)]
    absolute = [one for one in needed if one.outcome == "block" and words.is_absolute(one)]
    shares = [(_parents_part(one, quality), _lost(one)) for one in blocked]
    if not shares or any(not _missed(one, quality) for one in absolute):
        return []
    known = [(ours, whole) for ours, whole in shares if ours is not None and whole is not None]
    if len(known) < len(shares) or any(ours > whole / 2 for ours, whole in known):
        return []
    ours, whole = max(known, key=lambda pair: pair[1])
    dense = words.version(facts.verdict.dense_version)
    share = f" (its share is {_loss(ours)} of {_loss(whole)})" if ours > 0 else ""
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
        if one.outcome == "block" and one.required and was is not None and _missed(one, quality):
            told = f"the dense parent {dense} is itself at {words.percent(was)}, and the policy demands "
            told += f"{cells.limit(one)}, so that no plan can pass"
            return [_retrain(f"Compression is not the cause: {told}", dense)]
    return []


def _missed(one: RuleResult, quality: Sequence[RuleResult]) -> bool:
    """Whether the dense parent is known not to reach it either."""
    was = _parents_value(one, quality)
    return was is not None and _misses(was, one)


def _parents_part(one: RuleResult, quality: Sequence[RuleResult]) -> float | None:
    """What the same metric lost to the dense parent on the same target; None where nobody asked, and where
    the rule that blocks is about the parent: then it is compression.
    """
    if words.is_parent(one):
        return None
    same = [each for each in quality if words.is_parent(each) and _of_one_thing(each, one)]
    return next((_lost(each) for each in same), None)


def _of_one_thing(one: RuleResult, other: RuleResult) -> bool:
    return (words.metric(one), one.target) == (words.metric(other), other.target)


def _lost(one: RuleResult) -> float | None:
    """By how much it is worse than its baseline: below 0 for a gain."""
    if one.change is None or one.baseline_value is None:
        return None
    return -one.change if one.direction == "at least" else one.change


def _loss(change: float) -> str:
    return words.points(-change).lstrip(words.MINUS)


def _parents_value(one: RuleResult, quality: Sequence[RuleResult]) -> float | None:
    """What the dense parent reaches where a rule compares with nothing but its limit; None: not known."""
    if not words.is_absolute(one):
        return None
    same = [
        each.baseline_value
        for each in quality
        if words.is_parent(each) and _of_one_thing(each, one)
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
