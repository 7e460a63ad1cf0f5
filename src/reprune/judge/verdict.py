"""From evidence to judgement: a pure function. The same evidence and policy give the same bytes.

How a result reads: `unit` is that of change, low, high and limit.

| rule | unit | baseline and candidate value | change, low, high | limit |
|---|---|---|---|---|
| latency.vs_* | ratio | milliseconds a call | candidate over baseline | at most |
| <metric>.vs_* | share | the metric | candidate minus baseline: a loss is negative | at least -margin |
| <metric>.floor | share | -, the metric | limits of the metric itself | at least |
| <metric>.slices.vs_* | share | the metric on the worst slice | as vs_* | at least -margin |
| size.vs_* | ratio | bytes | candidate over baseline | at most |
| size.ceiling | bytes | -, bytes | - | at most |
| parity | max_abs | -, largest difference of outputs | `baseline` is the arm | at most |

(A metric of which less is better turns the sign: a loss is positive, and limits are 'at most'.)

A pass is an intersection: each required rule must hold at the full level of the attempt. A block is a
union: one broken rule blocks, so p-values are adjusted over all required rules that chance could
break (Holm). Advisory targets are reported the same way, in a family of their own, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from reprune.core.artifacts import Judgement, Outcome, RuleResult, SliceResult
from reprune.core.policy import Policy
from reprune.judge.checks import find_metrics, find_problems
from reprune.judge.consequence import BLOCKS_UNDECIDED, consequence, holding, opening
from reprune.judge.distributions import alpha_of_attempt, holm
from reprune.judge.drafts import Draft, decide
from reprune.judge.engine_rules import engines_by_place, parity_drafts, size_drafts
from reprune.judge.evidence import Evidence
from reprune.judge.latency_rules import latency_drafts
from reprune.judge.metrics import Metric
from reprune.judge.notes import headline, notes
from reprune.judge.numeric import rounded
from reprune.judge.quality import quality_drafts
from reprune.judge.scores import read_scores
from reprune.judge.slices import slice_drafts

PROCEDURE = "1"

# What stops a promotion first. A pass is what is left.
_SEVERITY: tuple[Outcome, ...] = ("error", "block", "inconclusive")


def judge(evidence: Evidence, policy: Policy) -> Judgement:
    """The decision and its grounds. Evidence that cannot be used gives an `error`, never a pass."""
    metrics, unknown = find_metrics(policy)
    problems = [*unknown, *find_problems(evidence, policy, metrics)]
    if problems:
        return _refused(evidence, policy, tuple(dict.fromkeys(problems)))
    alpha = alpha_of_attempt(policy.alpha, evidence.attempt)
    drafts, slices = _measure(evidence, policy, metrics, alpha)
    results = _decide(drafts, alpha)
    outcome = _outcome(results)
    deciding = [result for result in results if result.required and result.outcome == outcome]
    reasons = tuple(result.words for result in deciding)
    if not _demanded(results):
        outcome = "inconclusive" if outcome == "pass" else outcome
        reasons = ("No rule of the policy could be judged: its baselines do not exist yet.",)
    settled = consequence(outcome, policy)
    return Judgement(
        procedure=PROCEDURE,
        outcome=settled,
        headline=headline(outcome, list(zip(drafts, results, strict=True)), reasons, policy),
        reasons=reasons if settled == outcome else (*reasons, BLOCKS_UNDECIDED),
        attempt=evidence.attempt,
        alpha=rounded(alpha),
        rules=tuple(results),
        slices=tuple(slices),
        notes=tuple(notes(evidence, policy, results, alpha)),
        waivers=holding(evidence) or UNSET,
        dry_run=policy.mode == "dry-run" or UNSET,
    )


def _measure(
    evidence: Evidence, policy: Policy, metrics: dict[str, Metric], alpha: float
) -> tuple[list[Draft], list[SliceResult]]:
    """Every rule of every target, undecided; targets in the policy's order."""
    units = {target.target: target.units for target in evidence.targets}
    engines = engines_by_place(evidence.engines)
    arms = tuple(evidence.arms)
    scores = read_scores(evidence, policy, metrics)
    drafts: list[Draft] = []
    slices: list[SliceResult] = []
    for target in policy.targets:
        drafts += quality_drafts(scores, policy, target, arms, alpha)
        of_slices, found = slice_drafts(scores, policy, target, arms, alpha)
        drafts += of_slices
        slices += found
        drafts += latency_drafts(units[target], target, policy, arms, alpha)
        drafts += size_drafts(engines, policy, target, arms)
        drafts += parity_drafts(engines, policy, target, arms)
    return drafts, slices


def _decide(drafts: Sequence[Draft], alpha: float) -> list[RuleResult]:
    adjusted = [1.0] * len(drafts)
    for required in (True, False):
        family = [
            place
            for place, draft in enumerate(drafts)
            if draft.required == required and draft.p_harm is not None
        ]
        p_values = holm([drafts[place].p_harm or 0.0 for place in family])
        for place, p_value in zip(family, p_values, strict=True):
            adjusted[place] = p_value
    return [decide(draft, p, alpha) for draft, p in zip(drafts, adjusted, strict=True)]


def _outcome(results: Sequence[RuleResult]) -> Outcome:
    found = {result.outcome for result in results if result.required}
    return next((outcome for outcome in _SEVERITY if outcome in found), "pass")


def _demanded(results: Sequence[RuleResult]) -> bool:
    """Whether a required target was held to anything but parity, which every engine must meet."""
    return any(result.required and result.rule != "parity" for result in results)


def _refused(evidence: Evidence, policy: Policy, problems: tuple[str, ...]) -> Judgement:
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return Judgement(
        procedure=PROCEDURE,
        outcome="error",
        headline=f"{opening('error', policy)}: {problems[0]}{more}",
        reasons=problems,
        attempt=evidence.attempt,
        alpha=rounded(alpha_of_attempt(policy.alpha, max(1, evidence.attempt))),
        rules=(),
        slices=(),
        notes=(),
        waivers=holding(evidence) or UNSET,
        dry_run=policy.mode == "dry-run" or UNSET,
    )
