"""What int8 buys where the rest is fp16: its time over that of an engine all in fp16. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from statistics import median

from reprune.core.params import BenchmarkParams
from reprune.judge.evidence import ArmTimes
from reprune.measure.calls import Shape
from reprune.measure.latency import LatencyJob
from reprune.measure.timing_place import TimingPlace

UNITS = 3


def time_over(engine: Path, other: Path, where: TimingPlace, shapes: Sequence[Shape]) -> float:
    """time(engine) / time(other): the median over a few interleaved units in a process of their own.

    Both are of one runtime, whose sessions do not mind the target's precision. A figure to choose by, no
    evidence. Raises as TimingPlace.units.
    """
    job = LatencyJob(
        target=where.target,
        engines={"candidate": engine, "dense": other},
        shapes=shapes,
        params=BenchmarkParams(units_per_process=UNITS),
        seed=f"precision {where.target.runtime}",
    )
    units = where.units(job, UNITS)
    logs = [_log_time(unit.arms["candidate"]) - _log_time(unit.arms["dense"]) for unit in units]
    return exp(median(logs))


def _log_time(arm: ArmTimes) -> float:
    """The mean over the two blocks, so that a linear drift cancels."""
    return sum(log(median(block)) for block in arm.blocks_ns) / len(arm.blocks_ns)
