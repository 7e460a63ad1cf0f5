"""A rule that has been measured but not yet decided: blocking waits for all rules of the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reprune.core.artifacts import Outcome, RuleResult
from reprune.judge.distributions import holm
from reprune.judge.numeric import rounded


@dataclass(frozen=True, kw_only=True)
class Draft:
    """`sure` is set where chance plays no part, or where evidence is too thin for either answer.

    `facts` says what was measured and what is demanded, without a full stop; `short` and `allowed`
    are the same as two clauses for a headline. `p_harm` is the p-value of breaking the rule; None
    where chance plays no part. `doubt` says in a headline why it is undecided.
    """

    rule: str
    baseline: str
    target: str | None
    required: bool
    unit: str
    baseline_value: float | None
    candidate_value: float | None
    change: float | None
    low: float | None
    high: float | None
    limit: float
    direction: Literal["at most", "at least"]
    samples: int
    facts: str
    short: str
    allowed: str
    decide: str = ""
    holds: bool = False
    p_harm: float | None = None
    sure: Outcome | None = None
    doubt: str = "that is not certain yet"


_ENDING: dict[Outcome, str] = {
    "pass": "the rule holds",
    "block": "the rule is broken",
    "inconclusive": "this is not decided",
    "error": "the rule cannot be judged",
}


def decide_all(drafts: Sequence[Draft], alpha: float) -> list[RuleResult]:
    """The results of a verdict's rules: Holm over the required ones, and over the others by themselves."""
    adjusted = [1.0] * len(drafts)
    for required in (True, False):
        family = [
            (place, draft.p_harm)
            for place, draft in enumerate(drafts)
            if draft.required == required and draft.p_harm is not None
        ]
        p_values = holm([p_harm for _, p_harm in family])
        for (place, _), p_value in zip(family, p_values, strict=True):
            adjusted[place] = p_value
    return [decide(draft, p, alpha) for draft, p in zip(drafts, adjusted, strict=True)]


def decide(draft: Draft, p_adjusted: float, alpha: float) -> RuleResult:
    """The rule's result, given its p-value adjusted for all rules that could block."""
    outcome: Outcome
    if draft.sure is not None:
        outcome = draft.sure
    elif draft.holds:
        outcome = "pass"
    elif rounded(p_adjusted) <= rounded(alpha):
        outcome = "block"
    else:
        outcome = "inconclusive"
    return RuleResult(
        rule=draft.rule,
        baseline=draft.baseline,
        target=draft.target,
        outcome=outcome,
        required=draft.required,
        unit=draft.unit,
        baseline_value=draft.baseline_value,
        candidate_value=draft.candidate_value,
        change=draft.change,
        low=draft.low,
        high=draft.high,
        limit=draft.limit,
        direction=draft.direction,
        samples=draft.samples,
        words=f"{draft.facts}: {_ENDING[outcome]}.",
        decide=draft.decide if outcome == "inconclusive" else "",
    )
