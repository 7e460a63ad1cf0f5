"""The one sentence on top of a judgement, and the facts below it that decided nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reprune.core.artifacts import Outcome, RuleResult
from reprune.core.plugins import origin
from reprune.core.policy import Policy
from reprune.judge.builds import build_notes
from reprune.judge.consequence import consequence, history_notes, opening
from reprune.judge.drafts import Draft
from reprune.judge.evidence import Evidence
from reprune.judge.family import absent_rules
from reprune.judge.metrics import METRICS
from reprune.judge.series import Series
from reprune.judge.sessions import session_effect
from reprune.judge.words import ARM_NAMES, confidence, count, percent

LOW_POWER = 0.5
TIME_RULES = ("latency.", "throughput.")

Decided = Sequence[tuple[Draft, RuleResult]]


def headline(outcome: Outcome, decided: Decided, reasons: Sequence[str], policy: Policy) -> str:
    """One sentence that a reviewer understands; `outcome` is what the rules came to."""
    required = [pair for pair in decided if pair[1].required]
    several = len(policy.targets) > 1
    word = opening(consequence(outcome, policy), policy)
    if outcome == "pass":
        return f"{word}: {_achieved(required)}all {count(len(required), 'required rule')} hold."
    stopped = [draft for draft, result in required if result.outcome == outcome]
    if not stopped:
        return f"{word}: {reasons[0]}"
    first = stopped[0]
    where = f" on {first.target}" if several else ""
    more = f" ({count(len(stopped) - 1, 'more rule')})" if len(stopped) > 1 else ""
    allowed = f"; {first.allowed}" if first.allowed else ""
    doubt = f", but {first.doubt}" if outcome == "inconclusive" else ""
    if doubt and policy.on_inconclusive == "block":
        doubt = ", which is not certain yet, and the policy blocks what is not decided"
    return f"{word}: {first.short}{where}{doubt}{allowed}{more}."


def _achieved(required: Decided) -> str:
    """The first speed-up and the first quality change: what the reviewer wants to know of a pass."""
    measured = [draft for draft, _ in required if draft.change is not None]
    speeds = [draft.short for draft in measured if draft.rule.startswith(TIME_RULES)]
    losses = [d.short for d in measured if d.unit == "share" and not _is_about_others(d)]
    return "".join(f"{clause}; " for clause in (*speeds[:1], *losses[:1]))


def _is_about_others(draft: Draft) -> bool:
    return draft.rule.startswith(TIME_RULES) or ".slices." in draft.rule


def session_notes(series: Sequence[Series]) -> Iterator[str]:
    """How much two sessions of one model differ on each target that has a control, at its own batch size."""
    for one in series:
        effect = session_effect(one.units) if one.own else None
        if effect is not None:
            yield (
                f"On {one.target}, two sessions of one model differ by {100 * effect.pair:.2g} % (a standard "
                f"deviation over {count(effect.units, 'unit')}; the noise of single blocks, "
                f"{100 * effect.block:.2g} %, is not in it)."
            )


def notes(
    evidence: Evidence, policy: Policy, results: Sequence[RuleResult], alpha: float
) -> Iterator[str]:
    """Whole sentences, in a fixed order."""
    yield from history_notes(evidence, policy)
    yield from _strangers(policy)
    for arm, rules in absent_rules(policy, evidence.arms).items():
        why = "First generation: there is no champion yet"
        if arm != "champion":
            why = f"There is no {arm} (`reprune {arm}` sets one)"
        yield f"{why}, so {', '.join(rules)} could not be judged."
    yield from build_notes(evidence)
    yield from _left_out(evidence)
    if evidence.attempt > 1:
        yield (
            f"This is attempt {evidence.attempt} for dense version {evidence.dense_version}: limits "
            f"are {confidence(alpha)} limits, because trying again is not free."
        )
    for target, role in policy.targets.items():
        if role == "advisory":
            failed = [r for r in results if r.target == target and r.outcome != "pass"]
            state = "all its rules hold" if not failed else f"{failed[0].words}"
            yield f"Target {target} is advisory and decides nothing: {state}".rstrip(".") + "."
    for fact in evidence.power:
        if fact.pass_if_equal < LOW_POWER:
            yield (
                f"{fact.rule} passes a candidate that lost nothing with a chance of only "
                f"{percent(fact.pass_if_equal)} ({fact.examples} examples, "
                f"{percent(fact.flips)} flips)."
            )


def _strangers(policy: Policy) -> Iterator[str]:
    """Whose code counted, where it is not ours: who judges again needs the very same."""
    for name in policy.quality:
        found, kind = origin("metrics", name), name
        if found is None:
            kind = name.rpartition(".")[2]
            found = origin("metrics", kind)
        if found is not None and kind not in METRICS:
            yield (
                f"The metric {kind} is the package {found.distribution} {found.version}'s, module "
                f"{found.module} ({found.digest})."
            )


def _left_out(evidence: Evidence) -> Iterator[str]:
    """What was not judged because an arm had been made with it."""
    whole = len(evidence.quality.ids)
    for arm, dropped in sorted(evidence.quality.dropped.items()):
        name = ARM_NAMES.get(arm, arm)
        if dropped is None:
            yield (
                f"Nothing tells which examples {name} was made with: if eval examples were among them, "
                "it looks better here than it is."
            )
        elif dropped:
            yield (
                f"{count(dropped, 'eval example')} {'was' if dropped == 1 else 'were'} left out, because "
                f"{name} had been made with them; {count(whole, 'example')} were judged."
            )
