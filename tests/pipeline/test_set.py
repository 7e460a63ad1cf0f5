"""Three models and one budget: a set goes through every step, and a retrained member through all again.

Through DVC first, then through the pipeline `perception`, as a cluster would run it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines.perception.pipeline import make
from reprune.core import store
from reprune.core.artifacts import MemberWeights, ModelBundle, Plan, Profile, Verdict
from reprune.core.lock import read_lock
from reprune.core.params import read_params
from reprune.core.step import run
from reprune.doors.kfp.options import Options
from reprune.doors.local import STAGES
from reprune.doors.steps import read_documents
from reprune.registry.open import open_registry
from reprune.steps import get_step
from tests.component_run import registered
from tests.kubeflow import PLACES, QUIET, handed_on, latest_run, subprocess_runner, texts
from tests.pipeline.test_mnist import use_example
from tests.repository import Repository, inside, make_repository

pytestmark = [pytest.mark.slow, *QUIET]

MEMBERS = {"depth": "depth-net", "detector": "detector", "segmenter": "segmenter"}
# Tables that are made quickly: how well they predict is not asked here.
FEW = {"builds": 3, "rounds": 1}
# Where `perception` leaves what other pipelines leave elsewhere.
SET_PLACES = PLACES | {
    "dense": "fetch-set/dense",
    "previous": "fetch-set/previous",
    "profile": "for-loop-2-iteration-0/profile/profiled",
    "sensitivity": "sensitivity-merge/table",
    "engines": "for-loop-4-iteration-0/build/engines",
    "benchmark": "for-loop-4-iteration-0/benchmark/measured",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The example with fewer frames and members that were hardly trained: what they lose is allowed."""
    made = small_set(tmp_path_factory.mktemp("set") / "repo")
    made.repro()
    return made


def small_set(root: Path, prepared: Callable[[Repository], object] | None = None) -> Repository:
    """The repository of the example, with a lock of its members' first versions; `prepared` is called on
    it before those are made.
    """
    made = make_repository(root)
    use_example(made, "perception")
    if prepared is not None:
        prepared(made)
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
    made.edit("params.yaml", lambda given: given["profile"].update(tables=FEW))
    # A busy machine's timings scatter by more than a tenth.
    made.edit("params.yaml", lambda given: given["plan"].update(fraction=0.8))
    rules = {
        name: {"vs_parent": {"max_drop": 0.9, "max_error_ratio": None}}
        for name in ("detector.f1", "segmenter.dice", "depth.mae")
    }
    made.edit("policy.yaml", lambda given: given.update(quality=rules, looks=[5]))
    made.edit("policy.yaml", lambda given: given.pop("latency"))
    for member in MEMBERS:
        train_member(made, member, seed=1)
    made.update()
    return made


def planned_by_macs(repository: Repository) -> None:
    """A plan without latency, which is made at once and holds no time; with a lock of it."""
    counted = {"profile": {}, "plan": {"fraction": 0.5, "round_to": 8}}
    repository.edit("params.yaml", lambda given: given.update(counted))
    repository.update()


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
    assert candidate.surgery is not None
    assert candidate.surgery.after.bytes <= 0.75 * candidate.surgery.before.bytes


def test_the_budget_is_of_the_time_that_all_of_them_take_together(repository: Repository) -> None:
    """Planned by the profile's tables, timed as one engine, and told in milliseconds by member."""
    artifacts = repository.root / "artifacts"
    plan = store.read(artifacts / "plan", Plan).manifest
    assert plan.predicted.latencies
    one = plan.predicted.latencies["ort-cpu"]
    assert one.measured is not None
    assert one.measured == plan.predicted.latency_ratio
    assert one.measured <= plan.fraction
    profile = store.read(artifacts / "profile", Profile).manifest
    assert [fact.target for fact in profile.tables or ()] == ["ort-cpu"]
    told = yaml.safe_load((artifacts / "plan" / "plan.yaml").read_text())
    assert told["shares_of"] == "latency@ort-cpu"
    assert 0.0 < told["equal_shares"]["latency_left"] < 1.0
    whole = profile.targets[0].latency_us / 1000.0
    parts = [part["latency_ms"]["before"] for part in told["members"].values()]
    # What a call takes beside its layers is no member's, and a fit may find it a little below nothing.
    assert 0.3 * whole < sum(parts) < 1.5 * whole


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
    told = other.reprune("update")
    assert told.returncode == 2
    assert "'detector.f1' is no metric of a member" in told.stderr
    policy = other.root / "policy.yaml"
    policy.write_text(policy.read_text().replace("detector.", "finder."))
    updated = other.reprune("update")
    assert updated.returncode == 2
    assert "finder" in updated.stderr
    assert "the task has depth, detector, segmenter" in updated.stderr


def through_the_pipeline(repository: Repository, out: Path) -> None:
    """One run of `perception` to its end. Raises RuntimeError if it failed."""
    with subprocess_runner(repository, out):
        make(Options(retries=0))(
            **texts(repository),
            members=[{"name": "detector", "read_secret": "its-own"}]
            + [{"name": name} for name in ("segmenter", "depth")],
            shards=["0/2", "1/2"],
        )


def made_again(repository: Repository, folder: Path, out: Path, names: tuple[str, ...]) -> None:
    """Each of `names` as the command line makes it of what the run in `folder` made before it."""
    stages = {stage.out: stage for stage in STAGES}
    with inside(repository.root):
        documents = read_documents()
        for name in names:
            stage = stages[name]
            step = get_step(stage.step)
            many = {given.name for given in step.inputs if given.many}
            inputs: dict[str, Path | list[Path]] = {}
            for given, place in stage.inputs.items():
                path = folder / SET_PLACES[place]
                inputs[given] = [path] if given in many else path
            run(step, inputs, documents, out / name, say=lambda _: None)
            theirs = folder / SET_PLACES[name]
            for path in store.files(out / name):
                there = theirs / path.relative_to(out / name)
                assert path.read_bytes() == there.read_bytes(), f"{name}: {path.name}"


def test_a_set_with_one_member_that_got_worse_is_blocked(
    repository: Repository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through `perception`: each member is fetched apart, judged by its own rules, and the first that is not
    good enough is why all of them stay; the champion too.
    """
    repository.edit(
        "policy.yaml", lambda given: given["quality"]["segmenter.dice"].update(floor=0.999)
    )
    planned_by_macs(repository)
    before = registered(repository.root).champion
    capfd.readouterr()
    with pytest.raises(RuntimeError, match="promote"):
        through_the_pipeline(repository, tmp_path / "out")
    folder = latest_run(tmp_path / "out")
    parts = [
        store.read(folder / f"for-loop-1-iteration-{number}/fetch-member/weights", MemberWeights)
        for number in range(3)
    ]
    assert [part.manifest.member for part in parts] == ["detector", "segmenter", "depth"]
    judgement = store.read(folder / SET_PLACES["verdict"], Verdict).manifest.judgement
    assert judgement.outcome == "block"
    told = {rule.rule: rule.outcome for rule in judgement.rules}
    assert {rule for rule, outcome in told.items() if outcome != "pass"} == {"segmenter.dice.floor"}
    said = [line.strip() for line in capfd.readouterr().out.splitlines() if line.strip()]
    last = [line for line in said if "registered as version" in line]
    assert last, said[-20:]
    assert judgement.reasons[0] in last[-1]
    assert "segmenter.dice" in last[-1]
    assert "segmenter.dice" in (folder / "report" / "html").read_text(encoding="utf-8")
    assert registered(repository.root).champion == before
    made_again(repository, folder, tmp_path / "again", ("dense", "verdict", "report"))


@pytest.mark.deep
def test_a_set_whose_members_are_all_good_enough_is_promoted_as_one(
    repository: Repository, tmp_path: Path
) -> None:
    """Through `perception`: one version; whatever holds no time is the command line's, to the bit."""
    repository.edit(
        "policy.yaml", lambda given: given["quality"]["segmenter.dice"].pop("floor", None)
    )
    planned_by_macs(repository)
    before = registered(repository.root).champion
    through_the_pipeline(repository, tmp_path / "out")
    folder = latest_run(tmp_path / "out")
    receipt = handed_on(folder, "promote")["receipt"]
    assert receipt["promoted"] is True
    after = registered(repository.root).champion
    assert after is not None
    assert after != before
    names = ("dense", "data", "sensitivity", "plan", "pruned", "verdict", "report")
    made_again(repository, folder, tmp_path / "again", names)
