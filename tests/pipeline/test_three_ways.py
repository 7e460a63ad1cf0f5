"""One verdict over a target here, one behind a command and one that a kit went to, all of them required."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import Benchmark, Verdict
from reprune.core.errors import InputError
from reprune.core.machine import this_machine
from reprune.judge.evidence import Evidence
from reprune.steps.gate import confirm
from tests.devices import local_device
from tests.repository import Repository, make_repository, stage

# The whole pipeline on real input: what it costs is the device's processes, one after the other.
pytestmark = [pytest.mark.slow, pytest.mark.deep, pytest.mark.alone]

NAMES = ("here", "jet", "phone")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Up to the engines; those of `jet` were compared on the device."""
    made = make_repository(tmp_path_factory.mktemp("ways") / "repo")
    run = local_device(made.root.with_name("jet"), identity="jet")
    plain = {"runtime": "onnxruntime", "batch_size": 1, "threads": 1}
    targets = {"here": plain, "jet": {**plain, "run": run}, "phone": {**plain, "kit": True}}
    made.edit("params.yaml", lambda params: params.update(targets=targets))
    required = dict.fromkeys(NAMES, "required")
    made.edit("policy.yaml", lambda policy: policy.update(targets=required, looks=[8, 15]))
    made.train(seed=1)
    made.update()
    made.repro(until="engines")
    return made


@pytest.fixture(scope="module")
def judged(built: Repository) -> Repository:
    """The kit came back, and was judged with the others."""
    with pytest.raises(InputError, match="measured by a kit"):
        built.step(stage("benchmark"))
    assert not (built.root / "artifacts" / "benchmark").exists()
    kit = built.root.with_name("kits")
    done = built.reprune("kit", "--out", str(kit), "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["folders"]) == {"phone"}
    ran = subprocess.run(
        [sys.executable, "-P", str(kit / "phone" / "runner.py"), str(kit / "back")],
        env={"PATH": "/usr/bin:/bin", "REPRUNE_MACHINE_ID": "phone"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    taken = built.reprune("import", str(kit / "back"))
    assert taken.returncode == 0, taken.stderr
    built.step(stage("benchmark"))
    built.step(stage("verdict"))
    built.step(stage("report"))
    return built


def evidence_of(repository: Repository) -> Evidence:
    raw = (repository.root / "artifacts" / "verdict" / "evidence.json").read_bytes()
    return msgspec.json.decode(raw, type=Evidence)


def test_each_is_judged_on_its_own_machine(judged: Repository) -> None:
    """Three machines, none of them ours twice; every rule about latency and outputs holds for all three."""
    evidence = evidence_of(judged)
    assert evidence.problems == ()
    machines = {given.target: given.machine for given in evidence.targets}
    assert set(machines) == set(NAMES)
    assert len({machine.instance for machine in machines.values()}) == len(NAMES)
    assert machines["here"].instance == this_machine(1).instance
    assert {f"candidate@{name}" for name in NAMES} <= set(evidence.quality.arms)
    verdict = store.read(judged.root / "artifacts" / "verdict", Verdict)
    rules = verdict.manifest.judgement.rules
    timed = {rule.target for rule in rules if rule.rule.startswith("latency.vs_parent")}
    assert timed == set(NAMES)
    assert verdict.manifest.judgement.outcome != "error"


def test_it_is_the_same_when_judged_again(judged: Repository) -> None:
    """From the verdict's folder alone: no device and no kit is needed."""
    verdict = store.read(judged.root / "artifacts" / "verdict", Verdict)
    assert confirm(verdict) == verdict.manifest.judgement
    again = judged.reprune("check", "--recompute", "--json")
    assert json.loads(again.stdout)["recomputed"] is True


def test_the_page_names_the_machines(judged: Repository) -> None:
    page = (judged.root / "artifacts" / "report" / "report.html").read_text()
    for name in NAMES:
        assert name in page


@pytest.mark.parametrize("missing", ["phone", "jet"])
def test_without_the_samples_of_one_it_is_an_error(
    judged: Repository, tmp_path: Path, missing: str
) -> None:
    """A benchmark that lacks them, every digest of it right."""
    root = Path(shutil.copytree(judged.root, tmp_path / "repo", symlinks=True))
    path = root / "artifacts" / "benchmark"
    whole = store.read(path, Benchmark)
    shutil.rmtree(path)
    with store.drafting(path) as draft:
        for name in whole.manifest.payload:
            if missing not in name:
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(judged.root / "artifacts" / "benchmark" / name, draft / name)
        kept = tuple(one for one in whole.manifest.targets if one.target != missing)
        manifest = msgspec.structs.replace(whole.manifest, targets=kept)
        made: Any = manifest.producer
        store.write(
            draft, manifest, step=made.step, parents=manifest.parents, out=path, knobs=made.knobs
        )
    lacking = Repository(root)
    verdict = lacking.step(stage("verdict"))
    assert verdict.manifest.judgement.outcome == "error"
    assert missing in json.dumps(msgspec.to_builtins(verdict.manifest.judgement))
    assert lacking.reprune("check").returncode == 2
