"""Units of latency evidence: fresh, interleaved, reproducible in their order, and safe to interrupt."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.documents import canonical
from reprune.core.errors import BuildError, RepruneError, TaskError
from reprune.core.params import BenchmarkParams, ProfileParams, Target
from reprune.judge.evidence import CONTROL
from reprune.measure import calls, unit
from reprune.measure.calls import Shape, read_inputs, timed_calls, write_inputs
from reprune.measure.latency import LatencyJob, take_units, timed_shapes, unit_seed
from reprune.measure.profile import measure_target
from reprune.measure.quick import quick_ratio
from reprune.measure.timing_place import here
from reprune.measure.unit import (
    BlockPlan,
    UnitSpec,
    block_order,
    calls_a_block,
    creation_order,
    warm_up,
)
from reprune.runtimes.onnxruntime import OnnxRuntime
from reprune.task.protocol import Work

ARMS = ("candidate", "champion", "dense")
PARAMS = BenchmarkParams(
    block_ms=1.0, min_calls=5, discard_calls=2, warmup_seconds=0.0, units_per_process=2
)
SHAPES = (Shape(inputs=(np.zeros((1, 64), dtype=np.float32),), weight=1.0),)


def quiet(_: str) -> None:
    pass


def probe_job(probe: Any, **changes: Any) -> LatencyJob:
    engines = {arm: probe.engine(arm, **changes.pop(arm, {})) for arm in ARMS}
    fields = {"params": PARAMS, "seed": "sha256:aa", **changes}
    return LatencyJob(target=probe.target, engines=engines, shapes=SHAPES, **fields)


@pytest.mark.slow
def test_units_are_fresh_sessions_in_fresh_processes(probe: Any) -> None:
    """Each process takes the units it is told; each unit opens every arm anew, in the seeded order."""
    units = take_units(probe_job(probe), total=5, say=quiet)
    assert [unit.index for unit in units] == [0, 1, 2, 3, 4]
    assert [unit.process for unit in units] == [0, 0, 1, 1, 2]
    opened = [(pid, arm) for pid, event, arm in probe.events() if event == "open"]
    pids = [pid for pid, _ in opened]
    assert len(set(pids)) == 3
    assert os.getpid() not in pids
    assert [len(list(same)) for _, same in groupby(pids)] == [6, 6, 3]
    wanted = [arm for unit in units for arm in creation_order(ARMS, unit.seed)]
    assert [arm for _, arm in opened] == wanted


@pytest.mark.slow
def test_several_builds_are_run_in_turn_by_all_arms(probe: Any) -> None:
    """Unit i runs build i mod 3 of every arm, the control included, and says so."""
    job = probe_job(probe, control=True)
    copies = {arm: tuple(probe.engine(f"{arm}-{n}", **{}) for n in (1, 2)) for arm in job.engines}
    units = take_units(dataclasses.replace(job, copies=copies), total=5, say=quiet)
    opened = [arm for _, event, arm in probe.events() if event == "open"]
    wanted = []
    for one in units:
        number = one.index % 3
        assert {times.build for times in one.arms.values()} == {number}
        for arm in creation_order([*ARMS, CONTROL], one.seed):
            name = "dense" if arm == CONTROL else arm
            wanted.append(f"{name}-{number}" if number else name)
    assert opened == wanted
    (plain, *_) = take_units(job, total=1, say=quiet)
    assert {times.build for times in plain.arms.values()} == {msgspec.UNSET}


def test_blocks_are_a_permutation_and_its_mirror_and_switches_are_discarded(probe: Any) -> None:
    """The runs of a unit are warm-up, then two blocks an arm of which only the later calls are kept."""
    (taken,) = take_units(probe_job(probe), total=1, say=quiet)
    runs = [arm for _, event, arm in probe.events() if event == "run"]
    warm = sum(arm.warmup_calls for arm in taken.arms.values())
    blocks = [(arm, len(list(same))) for arm, same in groupby(runs[warm:])]
    order = block_order(ARMS, taken.seed)
    # The two blocks of the last arm touch each other.
    assert [arm for arm, _ in blocks] == [*order, *reversed(order[:-1])]
    for arm, times in taken.arms.items():
        assert times.order == order.index(arm)
        first, second = times.blocks_ns
        assert len(first) == len(second) >= PARAMS.min_calls
        discarded = 2 * PARAMS.discard_calls
        assert sum(n for a, n in blocks if a == arm) == len(first) + len(second) + discarded
        assert min(first + second) >= 100_000


@pytest.mark.slow
def test_orders_are_functions_of_the_seed(probe: Any) -> None:
    """The same seed takes units with the same seeds and orders; another seed does not."""
    job = probe_job(probe)
    one = take_units(job, total=4, say=quiet)
    again = take_units(job, total=4, say=quiet)
    other = take_units(probe_job(probe, seed="sha256:bb"), total=4, say=quiet)
    facts = [
        [(u.seed, {a: t.order for a, t in u.arms.items()}) for u in x] for x in (one, again, other)
    ]
    assert facts[0] == facts[1]
    assert facts[0] != facts[2]
    assert [unit.seed for unit in one] == [unit_seed("sha256:aa", index) for index in range(4)]


@pytest.mark.slow
def test_more_units_go_on_where_the_last_look_ended(probe: Any) -> None:
    """Units that are there stay as they are; new ones come from new processes."""
    job = probe_job(probe)
    first = take_units(job, total=3, say=quiet)
    more = take_units(job, total=4, already=first, say=quiet)
    assert more[:3] == first
    assert (more[3].index, more[3].process) == (3, 2)
    assert take_units(job, total=2, already=more, say=quiet) == more


@given(st.integers(0, 2**48), st.permutations(["a", "b", "c", "d"]))
def test_an_order_is_a_permutation_of_the_set_of_arms(seed: int, arms: list[str]) -> None:
    """How the arms happen to be listed changes nothing."""
    for order in (creation_order, block_order):
        assert sorted(order(arms, seed)) == ["a", "b", "c", "d"]
        assert order(arms, seed) == order(sorted(arms), seed)


def test_every_arm_comes_first_about_equally_often() -> None:
    """No arm is favoured by the shuffle, over the seeds of one run."""
    for order in (creation_order, block_order):
        first = [order(ARMS, unit_seed("x", index))[0] for index in range(600)]
        assert min(first.count(arm) for arm in ARMS) > 150


def test_a_process_that_dies_is_our_error_and_leaves_nothing(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal is named, and no file stays in the temporary folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    with pytest.raises(RepruneError, match="killed by signal 9") as caught:
        take_units(probe_job(probe, dense={"dies": True}), total=1, say=quiet)
    assert caught.value.exit_code == 1
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.slow
def test_a_process_that_hangs_is_stopped(probe: Any) -> None:
    """The limit is a field of the job; the units that were asked for are named."""
    with pytest.raises(RepruneError, match="did not end within 1 s"):
        take_units(probe_job(probe, dense={"ms": 60_000}, hang_seconds=1.0), total=1, say=quiet)


def test_an_engine_that_does_not_load_is_the_users_error(probe: Any) -> None:
    """What the runtime said crosses the process boundary."""
    with pytest.raises(BuildError, match="the probe does not load"):
        take_units(probe_job(probe, champion={"refuses": True}), total=1, say=quiet)


def test_a_corrupt_engine_is_a_build_error(
    tmp_path: Path, small_and_big: tuple[Path, Path]
) -> None:
    """The same with the real runtime."""
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(small_and_big[0].read_bytes()[:200])
    job = LatencyJob(
        target=Target(), engines={"dense": bad}, shapes=SHAPES, params=PARAMS, seed="s"
    )
    with pytest.raises(BuildError, match="cannot load"):
        take_units(job, total=1, say=quiet)


def test_real_units_hold_times_that_tell_a_big_net_from_a_small_one(
    small_and_big: tuple[Path, Path],
) -> None:
    """With ONNX Runtime: every arm measured, and sixty times the work is seen."""
    small, big = small_and_big
    engines = {"candidate": small, "dense": big}
    job = LatencyJob(target=Target(), engines=engines, shapes=SHAPES, params=PARAMS, seed="s")
    said: list[str] = []
    units = take_units(job, total=2, say=said.append)
    assert any("2 of 2" in text for text in said)
    for taken in units:
        medians = {a: np.median(np.concatenate(t.blocks_ns)) for a, t in taken.arms.items()}
        assert medians["dense"] > 2 * medians["candidate"]
        assert taken.started_s > 1e9


def test_the_measuring_process_imports_no_torch() -> None:
    """What is timed shares its process with nothing heavy."""
    code = "import sys, reprune.measure.unit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_measuring_process_ends_when_the_benchmark_is_gone(probe: Any) -> None:
    """An orphan takes no further unit: it would disturb whoever measures next."""
    code = (
        "import msgspec, sys\n"
        "from reprune.measure import unit\n"
        "from reprune.core.errors import RepruneError\n"
        "spec = msgspec.json.decode(sys.argv[1], type=unit.UnitSpec)\n"
        "try:\n    unit._take_all(spec)\n"
        "except RepruneError as error:\n    print(error)\n"
    )
    blocks = BlockPlan(block_ms=1.0, min_calls=5, discard_calls=1, warmup_seconds=0.0)
    spec = UnitSpec(
        parent=1, process=0, target=probe.target, engines={}, shapes=(), weights=(),
        blocks=blocks, units=((0, 0),),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, canonical(spec).decode()], capture_output=True, check=False
    )
    assert b"is gone" in done.stdout


@pytest.mark.slow
def test_a_board_is_asked_how_it_is_set_before_every_unit(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode may change between two units of one process; elsewhere nothing is asked, nothing told."""
    tool = tmp_path / "bin" / "nvpmodel"
    tool.parent.mkdir()
    asked = tmp_path / "asked"
    # Its words as nvpmodel has them; the mode is another one each time.
    tool.write_text(
        f"#!/bin/sh\necho >> {asked}\nn=$(wc -l < {asked})\n"
        'echo "NV Power Mode: MODE_$n"\necho "$n"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    write_inputs(tmp_path / "x.npz", SHAPES[0].inputs)
    spec = UnitSpec(
        parent=os.getppid(), process=0, target=probe.target,
        engines={arm: str(probe.engine(arm)) for arm in ARMS}, shapes=(str(tmp_path / "x.npz"),),
        weights=(1.0,), units=((0, 1), (1, 2)),
        blocks=BlockPlan(block_ms=1.0, min_calls=5, discard_calls=1, warmup_seconds=0.0),
    )  # fmt: skip
    assert [one.board for one in unit._take_all(spec)] == [msgspec.UNSET] * 2
    assert not asked.exists()
    monkeypatch.setattr(unit, "is_jetson", lambda: True)
    modes = [{"jetson power_mode": f"MODE_{n} ({n})"} for n in (1, 2)]
    assert [one.board for one in unit._take_all(spec)] == modes


class Clock:
    """A clock that only sessions move; it stands in for the time module of what measures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 0
        monkeypatch.setattr(unit, "time", self)
        monkeypatch.setattr(calls, "time", self)

    def perf_counter_ns(self) -> int:
        return self.ns

    def perf_counter(self) -> float:
        return self.ns / 1e9


class Lasting:
    """A session whose calls last as `milliseconds` says, given the call's number and its inputs."""

    def __init__(self, clock: Clock, milliseconds: Any) -> None:
        self.clock, self.milliseconds, self.calls = clock, milliseconds, 0

    def run(self, inputs: Any) -> list[Any]:
        self.clock.ns += round(self.milliseconds(self.calls, inputs) * 1e6)
        self.calls += 1
        return []


def test_warming_up_ends_when_it_is_stable_or_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow start is waited for, three like blocks are enough, what never settles has a limit."""
    clock = Clock(monkeypatch)
    plan = BlockPlan(block_ms=4.0, min_calls=5, discard_calls=1, warmup_seconds=5.0)
    slow_start = Lasting(clock, lambda call, _: 8.0 - call if call < 7 else 1.0)
    warm = warm_up(slow_start, SHAPES, plan)
    assert (warm.calls, warm.call_ns) == (20, 1e6)
    assert warm_up(Lasting(clock, lambda *_: 1.0), SHAPES, plan).calls == 15
    restless = Lasting(clock, lambda call, _: 1.0 + (call // 5) % 2)
    plan = msgspec.structs.replace(plan, warmup_seconds=0.05)
    begin = clock.ns
    assert warm_up(restless, SHAPES, plan).calls == 35
    assert 50e6 <= clock.ns - begin < 61e6


@given(st.floats(1.0, 1e10), st.integers(5, 50))
def test_a_block_fills_its_time_and_never_has_too_few_calls(call_ns: float, min_calls: int) -> None:
    """The number of calls is the smallest that satisfies both."""
    plan = BlockPlan(block_ms=10.0, min_calls=min_calls, discard_calls=1, warmup_seconds=0.0)
    calls = calls_a_block(call_ns, plan)
    assert calls >= min_calls
    assert calls * call_ns >= 1e7 * (1 - 1e-9) or calls == min_calls
    assert calls == min_calls or (calls - 1) * call_ns < 1e7


def test_a_call_of_several_shapes_lasts_their_mean_by_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three quarters of the traffic at 1 ms and a quarter at 5 ms make 2 ms."""
    session = Lasting(Clock(monkeypatch), lambda _, inputs: len(inputs[0]))
    shapes = [Shape(inputs=(np.zeros(n),), weight=w) for n, w in ((1, 0.75), (5, 0.25))]
    assert timed_calls(session, shapes, 2) == (2_000_000, 2_000_000)
    assert session.calls == 2 * 2


def test_inputs_survive_the_file(tmp_path: Path) -> None:
    """Order, types and values are kept, for more than ten inputs as well."""
    inputs = [np.arange(n, dtype=np.int64 if n % 2 else np.float32) for n in range(12)]
    write_inputs(tmp_path / "x.npz", inputs)
    for before, after in zip(inputs, read_inputs(tmp_path / "x.npz"), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def workload(*works: Work) -> Any:
    return SimpleNamespace(workload=lambda: works)


def test_a_workload_is_cut_or_repeated_to_the_batch_size() -> None:
    """Inputs keep their values; weights their shares."""
    work = Work(inputs=(torch.arange(6.0).reshape(3, 2), torch.arange(3)), weight=1.0)
    (shape,) = timed_shapes(workload(work), 5)
    np.testing.assert_array_equal(shape.inputs[1], [0, 1, 2, 0, 1])
    assert shape.inputs[0].shape == (5, 2)
    (shape,) = timed_shapes(workload(work), 1)
    np.testing.assert_array_equal(shape.inputs[0], [[0.0, 1.0]])


@pytest.mark.parametrize("weights", [(), (0.5,), (1.5, -0.5), (0.5, 0.6)])
def test_shares_of_traffic_must_be_shares(weights: tuple[float, ...]) -> None:
    """An empty workload and weights that are none are the task's mistake."""
    works = [Work(inputs=(torch.zeros(1, 2),), weight=weight) for weight in weights]
    with pytest.raises(TaskError, match="workload"):
        timed_shapes(workload(*works), 1)


def test_quick_ratio_tells_which_engine_is_slower(small_and_big: tuple[Path, Path]) -> None:
    """The ratio is time(a) over time(b), and swapping the engines turns it round."""
    small, big = small_and_big
    inputs = [torch.zeros(1, 64)]
    ratio = quick_ratio(OnnxRuntime(), big, small, Target(), inputs, rounds=3, seed=1)
    mirrored = quick_ratio(OnnxRuntime(), small, big, Target(), inputs, rounds=3, seed=1)
    assert ratio > 2.0
    assert mirrored < 0.5


def test_a_target_profile_has_latency_and_operators(small_and_big: tuple[Path, Path]) -> None:
    """The whole call and its fused operators are measured, and the operators' shares sum to one."""
    params = ProfileParams(calls=20, warmup_calls=5)
    profile = measure_target(small_and_big[1], "cpu", here(Target(batch_size=1), 1), SHAPES, params)
    assert profile.target == "cpu"
    assert profile.latency_us > 0
    assert sum(operator.share for operator in profile.operators) == pytest.approx(1.0, abs=1e-3)
    assert profile.latency_us > 0.5 * sum(operator.median_us for operator in profile.operators)
