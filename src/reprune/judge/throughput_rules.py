"""Throughput rules as drafts, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from reprune.core.policy import Policy
from reprune.judge.builds import builds_of
from reprune.judge.drafts import Draft
from reprune.judge.evidence import Unit
from reprune.judge.family import Baseline, throughput_limits
from reprune.judge.latency import Look, Sequential
from reprune.judge.latency_rules import sample, what_decides
from reprune.judge.numeric import rounded
from reprune.judge.throughput import follow_rate, typical_rate
from reprune.judge.words import ARM_NAMES


def throughput_drafts(
    units: Sequence[Unit],
    where: tuple[str, int, bool],
    policy: Policy,
    arms: Collection[str],
    plan: Sequential,
) -> list[Draft]:
    """One draft a throughput rule whose baseline is among `arms`, at one batch size.

    `where` is the target, the batch size, and whether that is the target's own. A ratio of rates is
    one over the ratio of mean times that was looked at, so its interval is mirrored.
    """
    return [
        _draft(units, where, policy.targets[where[0]] == "required", baseline, limit, plan)
        for baseline, limit in throughput_limits(policy, arms)
    ]


def _draft(
    units: Sequence[Unit],
    where: tuple[str, int, bool],
    required: bool,
    baseline: Baseline,
    limit: float,
    plan: Sequential,
) -> Draft:
    target, batch_size, own = where
    look = follow_rate(units, baseline.arm, limit, plan)
    seen = units[: look.units]
    rates = [typical_rate(seen, arm, batch_size) for arm in ("candidate", baseline.arm)]
    name, ratio = ARM_NAMES[baseline.arm], _inverse(look.ratio)
    found = _facts(look, rates, name, sample(look, units))
    allowed = f"the policy demands at least {limit:.4g} times the examples a second"
    short = f"throughput at batch {batch_size} was hardly measured against {name}"
    if ratio is not None:
        short = f"{ratio:.3g} times the examples a second of {name} at batch {batch_size}"
    return Draft(
        rule=f"throughput.{baseline.name}" if own else f"throughput.b{batch_size}.{baseline.name}",
        baseline=baseline.arm,
        target=target,
        required=required,
        unit="ratio",
        baseline_value=rates[1],
        candidate_value=rates[0],
        change=ratio,
        low=_inverse(look.high),
        high=_inverse(look.low),
        limit=rounded(limit),
        direction="at least",
        samples=look.units,
        facts=f"On {target} at batch {batch_size}, {found}, and {allowed}",
        short=short,
        allowed=allowed,
        decide=what_decides(look, len(units), plan, several=bool(builds_of(units))),
        holds=look.passes,
        p_harm=look.p_harm,
    )


def _facts(look: Look, rates: Sequence[float | None], name: str, rests_on: str) -> str:
    mine, base = rates
    if look.ratio is None or mine is None or base is None:
        return f"the candidate's rate was compared with {name}'s in only {rests_on}"
    limits = "no interval can be given"
    if look.low is not None and look.high is not None:
        limits = f"limits {1 / look.high:.4g} to {1 / look.low:.4g}"
    return (
        f"the candidate runs {mine:.4g} examples a second and {name} {base:.4g}: "
        f"{1 / look.ratio:.4g} times as many ({limits}, {rests_on})"
    )


def _inverse(value: float | None) -> float | None:
    return None if value is None else rounded(1 / value)
