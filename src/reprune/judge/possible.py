"""What no measurement can show: values outside of what time, counts and shares can be.

A single wild call hardly moves a median, so no rule would notice it; whoever writes one is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reprune.core.artifacts import Parity
from reprune.judge.evidence import ArmTimes, Conditions, Unit

LONGEST_CALL_NS = 3_600_000_000_000  # an hour
LONGEST_BLOCK_NS = 24 * LONGEST_CALL_NS
MOST = 1_000_000_000  # processes, calls, megahertz, watts, waiting programs: more there never are
LATEST_S = 253_402_300_800.0  # the year 10000
_COSINE_SLACK = 1e-6  # a computed cosine may exceed 1 by rounding


def impossible(units: Sequence[Unit]) -> list[str]:
    """Why these units cannot have been measured, or not together; empty where they can. Each reason once."""
    found = list(dict.fromkeys(words for unit in units for words in _of_unit(unit)))
    clocks = sorted({unit.clock for unit in units})
    if len(clocks) > 1:
        found.append(f"units were timed by different clocks ({'; '.join(clocks)})")
    return found


def impossible_parity(parity: Parity) -> bool:
    """Whether the figures, which are finite, lie outside of what a comparison can give."""
    return not (
        parity.examples <= MOST
        and parity.max_abs >= 0.0
        and abs(parity.cosine) <= 1.0 + _COSINE_SLACK
        and 0.0 <= parity.agreement <= 1.0
    )


def _of_unit(unit: Unit) -> Iterator[str]:
    if not 0 <= unit.process <= MOST or not 0 <= unit.seed < 2**64:
        yield "a unit has a number that was never given"
    if not 0.0 < unit.started_s < LATEST_S:
        yield "a unit began at no time that a clock shows"
    if not 0.0 <= unit.load <= MOST:
        yield "a unit ran under a load that no machine has"
    if not all(0 <= arm.order < len(unit.arms) for arm in unit.arms.values()):
        yield "an arm of a unit has no place in its order"
    for arm in unit.arms.values():
        yield from _of_arm(arm)


def _of_arm(arm: ArmTimes) -> Iterator[str]:
    if not 0 <= arm.warmup_calls <= MOST:
        yield "a number of calls that cannot be warmed up"
    if any(call > LONGEST_CALL_NS for block in arm.blocks_ns for call in block):
        yield "a call took more than an hour"
    if arm.conditions and len(arm.conditions) != len(arm.blocks_ns):
        yield "the machine's conditions are not told block by block"
    if any(_impossible_conditions(each) for each in arm.conditions):
        yield "no machine can be in the conditions that a block tells of"


def _impossible_conditions(found: Conditions) -> bool:
    times = (found.wall_ns, found.pulse_ns, found.waited_ns or 0)
    amounts: tuple[float, ...] = ()
    if found.device is not None:
        device = found.device
        amounts = (device.clock_mhz, device.memory_clock_mhz, device.other_processes)
        amounts += (device.power_limit_w,)
    return not (
        all(0 <= time <= LONGEST_BLOCK_NS for time in times)
        and 0.0 <= (found.stolen or 0.0) <= 1.0
        and all(0 <= amount <= MOST for amount in amounts)
    )
