"""Latency evidence: units taken in fresh processes, all arms side by side."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reprune.core.children import HANG_SECONDS, ask
from reprune.core.errors import RepruneError, TaskError
from reprune.core.params import BenchmarkParams, Target
from reprune.judge.evidence import CONTROL, Unit
from reprune.measure.calls import Shape, write_shapes
from reprune.measure.hostlock import host_lock, to_stderr
from reprune.measure.unit import BlockPlan, UnitSpec

if TYPE_CHECKING:
    from reprune.task.protocol import Task


@dataclass(frozen=True, kw_only=True)
class LatencyJob:
    """What is measured on one target. `engines` maps arm to file; `seed` names the orders for ever.

    `copies` are further builds of each engine, as many of every arm, where several are judged.
    With `control` every unit opens a second session of the dense engine, as an arm like the others.
    """

    target: Target
    engines: Mapping[str, Path]
    shapes: Sequence[Shape]
    params: BenchmarkParams
    seed: str
    control: bool = False
    copies: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    hang_seconds: float = HANG_SECONDS

    @property
    def timed(self) -> dict[str, Path]:
        """The engine of every arm that a unit has, the control arm included."""
        extra = {CONTROL: self.engines["dense"]} if self.control else {}
        return {**self.engines, **extra}

    @property
    def timed_copies(self) -> dict[str, tuple[Path, ...]]:
        """The further builds of every arm that a unit has; empty where there is one of each."""
        extra = {CONTROL: self.copies["dense"]} if self.control and self.copies else {}
        return {**self.copies, **extra}


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
        shapes = write_shapes(Path(folder), job.shapes)
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


def _spec(job: LatencyJob, shapes: tuple[str, ...], process: int, indices: range) -> UnitSpec:
    return UnitSpec(
        parent=os.getpid(),
        process=process,
        target=job.target,
        engines={arm: str(path.resolve()) for arm, path in job.timed.items()},
        copies={
            arm: tuple(str(path.resolve()) for path in paths)
            for arm, paths in job.timed_copies.items()
        },
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
    units = ask(
        "reprune.measure.unit",
        spec,
        tuple[Unit, ...],
        folder / str(spec.process),
        threads=job.target.threads,
        hang_seconds=job.hang_seconds,
    )
    if [(unit.index, unit.seed) for unit in units] != list(spec.units):
        raise RepruneError("a measuring process returned other units than it was asked for")
    return units
