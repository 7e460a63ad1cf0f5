"""Rules on single slow calls, each decided once, at the number of units that the policy fixes for it.

Later units are ignored, so it does not matter how many were taken; with fewer nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from reprune.core.policy import LatencyObjective, Policy, TailRules
from reprune.judge.drafts import Draft
from reprune.judge.evidence import Unit
from reprune.judge.family import Baseline, tail_limits
from reprune.judge.numeric import rounded
from reprune.judge.objective import NS_A_MS, Exceedance, exceedance
from reprune.judge.percentiles import TailRatio, least_calls, tail_ratios
from reprune.judge.words import ARM_NAMES, confidence, count, percent, speed_demand


def tail_drafts(
    units: Sequence[Unit],
    target: str,
    policy: Policy,
    arms: Collection[str],
    alpha: float,
    seed: str,
) -> list[Draft]:
    """One draft a tail rule whose baseline is among `arms`. The units have no problems."""
    rules = None if policy.latency is None else policy.latency.tail
    limits = tail_limits(policy, arms)
    if rules is None:
        return []
    required = policy.targets[target] == "required"
    lacking = _lacking(units, rules, [baseline.arm for baseline, _ in limits])
    if lacking:
        return [_thin_draft(rules, b, limit, (target, required), lacking) for b, limit in limits]
    seen = units[: rules.units]
    named = [(baseline.arm, limit) for baseline, limit in limits]
    ratios = tail_ratios(seen, rules.percentile, named, alpha, f"{seed}/tail/{target}")
    return [
        _tail_draft(rules, baseline, limit, found, (target, required))
        for (baseline, limit), found in zip(limits, ratios, strict=True)
    ]


def _lacking(units: Sequence[Unit], rules: TailRules, arms: Sequence[str]) -> str:
    """What is missing for the one look; empty where nothing is."""
    if len(units) < rules.units:
        return f"{count(rules.units - len(units), 'more unit')} on this machine."
    seen = units[: rules.units]
    calls = min(
        sum(len(b) for u in seen for b in u.arms[a].blocks_ns) for a in (*arms, "candidate")
    )
    least = least_calls(rules.percentile)
    if calls < least:
        return (
            f"At least {least} calls of each arm (there are {calls}): raise latency.tail.units in the "
            "policy or benchmark.block_ms in params.yaml."
        )
    return ""


def _demand(percentile: int, limit: float) -> str:
    return f"the policy demands a p{percentile} that is {speed_demand(limit)}"


def _thin_draft(
    rules: TailRules, baseline: Baseline, limit: float, where: tuple[str, bool], lacking: str
) -> Draft:
    name, demand = ARM_NAMES[baseline.arm], _demand(rules.percentile, limit)
    return Draft(
        rule=f"latency.tail.{baseline.name}",
        baseline=baseline.arm,
        target=where[0],
        required=where[1],
        unit="ratio",
        baseline_value=None,
        candidate_value=None,
        change=None,
        low=None,
        high=None,
        limit=rounded(limit),
        direction="at most",
        samples=0,
        facts=f"On {where[0]}, the slow calls (p{rules.percentile}) of the candidate and {name} are "
        f"compared once, at {rules.units} units, and there is too little for it; {demand}",
        short=f"slow calls (p{rules.percentile}) were not compared with {name} yet",
        allowed=demand,
        decide=lacking,
        p_harm=1.0,
        sure="inconclusive",
    )


def _tail_draft(
    rules: TailRules, baseline: Baseline, limit: float, found: TailRatio, where: tuple[str, bool]
) -> Draft:
    name, demand = ARM_NAMES[baseline.arm], _demand(rules.percentile, limit)
    mine, base = (rounded(value / NS_A_MS) for value in found.values)
    limits = "no interval can be given"
    if found.low is not None and found.high is not None:
        limits = f"limits {found.low:.4g} to {found.high:.4g}"
    return Draft(
        rule=f"latency.tail.{baseline.name}",
        baseline=baseline.arm,
        target=where[0],
        required=where[1],
        unit="ratio",
        baseline_value=base,
        candidate_value=mine,
        change=found.ratio,
        low=found.low,
        high=found.high,
        limit=rounded(limit),
        direction="at most",
        samples=rules.units,
        facts=f"On {where[0]}, {rules.percentile} of 100 calls of the candidate end within {mine:.4g} "
        f"ms, of {name} within {base:.4g} ms: a ratio of p{rules.percentile} of {found.ratio:.4g} "
        f"({limits}, {count(rules.units, 'unit')}), and {demand} (at most {limit:.4g})",
        short=f"the p{rules.percentile} of single calls is {found.ratio:.3g} times that of {name}",
        allowed=demand,
        decide="It was decided once and is too close to tell from noise: a larger latency.tail.units "
        "in the policy, a quieter machine, or a faster candidate would decide it.",
        holds=found.high is not None and found.high <= rounded(limit),
        p_harm=found.p_harm,
    )


def objective_drafts(
    units: Sequence[Unit], target: str, policy: Policy, alpha: float
) -> list[Draft]:
    """The draft of `latency.objective`, where there is such a rule. The units have no problems."""
    rule = None if policy.latency is None else policy.latency.objective
    if rule is None:
        return []
    where = target, policy.targets[target] == "required"
    if len(units) < rule.units:
        return [_objective_draft(rule, None, where, alpha, rule.units - len(units))]
    found = exceedance(units[: rule.units], rule.max_ms, rule.percentile, alpha)
    return [_objective_draft(rule, found, where, alpha, 0)]


def _objective_draft(
    rule: LatencyObjective,
    found: Exceedance | None,
    where: tuple[str, bool],
    alpha: float,
    missing: int,
) -> Draft:
    """`found` is None as long as units are `missing`."""
    limit = rounded(1 - rule.percentile / 100)
    demand = f"the policy allows {percent(limit)} above {rule.max_ms:.4g} ms"
    return Draft(
        rule="latency.objective",
        baseline="absolute",
        target=where[0],
        required=where[1],
        unit="share",
        baseline_value=None,
        candidate_value=None if found is None else found.typical_ms,
        change=None if found is None else found.share,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        limit=limit,
        direction="at most",
        samples=0 if found is None else rule.units,
        facts=f"On {where[0]}, {_exceeded(rule, found, alpha)}, and {demand}",
        short="how many calls last too long was not judged yet"
        if found is None
        else f"{percent(found.share)} of the calls last longer than {rule.max_ms:.4g} ms",
        allowed=demand,
        decide=_what_decides(missing),
        holds=found is not None and found.high <= limit,
        p_harm=1.0 if found is None else found.p_harm,
        sure="inconclusive" if found is None else None,
    )


def _exceeded(rule: LatencyObjective, found: Exceedance | None, alpha: float) -> str:
    if found is None:
        return f"calls longer than {rule.max_ms:.4g} ms are counted once, at {rule.units} units"
    return (
        f"{found.beyond} of {found.calls} calls of the candidate in {count(rule.units, 'unit')} lasted "
        f"longer than {rule.max_ms:.4g} ms, {percent(found.share)} ({confidence(alpha)} limits "
        f"{percent(found.low)} to {percent(found.high)}: calls of a unit are alike, these are worth "
        f"{found.worth:.4g} independent ones; the p{rule.percentile} is {found.typical_ms:.4g} ms)"
    )


def _what_decides(missing: int) -> str:
    if missing:
        return f"{count(missing, 'more unit')} on this machine."
    return (
        "It was decided once: more calls would decide it (latency.objective.units in the policy, "
        "benchmark.block_ms in params.yaml), or a machine whose slow calls come less in crowds."
    )
