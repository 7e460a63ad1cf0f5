"""Latency rules: a median of unit ratios, looked at a few times, decided once.

A unit (a fresh set of sessions, one an arm) gives one number: the candidate's mean over blocks of
log(median call) less the baseline's. The rule looks at the first L units for each L of
`policy.looks` that has been completed, in turn, with the error alpha spread evenly over all planned
looks. It ends at the first look at which the upper limit is at or below the demanded ratio (pass; an
interval wider than `widest` does not pass and waits for the next look), or at which the evidence of
breaking it would block even if every other rule of the policy were
about to (Bonferroni over the policy's rules, which Holm's step at the end can only confirm). What
comes later is ignored for that rule, and so are units beyond the last completed look. So judging
all units and judging those up to the moment `decided` said stop give the same result.

Where several builds of each engine were timed, a look's interval and p-value are over builds (judge.builds).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

from reprune.core.policy import Policy
from reprune.judge.builds import over_builds, turn_problems
from reprune.judge.conditions import condition_problems
from reprune.judge.evidence import CONTROL, ArmTimes, Unit
from reprune.judge.family import family_size
from reprune.judge.median import median_interval, sign_test
from reprune.judge.numeric import rounded
from reprune.judge.words import ARM_NAMES


@dataclass(frozen=True, kw_only=True)
class Look:
    """The state of a rule at its last look; `units` is 0 where none has been completed.

    `blocks` says that the rule is broken whatever the other rules are.
    """

    units: int = 0
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_harm: float = 1.0
    passes: bool = False
    blocks: bool = False

    @property
    def settled(self) -> bool:
        return self.passes or self.blocks


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """How a rule is looked at: after how many units, at which level, among how many rules.

    `widest` is the largest ratio of an interval's ends at which a rule may pass; None for any.
    """

    looks: tuple[int, ...]
    alpha: float
    rules: int
    widest: float | None = None

    @property
    def tail(self) -> float:
        return self.alpha / len(self.looks)


def log_time(arm: ArmTimes) -> float:
    """The mean over an arm's blocks of log(median call in ns)."""
    return math.fsum(math.log(median(block)) for block in arm.blocks_ns) / len(arm.blocks_ns)


def unit_ratio(unit: Unit, baseline: str) -> float:
    """The candidate's time over the baseline's in one unit."""
    return rounded(math.exp(log_time(unit.arms["candidate"]) - log_time(unit.arms[baseline])))


def follow(
    ratios: Sequence[float], limit: float, plan: Sequential, builds: Sequence[int] = ()
) -> Look:
    """Looks in turn and stops where the rule is settled; the state at the last look taken.

    `builds` says which build each unit ran, where there were several.
    """
    state = Look()
    for look in plan.looks:
        if look > len(ratios) or state.settled:
            break
        if builds:
            state = _look_over_builds(ratios[:look], builds[:look], rounded(limit), plan)
        else:
            state = _look(ratios[:look], rounded(limit), plan)
    return state


def _look(ratios: Sequence[float], limit: float, plan: Sequential) -> Look:
    low, high = median_interval(ratios, plan.tail) or (None, None)
    at_or_below = sum(ratio <= limit for ratio in ratios)
    p_harm = rounded(min(1.0, len(plan.looks) * sign_test(at_or_below, len(ratios))))
    return Look(
        units=len(ratios),
        ratio=rounded(math.exp(median(math.log(ratio) for ratio in ratios))),
        low=low,
        high=high,
        p_harm=p_harm,
        passes=high is not None and high <= limit and not too_wide(low, high, plan.widest),
        blocks=p_harm <= rounded(plan.alpha / plan.rules),
    )


def _look_over_builds(
    ratios: Sequence[float], builds: Sequence[int], limit: float, plan: Sequential
) -> Look:
    found = over_builds(ratios, builds, limit, plan.tail)
    p_harm = rounded(min(1.0, len(plan.looks) * found.p_harm))
    within = found.high is not None and found.high <= limit
    return Look(
        units=len(ratios),
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        p_harm=p_harm,
        passes=within and not too_wide(found.low, found.high, plan.widest),
        blocks=p_harm <= rounded(plan.alpha / plan.rules),
    )


def too_wide(low: float | None, high: float | None, widest: float | None) -> bool:
    """Whether an interval's ends are further apart than `widest` allows; without ends it is."""
    if widest is None:
        return False
    return low is None or high is None or low <= 0 or rounded(high / low) > rounded(widest)


def unit_problems(units: Sequence[Unit], arms: Collection[str]) -> list[str]:
    """Why these units cannot be used; empty where they can. They may hold CONTROL besides `arms`."""
    found = []
    if [unit.index for unit in units] != list(range(len(units))):
        found.append("units are missing, doubled or out of order")
    for arm in sorted(arms):
        if any(arm not in unit.arms for unit in units):
            found.append(f"a unit has no times of {ARM_NAMES.get(arm, arm)}")
    strange = {arm for unit in units for arm in unit.arms} - {*arms, CONTROL}
    found += [f"a unit has times of '{arm}', which is not judged" for arm in sorted(strange)]
    times = [taken for unit in units for taken in unit.arms.values()]
    if any(not taken.blocks_ns or not all(taken.blocks_ns) for taken in times):
        found.append("a block holds no calls")
    if any(call <= 0 for taken in times for block in taken.blocks_ns for call in block):
        found.append("a call took no time, or less")
    return [*found, *turn_problems(units), *condition_problems(times)]


def latency_plan(
    policy: Policy, arms: Collection[str], alpha: float, batches: int = 0
) -> Sequential:
    """How this policy's latency and throughput rules are looked at, at level `alpha` for the attempt.

    `batches` as in family_size.
    """
    return Sequential(
        looks=policy.looks,
        alpha=alpha,
        rules=family_size(policy, arms, batches),
        widest=policy.guards.max_interval,
    )
