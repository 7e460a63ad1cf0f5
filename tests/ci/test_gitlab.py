"""What `reprune init --ci gitlab` writes: who has which token, and what the scripts do, under bash."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reprune.doors.ci import rendered
from tests.ci.workflows import load

(TEXT,) = rendered("gitlab", ("gpu",), "main").values()
JOBS: dict[str, Any] = {name: job for name, job in load(TEXT).items() if not name.startswith(".")}
# Whose variables a job is given beside those without a scope.
SCOPES = {
    "reprune update": None,
    "reprune propose": "reprune-write",
    "reprune measure": None,
    "reprune tell": "reprune-write",
    "reprune promote": "reprune-promote",
    "reprune sweep": "reprune-write",
}
REPRUNE = """\
echo "reprune $*" >> "$LOG"
if [ -e artifacts/verdict ]; then echo "a verdict" >> "$LOG"; fi
if [ -n "$REPRUNE_PROMOTER" ]; then ls "$(dirname "$REPRUNE_PROMOTER")" >> "$LOG"; fi
exit "${FAILS:-0}"
"""
# What the list says that pip is given.
PYTHON = 'for last; do :; done; case "$*" in *" -r "*) cat "$last" >> "$LOG";; esac'


def script(job: str) -> str:
    return "\n".join(JOBS[job]["script"])


def bash(
    job: str, place: Path, commit: str = "HEAD", **programs: str
) -> subprocess.CompletedProcess[str]:
    """The job's script in the folder `work`, with programs of ours, and what they told in `log`."""
    there = place / "programs"
    there.mkdir(exist_ok=True)
    for name, text in {
        "apt-get": "",
        "python": "",
        "dvc": "",
        "reprune": REPRUNE,
        **programs,
    }.items():
        (there / name).write_text(f"#!/bin/sh\n{text}\n")
        (there / name).chmod(0o755)
    (place / "temp").mkdir(exist_ok=True)
    (place / "work").mkdir(exist_ok=True)
    variables = {name: str(place / name) for name in ("config.yaml", "key.pem")}
    for path in variables.values():
        Path(path).write_text("secret")
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script(job)],
        cwd=place / "work",
        env={
            "PATH": f"{there}:{os.environ['PATH']}",
            "HOME": str(place),
            "TMPDIR": str(place / "temp"),
            "LOG": str(place / "log"),
            "CI_PROJECT_DIR": str(place / "work"),
            "CI_PROJECT_URL": str(place / "remote"),
            "CI_DEFAULT_BRANCH": "main",
            "CI_COMMIT_SHA": commit,
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "mine",
            "REPRUNE_PROMOTER_CONFIG": variables["config.yaml"],
            "REPRUNE_PROMOTER_KEY": variables["key.pem"],
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("job", sorted(JOBS))
def test_the_code_under_judgement_never_sees_a_token_that_may_write(job: str) -> None:
    """A token has a scope, and what runs DVC's stages or imports the task has another or none."""
    where = JOBS[job].get("environment", {})
    assert where.get("name") == SCOPES[job]
    if SCOPES[job] == "reprune-write":
        # A look at its variables alone: it deploys nothing.
        assert where["action"] == "access"
        assert not re.search(r"\bdvc \w|\breprune update\b", script(job))
    else:
        assert "GITLAB_TOKEN" not in script(job)
    assert set(SCOPES.values()) - {None} <= set(re.findall(r"^#   (\S+) ", TEXT, re.MULTILINE))


def test_where_a_token_is_nothing_of_the_judged_commit_is_installed() -> None:
    """pip runs in the main branch's tree: `python -m` runs what lies in its folder."""
    before, pip, _ = script("reprune tell").partition("python -m pip")
    assert pip
    assert before.rstrip().endswith('cd "$main"')
    assert JOBS["reprune tell"]["extends"] == ".reprune"
    assert load(TEXT)[".reprune"]["variables"]["GIT_STRATEGY"] == "clone"


def test_a_fork_is_not_judged() -> None:
    """Its pipeline may run in this project; the record of its verdict would push its commits here."""
    conditions = [rule["if"] for job in JOBS.values() for rule in job["rules"]]
    theirs = [each for each in conditions if "merge_request_event" in each]
    assert len(theirs) == 2
    own = "&& $CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID"
    assert all(each.endswith(own) for each in theirs)


@pytest.mark.parametrize("fails", ["0", "3"])
def test_the_signing_key_goes_with_the_job(fails: str, tmp_path: Path) -> None:
    """`promote` finds it beside its configuration, and no later job does, however it ended."""
    done = bash("reprune promote", tmp_path, reprune=f"FAILS={fails}\n{REPRUNE}")
    assert done.returncode == int(fails), done.stderr
    assert (tmp_path / "log").read_text().splitlines() == [
        "reprune promote",
        "config.yaml",
        "key.pem",
    ]
    assert list(tmp_path.rglob("key.pem")) == [tmp_path / "key.pem"]
    assert list((tmp_path / "temp").iterdir()) == []


def git(at: Path, *words: str) -> str:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=at, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def cloned(place: Path) -> tuple[Path, str]:
    """A clone on the branch `mine`, of a remote whose main has another list, and its newest commit."""
    remote, work = place / "remote.git", place / "work"
    git(place, "init", "-q", "--bare", "-b", "main", str(remote))
    git(remote, "config", "receive.advertisePushOptions", "true")
    git(place, "clone", "-q", str(remote), str(work))
    for branch in ("main", "mine"):
        git(work, "checkout", "-q", "-b", branch)
        (work / "requirements.txt").write_text(f"for the task, of {branch}\n")
        (work / "requirements-control.txt").write_text(f"of {branch}\n")
        git(work, "add", ".")
        git(work, "commit", "-qm", branch)
        git(work, "push", "-q", "origin", branch)
    return work, git(work, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("job", "lists"),
    [
        ("reprune update", ["for the task, of mine", "of mine"]),
        ("reprune propose", []),
        ("reprune measure", ["for the task, of mine", "of mine"]),
        ("reprune tell", ["of main"]),
        ("reprune promote", ["of mine"]),
        ("reprune sweep", ["of mine"]),
    ],
)
def test_the_projects_own_lists_are_installed(job: str, lists: list[str], tmp_path: Path) -> None:
    """Those of the commit that is there; for `tell`, which has a token on any branch, the main branch's."""
    _, head = cloned(tmp_path)
    done = bash(job, tmp_path, head, python=PYTHON)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "log").read_text().splitlines()
    assert [line for line in said if " of " in f" {line}"] == lists


@pytest.mark.parametrize("measured", [True, False])
def test_only_a_verdict_that_was_kept_is_told(measured: bool, tmp_path: Path) -> None:
    """`measured` is there where all of it was done: `dvc push` may fail after a pass."""
    work, head = cloned(tmp_path)
    for name in ("artifacts/verdict/manifest.json", "artifacts/report/report.md"):
        (work / name).parent.mkdir(parents=True)
        (work / name).write_text("pass")
    if measured:
        (work / "measured").touch()
    done = bash("reprune tell", tmp_path, head)
    assert done.returncode == 0, done.stderr
    newest = git(tmp_path / "remote.git", "rev-parse", "mine")
    seen = ["a verdict"] if measured else []
    assert (tmp_path / "log").read_text().splitlines() == [
        f"reprune comment --recompute --registry --head {newest}", *seen, "reprune check", *seen,
    ]  # fmt: skip
    assert (newest != head) is measured
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        ("s3 is supported, but requires 'dvc-s3' to be installed", False),
        ("failed to connect to s3 (bucket/x)", True),
    ],
)
def test_a_remote_whose_package_is_missing_is_told_at_once(
    said: str, goes_on: bool, tmp_path: Path
) -> None:
    """What is computed could not be kept."""
    dvc = (
        f'if [ "$1" = pull ]; then echo "ERROR: {said}" >&2; exit 255; fi; echo "dvc $*" >> "$LOG"'
    )
    done = bash("reprune measure", tmp_path, dvc=dvc, git="")
    assert (done.returncode == 0) is goes_on
    assert said in done.stderr
    if goes_on:
        assert (tmp_path / "log").read_text() == "dvc repro\ndvc push\n"
    else:
        assert "name it in requirements.txt" in done.stdout
