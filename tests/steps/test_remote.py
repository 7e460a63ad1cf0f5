"""Targets on other machines, end to end: built, measured and judged there, by a command and by a kit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import DataReport, Engines, ModelBundle, Previous
from reprune.core.errors import ChainBroken, InputError, PayloadCorrupt
from reprune.core.lock import DenseRef, Lock
from reprune.core.machine import this_machine
from reprune.core.params import Target
from reprune.core.step import Documents
from reprune.judge.evidence import decode_units
from reprune.runtimes.sidecar import read_sidecar
from reprune.steps.kit_out import Parts, make_kits
from reprune.steps.kits import import_result
from tests.devices import local_device
from tests.measure.test_measuring_steps import (
    NO_DIGEST,
    PARAMS,
    POLICY,
    World,
    put_cut,
    put_data,
    put_dense,
    put_previous,
)

pytestmark = pytest.mark.slow


class Away:
    """A repository with a target here, one behind a command, and one that only a kit reaches."""

    def __init__(self, root: Path) -> None:
        self.world = World(root)
        self.run = local_device(root / "jet", identity="jet")
        targets = {"here": Target(), "jet": Target(run=self.run), "phone": Target(kit=True)}
        self.params = msgspec.structs.replace(PARAMS, targets=targets)
        self.policy = msgspec.structs.replace(POLICY, targets=dict.fromkeys(targets, "required"))

    def build(self, out: str = "engines") -> Any:
        inputs = {"candidate": "candidate", "dense": "dense", "previous": "none", "data": "data"}
        return self.world.step("build", out, params=self.params, **inputs)

    def benchmark(self, out: str = "benchmark", engines: str = "engines", **changes: Any) -> Any:
        params = changes.pop("params", self.params)
        return self.world.benchmark(
            out, engines=engines, previous="none", params=params, policy=self.policy, **changes
        )

    def kit(self, out: Path, target: str = "") -> Any:
        lock = Lock(
            reprune="0", registry="files", workspace="default", name="tiny",
            dense=DenseRef(version="1", weights=NO_DIGEST), champion="none",
            targets=("one",), params=NO_DIGEST, policy=NO_DIGEST, task=NO_DIGEST, data_version="1",
        )  # fmt: skip
        documents = Documents(
            root=self.world.root, params=self.params, policy=self.policy, lock=lock
        )
        parts = Parts(
            engines=store.read(self.world.path("engines"), Engines),
            dense=store.read(self.world.path("dense"), ModelBundle),
            previous=store.read(self.world.path("none"), Previous),
            data=store.read(self.world.path("data"), DataReport),
        )
        return make_kits(documents, parts, out, target=target, say=lambda _: None)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    """Built once; the engines of `jet` were compared on the device."""
    root = tmp_path_factory.mktemp("away")
    before = os.environ.get("REPRUNE_WORK")
    os.environ["REPRUNE_WORK"] = str(root / "work")
    made = Away(root)
    dense = put_dense(made.world, "dense")
    put_cut(made.world, "candidate", dense)
    put_previous(made.world, "none")
    put_data(made.world, "data", dense)
    made.build()
    yield made
    os.environ.pop("REPRUNE_WORK")
    if before is not None:
        os.environ["REPRUNE_WORK"] = before


def run_kit(kit: Path, out: Path, *, identity: str = "phone") -> subprocess.CompletedProcess[str]:
    """As a person would on the device: that Python finds no Reprune there."""
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", str(kit / "runner.py"), str(out)],
        env={"PATH": "/usr/bin:/bin", "REPRUNE_MACHINE_ID": identity},
        cwd=kit,
        capture_output=True,
        text=True,
        check=False,
    )


def test_engines_of_a_device_are_bound_to_it(away: Away) -> None:
    """Facts and sidecars name the device; those that run here, or go out in a kit, name none."""
    engines = store.read(away.world.path("engines"), Engines)
    for fact in engines.manifest.engines:
        assert fact.parity.agreement == 1.0
        assert bool(fact.machine) == (fact.target == "jet")
        sidecar = read_sidecar(engines.file(fact.file))
        assert sidecar.engine == engines.manifest.payload[fact.file]
        assert sidecar.runtime_version == fact.runtime_version
    (instance,) = {f.machine.instance for f in engines.manifest.engines if f.machine}
    assert instance != this_machine(1).instance


def test_a_kit_that_did_not_come_back_costs_no_look(away: Away) -> None:
    """A target without samples is an error that says what to do, before the sealed split is opened."""
    lines = len(away.world.ledger())
    with pytest.raises(InputError, match="measured by a kit") as caught:
        away.benchmark()
    assert "reprune kit --target phone" in caught.value.fix
    assert len(away.world.ledger()) == lines


def test_all_three_ways_in_one_benchmark(away: Away, tmp_path: Path) -> None:
    """One look, counted when the kit was made; each target's samples are of its own machine."""
    attempt, kits = away.kit(tmp_path / "kits")
    kit = tmp_path / "kits" / "phone"
    assert set(kits) == {"phone"}
    assert "reprune import" in (kit / "README.txt").read_text()
    done = run_kit(kit, tmp_path / "back")
    assert done.returncode == 0, done.stderr
    lines = len(away.world.ledger())
    imported = import_result(away.world.root, tmp_path / "back", kit=None, now=time.time())
    made = away.benchmark()
    assert len(away.world.ledger()) == lines
    assert made.manifest.attempt == attempt == lines
    samples = {one.target: one for one in made.manifest.targets}
    assert samples["here"].machine is msgspec.UNSET
    instances = {samples["jet"].machine.instance, samples["phone"].machine.instance}
    assert len(instances | {made.manifest.machine.instance}) == 3
    for name, one in samples.items():
        units = decode_units(made.file(one.file).read_bytes())
        assert [unit.index for unit in units] == list(range(one.units))
        assert one.units == away.policy.looks[-1] or name != "phone"
        starts = json.loads(made.file(one.starts).read_bytes())
        assert set(starts) == {"candidate", "dense"}
        assert all(s["peak_bytes"] > 0 for found in starts.values() for s in found)
    assert {f"{arm}@{target}" for arm in ("candidate", "dense") for target in samples} <= {
        key.rpartition("/")[0] for key in _records(made)
    }
    for target in samples:
        assert _records(made)[f"dense@{target}/correct"] == _records(made)["dense/correct"]
    # A second benchmark of the same result is another decision, and counted as one.
    again = away.benchmark(out="again")
    assert again.manifest.attempt == attempt + 1
    with pytest.raises(InputError, match="imported before"):
        import_result(away.world.root, tmp_path / "back", kit=None, now=time.time())
    # What was kept is checked whenever it is read.
    victim = next((imported.folder / "outputs").rglob("*.npz"))
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(PayloadCorrupt):
        away.benchmark(out="third")


def _records(benchmark: Any) -> dict[str, tuple[int, ...]]:
    from safetensors.numpy import load_file

    stored = load_file(benchmark.file("records.safetensors"))
    return {name: tuple(column.tolist()) for name, column in stored.items()}


def test_what_import_refuses_changes_nothing(away: Away, tmp_path: Path) -> None:
    """Too old, of no kit that is known, edited, or the kit itself: nothing is kept, and nothing is spent."""
    _, kits = away.kit(tmp_path / "kits")
    nonce = kits["phone"].job.nonce
    assert run_kit(tmp_path / "kits" / "phone", tmp_path / "back").returncode == 0
    kept = away.world.root / ".reprune" / "kits" / nonce
    late = kits["phone"].job.expires_s + 60
    with pytest.raises(InputError, match="days ago"):
        import_result(away.world.root, tmp_path / "back", kit=None, now=late)
    with pytest.raises(InputError, match="no kit with the nonce"):
        import_result(tmp_path, tmp_path / "back", kit=None, now=time.time())
    with pytest.raises(PayloadCorrupt, match="this is the kit itself"):
        import_result(away.world.root, tmp_path / "kits" / "phone", kit=None, now=time.time())
    edited = Path(shutil.copytree(tmp_path / "back", tmp_path / "edited"))
    (edited / "units" / "0.json").write_bytes(b"[]")
    with pytest.raises(PayloadCorrupt):
        import_result(away.world.root, edited, kit=None, now=time.time())
    assert sorted(path.name for path in kept.iterdir()) == ["kit.json"]
    # Another checkout takes it by the kit's own folder.
    other = tmp_path / "checkout"
    other.mkdir()
    kit = tmp_path / "kits" / "phone"
    assert import_result(other, tmp_path / "back", kit=kit, now=time.time()).kit.engines


def test_another_device_than_the_one_built_for_costs_no_look(away: Away, tmp_path: Path) -> None:
    """The command reaches another machine now: refused before the sealed split is opened."""
    run = local_device(tmp_path / "other", identity="another jet")
    targets = {**away.params.targets, "jet": Target(run=run)}
    only = {name: target for name, target in targets.items() if name != "phone"}
    params = msgspec.structs.replace(away.params, targets=only)
    inputs = {"candidate": "candidate", "dense": "dense", "previous": "none", "data": "data"}
    here = msgspec.structs.replace(
        away.params, targets={name: away.params.targets[name] for name in only}
    )
    away.world.step("build", "engines-two", params=here, **inputs)
    lines = len(away.world.ledger())
    with pytest.raises(ChainBroken, match="another machine"):
        away.benchmark(engines="engines-two", params=params)
    assert len(away.world.ledger()) == lines
    assert not away.world.path("benchmark-two").exists()
