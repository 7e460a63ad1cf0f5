"""build and benchmark for a TensorRT target, with NVIDIA's libraries simulated at their edge (tests/nvidia).

Everything above it is what runs on a GPU: the parse and build in a child process, the session with its graph
and events, the driver read at every block, and the judge on what was recorded. It shows no speed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.compress.tables.table import read_tables
from reprune.core import store
from reprune.core.artifacts import Engines, GuardResult
from reprune.core.errors import BuildError, ChainBroken
from reprune.core.params import TableParams, Target
from reprune.core.policy import MemoryRules
from reprune.core.store import Artifact
from reprune.judge.evidence import Start, Unit, decode_units
from reprune.judge.verdict import judge
from reprune.runtimes.base import get_runtime
from reprune.steps.looking import refuse_unequal
from reprune.steps.target_demands import gains
from tests.building import edit, make_evidence, make_policy
from tests.measure.test_measuring_steps import (
    PARAMS,
    POLICY,
    World,
    put_cut,
    put_data,
    put_dense,
    put_previous,
)
from tests.nvidia.trouble import VARIABLE

pytestmark = pytest.mark.slow
LIBRARIES = Path(__file__).parents[1] / "nvidia"
GRAPH = "CUDA events around a captured graph, without copies"
LAUNCH = "CUDA events around each launch, without copies"
GPU_PARAMS = msgspec.structs.replace(
    PARAMS,
    targets={"gpu": Target(runtime="tensorrt", device="gpu")},
    benchmark=msgspec.structs.replace(PARAMS.benchmark, memory_processes=1, units_per_process=5),
)
GPU_POLICY = msgspec.structs.replace(
    POLICY, targets={"gpu": "required"}, looks=(5, 6), memory=MemoryRules(ceiling_bytes=10**9)
)


@pytest.fixture(scope="module")
def libraries() -> Iterator[None]:
    """The simulated libraries before all others, here and in every process that is begun."""
    with pytest.MonkeyPatch.context() as patch:
        hidden = ("tensorrt", "cuda", "pynvml", "trouble")
        for name in [each for each in sys.modules if each.partition(".")[0] in hidden]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(str(LIBRARIES))
        before = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(LIBRARIES), before))))
        yield
        for name in [each for each in sys.modules if each.partition(".")[0] in hidden]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def world(libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRUNE_WORK", str(root / "work"))
        made = World(root)
        dense = put_dense(made, "dense")
        put_cut(made, "candidate", dense)
        put_previous(made, "previous", put_cut(made, "champion", put_dense(made, "old", seed=5)))
        put_data(made, "data", dense)
        inputs = {"candidate": "candidate", "dense": "dense", "previous": "previous"}
        made.step("build", "engines", params=GPU_PARAMS, policy=GPU_POLICY, data="data", **inputs)
        yield made


def measured(world: World, out: str) -> Artifact[Any]:
    return world.benchmark(out=out, params=GPU_PARAMS, policy=GPU_POLICY)


def units_of(made: Artifact[Any]) -> tuple[Unit, ...]:
    (samples,) = made.manifest.targets
    return decode_units(made.file(samples.file).read_bytes())


def device_guard(units: tuple[Unit, ...]) -> GuardResult:
    policy = make_policy(looks=(5, 6), guards={"control": False})
    found = judge(edit(make_evidence(units=1), "targets.0.units", units), policy)
    return next(one for one in found.guards or () if one.guard == "device")


def test_engines_tell_what_must_be_equal_in_all_arms(world: World) -> None:
    """TF32 and the profile, from the build itself."""
    engines = json.loads((world.path("engines") / "manifest.json").read_bytes())
    told = {fact["arm"]: fact["built"]["details"] for fact in engines["engines"]}
    assert set(told) == {"candidate", "dense", "champion"}
    for details in told.values():
        assert details["TF32"] == "off"
        assert details["profile"] == "1 to 1 examples, usually 1"


def test_a_quiet_gpu_is_timed_by_its_own_clock_and_watched(world: World) -> None:
    made = measured(world, "quiet")
    units = units_of(made)
    assert {unit.clock for unit in units} == {GRAPH}
    for times in (arm for unit in units for arm in unit.arms.values()):
        assert len(times.conditions) == 2
        for block in times.conditions:
            assert block.device is not None
            assert (block.device.clock_mhz, block.device.power_limit_w) == (1410, 250.0)
            assert (block.device.throttle, block.device.other_processes) == ((), 0)
    assert device_guard(units).outcome == "ok"
    (samples,) = made.manifest.targets
    starts = msgspec.json.decode(
        made.file(samples.starts).read_bytes(), type=dict[str, tuple[Start, ...]]
    )
    for found in starts.values():
        (start,) = found
        assert start.clock == GRAPH
        assert start.phases
        assert min(start.phases.h2d_us, start.phases.compute_us, start.phases.d2h_us) > 0


def test_what_the_dense_model_cannot_capture_no_arm_captures(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the dense engine is too large for a graph; every unit times launches, of all arms."""
    sizes = sorted(path.stat().st_size for path in world.path("engines").rglob("*.engine"))
    assert sizes[-2] < sizes[-1] // 2
    monkeypatch.setenv(VARIABLE, json.dumps({"captures": sizes[-1] // 2}))
    assert {unit.clock for unit in units_of(measured(world, "launched"))} == {LAUNCH}


def test_trouble_of_the_gpu_reaches_the_judge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"reasons": 0x41, "others": 2}))
    guard = device_guard(units_of(measured(world, "trouble")))
    assert guard.outcome == "tripped"
    assert "slowed down (hw_thermal_slowdown)" in guard.words
    assert "2 other processes used it" in guard.words


def test_a_gpu_that_is_lost_meanwhile_is_no_evidence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"lost": True}))
    with pytest.raises(BuildError, match="stopped telling about the GPU: GPU is lost"):
        measured(world, "lost")
    assert not world.path("lost").exists()


def test_arms_that_were_built_unlike_are_refused(world: World) -> None:
    """The dense engine with TF32 would be compared with a candidate without."""
    engines = store.read(world.path("engines"), Engines)
    refuse_unequal(engines)
    facts = tuple(
        edit(fact, "built.details", lambda told: told | {"TF32": "on"})
        if fact.arm == "dense"
        else fact
        for fact in engines.manifest.engines
    )
    unlike = replace(engines, manifest=msgspec.structs.replace(engines.manifest, engines=facts))
    with pytest.raises(
        ChainBroken, match=r"TF32 is off \(candidate\), off \(champion\), on \(dense\)"
    ):
        refuse_unequal(unlike)


def test_int8_in_fp16_is_timed_beside_fp16(world: World) -> None:
    """By profile, side by side in one process; the plan tells what int8 buys there."""
    target = Target(runtime="tensorrt", device="gpu", precision="int8-fp16")
    params = msgspec.structs.replace(GPU_PARAMS, targets={"gpu": target})
    made = world.step(
        "profile", "profile", params=params, dense="dense", data="data", previous="previous"
    )
    (told,) = made.manifest.targets
    assert told.over_fp16 > 0
    (words,) = gains([made.manifest])
    assert words.startswith(f"gpu: int8-fp16 takes {told.over_fp16:.2f} of the time of fp16")


def test_a_damaged_engine_is_refused_in_words(world: World, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.engine"
    damaged.write_bytes(b"no plan")
    with pytest.raises(BuildError, match="TensorRT cannot load it"):
        get_runtime("tensorrt").open(damaged, GPU_PARAMS.targets["gpu"])


def test_a_gpu_has_tables_from_processes_of_their_own(world: World) -> None:
    """TensorRT tells no layer of the module, so that each is built and timed alone, where it may crash."""
    knobs = msgspec.structs.replace(PARAMS.profile, tables=TableParams(builds=1, step=64, rounds=1))
    params = msgspec.structs.replace(GPU_PARAMS, profile=knobs)
    made = world.step(
        "profile", "profile", params=params, dense="dense", data="data", previous="previous"
    )
    (table,) = read_tables(made.file("tables.json"))
    assert (table.target, table.key.runtime, table.builds) == ("gpu", "tensorrt", 1)
    assert [site.layer for site in table.sites] == ["0", "2", "4"]
    assert all(point.us > 0 for one in table.times for point in one.points)
