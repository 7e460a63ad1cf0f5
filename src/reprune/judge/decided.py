"""When a benchmark may stop taking units."""

from __future__ import annotations

from collections.abc import Collection

from reprune.core.policy import Policy
from reprune.judge.builds import builds_of
from reprune.judge.distributions import alpha_of_attempt
from reprune.judge.evidence import Unit
from reprune.judge.family import latency_limits, tail_limits, throughput_limits
from reprune.judge.latency import follow, latency_plan, unit_problems, unit_ratio
from reprune.judge.throughput import follow_rate


def stops(policy: Policy, arms: Collection[str]) -> tuple[int, ...]:
    """After how many units `decided` can become true, in rising order; empty where no rule needs units.

    A benchmark takes units up to each in turn and asks. For other batch sizes it is `policy.looks`.
    """
    looks = policy.looks if latency_limits(policy, arms) or throughput_limits(policy, arms) else ()
    return tuple(sorted({*looks, *_fixed_units(policy, arms)}))


def decided(
    units: tuple[Unit, ...],
    policy: Policy,
    *,
    arms: Collection[str],
    attempt: int,
    batches: int = 0,
) -> bool:
    """Whether more units of this target, at its own batch size, could change no rule.

    True once every latency and throughput rule whose baseline is among `arms` is settled (see
    judge.latency) or has had its last look, and tail and objective rules have the units that they are
    decided at; where there is no such rule; and where the units are unusable (the judge will call them
    an error, and more would not help). Pass all units so far, in order: the looks are taken again
    each time, so it does not matter how often this is asked. `batches` is how many batch sizes are
    measured besides the targets' own, over the policy's required targets: the judge counts them in
    `judge.series.extra_batches`, and must find the same number.
    """
    if attempt < 1 or unit_problems(units, arms):
        return True
    if len(units) < max(_fixed_units(policy, arms), default=0):
        return False
    if len(units) >= policy.looks[-1]:
        return True
    plan = latency_plan(policy, arms, alpha_of_attempt(policy.alpha, attempt), batches)
    return all(
        follow([unit_ratio(unit, b.arm) for unit in units], limit, plan, builds_of(units)).settled
        for b, limit in latency_limits(policy, arms)
    ) and _rates_settled(units, policy, arms, attempt, batches)


def decided_throughput(
    units: tuple[Unit, ...],
    policy: Policy,
    *,
    arms: Collection[str],
    attempt: int,
    batches: int,
) -> bool:
    """As `decided`, for the units of one of a target's other batch sizes; `batches` is at least 1."""
    if attempt < 1 or unit_problems(units, arms) or len(units) >= policy.looks[-1]:
        return True
    return _rates_settled(units, policy, arms, attempt, batches)


def _rates_settled(
    units: tuple[Unit, ...], policy: Policy, arms: Collection[str], attempt: int, batches: int
) -> bool:
    plan = latency_plan(policy, arms, alpha_of_attempt(policy.alpha, attempt), batches)
    return all(
        follow_rate(units, b.arm, limit, plan).settled
        for b, limit in throughput_limits(policy, arms)
    )


def _fixed_units(policy: Policy, arms: Collection[str]) -> set[int]:
    """The numbers of units at which tail and objective rules are decided."""
    rules = policy.latency
    found = set()
    if rules is not None and rules.tail is not None and tail_limits(policy, arms):
        found.add(rules.tail.units)
    if rules is not None and rules.objective is not None:
        found.add(rules.objective.units)
    return found
