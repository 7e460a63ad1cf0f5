"""Device jobs: over a pipe to a second environment, in a folder, and all that can go wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np

from reprune.core.machine import this_machine
from reprune.core.params import BenchmarkParams, Target
from reprune.judge.evidence import CONTROL
from reprune.measure.calls import Shape
from reprune.measure.device_call import Device, call
from reprune.measure.device_job import (
    DeviceJob,
    Starting,
    Timing,
    add_pass,
    add_shapes,
    block_plan,
    new_job,
    schedule,
    seal,
)
from reprune.measure.device_results import (
    Returned,
    read_result_starts,
    read_result_units,
)
from reprune.runtimes.onnxruntime import OnnxRuntime
from tests.devices import local_device

ARMS = ("candidate", "dense")
FAST = BenchmarkParams(block_ms=1.0, discard_calls=1, warmup_seconds=0.0, units_per_process=2)


def batches(count: int = 2) -> list[tuple[np.ndarray]]:
    random = np.random.default_rng(5)
    return [(random.normal(size=(size, 64)).astype(np.float32),) for size in range(3, 3 + count)]


def make_job(
    folder: Path,
    engines: tuple[Path, Path],
    *,
    units: int = 3,
    starts: int = 1,
    valid_s: float = 600.0,
) -> DeviceJob:
    """Two arms of the fixture's engines, one pass of two batches, units and starts."""
    folder.mkdir(parents=True, exist_ok=True)
    job = new_job("jet", Target(), hang_seconds=60, valid_s=valid_s)
    arms = {}
    for arm, engine in zip(ARMS, engines, strict=True):
        arms[arm] = f"engines/{arm}.onnx"
        (folder / "engines").mkdir(exist_ok=True)
        shutil.copyfile(engine, folder / arms[arm])
    shapes = [Shape(inputs=batches(1)[0], weight=1.0)]
    files = add_shapes(folder, "1", shapes)
    timing = Timing(
        batch_size=1,
        shapes=files,
        weights=(1.0,),
        plan=block_plan(FAST),
        pause_seconds=0.0,
        units=schedule((*ARMS, CONTROL), "seed", range(units), first_process=0, per_process=2),
    )
    starting = Starting(shapes=files, weights=(1.0,), turns=(ARMS,) * starts)
    return seal(
        folder,
        msgspec.structs.replace(
            job,
            arms=arms,
            bound=False,
            passes={"eval": add_pass(folder, "eval", batches())},
            timings=(timing,) if units else (),
            starting=starting if starts else None,
        ),
    )


def device(run: str, **changes: float) -> Device:
    return Device(name="jet", run=run, say=lambda _: None, **{"limit_s": 120.0, **changes})


def test_a_job_goes_through_a_pipe_and_its_result_comes_back(
    small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    """Outputs are the engines', units those of the schedule, and the machine is the device's, not ours."""
    source, out = tmp_path / "job", tmp_path / "out"
    out.mkdir()
    job = make_job(source, small_and_big)
    said: list[str] = []
    there = Device(name="jet", run=local_device(tmp_path / "jet"), limit_s=120, say=said.append)
    result = call(there, source, job, out)
    assert result.machine.instance != this_machine(1).instance
    assert result.machine.kind == this_machine(1).kind
    assert result.runtime_version == OnnxRuntime().version()
    for arm, engine in zip(ARMS, small_and_big, strict=True):
        session = OnnxRuntime().open(engine, Target())
        back = Returned(out, job.passes["eval"], result.outputs["eval"][arm])
        for inputs in batches():
            np.testing.assert_array_equal(back.run(inputs)[0], session.run(inputs)[0])
    units = read_result_units(out, result.units[0])
    assert [unit.index for unit in units] == [0, 1, 2]
    assert [unit.process for unit in units] == [0, 0, 1]
    assert all(set(unit.arms) == {*ARMS, CONTROL} for unit in units)
    assert all(arm.conditions for unit in units for arm in unit.arms.values())
    starts = read_result_starts(out, result)
    assert {arm: len(found) for arm, found in starts.items()} == {"candidate": 1, "dense": 1}
    assert any("3 of 3 units taken" in line for line in said)
