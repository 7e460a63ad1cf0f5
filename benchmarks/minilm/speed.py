"""The latency half: engines of every arm's shape with weights of no meaning, timed side by side.

Latency depends on shapes alone, so nothing that was trained is needed. A unit is a fresh process with
fresh sessions of all engines in a random order (see reprune.measure): batch 1, 32 tokens, 1 thread.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.minilm.engines import write_engines
from benchmarks.minilm.plans import Point, shaped
from benchmarks.sst2 import Sst2Task
from reprune.core.params import BenchmarkParams, Target
from reprune.judge.evidence import Unit
from reprune.measure.latency import LatencyJob, take_units, timed_shapes

UNITS, QUICK_UNITS = 15, 3


def measure_speed(
    task: Sst2Task, points: Mapping[str, Point], *, units: int, folder: Path | None = None
) -> list[dict[str, Any]]:
    """A row for each point and kind: its latency, and how many times faster than dense fp32 it is.

    `speedup` is the median over units of the ratio of the medians of a unit's calls, with the least
    and the greatest unit beside it. `folder` keeps the engines, so that a later call finds them.
    """
    with tempfile.TemporaryDirectory(prefix="minilm-") as scratch:
        engines = _engines(task, points, folder or Path(scratch))
        job = LatencyJob(
            target=Target(),
            engines=engines,
            shapes=timed_shapes(task, 1),
            params=BenchmarkParams(units_per_process=1, block_ms=60.0, warmup_seconds=1.0),
            seed="minilm_sst2",
        )
        taken = take_units(job, total=units)
    return [_row(arm, taken) for arm in engines]


def _engines(task: Sst2Task, points: Mapping[str, Point], folder: Path) -> dict[str, Path]:
    engines: dict[str, Path] = {}
    for name, point in points.items():
        paths = {kind: folder / f"{name}-{kind}.onnx" for kind in ("fp32", "int8")}
        if not all(path.exists() for path in paths.values()):
            paths = write_engines(task, shaped(task, random_dense(task), point), folder, name)
        engines |= {f"{name}-{kind}": path for kind, path in paths.items()}
    return engines


def random_dense(task: Sst2Task) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return task.model().eval()


def _row(arm: str, units: Sequence[Unit]) -> dict[str, Any]:
    ratios = [unit_ms(unit, "dense-fp32") / unit_ms(unit, arm) for unit in units]
    name, _, kind = arm.rpartition("-")
    return {
        "arm": name,
        "kind": kind,
        "ms": median(unit_ms(unit, arm) for unit in units),
        "speedup": median(ratios),
        "speedup_least": min(ratios),
        "speedup_greatest": max(ratios),
        "processes": len(units),
    }


def unit_ms(unit: Unit, arm: str) -> float:
    """The geometric mean of the medians of an arm's two blocks, so that a linear drift cancels."""
    first, second = (median(block) for block in unit.arms[arm].blocks_ns)
    return math.sqrt(first * second) / 1e6
