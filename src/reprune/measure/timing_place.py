"""Where engines of a target are made and timed: in this process, in one of its own, on its device."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reprune.core.children import ask
from reprune.core.machine import Machine, this_machine
from reprune.core.params import BuildParams, Target
from reprune.judge.evidence import Unit
from reprune.measure.hostlock import host_lock
from reprune.measure.latency import LatencyJob, take_units
from reprune.measure.pairs import Pair, PairsSpec, PairTimes, take_pairs
from reprune.runtimes.base import Runtime, Source, get_runtime
from reprune.runtimes.isolated import build_within


@dataclass(frozen=True, kw_only=True)
class TimingPlace:
    """`machine` times, with `version` of the target's runtime; `inside` this process or not. `make` writes
    an engine of each source to its path; `take` times pairs, whose files are paths here; `units` takes so
    many units of a job, always in another process. All raise BuildError.
    """

    target: Target
    runtime: Runtime
    machine: Machine
    version: str
    inside: bool
    make: Callable[[Mapping[Path, Source]], None]
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
        machine=this_machine(threads),
        version=runtime.version(),
        inside=not apart,
        make=partial(_make, runtime, target),
        take=partial(_take_apart if apart else _take, target),
        units=lambda job, total: take_units(job, total=total),
    )


def _make(runtime: Runtime, target: Target, sources: Mapping[Path, Source]) -> None:
    for engine, source in sources.items():
        build_within(runtime, source, target, engine, seconds=BuildParams().max_seconds)


def _take(target: Target, pairs: Sequence[Pair]) -> tuple[PairTimes, ...]:
    with host_lock():
        return take_pairs(target, pairs)


def _take_apart(target: Target, pairs: Sequence[Pair]) -> tuple[PairTimes, ...]:
    spec = PairsSpec(parent=os.getpid(), target=target, pairs=tuple(pairs))
    with host_lock(), tempfile.TemporaryDirectory(prefix="reprune-pairs-") as folder:
        return ask(
            "reprune.measure.pairs",
            spec,
            tuple[PairTimes, ...],
            Path(folder, "pairs"),
            threads=target.threads,
        )
