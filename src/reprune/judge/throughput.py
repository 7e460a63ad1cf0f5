"""Throughput: examples a second at one batch size, looked at as the latency median is.

A rate is batch size over mean call, so a ratio of rates is one over a ratio of mean times at the
same batch size, and 'at least r times the rate' is 'at most 1 / r times the mean time'. Unlike the
latency rules, which are about the typical call, slow calls count here with all of their time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from reprune.judge.builds import builds_of
from reprune.judge.evidence import ArmTimes, Unit
from reprune.judge.latency import Look, Sequential, follow
from reprune.judge.numeric import rounded


def log_mean_time(arm: ArmTimes) -> float:
    """The mean over an arm's blocks of log(mean call in ns)."""
    return math.fsum(math.log(sum(b) / len(b)) for b in arm.blocks_ns) / len(arm.blocks_ns)


def mean_ratio(unit: Unit, baseline: str, arm: str = "candidate") -> float:
    """The arm's mean time over the baseline's in one unit."""
    return rounded(math.exp(log_mean_time(unit.arms[arm]) - log_mean_time(unit.arms[baseline])))


def follow_rate(units: Sequence[Unit], baseline: str, min_ratio: float, plan: Sequential) -> Look:
    """The look at the ratio of mean *times* that decides 'at least `min_ratio` times the rate'."""
    ratios = [mean_ratio(unit, baseline) for unit in units]
    return follow(ratios, 1 / min_ratio, plan, builds_of(units))


def typical_rate(units: Sequence[Unit], arm: str, batch_size: int) -> float | None:
    """The median over units of an arm's examples a second."""
    if not units:
        return None
    ns = math.exp(median(log_mean_time(unit.arms[arm]) for unit in units))
    return rounded(batch_size * 1e9 / ns)
