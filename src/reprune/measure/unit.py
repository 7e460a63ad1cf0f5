"""One unit of latency evidence, and the child process that takes a few of them. Imports no torch.

A unit is a freshly created set of sessions, one an arm. Its blocks are a seeded permutation of the
arms and then the mirror of it, so that drift within the unit cancels out of every pair of arms.

    python -m reprune.measure.unit SPEC.json OUT.json
"""

from __future__ import annotations

import gc
import math
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from reprune.core.documents import canonical
from reprune.core.errors import RepruneError
from reprune.core.params import Target
from reprune.core.store import write_bytes
from reprune.judge.evidence import ArmTimes, Unit
from reprune.runtimes.base import Runtime, Session, get_runtime

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

STABLE_WITHIN = 0.02
STABLE_BLOCKS = 3
EXIT_SAID_WHY = 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Inputs of one shape and their share of the traffic; the shares of a workload sum to 1."""

    inputs: tuple[Array, ...]
    weight: float


class BlockPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a block lasts and what is thrown away; the fields are those of BenchmarkParams."""

    block_ms: float
    min_calls: int
    discard_calls: int
    warmup_seconds: float


class UnitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process is told: the engines (arm to path) and the units to take, index to seed.

    `shapes` are .npz files as `write_inputs` writes them.
    """

    parent: int
    process: int
    target: Target
    engines: dict[str, str]
    shapes: tuple[str, ...]
    weights: tuple[float, ...]
    blocks: BlockPlan
    units: tuple[tuple[int, int], ...]


def take_unit(
    runtime: Runtime,
    engines: Mapping[str, Path],
    target: Target,
    shapes: Sequence[Shape],
    blocks: BlockPlan,
    seed: int,
) -> dict[str, ArmTimes]:
    """Fresh sessions of all engines, in a seeded random order, warmed up and measured.

    Both orders, that of creation and that of the blocks, are functions of the seed and of the set
    of arms. Each arm's list of two blocks holds the raw duration of every counted call in ns.
    """
    arms = sorted(engines)
    sessions = {arm: runtime.open(engines[arm], target) for arm in creation_order(arms, seed)}
    warmed = {arm: warm_up(sessions[arm], shapes, blocks) for arm in warming_order(arms, seed)}
    order = block_order(arms, seed)
    taken: dict[str, list[tuple[int, ...]]] = {arm: [] for arm in arms}
    for arm in (*order, *reversed(order)):
        calls = calls_a_block(warmed[arm].call_ns, blocks)
        taken[arm].append(_block(sessions[arm], shapes, blocks.discard_calls, calls))
    return {
        arm: ArmTimes(
            order=order.index(arm),
            blocks_ns=tuple(taken[arm]),
            warmup_calls=warmed[arm].calls,
        )
        for arm in arms
    }


def creation_order(arms: Sequence[str], seed: int) -> list[str]:
    """The order in which a unit opens its sessions: memory layout must not favour one arm."""
    return _shuffled(arms, f"create {seed}")


def block_order(arms: Sequence[str], seed: int) -> list[str]:
    """The permutation of a unit's first half; the second half is its mirror."""
    return _shuffled(arms, f"blocks {seed}")


def warming_order(arms: Sequence[str], seed: int) -> list[str]:
    """The order in which sessions are warmed up; the last one is measured first.

    What an arm leaves behind (in the caches, in the clock) is in the block after it. As the first
    block follows its own arm's calls, as that in the middle does, every arm follows every arm
    equally often over the permutations, itself included, and nobody is favoured. Were it any
    arm's, two arms of which one slows its successor by 2 % would look half a per cent apart.
    """
    return block_order(arms, seed)[::-1]


def calls_a_block(call_ns: float, blocks: BlockPlan) -> int:
    """As many calls as fill `block_ms`, and never fewer than `min_calls`."""
    return max(blocks.min_calls, math.ceil(blocks.block_ms * 1e6 / max(call_ns, 1.0)))


@dataclass(frozen=True, kw_only=True)
class Warm:
    """`call_ns` is the median of the last warm-up block."""

    calls: int
    call_ns: float


def warm_up(session: Session, shapes: Sequence[Shape], blocks: BlockPlan) -> Warm:
    """Runs until the medians of three successive blocks agree within 2 %, or the time is up."""
    deadline = time.perf_counter() + blocks.warmup_seconds
    medians: list[float] = []
    total = 0
    calls = blocks.min_calls
    while True:
        medians.append(median(_block(session, shapes, 0, calls)))
        total += calls
        last = medians[-STABLE_BLOCKS:]
        stable = len(last) == STABLE_BLOCKS and max(last) <= min(last) * (1 + STABLE_WITHIN)
        if stable or time.perf_counter() >= deadline:
            return Warm(calls=total, call_ns=medians[-1])
        # Blocks of a few microseconds agree by chance or never: a quarter of the real ones will do.
        calls = max(blocks.min_calls, calls_a_block(medians[-1], blocks) // 4)


def _block(session: Session, shapes: Sequence[Shape], discard: int, calls: int) -> tuple[int, ...]:
    """The durations of `calls` calls after `discard` that do not count.

    A call runs every shape once; its duration is their mean by traffic share.
    """
    for _ in range(discard):
        for shape in shapes:
            session.run(shape.inputs)
    run, clock = session.run, time.perf_counter_ns
    took: list[int] = []
    for _ in range(calls):
        weighted = 0.0
        for shape in shapes:
            begin = clock()
            run(shape.inputs)
            weighted += shape.weight * (clock() - begin)
        took.append(round(weighted))
    return tuple(took)


def _shuffled(arms: Sequence[str], key: str) -> list[str]:
    order = sorted(arms)
    random.Random(key).shuffle(order)
    return order


def main(arguments: Sequence[str]) -> int:
    """Takes the units of SPEC.json and writes them to OUT.json, whole or not at all."""
    spec = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=UnitSpec)
    try:
        units = _take_all(spec)
    except RepruneError as error:
        print(error, file=sys.stderr)
        return EXIT_SAID_WHY
    write_bytes(Path(arguments[1]), canonical(units))
    return 0


def _take_all(spec: UnitSpec) -> tuple[Unit, ...]:
    runtime = get_runtime(spec.target.runtime)
    shapes = [
        Shape(inputs=read_inputs(Path(path)), weight=weight)
        for path, weight in zip(spec.shapes, spec.weights, strict=True)
    ]
    engines = {arm: Path(path) for arm, path in spec.engines.items()}
    units: list[Unit] = []
    for index, seed in spec.units:
        if os.getppid() != spec.parent:
            raise RepruneError("the benchmark that started this measurement is gone")
        started, load = time.time(), os.getloadavg()[0]
        # A collection in the middle of a call would be charged to the arm that happens to run.
        gc.collect()
        gc.disable()
        arms = take_unit(runtime, engines, spec.target, shapes, spec.blocks, seed)
        gc.enable()
        units.append(
            Unit(
                index=index,
                process=spec.process,
                seed=seed,
                started_s=round(started, 3),
                load=round(load, 2),
                arms=arms,
            )
        )
    return tuple(units)


def write_inputs(path: Path, inputs: Sequence[Array]) -> None:
    """Writes a call's inputs so that `read_inputs` gives them back in order."""
    with path.open("wb") as stream:
        np.savez(stream, *inputs)


def read_inputs(path: Path) -> tuple[Array, ...]:
    """The inputs that `write_inputs` wrote; arrays of objects (pickles) are refused."""
    with np.load(path, allow_pickle=False) as stored:
        return tuple(stored[f"arr_{index}"] for index in range(len(stored.files)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
