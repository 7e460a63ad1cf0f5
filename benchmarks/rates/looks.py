"""The looks of a latency rule over many replications at once, and their exact error rates.

At every look the judge's decision depends on one number: how many ratios lie at or below the limit. The
upper limit of the median does where at least `needed` do, the sign test blocks where at most `harmless` do.
A test holds `settle` against judge.latency.follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprune.judge.latency import Sequential
from reprune.judge.median import median_rank, sign_test
from reprune.judge.numeric import rounded

PASS, BLOCK, OPEN = 1, -1, 0


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """One look: `needed` ratios within the limit pass (more than there are: never), `harmless` block."""

    units: int
    needed: int
    harmless: int


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What became of each replication, and after how many units (the last look where it stayed open)."""

    outcome: NDArray[np.int8]
    units: NDArray[np.int64]


def thresholds(plan: Sequential) -> tuple[Thresholds, ...]:
    """The counts at which each look of the plan decides."""
    found = []
    for units in plan.looks:
        rank = median_rank(units, plan.tail)
        level = rounded(plan.alpha / plan.rules)
        blocking = [
            count
            for count in range(units + 1)
            if rounded(min(1.0, len(plan.looks) * sign_test(count, units))) <= level
        ]
        found.append(
            Thresholds(
                units=units,
                needed=units + 1 if rank is None else units - rank,
                harmless=max(blocking, default=-1),
            )
        )
    return tuple(found)


def settle(within: NDArray[np.bool_], plan: Sequential) -> Settled:
    """`within` (replications, units) says which ratios are at or below the limit."""
    counts = np.cumsum(within, axis=1, dtype=np.int64)
    outcome = np.zeros(len(within), dtype=np.int8)
    units = np.zeros(len(within), dtype=np.int64)
    for look in thresholds(plan):
        if look.units > within.shape[1]:
            break
        still = outcome == OPEN
        seen = counts[:, look.units - 1]
        units[still] = look.units
        outcome[still & (seen >= look.needed)] = PASS
        outcome[still & (seen <= look.harmless)] = BLOCK
    return Settled(outcome=outcome, units=units)


def exact_rates(plan: Sequential, share: float) -> tuple[float, float]:
    """P(pass) and P(block) where each unit is within the limit with chance `share`, independently.

    At the margin `share` is one half whatever the noise is: the permutation of a unit is drawn anew, and
    exchanging the two arms in it turns a ratio above the margin into one below.
    """
    chance = np.array([1.0])  # of every count that is still open
    passed = blocked = 0.0
    done = 0
    for look in thresholds(plan):
        for _ in range(look.units - done):
            chance = np.append(chance * (1 - share), 0.0) + np.append(0.0, chance * share)
        done = look.units
        passed += float(chance[look.needed :].sum())
        blocked += float(chance[: look.harmless + 1].sum())
        chance[look.needed :] = 0.0
        chance[: look.harmless + 1] = 0.0
    return passed, blocked
