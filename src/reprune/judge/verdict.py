"""From evidence to judgement: a pure function. The same evidence and policy give the same bytes.

How a result reads: `unit` is that of change, low, high and limit.

| rule | unit | baseline and candidate value | change, low, high | limit |
|---|---|---|---|---|
| latency.vs_* | ratio | milliseconds a call | candidate over baseline | at most |
| latency.tail.vs_* | ratio | a percentile of calls in milliseconds | candidate over baseline | at most |
| latency.objective | share | -, the percentile in milliseconds | share of calls above the bound | at most |
| throughput.vs_* (b<batch>.) | ratio | examples a second | candidate over baseline | at least |
| <metric>.vs_* | share | the metric | candidate minus baseline: a loss is negative | at least -margin |
| <metric>.floor | share | -, the metric | limits of the metric itself | at least |
| <metric>.slices.vs_* | share | the metric on the worst slice | as vs_* | at least -margin |
| size.vs_* | ratio | bytes | candidate over baseline | at most |
| size.ceiling | bytes | -, bytes | - | at most |
| memory.vs_* | ratio | bytes, the median process | candidate over baseline | at most |
| memory.ceiling | bytes | -, bytes, the largest process | - | at most |
| parity | max_abs | -, largest difference of outputs | `baseline` is the arm | at most |

(A metric of which less is better turns the sign: a loss is positive, and limits are 'at most'.)

A pass is an intersection: each required rule must hold at the full level of the attempt, and a rule
about time needs its target's guards too (see judge.guards). A block is a union: one broken rule blocks,
so p-values are adjusted over all required rules that chance could break (Holm). Advisory targets are
reported the same way, in a family of their own, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import UNSET, structs

from reprune.core.artifacts import GuardResult, Judgement, Outcome, RuleResult, SliceResult
from reprune.core.policy import Policy
from reprune.judge.checks import find_metrics, find_problems
from reprune.judge.condition_guards import target_guards
from reprune.judge.consequence import BLOCKS_UNDECIDED, consequence, holding, opening
from reprune.judge.distributions import alpha_of_attempt
from reprune.judge.drafts import Draft, decide_all
from reprune.judge.engine_rules import engines_by_place, parity_drafts, size_drafts
from reprune.judge.evidence import Evidence
from reprune.judge.guards import doubted
from reprune.judge.memory_rules import memory_drafts
from reprune.judge.metrics import Metric
from reprune.judge.notes import headline, notes, session_notes
from reprune.judge.numeric import rounded
from reprune.judge.quality import quality_drafts
from reprune.judge.scores import read_scores
from reprune.judge.series import Series, speed_series
from reprune.judge.slices import slice_drafts

PROCEDURE = "3"

_UNDEMANDED = "No rule of the policy could be judged: its baselines do not exist yet."
# What stops a promotion first. A pass is what is left.
_SEVERITY: tuple[Outcome, ...] = ("error", "block", "inconclusive")


def judge(evidence: Evidence, policy: Policy) -> Judgement:
    """The decision and its grounds. Evidence that cannot be used gives an `error`, never a pass.

    The order of the policy's targets and metrics says nothing: equal policies give equal judgements.
    """
    policy = structs.replace(
        policy,
        targets=dict(sorted(policy.targets.items())),
        quality=dict(sorted(policy.quality.items())),
    )
    metrics, unknown = find_metrics(policy)
    problems = [*unknown, *find_problems(evidence, policy, metrics)]
    if problems:
        return _refused(evidence, policy, tuple(dict.fromkeys(problems)))
    alpha = alpha_of_attempt(policy.alpha, evidence.attempt)
    series = _time_series(evidence, policy, alpha)
    guards = {target: target_guards(series[target], policy.guards) for target in policy.targets}
    drafts, slices = _measure(evidence, policy, metrics, alpha, _time_drafts(series, guards))
    results = decide_all(drafts, alpha)
    outcome = _outcome(results)
    deciding = [result for result in results if result.required and result.outcome == outcome]
    reasons = tuple(result.words for result in deciding)
    if not _demanded(results):
        # What stops it all the same (parity) stays the first reason.
        reasons = (*(reasons if outcome != "pass" else ()), _UNDEMANDED)
        outcome = "inconclusive" if outcome == "pass" else outcome
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
        notes=(
            *notes(evidence, policy, results, alpha),
            *session_notes([one for target in policy.targets for one in series[target]]),
        ),
        guards=tuple(guard for target in policy.targets for guard in guards[target]),
        waivers=holding(evidence) or UNSET,
        dry_run=policy.mode == "dry-run" or UNSET,
    )


def _time_series(evidence: Evidence, policy: Policy, alpha: float) -> dict[str, list[Series]]:
    """The rules about time of every target, with the units that they used."""
    return {
        target.target: speed_series(target, policy, evidence, alpha) for target in evidence.targets
    }


def _time_drafts(
    series: Mapping[str, Sequence[Series]], guards: Mapping[str, Sequence[GuardResult]]
) -> dict[str, list[Draft]]:
    """What the rules about time say of every target, once its guards have had their say."""
    return {
        target: doubted([draft for one in found for draft in one.drafts], guards[target])
        for target, found in series.items()
    }


def _measure(
    evidence: Evidence,
    policy: Policy,
    metrics: dict[str, Metric],
    alpha: float,
    timed: Mapping[str, Sequence[Draft]],
) -> tuple[list[Draft], list[SliceResult]]:
    """Every rule of every target, undecided; targets in the policy's order."""
    memory = {target.target: target.memory for target in evidence.targets}
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
        drafts += timed[target]
        drafts += size_drafts(engines, policy, target, arms)
        drafts += memory_drafts(memory[target], target, policy, arms)
        drafts += parity_drafts(engines, policy, target, arms)
    return drafts, slices


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
