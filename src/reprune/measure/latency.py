"""Latency evidence: units taken in fresh processes, all arms side by side."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from reprune.core.documents import canonical
from reprune.core.errors import BuildError, RepruneError, TaskError
from reprune.core.params import BenchmarkParams, Target
from reprune.judge.evidence import Unit, decode_units
from reprune.measure.hostlock import host_lock, to_stderr
from reprune.measure.unit import EXIT_SAID_WHY, BlockPlan, Shape, UnitSpec, write_inputs

if TYPE_CHECKING:
    from reprune.task.protocol import Task

# A process that takes a few units ends within seconds; a model of a second a call within minutes.
HANG_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class LatencyJob:
    """What is measured on one target. `engines` maps arm to file; `seed` names the orders for ever."""

    target: Target
    engines: Mapping[str, Path]
    shapes: Sequence[Shape]
    params: BenchmarkParams
    seed: str
    hang_seconds: float = HANG_SECONDS


def timed_shapes(task: Task, batch_size: int) -> tuple[Shape, ...]:
    """The task's workload as arrays of exactly `batch_size` examples (repeated or cut to that).

    Raises TaskError for a workload that is empty or whose weights are no shares of 1.
    """
    works = list(task.workload())
    weights = [work.weight for work in works]
    if not works or min(weights) <= 0 or abs(sum(weights) - 1.0) > 1e-6:
        raise TaskError(
            f"workload() has the weights {weights}; they must be positive and sum to 1",
            fix="give each shape its share of the traffic",
        )
    shapes = []
    for work in works:
        arrays = [tensor.detach().cpu().numpy() for tensor in work.inputs]
        rows = np.arange(batch_size)
        inputs = tuple(np.ascontiguousarray(array[rows % len(array)]) for array in arrays)
        shapes.append(Shape(inputs=inputs, weight=work.weight))
    return tuple(shapes)


def take_units(
    job: LatencyJob,
    *,
    total: int,
    already: tuple[Unit, ...] = (),
    say: Callable[[str], None] = to_stderr,
) -> tuple[Unit, ...]:
    """`already` and as many new units as make `total`, each taken in a fresh process of a few.

    Waits for the host's measurement lock, and holds it. Nothing is left behind, whatever happens.
    Raises BuildError for an engine that does not load or run, RepruneError for a process that
    crashed or hung, Busy if the host stays occupied.
    """
    taken = list(already)
    with host_lock(say), tempfile.TemporaryDirectory(prefix="reprune-latency-") as folder:
        shapes = _write_shapes(job, Path(folder))
        while len(taken) < total:
            if taken and job.params.pause_seconds:
                time.sleep(job.params.pause_seconds)
            process = taken[-1].process + 1 if taken else 0
            last = min(total, len(taken) + job.params.units_per_process)
            indices = range(len(taken), last)
            taken += _in_fresh_process(job, _spec(job, shapes, process, indices), Path(folder))
            say(f"{len(taken)} of {total} units taken")
    return tuple(taken)


def unit_seed(seed: str, index: int) -> int:
    """The seed of unit `index`: nothing but the run's seed text and the number go into it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:6], "big")


def _write_shapes(job: LatencyJob, folder: Path) -> tuple[str, ...]:
    paths = [folder / f"shape-{index}.npz" for index in range(len(job.shapes))]
    for path, shape in zip(paths, job.shapes, strict=True):
        write_inputs(path, shape.inputs)
    return tuple(str(path) for path in paths)


def _spec(job: LatencyJob, shapes: tuple[str, ...], process: int, indices: range) -> UnitSpec:
    return UnitSpec(
        parent=os.getpid(),
        process=process,
        target=job.target,
        engines={arm: str(path.resolve()) for arm, path in job.engines.items()},
        shapes=shapes,
        weights=tuple(shape.weight for shape in job.shapes),
        blocks=BlockPlan(
            block_ms=job.params.block_ms,
            min_calls=job.params.min_calls,
            discard_calls=job.params.discard_calls,
            warmup_seconds=job.params.warmup_seconds,
        ),
        units=tuple((index, unit_seed(job.seed, index)) for index in indices),
    )


def _in_fresh_process(job: LatencyJob, spec: UnitSpec, folder: Path) -> tuple[Unit, ...]:
    told, answer = folder / f"{spec.process}.spec.json", folder / f"{spec.process}.units.json"
    told.write_bytes(canonical(spec))
    # -P: a file in the user's folder must not stand in for a module of ours.
    command = [sys.executable, "-P", "-m", "reprune.measure.unit", str(told), str(answer)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(job.target.threads)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=job.hang_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RepruneError(
            f"a measuring process did not end within {job.hang_seconds:.0f} s and was stopped",
            where=f"units {[index for index, _ in spec.units]}",
            fix="see whether the machine is overloaded; lower benchmark.units_per_process",
        ) from error
    _check_ending(done)
    units = _decoded(answer)
    if [(unit.index, unit.seed) for unit in units] != list(spec.units):
        raise RepruneError("a measuring process returned other units than it was asked for")
    return units


def _check_ending(done: subprocess.CompletedProcess[bytes]) -> None:
    said = done.stderr.decode("utf-8", errors="replace").strip()
    if done.returncode == EXIT_SAID_WHY:
        raise BuildError(f"latency could not be measured: {said}")
    if done.returncode:
        how = (
            f"was killed by signal {-done.returncode}"
            if done.returncode < 0
            else f"ended with exit code {done.returncode}"
        )
        raise RepruneError(
            f"a measuring process {how}" + (f": {said.splitlines()[-1]}" if said else ""),
            fix="run the step again; if it happens again, look for memory or driver errors",
        )


def _decoded(answer: Path) -> tuple[Unit, ...]:
    try:
        return decode_units(answer.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise RepruneError(f"a measuring process left no units: {error}") from error
