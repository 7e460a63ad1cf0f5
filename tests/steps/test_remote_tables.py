"""Latency tables of a device behind a command, and plans that are timed there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.compress.planning.latency import FEWEST, LOOKS
from reprune.compress.tables.table import OperatorTable, read_tables
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Profile
from reprune.core.errors import ChainBroken, RepruneError
from reprune.core.machine import this_machine
from reprune.core.params import Params, PlanParams, SensitivityParams, TableParams, Target
from reprune.steps import plan as plan_step
from reprune.steps import remote_timing
from reprune.steps.remote import Remote
from tests.devices import local_device
from tests.measure.test_measuring_steps import (
    PARAMS,
    World,
    put_data,
    put_dense,
    put_previous,
)
from tests.steps.test_remote_compiling import install

pytestmark = pytest.mark.slow
TABLES = TableParams(builds=1, step=64, rounds=1)
# So many that a call of half the layers is clearly shorter.
BATCH = 128
INPUTS = {"dense": "dense", "data": "data", "previous": "none"}


class Devices:
    """A repository whose targets are this machine, a device that runs files from anywhere, and one whose
    engines are compiled on it; the plan is by the latency of the first device.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.world = root, World(root)
        self.calls = root / "calls"
        run = local_device(root / "jet", identity="jet", before=f"echo >> {self.calls}")
        self.params = self.with_targets(
            here=Target(batch_size=BATCH),
            jet=Target(run=run, batch_size=BATCH),
            board=Target(runtime="board", run=run, batch_size=BATCH),
        )

    def with_targets(self, **targets: Target) -> Params:
        return msgspec.structs.replace(
            PARAMS,
            targets=targets,
            profile=msgspec.structs.replace(PARAMS.profile, tables=TABLES),
            sensitivity=SensitivityParams(cuts=(0.5,), examples=32),
            plan=PlanParams(
                budget="latency",
                latency_target="jet",
                allocator="latency",
                fraction=0.9,
                round_to=64,
                latency_trials=2,
            ),
        )

    @property
    def called(self) -> int:
        return len(self.calls.read_text().splitlines())

    def plan(self, out: str, params: Params, profile: str = "profile") -> Any:
        return self.world.step(
            "plan",
            out,
            params=params,
            dense="dense",
            table="table",
            previous="none",
            profiles=[profile],
        )


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    """Profiled once, with a sensitivity."""
    root = tmp_path_factory.mktemp("devices")
    with pytest.MonkeyPatch.context() as patch:
        install(root, patch)
        patch.setenv("REPRUNE_WORK", str(root / "work"))
        made = Devices(root)
        put_data(made.world, "data", put_dense(made.world, "dense"))
        put_previous(made.world, "none")
        made.world.step("profile", "profile", params=made.params, **INPUTS)
        made.world.step("sensitivity", "table", params=made.params, **INPUTS)
        yield made


def tables(devices: Devices, name: str = "profile") -> dict[str, OperatorTable]:
    made = store.read(devices.world.path(name), Profile)
    return {table.target: table for table in read_tables(made.file("tables.json"))}


def test_every_target_is_timed_where_it_is(devices: Devices) -> None:
    """The device's machine stands with what it timed, and is part of what its tables hold for."""
    made = store.read(devices.world.path("profile"), Profile).manifest
    timed = {one.target: one for one in made.targets}
    assert set(timed) == {"here", "jet", "board"}
    assert made.machine == this_machine(1)
    assert timed["here"].machine is msgspec.UNSET
    for name in ("jet", "board"):
        machine = timed[name].machine
        assert isinstance(machine, type(made.machine))
        assert machine.instance != made.machine.instance
        assert timed[name].latency_us > 0
    assert tables(devices)["board"].key.version == "1 on jet"


def test_a_device_tells_of_the_same_layers_as_this_machine(devices: Devices) -> None:
    """By the runtime's own profile; of what is compiled there each layer alone. Both know every width."""
    found = tables(devices)
    assert set(found) == {"here", "jet", "board"}
    assert found["jet"].sites == found["here"].sites
    assert [site.layer for site in found["board"].sites] == ["0", "2", "4"]
    for table in found.values():
        assert table.builds == 1
        assert len(table.cuts) == 1
        assert all(0 < cut.whole < 2 for cut in table.cuts)
        assert table.widths == {"0": 256, "2": 256}
        assert all(point.us >= 0 for one in table.times for point in one.points)
        assert any(point.us > 0 for one in table.times for point in one.points)


def test_a_latency_budget_of_a_device_is_timed_on_it(devices: Devices) -> None:
    """The loop closes there: one call says who it is, and one a trial what it takes; that is in the plan.
    Where the first looks of a trial disagree, each further one is a call.
    """
    before = devices.called
    made = devices.plan("plan", devices.params)
    found = store.read(devices.world.path("plan"), Plan).manifest.predicted.latencies
    assert set(found) == {"jet"}
    assert found["jet"].measured is not None
    assert found["jet"].measured <= 0.9
    trials, more = found["jet"].trials, LOOKS - FEWEST
    assert trials <= devices.called - before - 1 <= trials * (1 + more)
    assert "not here" not in made.file("plan.yaml").read_text()


def test_a_plan_is_not_timed_on_another_kind_of_device(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are the first device's: the plan is refused, and both are named."""
    manifest = store.read(devices.world.path("profile"), Profile).manifest
    other = msgspec.structs.replace(this_machine(1), kind="Babbage 1", cpu="Babbage 1")
    devices.world.put(
        "profile-other",
        msgspec.structs.replace(
            manifest,
            targets=tuple(
                msgspec.structs.replace(one, machine=other) if one.machine else one
                for one in manifest.targets
            ),
        ),
        lambda draft: (draft / "tables.json").write_bytes(
            (devices.world.path("profile") / "tables.json").read_bytes()
        ),
        dense=store.read(devices.world.path("dense"), ModelBundle).digest,
    )
    monkeypatch.setenv("REPRUNE_WORK", str(devices.root / "other-work"))
    with pytest.raises(ChainBroken, match=r"another kind of machine.*Babbage 1.*then") as caught:
        devices.plan("plan-other", devices.params, "profile-other")
    assert "reach the device that was profiled" in caught.value.fix


def test_a_device_that_is_not_there_is_an_error_of_the_profile(devices: Devices) -> None:
    """Before anything of it is built; no artefact is left."""
    params = devices.with_targets(jet=Target(run="false {args}", batch_size=BATCH))
    with pytest.raises(RepruneError, match="the device of 'jet' ended with exit code 1"):
        devices.world.step("profile", "profile-gone", params=params, **INPUTS)
    assert not devices.world.path("profile-gone").exists()


def either(folder: Path) -> tuple[str, Path]:
    """The `run` of one of two devices, the first one until the file is there."""
    first, second = (
        local_device(folder / name, identity=name).partition(" ")[0] for name in ("jet", "jot")
    )
    switch, door = folder / "switch", folder / "door"
    door.write_text(f'#!/bin/sh\ntest -e {switch} && exec {second} "$@"\nexec {first} "$@"\n')
    door.chmod(0o755)
    return f"{door} {{args}}", switch


def test_a_device_that_changes_under_the_profile_is_refused(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its first answer it is another machine: times of two are never put together."""
    run, switch = either(devices.root / "two")
    real = Remote.units

    def switched(*args: Any, **more: Any) -> Any:
        switch.touch()
        return real(*args, **more)

    monkeypatch.setattr(Remote, "units", switched)
    params = devices.with_targets(jet=Target(run=run, batch_size=BATCH))
    with pytest.raises(ChainBroken, match=r"is another machine.*than the one that answered first"):
        devices.world.step("profile", "profile-two", params=params, **INPUTS)
    assert not devices.world.path("profile-two").exists()


def test_a_plan_that_goes_on_with_another_device_takes_nothing_from_the_first(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was timed before a kill is used again on the same machine alone, though both are of one kind."""
    run, switch = either(devices.root / "three")
    params = devices.with_targets(jet=Target(run=run, batch_size=BATCH))
    taken: list[int] = []
    real = remote_timing._take

    def counted(remote: Remote, pairs: Any) -> Any:
        taken.append(len(pairs))
        return real(remote, pairs)

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(remote_timing, "_take", counted)
    with monkeypatch.context() as killed:
        killed.setattr(plan_step, "recorded", dies)
        seen = []
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                devices.plan("plan-killed", params)
            seen.append(len(taken))
    assert seen[0] == seen[1] > 0
    switch.touch()
    devices.plan("plan-killed", params)
    assert len(taken) > seen[1]
