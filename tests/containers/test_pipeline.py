"""The digits example through `continuous_compression`, each task in a container of the project's own images.

No network, a disk that cannot be written but /tmp, no privilege, a user of no rights: what a task
needs is in its image or below the pipeline's root, where the registry is too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kfp import local

from pipelines.continuous_compression.pipeline import make
from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.params import read_params
from reprune.doors.kfp.options import Options
from reprune.registry.open import open_registry
from reprune.registry.protocol import CHAMPION
from tests.containers.conftest import CONFINED, USER, Faults, Images, call
from tests.kubeflow import QUIET, handed_on, texts
from tests.repository import Repository, make_repository

pytestmark = [pytest.mark.containers, *QUIET]

# Nothing in it is a time, so that a busy machine changes no verdict.
POLICY = {
    "schema": 1,
    "targets": {"ort-cpu": "required"},
    "quality": {"accuracy": {"vs_parent": {"max_drop": 0.2, "max_error_ratio": None}}},
    "size": {"vs_parent": {"max_ratio": 0.9}},
}
# Of the requirements.txt that the user's image installs; nothing of ours needs it.
EXTRA = "voluptuous"
RUN = ("docker", "run", "--rm", "--network", "none", "--read-only")


@dataclass(frozen=True)
class Project:
    """`root` is the pipeline's root, with the registry and the promoter's key; images are the project's.

    `made` is the pipeline, which takes `more` beside what all take.
    """

    repository: Repository
    root: Path
    control: str
    compress: str
    made: Callable[..., Any] = make
    more: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> Path:
        """One run of the pipeline to its end; returns its folder. Raises RuntimeError if it failed."""
        for path in (self.root, *self.root.rglob("*")):
            os.chown(path, USER, USER)
        environment = {
            "REPRUNE_PROMOTER": str(self.root / "promoter" / "config.yaml"),
            # As on a cluster, where the node's name says which machine a container runs on.
            "REPRUNE_MACHINE_ID": "node-1",
            "OMP_NUM_THREADS": "1",
        }
        runner = local.DockerRunner(**CONFINED, environment=environment)
        local.init(runner, pipeline_root=str(self.root), raise_on_error=True)
        before = set(self.root.iterdir())
        started = time.monotonic()
        try:
            self.made(Options(retries=0))(
                **texts(self.repository),
                **self.more,
                machines=[{"name": "", "image": self.compress}],
                control_image=self.control,
                compress_image=self.compress,
            )
        finally:
            print(f"the run took {time.monotonic() - started:.0f} s")
        (made,) = set(self.root.iterdir()) - before
        return made

    def champion(self) -> str | None:
        params = read_params(self.repository.root / "params.yaml")
        registry = open_registry(params.registry, self.repository.root)
        return registry.alias(f"{params.name}-compressed", CHAMPION)


@pytest.fixture(scope="module")
def project(
    images: Images, docker_runner: None, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """What `reprune init` writes, its Containerfile built on each of our images, one dense version."""
    root = tmp_path_factory.mktemp("containers")
    made = make_repository(root / "repo")
    made.edit("policy.yaml", lambda policy: (policy.clear(), policy.update(POLICY)))
    made.edit("params.yaml", lambda params: params["distill"].update(epochs=1))
    (made.root / "requirements.txt").write_text(f"{EXTRA}\n")
    out = rooted(made)
    made.train(seed=1, epochs=3)
    made.update()
    return Project(made, out, **built(made, images, "digits"))


def rooted(made: Repository) -> Path:
    """The pipeline's root, beside the repository: the one place that is in every container, and can be
    written there. From now on the registry and the promoter's key are in it.
    """
    out = made.root.with_name("root")
    out.mkdir()
    made.edit("params.yaml", lambda params: params["registry"].update(uri=str(out / "registry")))
    shutil.move(made.root / ".reprune" / "promoter", out / "promoter")
    return out


def built(made: Repository, images: Images, name: str) -> dict[str, str]:
    """The project's images, by which of ours each is built on."""
    names = {}
    for ours in ("control", "compress"):
        names[ours] = f"localhost/{name}/{ours}:test"
        call(
            *(images.docker, "build", "--network=host", *images.secrets),
            *("--build-arg", f"BASE={getattr(images, ours)}", "-t", names[ours]),
            *("-f", str(made.root / "Containerfile"), str(made.root)),
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
        )
    return names


@pytest.fixture(scope="module")
def passed(project: Project) -> Path:
    return project.run()


def test_a_pass_moves_the_champion(project: Project, passed: Path) -> None:
    verdict = store.read(passed / "gate" / "verdict", Verdict)
    assert verdict.manifest.judgement.outcome == "pass"
    assert handed_on(passed, "promote")["receipt"]["promoted"] is True
    assert project.champion() == "1"


def test_what_the_tasks_wrote_is_the_users(passed: Path) -> None:
    owners = {path.stat().st_uid for path in passed.rglob("*") if path.is_file()}
    assert owners == {USER}


def test_the_projects_image_holds_the_project_and_no_more(project: Project, images: Images) -> None:
    """Its files, readable, and nothing of this machine alone; the requirements in compress only."""
    for image in (project.control, project.compress):
        listed = call(*RUN, image, "find", "/project", "-type", "f").split()
        assert {Path(each).relative_to("/project").as_posix() for each in listed} == {
            *(
                "params.yaml",
                "policy.yaml",
                "requirements.txt",
                "task/__init__.py",
                "task/digits.py",
            ),
        }
        assert call(*RUN, image, "id", "-u").strip() == str(USER)
        call(*RUN, image, "cat", *listed)
    has = f"import importlib.util as u; print(u.find_spec('{EXTRA}') is not None)"
    assert call(*RUN, project.compress, "python3", "-c", has).strip() == "True"
    for image in (project.control, images.compress):
        assert call(*RUN, image, "python3", "-c", has).strip() == "False"


@pytest.mark.parametrize(
    ("task", "fault"),
    [("fetch-model", "halved"), ("distill", "killed"), ("build", "halved"), ("gate", "killed"),
     ("gate", "halved"), ("promote", "killed")],
)  # fmt: skip
def test_a_task_that_dies_or_leaves_half_ends_the_run_without_a_promotion(
    project: Project, passed: Path, faults: Faults, task: str, fault: str
) -> None:
    """Tried on a second generation, so that there is a champion to lose and one to gain."""
    _next_generation(project)
    faults[task] = fault  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="FAILURE"):
        project.run()
    assert project.champion() == "1"


def test_a_block_fails_the_run_and_says_why(
    project: Project, passed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Promote ends with 3: the run fails, the report is there, the champion stays."""
    floor = {"floor": 0.999}
    project.repository.edit(
        "policy.yaml", lambda policy: policy["quality"]["accuracy"].update(floor)
    )
    _next_generation(project)
    before = set(project.root.iterdir())
    capfd.readouterr()
    with pytest.raises(RuntimeError, match="promote"):
        project.run()
    (blocked,) = set(project.root.iterdir()) - before
    judgement = store.read(blocked / "gate" / "verdict", Verdict).manifest.judgement
    assert judgement.outcome == "block"
    assert "block" in (blocked / "report" / "html").read_text(encoding="utf-8").lower()
    assert judgement.reasons[0] in capfd.readouterr().out
    assert project.champion() == "1"


def _next_generation(project: Project) -> None:
    """One more dense version, once: whoever comes later judges the same."""
    params = read_params(project.repository.root / "params.yaml")
    registry = open_registry(params.registry, project.repository.root)
    if len(registry.versions(params.name)) == 1:
        project.repository.train(seed=2, epochs=3)
    project.repository.update()
