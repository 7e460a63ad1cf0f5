"""Latency rules as drafts, in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import count as count_from
from statistics import median

from reprune.core.policy import Policy
from reprune.judge.builds import builds_of
from reprune.judge.drafts import Draft
from reprune.judge.evidence import Unit
from reprune.judge.family import Baseline, latency_limits
from reprune.judge.latency import Look, Sequential, follow, log_time, too_wide, unit_ratio
from reprune.judge.median import median_rank
from reprune.judge.numeric import rounded
from reprune.judge.words import ARM_NAMES, count, speed, speed_demand


def latency_drafts(
    units: Sequence[Unit],
    target: str,
    policy: Policy,
    arms: Collection[str],
    plan: Sequential,
) -> list[Draft]:
    """One draft a latency rule whose baseline is among `arms`. The units have no problems."""
    required = policy.targets[target] == "required"
    return [
        _draft(units, target, baseline, limit, plan, required)
        for baseline, limit in latency_limits(policy, arms)
    ]


def _draft(
    units: Sequence[Unit],
    target: str,
    baseline: Baseline,
    limit: float,
    plan: Sequential,
    required: bool,
) -> Draft:
    builds = builds_of(units)
    look = follow([unit_ratio(unit, baseline.arm) for unit in units], limit, plan, builds)
    seen = units[: look.units]
    name = ARM_NAMES[baseline.arm]
    allowed = f"the policy demands {speed_demand(limit)}"
    short = f"latency against {name} was hardly measured"
    if look.ratio is not None:
        short = f"{speed(look.ratio)} {name}"
    return Draft(
        rule=f"latency.{baseline.name}",
        baseline=baseline.arm,
        target=target,
        required=required,
        unit="ratio",
        baseline_value=_typical_ms(seen, baseline.arm),
        candidate_value=_typical_ms(seen, "candidate"),
        change=look.ratio,
        low=look.low,
        high=look.high,
        limit=rounded(limit),
        direction="at most",
        samples=look.units,
        facts=_facts(look, f"On {target}, the candidate", name, limit, sample(look, units)),
        short=short,
        allowed=allowed,
        decide=what_decides(look, len(units), plan, several=bool(builds)),
        holds=look.passes,
        p_harm=look.p_harm,
    )


def _typical_ms(units: Sequence[Unit], arm: str) -> float | None:
    """The median over units of the arm's typical call, in milliseconds."""
    if not units:
        return None
    return rounded(math.exp(median(log_time(unit.arms[arm]) for unit in units)) / 1e6)


def sample(look: Look, units: Sequence[Unit]) -> str:
    """What a look rests on, in words: the units that it used, or all there are before the first look."""
    used = units[: look.units] if look.units else units
    builds = len(set(builds_of(used)))
    of_builds = f" of {count(builds, 'build')}" if builds else ""
    return f"{count(len(used), 'unit')}{of_builds}"


def _facts(look: Look, who: str, name: str, limit: float, rests_on: str) -> str:
    demand = f"the policy demands {speed_demand(limit)} (a ratio of at most {limit:.4g})"
    if look.ratio is None:
        return f"{who}'s time was compared with {name}'s in only {rests_on}; {demand}"
    limits = "no interval can be given"
    if look.low is not None and look.high is not None:
        limits = f"limits {look.low:.4g} to {look.high:.4g}"
    return (
        f"{who} is {speed(look.ratio)} {name}: a ratio of times of {look.ratio:.4g} "
        f"({limits}, {rests_on}), and {demand}"
    )


def _fewest(level: float) -> int:
    """How many units give an interval of the median at that level."""
    return next(units for units in count_from(1) if median_rank(units, level) is not None)


def what_decides(look: Look, taken: int, plan: Sequential, *, several: bool = False) -> str:
    """What would settle a rule that is looked at a few times and is still open; over `several` builds
    units alone may not.
    """
    if not several and all(median_rank(units, plan.tail) is None for units in plan.looks):
        return (
            f"No look of the policy gives an interval at the level of this attempt, and more units change "
            f"nothing: it takes a look at {_fewest(plan.tail)} units or more (looks in the policy)."
        )
    later = [units for units in plan.looks if units > look.units]
    if later:
        more = max(1, later[0] - taken)
        return f"{count(more, 'more unit')} on this machine, for the look at {later[0]} units."
    if several:
        return (
            "No look is left: the ratio is too close to the limit for so few builds, or they differ too "
            "much. More builds (build.builds in params.yaml), a pinned timing cache, or a faster candidate "
            "would decide it."
        )
    if too_wide(look.low, look.high, plan.widest):
        return (
            f"No look is left, and the interval is wider than the policy trusts ({plan.widest:.4g} from "
            "end to end): a quieter machine, or a later look in the policy, would decide it."
        )
    return (
        "No look is left: the ratio is too close to the limit to tell from noise. A quieter machine, "
        "a later look in the policy, or a faster candidate would decide it."
    )
