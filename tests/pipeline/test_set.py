"""Three models and one budget: a set goes through every step, and a retrained member through all again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Verdict
from reprune.core.lock import read_lock
from reprune.core.params import read_params
from reprune.registry.open import open_registry
from tests.pipeline.test_mnist import use_example
from tests.repository import Repository, make_repository

pytestmark = pytest.mark.slow

MEMBERS = {"depth": "depth-net", "detector": "detector", "segmenter": "segmenter"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The example with fewer frames and members that were hardly trained: what they lose is allowed."""
    made = make_repository(tmp_path_factory.mktemp("set") / "repo")
    use_example(made, "perception")
    frames = made.root / "task" / "frames.py"
    text = frames.read_text()
    counts = '"train": 1200, "tune": 150, "calibration": 150, "eval": 400'
    assert counts in text
    frames.write_text(
        text.replace(counts, '"train": 200, "tune": 60, "calibration": 60, "eval": 120')
    )
    least = {"train": 100, "tune": 50, "calibration": 50, "eval": 100}
    made.edit("params.yaml", lambda given: given["validate"].update(min_examples=least))
    made.edit("params.yaml", lambda given: given["validate"].update(min_slice_examples=0))
    made.edit("params.yaml", lambda given: given["sensitivity"].update(cuts=[0.5], examples=60))
    made.edit("params.yaml", lambda given: given["distill"].update(epochs=1))
    rules = {
        name: {"vs_parent": {"max_drop": 0.9, "max_error_ratio": None}}
        for name in ("detector.f1", "segmenter.dice", "depth.mae")
    }
    made.edit("policy.yaml", lambda given: given.update(quality=rules, looks=[8]))
    made.edit("policy.yaml", lambda given: given.pop("latency"))
    for member in MEMBERS:
        train_member(made, member, seed=1)
    made.update()
    made.repro()
    return made


def train_member(repository: Repository, member: str, *, seed: int) -> None:
    subprocess.run(
        [sys.executable, "train_member.py", member, "--seed", str(seed), "--epochs", "1"],
        cwd=repository.root,
        check=True,
        capture_output=True,
    )


def test_the_whole_set_is_one_candidate(repository: Repository) -> None:
    """Cut under one budget, in every member's own layers; the manifest names each member's digest."""
    lock = read_lock(repository.root / "reprune.lock.yaml")
    artifacts = repository.root / "artifacts"
    plan = store.read(artifacts / "plan", Plan).manifest
    candidate = store.read(artifacts / "candidate", ModelBundle).manifest
    assert {group.group.partition(".")[0] for group in plan.groups} == set(MEMBERS)
    assert candidate.members == lock.dense.members
    told = yaml.safe_load((artifacts / "plan" / "plan.yaml").read_text())
    assert set(told["members"]) == set(MEMBERS)
    parts = sum(part["predicted_loss"] for part in told["members"].values())
    assert parts == pytest.approx(told["predicted"]["loss_increase"], abs=1e-3)
    assert told["equal_shares"]["macs_left"] <= 0.5
    assert candidate.surgery is not None
    assert candidate.surgery.after.macs <= 0.5 * candidate.surgery.before.macs


def test_every_member_is_judged_by_its_own_metric(repository: Repository) -> None:
    verdict = store.read(repository.root / "artifacts" / "verdict", Verdict).manifest
    assert verdict.judgement.outcome == "pass", verdict.judgement.reasons
    rules = {rule.rule: rule for rule in verdict.judgement.rules}
    for name in ("detector.f1", "segmenter.dice", "depth.mae"):
        assert rules[f"{name}.vs_parent"].outcome == "pass"
    report = (repository.root / "artifacts" / "report" / "report.md").read_text()
    assert "detector" in report
    assert "segmenter" in report


def test_it_is_promoted_as_one_and_a_retrained_member_is_a_new_version(
    repository: Repository,
) -> None:
    """One version of the set's name under one alias; then a lock with the others as they were."""
    done = repository.reprune("promote", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["promoted"]
    params = read_params(repository.root / "params.yaml")
    registry = open_registry(params.registry, repository.root)
    assert registry.alias("perception-compressed", "champion") == "1"
    (info,) = registry.versions("perception-compressed")
    assert "depth=1+detector=1+segmenter=1" in info.tags.values()
    before = read_lock(repository.root / "reprune.lock.yaml").dense
    train_member(repository, "detector", seed=2)
    repository.update()
    after = read_lock(repository.root / "reprune.lock.yaml")
    assert after.dense.version == "depth=1+detector=2+segmenter=1"
    assert before.members
    assert after.dense.members
    assert after.dense.members["depth"] == before.members["depth"]
    assert after.champion != "none"


def test_members_under_other_names_than_the_task_has_are_told(
    repository: Repository, tmp_path: Path
) -> None:
    """Before anything is pinned."""
    other = Repository(tmp_path / "repo")
    shutil.copytree(repository.root, other.root, symlinks=True)
    names = {"depth": "depth-net", "finder": "detector", "segmenter": "segmenter"}
    other.edit("params.yaml", lambda given: given.update(members=names))
    updated = other.reprune("update")
    assert updated.returncode == 2
    assert "finder" in updated.stderr
    assert "the task has depth, detector, segmenter" in updated.stderr
