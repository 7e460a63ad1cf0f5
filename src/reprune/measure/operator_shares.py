"""Where an engine's time goes before and after the cut: figures for people, taken after the evidence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.artifacts import Arm, OperatorShares, OperatorTime
from reprune.core.documents import canonical
from reprune.core.errors import RepruneError
from reprune.core.store import write_bytes
from reprune.measure.hostlock import host_lock
from reprune.runtimes.base import OperatorTimed, Runtime, cannot_run_here, get_runtime

if TYPE_CHECKING:
    from reprune.core.params import Target
    from reprune.measure.latency import LatencyJob

FOLDER = "operators"
COMPARED: tuple[Arm, ...] = ("dense", "candidate")
# About so long is an engine profiled, in at least and at most so many calls.
SECONDS = 1.0
LEAST_CALLS, MOST_CALLS = 10, 100
MOST_OPERATORS = 500


def write_shares(out: Path, jobs: Mapping[str, LatencyJob], say: Callable[[str], None]) -> None:
    """Writes `operators/<target>.json` for each target: OperatorShares, with the reason where there are
    none. Waits for the host's measurement lock; an engine that cannot be profiled is said, and no error.
    """
    for name, job in sorted(jobs.items()):
        shares = take_shares(job)
        if shares.why:
            say(f"{name}: no time by layer, because {shares.why}")
        write_bytes(out / FOLDER / f"{name}.json", canonical(shares))


def take_shares(job: LatencyJob) -> OperatorShares:
    """The operators of both engines, of the shape with most traffic, or why they are not told."""
    runtime = get_runtime(job.target.runtime)
    why = _untold(runtime, job.target)
    if why or not isinstance(runtime, OperatorTimed):
        return OperatorShares(why=why)
    found: dict[Arm, tuple[OperatorTime, ...]] = {}
    try:
        with host_lock():
            for arm in COMPARED:
                if arm in job.engines:
                    found[arm] = _profiled(runtime, job, arm)[:MOST_OPERATORS]
    except RepruneError as error:
        return OperatorShares(why=f"profiling failed: {error.what}")
    return OperatorShares(arms=found)


def _untold(runtime: Runtime, target: Target) -> str:
    if target.run or target.kit:
        return "its device is another machine, where only whole calls are timed"
    if not isinstance(runtime, OperatorTimed):
        return f"{target.runtime} does not tell the times of its operators"
    if runtime.capabilities.may_crash:
        return (
            f"{target.runtime} engines run in processes of their own, where whole calls are timed"
        )
    return cannot_run_here(runtime, target)


def _profiled(runtime: OperatorTimed, job: LatencyJob, arm: Arm) -> tuple[OperatorTime, ...]:
    shape = max(job.shapes, key=lambda one: one.weight)
    session = get_runtime(job.target.runtime).open(job.engines[arm], job.target)
    session.run(shape.inputs)
    begin = time.perf_counter()
    session.run(shape.inputs)
    took = max(1e-6, time.perf_counter() - begin)
    calls = min(MOST_CALLS, max(LEAST_CALLS, int(SECONDS / took)))
    return runtime.operator_times(job.engines[arm], job.target, shape.inputs, calls)
