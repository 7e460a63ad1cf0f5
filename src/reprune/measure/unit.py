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

import msgspec
from msgspec import UNSET

from reprune.core.children import answer, refuse_orphan
from reprune.core.params import Target
from reprune.judge.evidence import ArmTimes, Conditions, Unit
from reprune.measure.accelerator import DeviceReader, watched_gpu
from reprune.measure.calls import Shape, read_shapes, run_calls, settled_clock, timed_calls
from reprune.measure.conditions import (
    begin_block,
    end_block,
    pulse_ns,
    read_ticks,
    stolen_share,
)
from reprune.runtimes.base import Runtime, Session, get_runtime
from reprune.runtimes.jetson import is_jetson, jetson_setting

STABLE_WITHIN = 0.02
STABLE_BLOCKS = 3


class BlockPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a block lasts and what is thrown away; the fields are those of BenchmarkParams."""

    block_ms: float
    min_calls: int
    discard_calls: int
    warmup_seconds: float


class UnitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process is told: the engines (arm to path) and the units to take, index to seed.

    `shapes` are .npz files as `write_inputs` writes them. `copies` are further builds of each arm's
    engine: unit i then runs build i mod their number of every arm.
    """

    parent: int
    process: int
    target: Target
    engines: dict[str, str]
    copies: dict[str, tuple[str, ...]] = {}
    shapes: tuple[str, ...]
    weights: tuple[float, ...]
    blocks: BlockPlan
    units: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One unit's times, and the convention by which all its calls were timed (Unit.clock)."""

    arms: dict[str, ArmTimes]
    clock: str


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is run and how: the same for every unit of a target. `device` reads its GPU, if it has one."""

    runtime: Runtime
    target: Target
    shapes: Sequence[Shape]
    blocks: BlockPlan
    device: DeviceReader | None = None


def take_unit(bench: Bench, engines: Mapping[str, Path], seed: int) -> Taken:
    """Fresh sessions of all engines, in a seeded random order, warmed up and measured.

    Both orders, that of creation and that of the blocks, are functions of the seed and of the set
    of arms. Each arm's list of two blocks holds the raw duration of every counted call in ns, and
    the conditions of each. Raises BuildError for an engine that does not load or run, or that is timed
    by another clock than the others.
    """
    ticks = read_ticks()
    arms = sorted(engines)
    sessions = {
        arm: bench.runtime.open(engines[arm], bench.target) for arm in creation_order(arms, seed)
    }
    clock = settled_clock(sessions.values(), bench.shapes)
    warmed = {
        arm: warm_up(sessions[arm], bench.shapes, bench.blocks) for arm in warming_order(arms, seed)
    }
    order = block_order(arms, seed)
    taken: dict[str, list[Block]] = {arm: [] for arm in arms}
    for arm in (*order, *reversed(order)):
        calls = calls_a_block(warmed[arm].call_ns, bench.blocks)
        taken[arm].append(take_block(sessions[arm], bench, calls))
    stolen = stolen_share(ticks, read_ticks())
    times = {
        arm: ArmTimes(
            order=order.index(arm),
            blocks_ns=tuple(block.calls_ns for block in taken[arm]),
            warmup_calls=warmed[arm].calls,
            conditions=tuple(
                msgspec.structs.replace(block.conditions, stolen=stolen) for block in taken[arm]
            ),
        )
        for arm in arms
    }
    return Taken(arms=times, clock=clock)


def of_build(times: Mapping[str, ArmTimes], build: int) -> dict[str, ArmTimes]:
    """The same times, as those of that build of each arm."""
    return {arm: msgspec.structs.replace(one, build=build) for arm, one in times.items()}


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
        medians.append(median(timed_calls(session, shapes, calls)))
        total += calls
        last = medians[-STABLE_BLOCKS:]
        stable = len(last) == STABLE_BLOCKS and max(last) <= min(last) * (1 + STABLE_WITHIN)
        if stable or time.perf_counter() >= deadline:
            return Warm(calls=total, call_ns=medians[-1])
        # Blocks of a few microseconds agree by chance or never: a quarter of the real ones will do.
        calls = max(blocks.min_calls, calls_a_block(medians[-1], blocks) // 4)


@dataclass(frozen=True, kw_only=True)
class Block:
    """The durations of a block's counted calls, and the machine meanwhile."""

    calls_ns: tuple[int, ...]
    conditions: Conditions


def take_block(session: Session, bench: Bench, calls: int) -> Block:
    """A pulse, `discard_calls` calls that do not count, then `calls` that do, between two readings."""
    pulse = pulse_ns()
    run_calls(session, bench.shapes, bench.blocks.discard_calls)
    before = begin_block(pulse)
    taken = timed_calls(session, bench.shapes, calls)
    return Block(calls_ns=taken, conditions=end_block(before, bench.device))


def _shuffled(arms: Sequence[str], key: str) -> list[str]:
    order = sorted(arms)
    random.Random(key).shuffle(order)
    return order


def main(arguments: Sequence[str]) -> int:
    """Takes the units of SPEC.json and writes them to OUT.json, whole or not at all."""
    return answer(arguments, UnitSpec, _take_all)


def _take_all(spec: UnitSpec) -> tuple[Unit, ...]:
    runtime = get_runtime(spec.target.runtime)
    shapes = read_shapes(spec.shapes, spec.weights)
    builds = [
        {arm: Path((path, *spec.copies.get(arm, ()))[build]) for arm, path in spec.engines.items()}
        for build in range(1 + min((len(more) for more in spec.copies.values()), default=0))
    ]
    units: list[Unit] = []
    with watched_gpu(runtime, spec.target) as device:
        bench = Bench(
            runtime=runtime,
            target=spec.target,
            shapes=shapes,
            blocks=spec.blocks,
            device=device,
        )
        for index, seed in spec.units:
            refuse_orphan(spec.parent)
            started, load = time.time(), os.getloadavg()[0]
            board = jetson_setting() if is_jetson() else UNSET
            # A collection in the middle of a call would be charged to the arm that happens to run.
            gc.collect()
            gc.disable()
            build = index % len(builds)
            taken = take_unit(bench, builds[build], seed)
            gc.enable()
            units.append(
                Unit(
                    index=index,
                    process=spec.process,
                    seed=seed,
                    started_s=round(started, 3),
                    load=round(load, 2),
                    arms=of_build(taken.arms, build) if spec.copies else taken.arms,
                    clock=taken.clock,
                    board=board,
                )
            )
    return tuple(units)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
