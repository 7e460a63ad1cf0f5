"""Guards: what keeps a rule about time from passing on a measurement that cannot be trusted.

They are taken at the end, on the units that the rules used. One that trips turns the target's passes
of latency, tail, objective and throughput rules into inconclusive; what is blocked stays blocked.
Where a machine does not tell something, that is said and trips nothing; a control that the policy
demands and nobody measured trips.

| guard | trips when | value, limit |
|---|---|---|
| control | two sessions of the dense model differ by more than half the margin | ratio |
| waiting, stolen | too many units were disturbed, or one arm more than the other | share of units |
| clock | the machine changed its speed too much, or differed between arms | slowest over fastest |
| device | the accelerator throttled, was shared, or its clocks or power limit differed | - |
| interval | a rule would pass on an interval that is too wide | ratio of its ends |
| units | no look was taken, all units are of one process, or blocks hold too few calls | units |

The margin is series.speed_margin; differences count only where their interval shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, TypeAlias

from reprune.core.artifacts import GuardResult
from reprune.core.policy import GuardRules
from reprune.judge.drafts import Draft
from reprune.judge.evidence import CONTROL
from reprune.judge.latency import log_time, too_wide
from reprune.judge.median import median_interval
from reprune.judge.numeric import rounded
from reprune.judge.series import Series
from reprune.judge.throughput import log_mean_time
from reprune.judge.words import count, percent

FEWEST_CALLS = 5
FEWEST_PROCESSES = 2

State: TypeAlias = Literal["ok", "tripped", "unknown", "off"]
_WORST_FIRST: tuple[State, ...] = ("tripped", "unknown", "ok", "off")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a guard saw in one series. `words` is a whole sentence; what to do stands in it."""

    state: State
    words: str
    value: float | None = None
    limit: float | None = None


Guard: TypeAlias = Callable[[Series, GuardRules], Finding]


def judge_guards(
    series: Sequence[Series], rules: GuardRules, guards: dict[str, Guard]
) -> list[GuardResult]:
    """One result a guard for a target: the worst of its series. None where no rule is about time."""
    results = []
    for name, guard in guards.items() if series else ():
        found = [guard(one, rules) for one in series]
        worst = min(found, key=lambda one: (_WORST_FIRST.index(one.state), -(one.value or 0.0)))
        results.append(
            GuardResult(
                guard=name,
                target=series[0].target,
                outcome=worst.state,
                value=None if worst.value is None else rounded(worst.value),
                limit=None if worst.limit is None else rounded(worst.limit),
                words=worst.words,
            )
        )
    return results


def doubted(drafts: Sequence[Draft], guards: Sequence[GuardResult]) -> list[Draft]:
    """The drafts of one target's rules about time; those that would pass are undecided if a guard tripped."""
    tripped = [guard for guard in guards if guard.outcome == "tripped"]
    if not tripped:
        return list(drafts)
    names = ", ".join(guard.guard for guard in tripped)
    return [
        replace(
            draft,
            sure="inconclusive",
            facts=f"{draft.facts} (it would hold, but the measurement cannot be trusted: {names})",
            decide=" ".join(guard.words for guard in tripped),
            doubt=f"the measurement cannot be trusted ({names})",
        )
        if draft.holds
        else draft
        for draft in drafts
    ]


def control_guard(series: Series, rules: GuardRules) -> Finding:
    """The second session of the dense model must come out as fast as the first."""
    if not rules.control:
        return Finding(state="off", words="The policy measures no control.")
    limit = math.exp(series.half_margin)
    if not series.units:
        return nothing_yet(series, limit)
    if any(CONTROL not in unit.arms for unit in series.units):
        return Finding(
            state="tripped",
            limit=limit,
            words=f"{series.place}, no second session of the dense model was measured as a control, which "
            "the policy demands: run the benchmark again.",
        )
    time = log_time if series.own else log_mean_time
    ratios = [
        rounded(math.exp(time(unit.arms[CONTROL]) - time(unit.arms["dense"])))
        for unit in series.units
    ]
    middle = math.exp(median(math.log(ratio) for ratio in ratios))
    interval = median_interval(ratios, series.tail)
    if interval is None:
        words = (
            f"{series.place}, {count(len(ratios), 'unit')} cannot tell two equal sessions apart."
        )
        return Finding(state="unknown", value=middle, limit=limit, words=words)
    low, high = interval
    seen = (
        f"{series.place}, two sessions of the dense model differ by {percent(abs(middle - 1))} "
        f"(limits {low:.4g} to {high:.4g}, {count(len(ratios), 'unit')})"
    )
    bias = f"{percent(limit - 1)}, half of what the tightest rule leaves"
    if low > rounded(limit) or high < rounded(1 / limit):
        return Finding(
            state="tripped",
            value=middle,
            limit=limit,
            words=f"{seen}, certainly more than {bias}: whatever differs is not the model. Find what "
            "treats sessions differently (warm-up, memory, pinning), or use another machine.",
        )
    return Finding(state="ok", value=middle, limit=limit, words=f"{seen}; {bias} is allowed.")


def interval_guard(series: Series, rules: GuardRules) -> Finding:
    """No rule may pass on an interval that says almost nothing about the size of the difference."""
    if rules.max_interval is None:
        return Finding(state="off", words="The policy does not limit the width of intervals.")
    passing = [draft for draft in series.drafts if _would_pass(draft)]
    widths = [draft.high / draft.low for draft in passing if draft.low and draft.high]
    value = max(widths, default=None)
    wide = [d.rule for d in passing if too_wide(d.low, d.high, rules.max_interval)]
    if wide:
        return Finding(
            state="tripped",
            value=value,
            limit=rules.max_interval,
            words=f"{series.place}, the interval of {', '.join(wide)} is wider than the policy trusts "
            f"({rules.max_interval:.4g} from end to end): take more units, or use a quieter machine.",
        )
    seen = "no rule passes" if value is None else f"the widest passing interval spans {value:.4g}"
    return Finding(
        state="ok",
        value=value,
        limit=rules.max_interval,
        words=f"{series.place}, {seen}; {rules.max_interval:.4g} is allowed.",
    )


def _would_pass(draft: Draft) -> bool:
    """Whether the interval of a ratio is on the right side of its limit, however wide it is."""
    if draft.unit != "ratio" or draft.low is None or draft.high is None:
        return False
    return draft.high <= draft.limit if draft.direction == "at most" else draft.low >= draft.limit


def units_guard(series: Series, rules: GuardRules) -> Finding:
    """One process says nothing about others, and a block of two calls nothing about the typical one."""
    del rules  # what takes a look is the policy's `looks`; this cannot be switched off
    taken = len(series.units)
    value = float(taken)
    processes = len({unit.process for unit in series.units})
    fewest = min(
        (len(b) for u in series.units for arm in u.arms.values() for b in arm.blocks_ns), default=0
    )
    seen = f"{series.place}, {count(taken, 'unit')} could be judged"
    if taken == 0:
        words = (
            f"{series.place}, too few units were taken for a first look: run the benchmark again."
        )
    elif processes < FEWEST_PROCESSES:
        words = (
            f"{seen}, all from one process, and processes differ: lower benchmark.units_per_process "
            "in params.yaml."
        )
    elif fewest < FEWEST_CALLS:
        words = (
            f"{seen}, with blocks of only {count(fewest, 'call')}: raise benchmark.min_calls to "
            f"{FEWEST_CALLS} or more in params.yaml."
        )
    else:
        words = f"{seen}, from {processes} processes, no block with fewer than {fewest} calls."
        return Finding(state="ok", value=value, words=words)
    return Finding(state="tripped", value=value, words=words)


def nothing_yet(series: Series, limit: float | None) -> Finding:
    """What a guard says before the first look."""
    return Finding(
        state="unknown", limit=limit, words=f"{series.place}, no look has been taken yet."
    )
