"""A repository with its workflows on a bare git remote, and a forge on loopback: their own steps run here.

What is measured was measured before: `dvc repro` has one stage that copies it. DVC, git, the registry, the
verdict, the comment, the check and the promotion are real.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from reprune.core.lock import LOCK_FILE
from reprune.doors.ci import rendered, write_ci
from tests.chain import PARAMS, Story
from tests.ci.workflows import Job, Runner, commands, load
from tests.forge_server import ForgeServer
from tests.registry.promotion import ready, with_params

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


@contextmanager
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
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


def pull_event(head: str, branch: str, owner: str) -> dict[str, Any]:
    repo = {"full_name": f"{owner}/model", "owner": {"login": owner}}
    pull = {
        "number": 9 if owner == "stranger" else 4,
        "head": {"sha": head, "ref": branch, "repo": repo},
        "base": {"ref": "main"},
    }
    return json.loads(json.dumps({"pull_request": pull}))  # type: ignore[no-any-return]
