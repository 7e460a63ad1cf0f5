"""Where engines of a target are made and timed: in this process, in one of its own, on its device."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reprune.core.children import ask
from reprune.core.machine import Machine
from reprune.core.params import BuildParams, Target
from reprune.judge.evidence import Unit
from reprune.measure.accelerator import timing_machine
from reprune.measure.hostlock import host_lock
from reprune.measure.latency import LatencyJob, take_units
from reprune.measure.pairs import Pair, PairSpec, PairTimes, take_pair
from reprune.runtimes.base import Runtime, Source, get_runtime
from reprune.runtimes.isolated import build_within


@dataclass(frozen=True, kw_only=True)
class TimingPlace:
    """`machine` times, with `version` of the target's runtime; `inside` this process or not. `make` writes
    an engine of each source to its path, for `target` or one of its runtime; `take` times pairs, whose files
    are paths here; `units` takes so many units of a job, always in another process. All raise BuildError.
    """

    target: Target
    runtime: Runtime
    machine: Machine
    version: str
    inside: bool
    make: Callable[[Mapping[Path, Source], Target], None]
    take: Callable[[Sequence[Pair]], tuple[PairTimes, ...]]
    units: Callable[[LatencyJob, int], tuple[Unit, ...]]


def here(target: Target, threads: int) -> TimingPlace:
    """This machine. What times may wait for the host's measurement lock, and is in a process of its own where
    the runtime may end it; then RepruneError says that it did.
    """
    runtime = get_runtime(target.runtime)
    apart = runtime.capabilities.may_crash
    return TimingPlace(
        target=target,
        runtime=runtime,
        machine=timing_machine(runtime, target, threads),
        version=runtime.version(),
        inside=not apart,
        make=partial(_make, runtime),
        take=partial(_take, _take_apart if apart else take_pair, target),
        units=lambda job, total: take_units(job, total=total),
    )


def _make(runtime: Runtime, sources: Mapping[Path, Source], target: Target) -> None:
    for engine, source in sources.items():
        build_within(runtime, source, target, engine, seconds=BuildParams().max_seconds)


def _take(
    take: Callable[[Target, Pair], PairTimes], target: Target, pairs: Sequence[Pair]
) -> tuple[PairTimes, ...]:
    """Another measurement may come between two pairs."""
    found = []
    for pair in pairs:
        with host_lock():
            found.append(take(target, pair))
    return tuple(found)


def _take_apart(target: Target, pair: Pair) -> PairTimes:
    with tempfile.TemporaryDirectory(prefix="reprune-pair-") as folder:
        return ask(
            "reprune.measure.pairs",
            PairSpec(parent=os.getpid(), target=target, pair=pair),
            PairTimes,
            Path(folder, "pair"),
            threads=target.threads,
        )
