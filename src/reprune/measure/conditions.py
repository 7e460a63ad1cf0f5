"""The state of the machine around a block of calls, as far as the kernel tells; never inside a timed call.

Reading costs some 12 us a thread of this process before and after a block, which lasts 10 ms and more;
the pulse, about 0.3 ms, comes before the calls that are thrown away. What only Linux tells is None
elsewhere, and where the kernel was built without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reprune.judge.evidence import Conditions, DeviceConditions

PULSE_PIECES = 4
PULSE_ROUNDS = 20
_STEAL = 7
_COUNTED = 8

Waits: TypeAlias = dict[str, int]
Ticks: TypeAlias = tuple[int, int]

# Partial sums depend on each other, so one addition waits for the last: what is timed is the core's clock,
# not its width or its memory (16 KiB, less than any first-level cache).
_TERMS = np.full(1024, 1.0 / 3.0)
_SUMS = np.empty_like(_TERMS)


@dataclass(frozen=True, kw_only=True)
class Before:
    """The readings at the beginning of a block."""

    wall_ns: int
    waits: Waits | None
    pulse_ns: int


def pulse_ns() -> int:
    """How long a fixed piece of arithmetic (20,480 dependent additions) takes now; it allocates nothing.

    The fastest of four equal pieces, so that a foreign process that comes in between is not taken for
    a slow clock.
    """
    fastest = 0
    for _ in range(PULSE_PIECES):
        begin = time.perf_counter_ns()
        for _ in range(PULSE_ROUNDS):
            np.add.accumulate(_TERMS, out=_SUMS)
        took = time.perf_counter_ns() - begin
        fastest = min(fastest or took, took)
    return fastest


def begin_block(pulse: int) -> Before:
    """To be called after the calls that do not count, right before the first that does."""
    # The wall time encloses the readings of waits: no wait may count that lies outside it.
    return Before(wall_ns=time.perf_counter_ns(), waits=read_waits(), pulse_ns=pulse)


def end_block(
    before: Before, device: Callable[[], DeviceConditions | None] | None = None
) -> Conditions:
    """To be called right after the block's last call. `stolen` is left None: only a unit can tell it."""
    waits = read_waits()
    return Conditions(
        wall_ns=time.perf_counter_ns() - before.wall_ns,
        waited_ns=waited_ns(before.waits, waits),
        stolen=None,
        pulse_ns=before.pulse_ns,
        device=None if device is None else device(),
    )


def read_waits() -> Waits | None:
    """For each thread of this process, how long it has stood ready for a core so far, in ns.

    The second number of /proc/self/task/<id>/schedstat (Documentation/scheduler/sched-stats.rst). The
    kernel adds a thread's wait when the thread gets its core. None where there is no such file.
    """
    waits: Waits = {}
    try:
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  # a third of pathlib's cost
            waits.update(_wait_of(thread))
    except (OSError, ValueError, IndexError):
        return None
    return waits


def waited_ns(before: Waits | None, after: Waits | None) -> int | None:
    """The waits between two readings, summed over threads; a new thread counts whole."""
    if before is None or after is None:
        return None
    return sum(now - before.get(thread, 0) for thread, now in after.items())


def read_ticks() -> Ticks | None:
    """(stolen, all) time of all cores since boot in the kernel's ticks; None where it does not tell."""
    try:
        with open("/proc/stat", "rb", buffering=0) as stream:  # noqa: PTH123  # as read_waits
            fields = stream.read(512).split(b"\n", 1)[0].split()
        counted = [int(field) for field in fields[1 : _COUNTED + 1]]
        # Guests' time, which follows, is part of the user's.
        return counted[_STEAL], sum(counted)
    except (OSError, ValueError, IndexError):
        return None


def stolen_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """The share of all cores' time between two readings that the hypervisor gave to others.

    A tick is 10 ms, as long as a block: so it is taken over a whole unit (sessions opened, warmed up
    and measured), and every block of the unit bears the same figure. None where no tick has passed.
    """
    if before is None or after is None or after[1] <= before[1]:
        return None
    return round(max(0, after[0] - before[0]) / (after[1] - before[1]), 6)


def _wait_of(thread: str) -> Waits:
    """The thread's wait; empty for one that has ended since it was listed."""
    try:
        descriptor = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
    except FileNotFoundError:
        if os.path.exists("/proc/self/schedstat"):  # noqa: PTH110  # as read_waits
            return {}
        raise
    try:
        return {thread: int(os.read(descriptor, 96).split()[1])}
    except ProcessLookupError:
        return {}
    finally:
        os.close(descriptor)
