"""The set of examples/perception through the pipeline `perception`, each task in a container of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.perception.pipeline import make
from reprune.core import store
from reprune.core.artifacts import Verdict
from tests.containers.conftest import Faults, Images
from tests.containers.test_pipeline import Project, built, rooted
from tests.kubeflow import QUIET, handed_on
from tests.pipeline.test_set import MEMBERS, planned_by_macs, small_set, train_member

pytestmark = [pytest.mark.containers, *QUIET]


@pytest.fixture(scope="module")
def project(
    images: Images, docker_runner: None, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """The example in small, as images of its own; one version of each member."""
    made = small_set(tmp_path_factory.mktemp("set") / "repo", rooted)
    planned_by_macs(made)
    members = [{"name": name} for name in MEMBERS]
    return Project(
        made,
        made.root.with_name("root"),
        **built(made, images, "perception"),
        made=make,
        more={"members": members, "shards": ["0/2", "1/2"]},
    )


@pytest.fixture(scope="module")
def passed(project: Project) -> Path:
    return project.run()


def test_a_set_is_promoted_as_one(project: Project, passed: Path) -> None:
    verdict = store.read(passed / "gate" / "verdict", Verdict)
    assert verdict.manifest.judgement.outcome == "pass"
    assert handed_on(passed, "promote")["receipt"]["promoted"] is True
    assert project.champion() == "1"


@pytest.mark.parametrize(("task", "fault"), [("fetch-member", "halved"), ("fetch-set", "killed")])
def test_a_member_that_is_not_whole_ends_the_run_without_a_promotion(
    project: Project, passed: Path, faults: Faults, task: str, fault: str
) -> None:
    faults[task] = fault  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="FAILURE"):
        project.run()
    assert project.champion() == "1"


def test_one_member_that_got_worse_blocks_all(
    project: Project, passed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Promote ends with 3 and names the member; the champion stays."""
    project.repository.edit(
        "policy.yaml", lambda given: given["quality"]["segmenter.dice"].update(floor=0.999)
    )
    train_member(project.repository, "detector", seed=2)
    project.repository.update()
    before = set(project.root.iterdir())
    capfd.readouterr()
    with pytest.raises(RuntimeError, match="promote"):
        project.run()
    (blocked,) = set(project.root.iterdir()) - before
    judgement = store.read(blocked / "gate" / "verdict", Verdict).manifest.judgement
    assert judgement.outcome == "block"
    said = capfd.readouterr().out
    assert judgement.reasons[0] in said
    assert "segmenter.dice" in judgement.reasons[0]
    assert project.champion() == "1"
