"""update, judge, promote: the workflows' own steps, against a bare git remote and a forge on loopback.

What is measured was measured before: `dvc repro` has one stage that copies it. DVC, git, the registry, the
verdict, the comment, the check and the promotion are real.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from reprune.core.lock import LOCK_FILE
from reprune.core.marker import read_marker
from reprune.doors.ci import rendered, write_ci
from reprune.registry.protocol import known_alias
from tests.chain import PARAMS, Story
from tests.ci.workflows import Job, Runner, commands, load
from tests.forge_server import ForgeServer, Pull
from tests.registry.promotion import COMPRESSED, ready, registry_of, with_params

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src"
# Everything that a task offers, and none of it.
TASK = """\
class DigitsTask:
    data_version = "data-1"
    preprocess_digest = "none"
    input_names = output_names = ("x",)
    model = example_inputs = loss = batches = records = workload = print
"""
OUTS = ("verdict", "candidate", "engines", "plan", "profile", "sensitivity", "report")
BRANCH = "reprune/update"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@dataclass
class World:
    """A repository with its workflows on a bare remote, a forge, and what its pipeline will measure."""

    root: Path
    remote: Path
    measured: Path
    forge: ForgeServer
    runner: Runner
    runs: int = 500

    def run(self, name: str, event: str, content: Any = None, **how: Any) -> dict[str, Job]:
        """The workflow's jobs, on the newest commit of the branch that the event is about."""
        self.runs += 1
        workflow = load(rendered("github", ("self-hosted",), "main")[_file(name)])
        branch = how.pop("branch", "main")
        github = {
            "event_name": event,
            "event": content or {},
            "ref_name": branch,
            "head_ref": how.pop("head_ref", ""),
            "base_ref": how.pop("base_ref", ""),
            "sha": git(self.remote, "rev-parse", branch),
            "run_id": self.runs,
            "repository": "them/model",
            "token": "secret-token",
        }
        jobs = self.runner.workflow(workflow, github, **how)
        for job in jobs.values():
            # The token of a job is handed to one step; nothing prints it.
            assert "secret-token" not in job.log
        return jobs

    def pushed(self, message: str, change: dict[str, str], branch: str) -> str:
        """A commit on a branch of the remote; returns it."""
        work = self.root / f"push-{self.runs}-{len(list(self.root.iterdir()))}"
        git(self.root, "clone", "-q", str(self.remote), str(work))
        git(work, "checkout", "-q", "-B", branch, "origin/main")
        for name, text in change.items():
            (work / name).write_text(text)
        git(work, "add", ".")
        git(work, "commit", "-qm", message)
        git(work, "push", "-q", "origin", branch)
        return git(work, "rev-parse", "HEAD")


def _file(name: str) -> str:
    return f".github/workflows/reprune-{name}.yml"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    uri = tmp_path / "registry"
    with_params(monkeypatch, PARAMS.replace("uri: registry", f"uri: {uri}"))
    first, measured = tmp_path / "first", tmp_path / "measured"
    ready(first, Story(task=TASK, started_s=time.time() - 100))
    run = [str(commands(tmp_path / "bin", SOURCE) / "reprune"), "report"]
    artifacts = first / "artifacts"
    subprocess.run(
        [*run, "--verdict", "artifacts/verdict", "--out", "artifacts/report"],
        cwd=first,
        check=True,
        capture_output=True,
    )
    measured.mkdir()
    for name in OUTS:
        shutil.move(artifacts / name, measured / name)
    shutil.rmtree(artifacts)
    shutil.move(first / ".reprune" / "promoter", tmp_path / "promoter")
    (tmp_path / "locked.yaml").write_bytes((first / LOCK_FILE).read_bytes())
    (first / LOCK_FILE).unlink()
    _project(first, measured, tmp_path / "kept")
    remote = tmp_path / "remote.git"
    git(tmp_path, "clone", "-q", "--bare", str(first), str(remote))
    secrets = {
        "REPRUNE_PROMOTER_CONFIG": (tmp_path / "promoter" / "config.yaml").read_text(),
        "REPRUNE_PROMOTER_KEY": (tmp_path / "promoter" / "key.pem").read_text(),
    }
    with ForgeServer() as forge:
        forge.head_of = lambda branch: git(remote, "rev-parse", branch)
        environment = {
            "HOME": str(tmp_path),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "GITHUB_API_URL": forge.github,
            "GITHUB_SERVER_URL": "https://forge.example",
            "GITHUB_REPOSITORY": "them/model",
        }
        runner = Runner(tmp_path / "jobs", remote, tmp_path / "bin", environment, secrets)
        yield World(tmp_path, remote, measured, forge, runner)


def _project(first: Path, measured: Path, kept: Path) -> None:
    """What is committed: params, policy, task, workflows, DVC's files, and a pipeline of one stage."""
    copy = f"mkdir -p artifacts && cp -r {measured}/. artifacts/"
    stage = {
        "cmd": copy,
        "deps": [LOCK_FILE],
        "outs": [f"artifacts/{name}" for name in OUTS],
    }
    (first / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"judge": stage}}))
    (first / ".gitignore").write_text(".reprune/\nregistry/\n/artifacts\n")
    (first / ".dvc").mkdir()
    (first / ".dvc" / "config").write_text(
        f"[core]\nanalytics = false\nremote = kept\n['remote \"kept\"']\nurl = {kept}\n"
    )
    (first / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    write_ci(first, "github", "main")
    git(first, "init", "-q", "-b", "main")
    git(first, "add", ".")
    git(first, "commit", "-qm", "Begin")


def champion(world: World) -> str | None:
    return known_alias(registry_of(world.root / "first"), COMPRESSED, "champion")


def test_from_an_event_to_the_champion(world: World) -> None:
    """An update opens one pull request; the judge records, tells and checks; merged, it is promoted."""
    told = {"action": "reprune", "client_payload": {"model": "digits", "version": "1"}}
    update = world.run("update", "repository_dispatch", told)["update"]
    assert update.result == "success", update.log
    (pull,) = world.forge.world.pulls
    assert (pull.branch, pull.base) == (BRANCH, "main")
    assert [each["workflow"] for each in world.forge.world.dispatches] == ["reprune-judge.yml"]
    locked = git(world.remote, "show", f"{BRANCH}:{LOCK_FILE}")
    assert locked == (world.root / "locked.yaml").read_text().strip()

    judge = world.run("judge", "workflow_dispatch", branch=BRANCH)
    assert {name: job.result for name, job in judge.items()} == {
        "look": "success",
        "measure": "success",
        "tell": "success",
    }, "\n".join(job.log for job in judge.values())
    recorded = git(world.remote, "diff", "--name-only", f"main..{BRANCH}").split()
    assert recorded == ["dvc.lock", LOCK_FILE, "reprune.report.md", "reprune.verdict.json"]
    head = git(world.remote, "rev-parse", BRANCH)
    (check,) = world.forge.world.checks
    assert (check["conclusion"], check["head_sha"]) == ("success", head)
    (said,) = world.forge.bodies()
    marker = read_marker(said)
    assert marker is not None
    assert (marker.verdict, marker.head) == ("pass", head)

    git(world.root / "first", "pull", "-q", str(world.remote), BRANCH)
    git(world.root / "first", "push", "-q", str(world.remote), "main")
    assert champion(world) is None
    promote = world.run("promote", "push")
    assert promote["promote"].result == "success", promote["promote"].log
    assert promote["sweep"].result == "success", promote["sweep"].log
    assert champion(world) == "1"

    # What the same lock would propose is on the base now, but for the champion, which moved.
    assert world.run("update", "schedule")["update"].result == "success"
    assert "champion" in git(world.remote, "diff", f"main..{BRANCH}", "--", LOCK_FILE)
    git(world.root / "first", "revert", "--no-edit", "HEAD~1..HEAD")
    git(world.root / "first", "push", "-q", str(world.remote), "main")
    reverted = world.run("promote", "push")["promote"]
    assert reverted.result == "failure"
    assert champion(world) == "1"


def test_what_changes_nothing_is_not_judged(world: World) -> None:
    """A pull request without a change of what is judged has its check, and no machine is used."""
    head = world.pushed("Write", {"README.md": "words"}, "words")
    params = (world.root / "first" / "params.yaml").read_text()
    event = _event(head, "words", "them")
    jobs = world.run("judge", "pull_request", event, branch="words", base_ref="main")
    assert {name: job.result for name, job in jobs.items()} == {
        "look": "success",
        "measure": "skipped",
        "tell": "skipped",
    }, jobs["look"].log
    assert [each["conclusion"] for each in world.forge.world.checks] == ["success"]
    assert world.forge.bodies() == []
    head = world.pushed("Loosen", {"params.yaml": f"{params}seed: 3\n"}, "loose")
    event = _event(head, "loose", "them")
    jobs = world.run(
        "judge", "pull_request", event, branch="loose", base_ref="main", only=("look",)
    )
    assert jobs["look"].outputs == {"judge": "true"}


def test_a_pipeline_that_fails_is_told_as_such(world: World) -> None:
    """No verdict: the comment and the check say so, nothing is recorded, and the job is red."""
    locked = (world.root / "locked.yaml").read_text()
    head = world.pushed("Lock", {LOCK_FILE: locked}, "mine")
    shutil.rmtree(world.measured)
    world.forge.world.pulls = [Pull(4, "mine", head)]
    event = _event(head, "mine", "them")
    jobs = world.run(
        "judge", "pull_request", event, branch="mine", head_ref="mine", base_ref="main"
    )
    assert (jobs["measure"].result, jobs["tell"].result) == ("failure", "failure")
    (said,) = world.forge.bodies()
    assert "gave no verdict" in said
    assert [each["conclusion"] for each in world.forge.world.checks] == ["failure"]
    assert git(world.remote, "rev-parse", "mine") == head


def test_a_fork_is_told_by_the_second_of_the_pair(world: World) -> None:
    """The fork's own run tells nothing; the other judges its samples again and passes nothing."""
    locked = (world.root / "locked.yaml").read_text()
    head = world.pushed("Lock", {LOCK_FILE: locked}, "theirs")
    world.forge.world.pulls = [Pull(9, "theirs", head, owner="stranger")]
    event = _event(head, "theirs", "stranger")
    jobs = world.run("judge", "pull_request", event, branch="theirs", base_ref="main")
    assert (jobs["measure"].result, jobs["tell"].result) == ("success", "skipped")
    assert world.forge.bodies() == []
    done = {
        "workflow_run": {
            "id": 501,
            "run_attempt": 1,
            "event": "pull_request",
            "head_sha": head,
            "head_branch": "theirs",
            "head_repository": {"full_name": "stranger/model", "owner": {"login": "stranger"}},
        }
    }
    world.forge.world.files[("policy.yaml", "main")] = (
        world.root / "first" / "policy.yaml"
    ).read_bytes()
    told = world.run("fork", "workflow_run", done)["tell"]
    assert told.result == "success", told.log
    (said,) = world.forge.bodies()
    assert "Measured by a run of a fork" in said
    assert [each["conclusion"] for each in world.forge.world.checks] == ["action_required"]
    own = {"workflow_run": {**done["workflow_run"], "head_repository": {"full_name": "them/model"}}}
    assert world.run("fork", "workflow_run", own)["tell"].result == "skipped"


def _event(head: str, branch: str, owner: str) -> dict[str, Any]:
    repo = {"full_name": f"{owner}/model", "owner": {"login": owner}}
    pull = {
        "number": 9 if owner == "stranger" else 4,
        "head": {"sha": head, "ref": branch, "repo": repo},
        "base": {"ref": "main"},
    }
    return json.loads(json.dumps({"pull_request": pull}))  # type: ignore[no-any-return]
