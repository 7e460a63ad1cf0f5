"""What is known of the machine while a block ran: readings that follow real trouble, and None elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from reprune.core.errors import BuildError
from reprune.core.params import BenchmarkParams, Target
from reprune.judge.evidence import CONTROL, Conditions, Unit
from reprune.measure import conditions
from reprune.measure.calls import (
    HOST_CLOCK,
    Shape,
    common_clock,
    run_calls,
    settled_clock,
    settled_clocks,
    timed_calls,
)
from reprune.measure.conditions import (
    begin_block,
    end_block,
    pulse_ns,
    read_ticks,
    read_waits,
    stolen_share,
    waited_ns,
)
from reprune.measure.latency import LatencyJob, take_units
from reprune.measure.unit import block_order, creation_order

pytestmark = pytest.mark.slow

SHAPES = (Shape(inputs=(np.zeros((1, 64), dtype=np.float32),), weight=1.0),)
PARAMS = BenchmarkParams(
    block_ms=2.0, min_calls=5, discard_calls=2, warmup_seconds=0.05, units_per_process=3
)
ON_LINUX = sys.platform == "linux" and Path("/proc/self/schedstat").exists()


def quiet(_: str) -> None:
    pass


def units_of(engines: dict[str, Path], *, control: bool = True, total: int = 3) -> tuple[Unit, ...]:
    job = LatencyJob(
        target=Target(), engines=engines, shapes=SHAPES, params=PARAMS, seed="s", control=control
    )
    return take_units(job, total=total, say=quiet)


def test_every_unit_has_a_second_session_of_the_dense_model(
    small_and_big: tuple[Path, Path],
) -> None:
    """It takes part in the permutation and its mirror like any arm, and comes out like the dense model."""
    small, big = small_and_big
    taken = units_of({"candidate": small, "dense": big})
    for unit in taken:
        assert set(unit.arms) == {"candidate", "dense", CONTROL}
        order = block_order(sorted(unit.arms), unit.seed)
        assert {arm: times.order for arm, times in unit.arms.items()} == {
            arm: place for place, arm in enumerate(order)
        }
        assert unit.clock == HOST_CLOCK
    medians = {
        arm: median(median(unit.arms[arm].blocks_ns[0]) for unit in taken)
        for arm in ("candidate", "dense", CONTROL)
    }
    assert medians[CONTROL] > 2 * medians["candidate"]
    assert medians["dense"] / 2 < medians[CONTROL] < medians["dense"] * 2


def test_the_control_arm_is_the_dense_engine_and_only_where_asked_for(probe: Any) -> None:
    """What is opened says so: the dense engine twice a unit, in the seeded order, or once."""
    for control, arms in ((True, ["control", "dense"]), (False, ["dense"])):
        probe.log.unlink(missing_ok=True)
        job = LatencyJob(
            target=probe.target,
            engines={"dense": probe.engine("dense")},
            shapes=SHAPES,
            params=PARAMS,
            seed="s",
            control=control,
        )
        (unit,) = take_units(job, total=1, say=quiet)
        assert sorted(unit.arms) == arms == sorted(creation_order(arms, unit.seed))
        opened = [name for _, event, name in probe.events() if event == "open"]
        assert opened == ["dense"] * len(arms)


def test_every_block_has_its_conditions(small_and_big: tuple[Path, Path]) -> None:
    """Two blocks an arm, two entries; a block lasts at least as long as its calls, and not much longer."""
    taken = units_of({"dense": small_and_big[1]}, total=2)
    for unit in taken:
        shares = set()
        for times in unit.arms.values():
            assert len(times.conditions) == len(times.blocks_ns) == 2
            for found, calls in zip(times.conditions, times.blocks_ns, strict=True):
                assert found.wall_ns >= sum(calls)
                assert found.pulse_ns > 0
                assert found.device is None
                shares.add(found.stolen)
                if ON_LINUX:
                    assert found.waited_ns is not None
                    assert found.waited_ns >= 0
        # A tick of the kernel is as long as a block: one figure for the unit.
        assert len(shares) == 1


def test_the_pulse_follows_the_amount_of_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock at half the speed is like twice the work: the pulse doubles, and repeats itself otherwise."""
    here = [pulse_ns() for _ in range(30)]
    monkeypatch.setattr(conditions, "PULSE_ROUNDS", 2 * conditions.PULSE_ROUNDS)
    slower = [pulse_ns() for _ in range(30)]
    assert 1.6 < min(slower) / min(here) < 2.4


@pytest.mark.skipif(not ON_LINUX, reason="only Linux tells how long a thread waited")
def test_waits_are_those_of_this_process_and_only_grow() -> None:
    """One entry a thread, and no less than before."""
    before = read_waits()
    assert before is not None
    assert str(os.getpid()) in before
    time.sleep(0.01)
    waited = waited_ns(before, read_waits())
    assert waited is not None
    assert waited >= 0


def test_waits_sum_over_threads_that_are_still_there() -> None:
    """A thread that began meanwhile counts whole, one that ended not at all; unknown stays unknown."""
    assert waited_ns({"1": 10, "2": 100}, {"1": 15, "3": 7}) == 12
    assert waited_ns(None, {"1": 1}) is None
    assert waited_ns({"1": 1}, None) is None


def test_the_stolen_share_is_of_all_cores_time() -> None:
    """A quarter of the ticks between two readings; nothing is known where none has passed."""
    assert stolen_share((10, 1000), (30, 1080)) == 0.25
    assert stolen_share((10, 1000), (10, 1080)) == 0.0
    assert stolen_share((10, 1000), (10, 1000)) is None
    assert stolen_share(None, (10, 1000)) is None
    assert stolen_share((10, 1000), None) is None
    if ON_LINUX:
        ticks = read_ticks()
        assert ticks is not None
        assert 0 <= ticks[0] <= ticks[1]


def test_what_the_kernel_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No /proc, as on macOS: the block has its wall time and its pulse, and the rest is unknown."""

    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(conditions.os, "listdir", absent)
    monkeypatch.setattr("builtins.open", absent)
    found = end_block(begin_block(7))
    ticks = read_ticks()
    monkeypatch.undo()
    assert ticks is None
    assert found == Conditions(wall_ns=found.wall_ns, waited_ns=None, stolen=None, pulse_ns=7)


class OnDevice:
    """A session that times its calls itself: call number n of an input of length l lasts n + 1000 l ns."""

    def __init__(self, clock: str = "device events", short: int = 0) -> None:
        self.clock, self.short, self.ran = clock, short, 0

    def run(self, inputs: Any) -> list[Any]:
        raise AssertionError("a session with a clock of its own is timed by that")

    def call_ns(self, inputs: Any, calls: int) -> list[int]:
        self.ran += calls
        return [number + 1000 * len(inputs[0]) for number in range(calls - self.short)]


class OnHost:
    def run(self, inputs: Any) -> list[Any]:
        return []


def test_a_session_with_its_own_clock_is_timed_by_it() -> None:
    """The shapes' durations are still weighted by their traffic, call by call."""
    shapes = [Shape(inputs=(np.zeros(n),), weight=w) for n, w in ((1, 0.75), (5, 0.25))]
    session = OnDevice()
    assert timed_calls(session, shapes, 3) == (2000, 2001, 2002)
    run_calls(session, shapes, 4)
    assert session.ran == 2 * 3 + 2 * 4
    with pytest.raises(BuildError, match="timed 2 calls where 3"):
        timed_calls(OnDevice(short=1), shapes, 3)


class Capturable(OnDevice):
    """It replays a graph of inputs of at most `most` numbers."""

    def __init__(self, most: int) -> None:
        super().__init__("replayed")
        self.most = most

    def captures(self, inputs: Any) -> bool:
        return self.clock == "replayed" and len(inputs[0]) <= self.most

    def uncapture(self) -> None:
        self.clock = "launched"


def test_what_one_arm_cannot_capture_none_does() -> None:
    """One shape of one arm is enough; all arms are then timed by the same clock, and it is named."""
    shapes = [Shape(inputs=(np.zeros(n),), weight=0.5) for n in (1, 5)]
    able, unable = Capturable(9), Capturable(4)
    assert settled_clock([able, unable], shapes[:1]) == "replayed"
    assert settled_clock([able, unable], shapes) == "launched"
    assert (able.clock, unable.clock) == ("launched", "launched")
    with pytest.raises(BuildError, match="device events; launched"):
        settled_clock([Capturable(4), OnDevice()], shapes)


def test_sessions_with_inputs_of_their_own_have_one_clock_too() -> None:
    """A layer that can be captured is not held against a whole model that cannot."""
    few, many = (Shape(inputs=(np.zeros(size),), weight=1.0) for size in (2, 8))
    assert settled_clocks([(Capturable(8), [few]), (Capturable(8), [many])]) == "replayed"
    layer, whole = Capturable(8), Capturable(4)
    assert settled_clocks([(layer, [few]), (whole, [many])]) == "launched"
    assert layer.clock == whole.clock == "launched"


def test_arms_timed_by_different_clocks_are_refused() -> None:
    """A captured graph beside one that could not be captured would not be compared fairly."""
    assert common_clock([OnDevice(), OnDevice()]) == "device events"
    assert common_clock([OnHost(), OnHost()]) == HOST_CLOCK
    with pytest.raises(BuildError, match=r"different clocks: device events; host, each call"):
        common_clock([OnHost(), OnDevice()])
    with pytest.raises(BuildError, match="other events"):
        common_clock([OnDevice(), OnDevice("other events")])


BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print("busy", flush=True)
while True:
    pass
"""


@pytest.mark.skipif(not ON_LINUX, reason="only Linux pins processes and tells how long they waited")
def test_a_foreign_process_on_the_same_core_is_seen(small_and_big: tuple[Path, Path]) -> None:
    """Four busy processes beside us on one core: waiting per unit of work rises well above the calm run's.

    The two runs are compared side by side, so that it does not matter what else the machine does.
    """
    engines = {"dense": small_and_big[1]}
    before = os.sched_getaffinity(0)
    core = min(before)
    crowd: list[subprocess.Popen[str]] = []
    os.sched_setaffinity(0, {core})
    try:
        calm = _waiting(units_of(engines))
        for _ in range(4):
            command = [sys.executable, "-c", BUSY, str(core)]
            crowd.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert crowd[-1].stdout is not None
            assert crowd[-1].stdout.readline() == "busy\n"
        crowded = _waiting(units_of(engines))
    finally:
        os.sched_setaffinity(0, before)
        for process in crowd:
            process.kill()
            process.communicate()
    print(f"waited {calm:.3f} of the time, and {crowded:.3f} in the crowd")
    assert crowded > 0.5
    assert calm < 1
    assert crowded / (1 - crowded) > 1.5 * calm / (1 - calm)


def _waiting(units: tuple[Unit, ...]) -> float:
    """The share of all blocks' time that was spent waiting for the core."""
    found = [c for unit in units for times in unit.arms.values() for c in times.conditions]
    return sum(c.waited_ns or 0 for c in found) / sum(c.wall_ns for c in found)
