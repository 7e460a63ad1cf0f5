"""What no measurement can show: values outside of what time, counts and shares can be.

A single wild call hardly moves a median, so no rule would notice it; whoever writes one is broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from reprune.core.artifacts import Parity
from reprune.judge.evidence import ArmTimes, Conditions, Unit

LONGEST_CALL_NS = 3_600_000_000_000  # an hour
LATEST_S = 253_402_300_800.0  # the year 10000
_COSINE_SLACK = 1e-6  # a computed cosine may exceed 1 by rounding


def impossible(units: Sequence[Unit]) -> list[str]:
    """Why these units cannot have been measured; empty where they can. Each reason once."""
    return list(dict.fromkeys(words for unit in units for words in _of_unit(unit)))


def impossible_parity(parity: Parity) -> bool:
    """Whether the figures, which are finite, lie outside of what a comparison can give."""
    return not (
        parity.max_abs >= 0.0
        and abs(parity.cosine) <= 1.0 + _COSINE_SLACK
        and 0.0 <= parity.agreement <= 1.0
    )


def _of_unit(unit: Unit) -> Iterator[str]:
    if unit.process < 0 or unit.seed < 0:
        yield "a unit has a negative number"
    if not 0.0 < unit.started_s < LATEST_S:
        yield "a unit began at no time that a clock shows"
    if not (math.isfinite(unit.load) and unit.load >= 0.0):
        yield "a unit ran under a load that no machine has"
    if not all(0 <= arm.order < len(unit.arms) for arm in unit.arms.values()):
        yield "an arm of a unit has no place in its order"
    for arm in unit.arms.values():
        yield from _of_arm(arm)


def _of_arm(arm: ArmTimes) -> Iterator[str]:
    if arm.warmup_calls < 0:
        yield "a negative number of calls warmed up"
    if any(call > LONGEST_CALL_NS for block in arm.blocks_ns for call in block):
        yield "a call took more than an hour"
    if arm.conditions and len(arm.conditions) != len(arm.blocks_ns):
        yield "the machine's conditions are not told block by block"
    if any(_impossible_conditions(each) for each in arm.conditions):
        yield "no machine can be in the conditions that a block tells of"


def _impossible_conditions(found: Conditions) -> bool:
    device = found.device
    return (
        found.wall_ns < 0
        or found.pulse_ns < 0
        or (found.waited_ns is not None and found.waited_ns < 0)
        or (found.stolen is not None and not 0.0 <= found.stolen <= 1.0)
        or (
            device is not None
            and (
                min(device.clock_mhz, device.memory_clock_mhz, device.other_processes) < 0
                or not (math.isfinite(device.power_limit_w) and device.power_limit_w >= 0.0)
            )
        )
    )
