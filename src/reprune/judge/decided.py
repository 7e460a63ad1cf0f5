"""When a benchmark may stop taking units."""

from __future__ import annotations

from collections.abc import Collection

from reprune.core.policy import Policy
from reprune.judge.distributions import alpha_of_attempt
from reprune.judge.evidence import Unit
from reprune.judge.family import latency_limits
from reprune.judge.latency import follow, latency_plan, unit_problems, unit_ratio


def decided(
    units: tuple[Unit, ...], policy: Policy, *, arms: Collection[str], attempt: int
) -> bool:
    """Whether more units of this target could change no latency rule.

    True once every rule whose baseline is among `arms` is settled (see judge.latency), once the
    last look is done, where there is no such rule, and where the units are unusable (the judge will
    call them an error, and more would not help). Pass all units so far, in order: the looks are
    taken again each time, so it does not matter how often this is asked.
    """
    limits = latency_limits(policy, arms)
    if not limits or attempt < 1 or unit_problems(units, arms):
        return True
    if len(units) >= policy.looks[-1]:
        return True
    plan = latency_plan(policy, arms, alpha_of_attempt(policy.alpha, attempt))
    ratios = {b.arm: [unit_ratio(unit, b.arm) for unit in units] for b, _ in limits}
    return all(follow(ratios[b.arm], limit, plan).settled for b, limit in limits)
