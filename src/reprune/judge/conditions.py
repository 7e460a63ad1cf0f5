"""What the conditions of blocks show: shares of time lost, speeds of the clock, differences of arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TypeAlias

from reprune.judge.distributions import critical
from reprune.judge.evidence import ArmTimes, Conditions, Unit

Reading: TypeAlias = Callable[[Conditions], float | None]


def waited_share(block: Conditions) -> float | None:
    """How long the process's threads waited for a core, as a share of the block's time."""
    return None if block.waited_ns is None else block.waited_ns / block.wall_ns


def stolen_share(block: Conditions) -> float | None:
    """The share of time that the hypervisor gave to others."""
    return block.stolen


def blocks_of(unit: Unit) -> Iterator[Conditions]:
    """The conditions of all blocks of a unit, whatever the arm."""
    return (block for times in unit.arms.values() for block in times.conditions)


def mean_reading(times: ArmTimes, reading: Reading) -> float | None:
    """The mean over an arm's blocks in one unit; None unless every block tells."""
    found = [reading(block) for block in times.conditions]
    told = [value for value in found if value is not None]
    return math.fsum(told) / len(told) if found and len(told) == len(found) else None


def differences(units: Sequence[Unit], baseline: str, reading: Reading) -> list[float]:
    """The candidate's mean reading less the baseline's, for each unit that tells both."""
    found = []
    for unit in units:
        mine = mean_reading(unit.arms["candidate"], reading)
        base = mean_reading(unit.arms[baseline], reading)
        if mine is not None and base is not None:
            found.append(mine - base)
    return found


def disturbed_units(units: Sequence[Unit], reading: Reading, most: float) -> tuple[int, int]:
    """In how many units some block reads more than `most`, and how many units tell at all."""
    disturbed = told = 0
    for unit in units:
        found = [value for block in blocks_of(unit) if (value := reading(block)) is not None]
        told += bool(found)
        disturbed += any(value > most for value in found)
    return disturbed, told


def process_change(units: Sequence[Unit], reading: Reading) -> float | None:
    """The largest over the smallest of the processes' median readings; None where none tells."""
    by_process: dict[int, list[float]] = {}
    for unit in units:
        found = [value for block in blocks_of(unit) if (value := reading(block)) is not None]
        by_process.setdefault(unit.process, []).extend(found)
    medians = [median(found) for found in by_process.values() if found]
    return max(medians) / min(medians) if medians else None


def mean_interval(values: Sequence[float], tail: float) -> tuple[float, float] | None:
    """Student's interval of the mean, at `tail` on either side; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = critical(tail, count - 1) * math.sqrt(variance / count)
    return mean - reach, mean + reach


def condition_problems(times: Sequence[ArmTimes]) -> list[str]:
    """Why these arms' conditions cannot be used; empty where they can, or where none were recorded."""
    found = []
    if any(arm.conditions and len(arm.conditions) != len(arm.blocks_ns) for arm in times):
        found.append("the conditions are not one a block")
    if len({bool(arm.conditions) for arm in times}) > 1:
        found.append("the conditions of some blocks are missing")
    if not all(_possible(block) for arm in times for block in arm.conditions):
        found.append("a block's conditions cannot be")
    return found


def _possible(block: Conditions) -> bool:
    waited_possible = block.waited_ns is None or block.waited_ns >= 0
    stolen_possible = block.stolen is None or 0.0 <= block.stolen <= 1.0
    device = block.device
    device_possible = device is None or (
        device.clock_mhz > 0
        and device.memory_clock_mhz > 0
        and 0.0 <= device.power_limit_w < math.inf
        and device.other_processes >= 0
    )
    return (
        block.wall_ns > 0
        and block.pulse_ns > 0
        and waited_possible
        and stolen_possible
        and device_possible
    )
