"""profile, build and benchmark on real artefacts of a tiny task: what they write, count and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

from reprune.compress.bundle import load_bundle, save_bundle
from reprune.compress.structure.architecture import Architecture, ModuleCut, apply
from reprune.compress.tables.table import read_tables
from reprune.core import store
from reprune.core.artifacts import (
    DataReport,
    Manifest,
    ModelBundle,
    Previous,
    SplitFact,
    TaskFact,
)
from reprune.core.errors import (
    BuildError,
    ChainBroken,
    DataRefused,
    DocumentError,
    RepruneError,
    TaskError,
)
from reprune.core.lock import ChampionRef, DenseRef, Lock
from reprune.core.machine import this_machine
from reprune.core.params import (
    BenchmarkParams,
    BuildParams,
    Params,
    ProfileParams,
    TableParams,
    Target,
)
from reprune.core.policy import (
    ChampionRatio,
    GuardRules,
    LatencyRules,
    MaxRatio,
    MemoryRules,
    MinRatio,
    Policy,
    QualityRules,
    SliceRules,
    TailRules,
    ThroughputRules,
)
from reprune.core.step import Documents, run
from reprune.core.store import Artifact
from reprune.judge.evidence import CONTROL, decode_units
from reprune.runtimes.onnxruntime import OnnxRuntime
from reprune.steps import get_step

pytestmark = pytest.mark.slow

TASK = """
import numpy as np
from torch import nn
from reprune.task.bases import Classification, Examples

PREPROCESS = "a"


class TinyTask(Classification):
    def __init__(self):
        random = np.random.default_rng(1)
        targets = np.arange(300) % 3
        inputs = (random.normal(size=(300, 16)) + targets[:, None]).astype(np.float32)
        examples = Examples(
            inputs=(inputs,),
            targets=targets,
            ids=[f"v{row}" for row in range(300)],
            slices={"parity": [("even", "odd")[row % 2] for row in range(300)]},
        )
        super().__init__(examples, {"train": range(200), "eval": range(200, 300)}, batch_size=32)

    def model(self):
        return nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                             nn.Linear(256, 3))

    @property
    def preprocess_digest(self):
        return PREPROCESS
"""
CUT = Architecture(
    cuts=(
        ModuleCut(module="0", axis="out", size=256, keep=tuple(range(0, 256, 8))),
        ModuleCut(module="2", axis="in", size=256, keep=tuple(range(0, 256, 8))),
    )
)
TARGETS = {"one": Target(), "more": Target(batch_size=4)}
PARAMS = Params(
    name="tiny",
    task="task.tiny:TinyTask",
    targets=TARGETS,
    profile=ProfileParams(calls=10, warmup_calls=2),
    build=BuildParams(parity_examples=10),
    benchmark=BenchmarkParams(
        block_ms=1.0, discard_calls=1, warmup_seconds=0.0, units_per_process=3
    ),
)
POLICY = Policy(
    targets={"one": "required", "more": "advisory"},
    looks=(5, 6),
    latency=LatencyRules(vs_parent=MaxRatio(max_ratio=0.9), vs_champion=ChampionRatio()),
)
NO_DIGEST = "sha256:" + "0" * 64


@dataclass
class World:
    """A repository's artefacts; `step` runs one as every door does."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / "artifacts" / name

    def put(
        self, name: str, manifest: Manifest, fill: Callable[[Path], None], **parents: str
    ) -> Any:
        with store.drafting(self.path(name)) as draft:
            fill(draft)
            return store.write(draft, manifest, step="test", parents=parents, out=self.path(name))

    def step(
        self,
        name: str,
        out: str,
        *,
        policy: Policy = POLICY,
        params: Params = PARAMS,
        **inputs: str | list[str],
    ) -> Artifact[Any]:
        lock = Lock(
            reprune="0", registry="files", workspace="default", name="tiny",
            dense=DenseRef(version="1", weights=NO_DIGEST), champion="none",
            targets=("one",), params=NO_DIGEST, policy=NO_DIGEST, task=NO_DIGEST, data_version="1",
        )  # fmt: skip
        documents = Documents(root=self.root, params=params, policy=policy, lock=lock)
        given: dict[str, Any] = {
            key: self.path(value) if isinstance(value, str) else [self.path(one) for one in value]
            for key, value in inputs.items()
        }
        return run(get_step(name), given, documents, self.path(out), say=lambda _: None)

    def build(self, previous: str = "previous", out: str = "engines") -> Artifact[Any]:
        return self.step(
            "build", out, candidate="candidate", dense="dense", previous=previous, data="data"
        )

    def benchmark(self, out: str = "benchmark", **changes: Any) -> Artifact[Any]:
        inputs = {"engines": "engines", "dense": "dense", "previous": "previous", "data": "data"}
        return self.step("benchmark", out, **(inputs | changes))

    def ledger(self) -> list[dict[str, Any]]:
        path = self.root / "reprune.attempts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def bundle_manifest(version: str = "1") -> ModelBundle:
    return ModelBundle(
        name="tiny",
        dense_version=version,
        task=TaskFact(entry="task.tiny:TinyTask", digest=NO_DIGEST, data_version="1"),
    )


def put_dense(
    world: World, name: str, *, task: str = TASK, seed: int = 0, version: str = "1"
) -> Any:
    def fill(draft: Path) -> None:
        folder = draft / "task" / "task"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "tiny.py").write_text(task)
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3)
        )
        save_file(module.state_dict(), draft / "weights.safetensors")

    return world.put(name, bundle_manifest(version), fill)


def put_cut(world: World, name: str, source: Any, version: str = "1") -> Any:
    def fill(draft: Path) -> None:
        save_bundle(draft, apply(load_bundle(source).module, CUT), CUT, source)

    return world.put(name, bundle_manifest(version), fill)


def put_previous(world: World, name: str, champion: Any = None, *, attempts: int = 0) -> Any:
    ref = None
    if champion is not None:
        ref = ChampionRef(version="7", bundle=champion.digest, receipt=NO_DIGEST)
    manifest = Previous(
        name="tiny", dense_version="1", champion=ref, anchor=None, attempts=attempts, history=()
    )

    def fill(draft: Path) -> None:
        if champion is not None:
            store.copy_into(champion, draft / "champion")

    return world.put(name, manifest, fill)


def put_data(world: World, name: str, dense: Any, *, passed: bool = True, digest: str = "") -> Any:
    census = load_bundle(dense).task.census("eval")
    fact = SplitFact(
        examples=100, digest=digest or census.digest, classes={}, slices={}, sources=None
    )
    manifest = DataReport(
        task=bundle_manifest().task, passed=passed, expectations=(), splits={"eval": fact}, power=()
    )
    return world.put(name, manifest, lambda _: None, dense=dense.digest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Dense model, candidate, champion, engines: built once, read by every test of this module."""
    root = tmp_path_factory.mktemp("world")
    before = os.environ.get("REPRUNE_WORK")
    os.environ["REPRUNE_WORK"] = str(root / "work")
    made = World(root)
    dense = put_dense(made, "dense")
    put_cut(made, "candidate", dense)
    put_previous(made, "none")
    champion = put_cut(made, "champion", put_dense(made, "old", seed=5))
    put_previous(made, "previous", champion, attempts=3)
    put_data(made, "data", dense)
    made.build()
    yield made
    os.environ.pop("REPRUNE_WORK")
    if before is not None:
        os.environ["REPRUNE_WORK"] = before


def test_every_arm_is_built_for_every_target(world: World) -> None:
    """Facts name the bundle, its weights and cost; parity is close; the file is in the payload."""
    engines = store.read(world.path("engines"), get_step("build").output)
    facts = {(fact.arm, fact.target): fact for fact in engines.manifest.engines}
    arms = ("candidate", "dense", "champion")
    assert set(facts) == {(arm, target) for arm in arms for target in TARGETS}
    for (arm, _), fact in facts.items():
        bundle = store.read(world.path(arm), ModelBundle)
        assert fact.bundle == bundle.digest
        assert fact.weights == bundle.manifest.payload["weights.safetensors"]
        assert fact.bytes == engines.file(fact.file).stat().st_size
        assert fact.parity.max_abs < 1e-4
        assert fact.parity.cosine == pytest.approx(1.0, abs=1e-6)
        assert fact.parity.agreement == 1.0
        assert fact.parity.examples >= 10
        assert fact.inputs == ("input",)
        onnx.checker.check_model(str(engines.file(fact.file)))
    dense, candidate = facts["dense", "one"], facts["candidate", "one"]
    assert dense.cost.macs == 16 * 256 + 256 * 256 + 256 * 3
    assert candidate.cost.macs == 16 * 32 + 32 * 256 + 256 * 3
    assert candidate.bytes < dense.bytes
    assert engines.manifest.machine == this_machine(1)


def test_engines_that_differ_only_in_how_they_run_are_the_same_file(world: World) -> None:
    """The batch size is no part of an ONNX file, so nothing is exported twice."""
    payload = store.read(world.path("engines"), get_step("build").output).manifest.payload
    for arm in ("candidate", "dense", "champion"):
        assert payload[f"engines/one/{arm}.onnx"] == payload[f"engines/more/{arm}.onnx"]


def test_without_a_champion_there_are_two_arms_the_same_every_time(world: World) -> None:
    """`none` is a state of its own; nothing of the clock or the folder is in the manifest."""
    built = world.build(previous="none", out="engines-none")
    assert {fact.arm for fact in built.manifest.engines} == {"candidate", "dense"}
    assert world.build(previous="none", out="engines-again").digest == built.digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('PREPROCESS = "a"', 'PREPROCESS = "b"', "preprocessing is b"),
        ("nn.Linear(256, 3)", "nn.Linear(256, 3), nn.Softmax(-1), nn.Flatten(0)", "outputs are"),
        ("def model", 'input_names = ("other",)\n\n    def model', "inputs are named other"),
        (
            "return nn.Sequential(",
            "raise ValueError('gone')\n        return (",
            "cannot be rebuilt",
        ),
        ("import numpy as np", "import numpyy as np", "cannot be rebuilt"),
    ],
    ids=["preprocessing", "outputs", "names", "factory", "import"],
)
def test_a_champion_that_cannot_be_compared_is_an_error_with_a_way_out(
    world: World, tmp_path: Path, old: str, new: str, words: str
) -> None:
    """Each champion runs through its own stored task; what differs is said, and what to do."""
    assert old in TASK
    elsewhere = World(tmp_path)
    champion = put_dense(elsewhere, "champion", task=TASK.replace(old, new))
    dense = put_dense(elsewhere, "dense")
    put_cut(elsewhere, "candidate", dense)
    put_previous(elsewhere, "previous", champion)
    put_data(elsewhere, "data", dense)
    with pytest.raises(BuildError, match=words) as caught:
        elsewhere.build()
    assert "another `name`" in caught.value.fix
    assert not elsewhere.path("engines").exists()


def test_another_bundle_than_the_promoted_one_is_no_champion(world: World, tmp_path: Path) -> None:
    """What lies in the folder must be what the receipt named."""
    elsewhere = World(tmp_path)
    dense = put_dense(elsewhere, "dense")
    put_cut(elsewhere, "candidate", dense)
    put_data(elsewhere, "data", dense)
    ref = ChampionRef(version="7", bundle=NO_DIGEST, receipt=NO_DIGEST)
    manifest = Previous(
        name="tiny", dense_version="1", champion=ref, anchor=None, attempts=0, history=()
    )
    elsewhere.put("previous", manifest, lambda out: store.copy_into(dense, out / "champion"))
    with pytest.raises(ChainBroken, match="not the one that was promoted"):
        elsewhere.build()


def test_strangers_and_refused_data_are_refused(world: World) -> None:
    """A failed contract, a report or a candidate of another dense model: before anything is built."""
    dense = store.read(world.path("dense"), ModelBundle)
    put_data(world, "data-failed", dense, passed=False)
    other = put_dense(world, "dense-2", seed=9, version="2")
    put_data(world, "data-2", other)
    put_cut(world, "candidate-2", other, version="2")
    inputs = {"candidate": "candidate", "dense": "dense", "previous": "none", "data": "data"}
    with pytest.raises(DataRefused):
        world.step("build", "x", **(inputs | {"data": "data-failed"}))
    with pytest.raises(ChainBroken, match="data report"):
        world.step("build", "x", **(inputs | {"data": "data-2"}))
    with pytest.raises(ChainBroken, match="the candidate comes from tiny 2"):
        world.step("build", "x", **(inputs | {"candidate": "candidate-2"}))
    with pytest.raises(DataRefused):
        world.step("profile", "x", dense="dense", data="data-failed", previous="previous")
    with pytest.raises(DataRefused):
        world.benchmark(data="data-failed")
    assert not world.path("x").exists()


def test_the_benchmark_records_and_times_all_arms(world: World) -> None:
    """One pass of records, units up to a look of the policy, one line in the ledger; all of it typed."""
    lines = len(world.ledger())
    made = world.benchmark()
    manifest = made.manifest
    assert manifest.attempt == max(lines, 3) + 1
    last = world.ledger()[-1]
    assert (last["attempt"], last["dense_version"]) == (manifest.attempt, "1")
    assert last["candidate"] == store.read(world.path("candidate"), ModelBundle).digest
    arms = ("candidate", "dense", "champion")
    assert manifest.arms == {arm: store.read(world.path(arm), ModelBundle).digest for arm in arms}
    data = store.read(world.path("data"), DataReport).manifest
    assert manifest.recorded.eval_digest == data.splits["eval"].digest
    assert manifest.machine == this_machine(1)
    # Every earlier look of this module was at the same examples, and is in the ledger.
    assert manifest.uses == sum(x["eval_digest"] == last["eval_digest"] for x in world.ledger())
    stored = load_file(made.file("records.safetensors"))
    columns = manifest.recorded.columns
    assert "correct" in columns
    keys = {f"{arm}@{target}" for arm in arms for target in TARGETS} | {"dense"}
    assert set(stored) == {f"{key}/{column}" for key in keys for column in columns}
    assert all(len(column) == 100 for column in stored.values())
    np.testing.assert_array_equal(stored["dense/correct"], stored["dense@one/correct"])
    assert len(json.loads(made.file("examples.json").read_bytes())["ids"]) == 100
    assert [(t.target, t.batch_size) for t in manifest.targets] == [("more", 4), ("one", 1)]
    for samples in manifest.targets:
        units = decode_units(made.file(samples.file).read_bytes())
        assert len(units) == samples.units
        assert samples.units in POLICY.looks
        assert all(set(unit.arms) == {*arms, CONTROL} for unit in units)
        blocks = [arm.conditions for unit in units for arm in unit.arms.values()]
        assert all(len(conditions) == 2 for conditions in blocks)
        assert [unit.index for unit in units] == list(range(len(units)))


def test_what_the_policy_asks_for_is_measured_and_nothing_else(world: World) -> None:
    """Other batch sizes, memory, as many units as a tail needs; no control where no guard wants one."""
    policy = msgspec.structs.replace(
        POLICY,
        targets={"wide": "required"},
        latency=LatencyRules(tail=TailRules(units=20, vs_parent=MaxRatio(max_ratio=0.9))),
        throughput=ThroughputRules(vs_parent=MinRatio(min_ratio=1.1)),
        memory=MemoryRules(ceiling_bytes=10**9),
        guards=GuardRules(control=False),
    )
    wide = Target(throughput_batch_sizes=(8, 1, 3, 8))
    inputs = {"candidate": "candidate", "dense": "dense", "previous": "previous", "data": "data"}
    params = msgspec.structs.replace(PARAMS, targets={"wide": wide})
    built = world.step("build", "engines-wide", params=params, **inputs)
    made = world.benchmark(
        out="benchmark-wide", engines="engines-wide", policy=policy, params=params
    )
    (samples,) = made.manifest.targets
    arms = {fact.arm for fact in built.manifest.engines}
    assert samples.units == 20
    assert [one.batch_size for one in samples.throughput] == [3, 8]
    for one in samples.throughput:
        assert one.units in policy.looks
        units = decode_units(made.file(one.file).read_bytes())
        assert len(units) == one.units
        assert all(set(unit.arms) == arms for unit in units)
    memory = json.loads(made.file(samples.memory).read_bytes())
    assert set(memory) == arms
    assert all(len(found) == 3 and min(found) > 0 for found in memory.values())
    starts = json.loads(made.file(samples.starts).read_bytes())
    assert {arm: [one["peak_bytes"] for one in found] for arm, found in starts.items()} == memory
    assert all(one["load_ns"] > 0 < one["first_call_ns"] for one in starts["dense"])
    assert {
        samples.file,
        samples.memory,
        samples.starts,
        "operators/wide.json",
        *(one.file for one in samples.throughput),
    } == {name for name in made.manifest.payload if name.partition("/")[1]}


def test_orders_come_from_the_dense_model_and_the_data_alone(world: World) -> None:
    """A second benchmark, and one of another candidate, meets the very same orders."""
    policy = msgspec.structs.replace(POLICY, latency=None, looks=(5, 50))
    seeds = []
    for _ in range(2):
        made = world.benchmark(out="benchmark-seeds", policy=policy)
        file = made.manifest.targets[0].file
        seeds.append([unit.seed for unit in decode_units(made.file(file).read_bytes())])
    assert seeds[0] == seeds[1]
    # With no latency rule there is nothing to wait for after the first look.
    assert len(seeds[0]) == 5


def test_engines_of_another_machine_champion_or_target_cost_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the sealed split is opened, so nothing is counted."""
    before = world.ledger()
    with pytest.raises(ChainBroken, match="another champion"):
        world.benchmark(previous="none")
    monkeypatch.setenv("REPRUNE_MACHINE_ID", "another")
    with pytest.raises(ChainBroken, match="another machine"):
        world.benchmark()
    assert world.ledger() == before


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"acuracy": QualityRules(floor=0.5)}, "did you mean 'accuracy'"),
        ({"accuracy": QualityRules(slices=SliceRules())}, "the examples have no slices"),
    ],
)
def test_a_policy_that_nobody_can_answer_costs_no_attempt(
    world: World, rules: dict[str, QualityRules], words: str
) -> None:
    """It is refused before the sealed split is opened, whatever `validate` was once asked."""
    before = world.ledger()
    with pytest.raises(DocumentError, match=words):
        world.benchmark(policy=msgspec.structs.replace(POLICY, quality=rules))
    assert world.ledger() == before


def test_an_eval_split_that_changed_is_refused_and_the_look_counts(world: World) -> None:
    """The report describes other data than what was judged: an aborted attempt is an attempt."""
    dense = store.read(world.path("dense"), ModelBundle)
    put_data(world, "data-old", dense, digest=NO_DIGEST)
    world.step(
        "build", "engines-old", candidate="candidate", dense="dense", previous="none",
        data="data-old",
    )  # fmt: skip
    before = world.ledger()
    with pytest.raises(ChainBroken, match="not the one that the data report describes"):
        world.benchmark(
            engines="engines-old", data="data-old", previous="none", out="benchmark-old"
        )
    assert len(world.ledger()) == len(before) + 1
    assert not world.path("benchmark-old").exists()


def test_no_look_happens_that_cannot_be_counted(world: World, tmp_path: Path) -> None:
    """If the ledger cannot be written the sealed split stays shut: its batches would raise."""
    elsewhere = World(tmp_path)
    task = TASK + (
        "\n    def batches(self, split, **options):\n"
        "        if split == 'eval':\n            raise RuntimeError('eval was opened')\n"
        "        return super().batches(split, **options)\n"
    )
    dense = put_dense(elsewhere, "dense", task=task)
    put_cut(elsewhere, "candidate", dense)
    put_previous(elsewhere, "previous")
    put_data(elsewhere, "data", dense)
    elsewhere.build()
    (tmp_path / "reprune.attempts.jsonl").mkdir()
    with pytest.raises(RepruneError, match="directory"):
        elsewhere.benchmark()
    (tmp_path / "reprune.attempts.jsonl").rmdir()
    with pytest.raises((RuntimeError, TaskError), match="eval was opened"):
        elsewhere.benchmark()
    assert len(elsewhere.ledger()) == 1


SLOWLY = """
import sys, pathlib
sys.path.insert(0, {here!r})
import msgspec, test_measuring_steps as t
slow = msgspec.structs.replace(t.PARAMS.benchmark, pause_seconds=60.0)
t.PARAMS = msgspec.structs.replace(t.PARAMS, benchmark=slow)
t.World(pathlib.Path({root!r})).benchmark(out="benchmark-killed")
"""


def test_a_killed_benchmark_leaves_nothing_but_its_attempt(world: World) -> None:
    """SIGKILL in the middle of the timing: no artefact, no draft after the next run, one more line."""
    before = len(world.ledger())
    code = SLOWLY.format(here=str(Path(__file__).parent), root=str(world.root))
    killed = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
    deadline = time.monotonic() + 60
    while len(world.ledger()) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(world.ledger()) == before + 1
    assert not world.path("benchmark-killed").exists()
    made = world.benchmark(out="benchmark-killed")
    assert made.manifest.attempt == max(before + 1, 3) + 1
    assert list(world.path("").glob(".benchmark-killed*")) == []


def test_a_profile_counts_and_measures(world: World) -> None:
    """Cost by layer as counted, latency and operators for each target, on this machine."""
    made = world.step(
        "profile", "profile", dense="dense", data="data", previous="previous"
    ).manifest
    assert made.cost.macs == 16 * 256 + 256 * 256 + 256 * 3
    assert [(layer.layer, layer.macs) for layer in made.layers if layer.macs] == [
        ("0", 16 * 256),
        ("2", 256 * 256),
        ("4", 256 * 3),
    ]
    assert made.uncounted == ()
    assert [(t.target, t.batch_size, t.runtime) for t in made.targets] == [
        ("more", 4, "onnxruntime"),
        ("one", 1, "onnxruntime"),
    ]
    assert all(target.latency_us > 0 and target.operators for target in made.targets)


def test_a_runtime_that_may_crash_is_profiled_in_a_process_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latency and tables come from there, operators are not asked for; a kit is not timed."""
    risky = msgspec.structs.replace(OnnxRuntime.capabilities, may_crash=True)
    monkeypatch.setattr(OnnxRuntime, "capabilities", risky)
    monkeypatch.setattr(OnnxRuntime, "open", None)
    targets = {"here": Target(), "there": Target(kit=True)}
    knobs = msgspec.structs.replace(PARAMS.profile, tables=TableParams(builds=1, step=64, rounds=1))
    params = msgspec.structs.replace(PARAMS, targets=targets, profile=knobs)
    made = world.step(
        "profile", "profile-apart", dense="dense", data="data", previous="previous", params=params
    )
    (only,) = made.manifest.targets
    assert (only.target, only.operators) == ("here", ())
    assert only.latency_us > 0
    (table,) = read_tables(made.file("tables.json"))
    assert (table.target, table.builds) == ("here", 1)


def test_the_steps_load_without_torch() -> None:
    """The command line imports them for its help."""
    code = (
        "import sys\n"
        "from reprune.steps import get_step\n"
        "for name in ('profile', 'build', 'benchmark'): get_step(name)\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'onnx', 'onnxruntime')))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_int8_target_is_built_compared_and_timed(world: World) -> None:
    """Smaller, near its bundle, with what was quantised said; the same bytes when built again."""
    targets = {"small": Target(precision="int8", ranges="percentile")}
    params = msgspec.structs.replace(PARAMS, targets=targets)
    policy = msgspec.structs.replace(POLICY, targets={"small": "required"}, latency=None)
    inputs = {"candidate": "candidate", "dense": "dense", "previous": "previous", "data": "data"}
    built = world.step("build", "engines-int8", params=params, **inputs)
    floats = store.read(world.path("engines"), get_step("build").output).manifest.engines
    size = {fact.arm: fact.bytes for fact in floats if fact.target == "one"}
    for fact in built.manifest.engines:
        assert fact.precision == "int8"
        assert fact.bytes < 0.5 * size[fact.arm]
        assert fact.parity.cosine > 0.98
        assert any("examples of tune" in note for note in fact.built.notes)
        assert "quantised layers" in fact.built.details
    again = world.step("build", "engines-int8-again", params=params, **inputs)
    assert again.digest == built.digest
    made = world.benchmark(out="bench-int8", engines="engines-int8", params=params, policy=policy)
    (samples,) = made.manifest.targets
    assert samples.units >= policy.looks[0]
