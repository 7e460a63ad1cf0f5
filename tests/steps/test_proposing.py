"""`reprune propose` against a real git remote and a forge on loopback: one branch, one pull request."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from reprune.core.errors import Busy, InputError
from reprune.core.http import Backoff, Service
from reprune.core.lock import LOCK_FILE, DenseRef, Lock, lock_text
from reprune.doors.cli import main
from reprune.orchestrate.github import GitHub
from reprune.steps import proposing
from reprune.steps.proposing import BRANCH, Ask, Proposed, propose
from tests.forge_server import ForgeServer
from tests.report.scenes import PASSED
from tests.report.verdicts import lock_of

MAIN = Ask(base="main")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def lock(version: str) -> Lock:
    dense = DenseRef(version=version, weights="sha256:" + "1" * 64)
    return msgspec.structs.replace(lock_of(PASSED), dense=dense)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository whose main has the lock of version 1, in a folder below its root too."""
    bare, first = tmp_path / "remote.git", tmp_path / "first"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))
    git(tmp_path, "clone", "-q", str(bare), str(first))
    git(first, "checkout", "-q", "-b", "main")
    for place in (first, first / "below"):
        place.mkdir(exist_ok=True)
        (place / LOCK_FILE).write_text(lock_text(lock("1")))
    git(first, "add", ".")
    git(first, "commit", "-qm", "Begin")
    git(first, "push", "-q", "origin", "main")
    return bare


@pytest.fixture
def clone(remote: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{remote}", str(tmp_path / "clone"))
    return tmp_path / "clone"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForgeServer]:
    monkeypatch.setenv("FORGE_TOKEN", "secret-token")
    with ForgeServer() as started:
        yield started


def proposed(root: Path, server: ForgeServer, version: str, ask: Ask = MAIN) -> Proposed:
    (root / LOCK_FILE).write_text(lock_text(lock(version)))
    service = Service(
        host=server.github, token_variable="FORGE_TOKEN", backoff=Backoff(first_s=0.001, tries=2)
    )
    return propose(root, ask, GitHub(service=service, repository="them/model"))


def test_a_new_lock_becomes_one_pull_request(
    clone: Path, remote: Path, server: ForgeServer
) -> None:
    """One commit on the base with the lock alone; the next version refreshes branch and words."""
    (clone / "scratch.txt").write_text("not for anybody")
    first = proposed(clone, server, "2")
    assert (first.done, first.number) == ("opened", 1)
    assert git(remote, "diff", "--name-only", f"main..{BRANCH}") == LOCK_FILE
    assert git(remote, "log", "-1", "--format=%s", BRANCH) == "Compress digits version 2"
    second = proposed(clone, server, "3")
    assert (second.done, second.number) == ("opened", 1)
    assert git(remote, "rev-list", "--count", f"main..{BRANCH}") == "1"
    (pull,) = server.world.pulls
    assert pull.title == "Compress digits version 3"
    assert "on the base: `1`" in pull.body
    assert git(clone, "status", "--porcelain", "--", "scratch.txt") == "?? scratch.txt"
    assert git(clone, "diff", "--cached", "--name-only") == ""


@pytest.mark.parametrize("fails", ["/pulls", "/dispatches"])
def test_what_failed_after_its_push_is_judged_by_the_next_run(
    clone: Path,
    remote: Path,
    server: ForgeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    """The judge is started once for a commit, by whichever run comes so far; not where it told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_TOKEN", "secret-token")
    monkeypatch.setattr("reprune.doors.comment.PATIENCE", Backoff(first_s=0.001, tries=2))
    server.head_of = lambda branch: git(remote, "rev-parse", branch)
    (clone / LOCK_FILE).write_text(lock_text(lock("2")))
    words = ["propose", "-C", str(clone), "--base", "main", "--start", "reprune-judge.yml"]
    words += ["--on", "github", "--api", server.github, "--repository", "them/model"]
    server.fail("POST", fails, times=2, status=502)
    assert main(words) != 0
    assert server.world.runs == []
    for _ in range(2):
        assert main(words) == 0
        assert server.world.runs == [("reprune-judge.yml", git(remote, "rev-parse", BRANCH))]
    judge = tmp_path / "judge"
    git(tmp_path, "clone", "-q", "-b", BRANCH, str(remote), str(judge))
    git(judge, "commit", "-q", "--allow-empty", "-m", "Record the verdict")
    git(judge, "push", "-q")
    recorded = git(remote, "rev-parse", BRANCH)
    server.world.checks.append({"name": "reprune/digits", "head_sha": recorded})
    assert main(words) == 0
    assert len(server.world.runs) == 1


def test_the_same_lock_leaves_what_was_judged(
    clone: Path, remote: Path, server: ForgeServer, tmp_path: Path
) -> None:
    """The verdict that the judge committed on the branch stays; nothing is pushed over it."""
    proposed(clone, server, "2")
    git(tmp_path, "clone", "-q", "-b", BRANCH, str(remote), str(tmp_path / "judge"))
    (tmp_path / "judge" / "dvc.lock").write_text("judged\n")
    git(tmp_path / "judge", "add", ".")
    git(tmp_path / "judge", "commit", "-qm", "Judge")
    git(tmp_path / "judge", "push", "-q")
    judged = git(remote, "rev-parse", BRANCH)
    assert proposed(clone, server, "2").done == "same"
    assert git(remote, "rev-parse", BRANCH) == judged
    assert proposed(clone, server, "3").done == "opened"
    assert git(remote, "diff", "--name-only", f"main..{BRANCH}") == LOCK_FILE


def test_looks_at_the_sealed_data_stay_whatever_the_branch_becomes(
    clone: Path, remote: Path, server: ForgeServer, tmp_path: Path
) -> None:
    """What was judged on the branch was looked at, also where the base goes on and where another lock is
    proposed: the next look is no first one. Looks of the base come first, each line once.
    """
    ledger, judge = "reprune.attempts.jsonl", tmp_path / "judge"
    proposed(clone, server, "2")
    git(tmp_path, "clone", "-q", "-b", BRANCH, str(remote), str(judge))
    (judge / ledger).write_text('{"attempt":1}\n{"attempt":1}\n{"attempt":2}')
    (judge / "dvc.lock").write_text("judged\n")
    git(judge, "add", ".")
    git(judge, "commit", "-qm", "Judge")
    git(judge, "push", "-q")
    first = tmp_path / "first"
    (first / ledger).write_text('{"attempt":0}\n{"attempt":1}\n')
    git(first, "add", ".")
    git(first, "commit", "-qm", "Go on")
    git(first, "push", "-q", "origin", "main")
    for version in ("2", "3"):
        assert proposed(clone, server, version).done == "opened"
        kept = git(remote, "show", f"{BRANCH}:{ledger}").splitlines()
        assert kept == [f'{{"attempt":{n}}}' for n in (0, 1, 1, 2)]
        changed = git(remote, "diff", "--name-only", f"main..{BRANCH}").splitlines()
        assert changed == [ledger, LOCK_FILE]


def test_nothing_new_is_nothing(clone: Path, remote: Path, server: ForgeServer) -> None:
    """The base's own lock opens no pull request and asks nobody."""
    assert proposed(clone, server, "1").done == "nothing"
    assert server.requests == []
    assert BRANCH not in git(remote, "branch", "--list", BRANCH)


def test_a_base_that_moved_is_built_upon(
    clone: Path, remote: Path, server: ForgeServer, tmp_path: Path
) -> None:
    """The same lock on an old base is committed again on the new one."""
    proposed(clone, server, "2")
    (tmp_path / "first" / "new.txt").write_text("new")
    git(tmp_path / "first", "add", ".")
    git(tmp_path / "first", "commit", "-qm", "Go on")
    git(tmp_path / "first", "push", "-q", "origin", "main")
    assert proposed(clone, server, "2").done == "opened"
    assert git(remote, "show", f"{BRANCH}:new.txt") == "new"
    assert git(remote, "diff", "--name-only", f"main..{BRANCH}") == LOCK_FILE


def test_a_project_below_the_root(clone: Path, remote: Path, server: ForgeServer) -> None:
    """Its own lock is committed, at its own place."""
    assert proposed(clone / "below", server, "2").done == "opened"
    assert git(remote, "diff", "--name-only", f"main..{BRANCH}") == f"below/{LOCK_FILE}"


def test_a_branch_that_moves_meanwhile_is_not_overwritten(
    clone: Path, remote: Path, server: ForgeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody pushes between our look and our push: theirs stays, and we say so."""
    proposed(clone, server, "2")
    make = proposing._committed

    def meanwhile(root: Path, base: str, wanted: Lock, before: str) -> str:
        git(tmp_path / "first", "push", "-qf", "origin", f"main:{BRANCH}")
        return make(root, base, wanted, before)

    monkeypatch.setattr(proposing, "_committed", meanwhile)
    with pytest.raises(Busy, match="moved meanwhile"):
        proposed(clone, server, "3")
    assert git(remote, "rev-parse", BRANCH) == git(remote, "rev-parse", "main")


def test_a_base_that_is_not_there_is_named(clone: Path, server: ForgeServer) -> None:
    """The word that was given is in the message."""
    with pytest.raises(InputError, match="no-such"):
        proposed(clone, server, "2", Ask(base="no-such"))
