"""Real speed of many models beside each other: one thread of ONNX Runtime, each look in a fresh process.

What is timed depends on the architecture alone, so an engine's file is named by that too: what is planned
anew is built anew. Times count for the very engines that they were taken of. A machine flips between two
speeds for minutes at a time: the median over at least ten processes is what counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from benchmarks.common import write
from reprune.core.params import BenchmarkParams, Target
from reprune.judge.latency import log_time
from reprune.judge.median import median_interval
from reprune.measure.latency import LatencyJob, take_units, timed_shapes
from reprune.runtimes.base import Source, get_runtime
from reprune.task.protocol import Task

MIN_PROCESSES = 10
# Of the interval of the median: 95 % in all.
TAIL = 0.025
# A shorter warm-up than the verdict's: there are dozens of arms in each process.
PARAMS = BenchmarkParams(units_per_process=1, warmup_seconds=0.15, block_ms=10.0)


def build_engines(models: Mapping[str, nn.Module], task: Task, folder: Path) -> dict[str, Path]:
    """Each model as an engine, built as the product's build step does; one of the same name and architecture
    that is there stays.
    """
    runtime = get_runtime("onnxruntime")
    folder.mkdir(parents=True, exist_ok=True)
    engines = {}
    for number, (name, module) in enumerate(models.items(), start=1):
        engines[name] = folder / f"{name}-{shape_digest(module)}{runtime.suffix}"
        if not engines[name].is_file():
            began = time.monotonic()
            example = task.example_inputs(1)
            runtime.build(
                Source(module=module.eval(), example_inputs=example, input_names=task.input_names),
                Target(),
                engines[name],
            )
            print(
                f"built {number} of {len(models)}: {name} in {time.monotonic() - began:.1f} s",
                flush=True,
            )
    return engines


def shape_digest(module: nn.Module) -> str:
    """A few letters for an architecture: its layers as they print themselves, and the shapes of its state."""
    shapes = [(name, list(tensor.shape)) for name, tensor in module.state_dict().items()]
    return hashlib.sha256(f"{module!r}\n{shapes}".encode()).hexdigest()[:12]


def time_engines(
    engines: Mapping[str, Path],
    task: Task,
    target: Target,
    processes: int,
    kept: Path,
    say: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """For each process, each engine's time in ms. What `kept` holds of an earlier run of the same engines
    counts, and each process is written there as it ends. Times of others are laid aside (`.before.json`).
    """
    shapes = timed_shapes(task, target.batch_size)
    digests = digests_of(engines)
    taken = read_times(kept, digests)
    if not taken and kept.is_file():
        aside = kept.with_suffix(".before.json")
        say(f"{kept} holds times of other engines, which are now in {aside.name}")
        kept.replace(aside)
    while len(taken) < processes:
        job = LatencyJob(
            target=target,
            engines=engines,
            shapes=shapes,
            params=PARAMS,
            seed=f"{kept.stem}/{len(taken)}",
        )
        unit = take_units(job, total=1, say=_quiet)[0]
        taken.append({name: math.exp(log_time(arm)) / 1e6 for name, arm in unit.arms.items()})
        write(kept, {"batch_size": target.batch_size, "engines": digests, "ms": taken})
        say(f"batch {target.batch_size}: {len(taken)} of {processes} processes, load {unit.load}")
    return taken


def digests_of(engines: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 of each engine's file, by its name."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in engines.items()}


def read_times(kept: Path, digests: Mapping[str, str]) -> list[dict[str, float]]:
    """The times that are kept, if they are of the engines with these digests; nothing otherwise."""
    if not kept.is_file():
        return []
    found = json.loads(kept.read_text())
    times: list[dict[str, float]] = found["ms"]
    return times if found.get("engines") == dict(digests) else []


def speedup(times: Sequence[Mapping[str, float]], name: str, base: str) -> dict[str, float]:
    """How many times faster `name` is than `base`: paired in each process, the median over processes, its
    distribution-free 95 % interval (absent below six processes) and the range.
    """
    ratios = [unit[base] / unit[name] for unit in times]
    found = {
        "median": math.exp(median(math.log(ratio) for ratio in ratios)),
        "least": min(ratios),
        "most": max(ratios),
        "ms": median(unit[name] for unit in times),
        "processes": float(len(ratios)),
    }
    interval = median_interval(ratios, TAIL)
    return found | ({"low": interval[0], "high": interval[1]} if interval else {})


def _quiet(_: str) -> None:
    """One line a process is enough."""


def shapes_name(prefix: str, numbers: Sequence[Any]) -> str:
    """A file name for an architecture that is given by a few numbers."""
    return f"{prefix}-" + "-".join(str(number) for number in numbers)
