"""`reprune comment` in a job: against a forge on loopback, with the environment that a CI sets."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.http import Backoff
from reprune.core.lock import LOCK_FILE, lock_text
from reprune.core.marker import read_marker
from reprune.core.policy import Policy
from reprune.doors.cli import main
from reprune.doors.output import CommentOutput
from reprune.report.markdown import MAX_BYTES
from reprune.report.posted import MAX_SUMMARY_BYTES, fitted
from tests.forge_server import ME, ForgeServer, Pull
from tests.report.scenes import BLOCKED, HOSTILE, PASSED, SCENES
from tests.report.verdicts import Scene, lock_of, write_verdict

HEAD = "a" * 40
Run = Callable[..., CommentOutput]


def policy_at(verdict: Path) -> Policy:
    """The policy that the verdict was judged by."""
    return msgspec.json.decode((verdict / "policy.json").read_bytes(), type=Policy)


@pytest.fixture
def server() -> Iterator[ForgeServer]:
    with ForgeServer() as started:
        started.world.pulls = [Pull(4, "feature", HEAD)]
        yield started


@pytest.fixture
def github(
    server: ForgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """The environment of a job on GitHub; called with an event's name and content."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "CI_", "GITLAB_"))]:
        monkeypatch.delenv(name)

    def job(event: str = "pull_request", content: Any = None, run: str = "70", **more: str) -> None:
        path = tmp_path / "event.json"
        path.write_text(json.dumps(pull_event() if content is None else content))
        variables = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": server.github,
            "GITHUB_SERVER_URL": "https://forge.example",
            "GITHUB_REPOSITORY": "them/model",
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(path),
            "GITHUB_RUN_ID": run,
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_REF_NAME": "feature",
            "GITHUB_SHA": HEAD,
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "GITHUB_TOKEN": "secret-token",
        } | more
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return job


def pull_event(fork: bool = False) -> dict[str, Any]:
    owner = "stranger" if fork else "them"
    repo = {"full_name": f"{owner}/model", "owner": {"login": owner}}
    return {
        "pull_request": {
            "number": 4,
            "head": {"sha": HEAD, "ref": "feature", "repo": repo},
            "base": {"ref": "main"},
        }
    }


@pytest.fixture(scope="session")
def verdict_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scene], Path]:
    """Where the verdict of a scene lies, written once."""
    known: list[tuple[Scene, Path]] = []

    def place(scene: Scene) -> Path:
        for held, path in known:
            if held is scene:
                return path
        known.append((scene, write_verdict(scene, tmp_path_factory.mktemp("scene")).path))
        return known[-1][1]

    return place


@pytest.fixture
def told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict_of: Callable[[Scene], Path]
) -> Callable[..., CommentOutput]:
    """Runs the command on a scene's verdict; what it printed for machines."""

    def run(scene: Scene | None, *words: str) -> CommentOutput:
        place = tmp_path / "verdict" if scene is None else verdict_of(scene)
        capsys.readouterr()
        code = main(["comment", "--verdict", str(place), "--json", *words])
        printed = capsys.readouterr()
        assert "secret-token" not in printed.out + printed.err
        assert code == 0, printed.out
        run.printed = printed.err  # type: ignore[attr-defined]
        return msgspec.json.decode(printed.out, type=CommentOutput)

    return run


@pytest.mark.parametrize(
    ("name", "conclusion"),
    [
        ("pass", "success"),
        ("block", "failure"),
        ("inconclusive", "action_required"),
        ("error", "failure"),
    ],
)
def test_each_outcome_has_its_conclusion(
    name: str, conclusion: str, github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """Never neutral, which GitHub counts as passed; and the exit code is 0 whatever the outcome."""
    github()
    found = told(SCENES[name])
    assert (found.comment, found.number, found.check) == ("created", 4, conclusion)
    (check,) = server.world.checks
    assert (check["conclusion"], check["head_sha"]) == (conclusion, HEAD)
    assert check["name"] == "reprune/digits"
    (said,) = server.bodies()
    marker = read_marker(said)
    assert marker is not None
    assert (marker.key, marker.verdict) == ("digits@ort-cpu", SCENES[name].outcome)
    assert (marker.head, marker.order) == (HEAD, (70, 1))
    assert said.splitlines()[1].startswith("### ")


def test_a_later_run_says_what_was_said_before(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """Updated in place, with the verdict of the commit before; a re-run of the same keeps that."""
    github()
    told(BLOCKED, "--head", "b" * 40)
    github(run="71")
    assert told(PASSED).comment == "updated"
    (said,) = server.bodies()
    assert "before: block at `bbbbbbbbbbbb`" in said
    assert told(PASSED).comment == "same"
    github(run="70")
    late = told(BLOCKED)
    assert (late.comment, late.check) == ("older", None)
    assert server.bodies() == [said]


def test_a_fork_without_a_write_token_has_the_summary(
    github: Callable[..., None], server: ForgeServer, told: Run, tmp_path: Path
) -> None:
    """403: exit 0, the report in the step's summary, and a warning that names what to add to the job."""
    github(content=pull_event(fork=True))
    server.world.denied = ("/comments", "/check-runs", "/statuses")
    found = told(PASSED)
    assert (found.comment, found.check) == ("refused", None)
    assert found.conclusion == "action_required"
    assert any("pull-requests: write" in each for each in found.warnings)
    assert any("checks: write" in each for each in found.warnings)
    summary = (tmp_path / "summary.md").read_text()
    assert "Measured by a run of a fork" in summary
    assert "| Demand |" in summary
    assert not server.bodies()


def test_a_forge_that_is_down_changes_nothing(
    github: Callable[..., None],
    server: ForgeServer,
    told: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """500 for ever: exit 0, and the summary is there."""
    hasty = Backoff(first_s=0.001, longest_s=0.001, tries=2)
    monkeypatch.setattr("reprune.doors.comment.PATIENCE", hasty)
    github()
    server.fail("POST", "", times=100, status=500)
    server.fail("GET", "", times=100, status=500)
    found = told(BLOCKED)
    assert (found.comment, found.check) == ("unreachable", None)
    assert "Demand" in (tmp_path / "summary.md").read_text()


def fork_event(run_attempt: int = 1) -> dict[str, Any]:
    before = {
        "id": 55,
        "run_attempt": run_attempt,
        "head_sha": HEAD,
        "head_branch": "feature",
        "head_repository": {"owner": {"login": "stranger"}},
    }
    return {"workflow_run": before, "repository": {"default_branch": "main"}}


def test_the_run_of_a_fork_is_told_by_another(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """`workflow_run`: the pull request is found by owner, branch and commit, not by what the artefact says;
    a pass from there passes nothing.
    """
    server.world.pulls = [
        Pull(3, "feature", HEAD, owner="them"),
        Pull(9, "feature", HEAD, owner="stranger"),
    ]
    github("workflow_run", fork_event(run_attempt=2), GITHUB_SHA="d" * 40)
    found = told(PASSED)
    assert (found.number, found.check) == (9, "action_required")
    marker = read_marker(server.bodies()[0])
    assert marker is not None
    assert (marker.head, marker.order) == (HEAD, (55, 2))


JUDGED = ("--foreign", "--judged", "reprune.lock.yaml", "policy.yaml", "task")
PARAMS = b"name: digits\ntask: task.digits:DigitsTask\ntargets: {ort-cpu: {}}\n"


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        (("README.md", "tasks/x.py", "docs/policy.yaml"), "success"),
        (("README.md", "task/digits.py"), "failure"),
        (("policy.yaml",), "failure"),
        ((("task/net.py", "net.py"),), "failure"),
        (tuple(f"docs/{index}.md" for index in range(299)), "success"),
        # GitHub lists no more, and does not say whether there are.
        (tuple(f"docs/{index}.md" for index in range(300)), "failure"),
    ],
)
def test_what_a_fork_changes_the_forge_says(
    changed: tuple[str | tuple[str, str], ...],
    check: str,
    github: Callable[..., None],
    server: ForgeServer,
    told: Run,
) -> None:
    """Neither verdict nor clone: nothing to judge, or no verdict; the model's name is the base's."""
    pull = Pull(9, "feature", HEAD, owner="stranger", began="b" * 40, changed=changed)
    server.world.pulls = [pull]
    server.world.files[("params.yaml", "main")] = PARAMS
    github("workflow_run", fork_event(), GITHUB_SHA="d" * 40)
    found = told(None, *JUDGED)
    assert (found.conclusion, found.check) == (check, check)
    assert [each["name"] for each in server.world.checks] == ["reprune/digits"]
    assert [read_marker(body).key for body in server.bodies()] == [  # type: ignore[union-attr]
        "digits@ort-cpu" for _ in range(check == "failure")
    ]


def test_a_verdict_of_a_fork_that_changes_nothing_is_not_told(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """Anybody can make an artefact; there is nothing that it could be about."""
    pull = Pull(9, "feature", HEAD, owner="stranger", began="b" * 40, changed=("README.md",))
    server.world.pulls = [pull]
    server.world.files[("params.yaml", "main")] = PARAMS
    github("workflow_run", fork_event())
    found = told(BLOCKED, *JUDGED)
    assert (found.comment, found.check) == ("nothing", "success")


def test_one_commit_in_two_pull_requests_changes_what_either_does(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """What is nothing against a branch with somebody's unjudged lock is that lock against main; a check is
    the commit's.
    """
    there = Pull(8, "feature", HEAD, "stranger", "other", "b" * 40, changed=("README.md",))
    here = Pull(9, "feature", HEAD, "stranger", "main", "b" * 40, changed=("README.md",))
    server.world.pulls = [there, here]
    server.world.files = {("params.yaml", base): PARAMS for base in ("main", "other")}
    github("workflow_run", fork_event())
    assert told(None, *JUDGED).check == "success"
    here.changed = ("README.md", LOCK_FILE)
    assert told(None, *JUDGED).check == "failure"


def test_what_a_fork_changes_is_not_guessed(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """The forge does not say, or the pull request went on: no success, and a run of its own is told so."""
    github("workflow_run", fork_event())
    server.world.files[("params.yaml", "main")] = PARAMS
    pull = Pull(9, "feature", HEAD, owner="stranger", changed=("README.md",))
    server.world.pulls = [pull]
    found = told(None, *JUDGED)
    assert found.check == "failure"
    assert any("what the pull request changes is not known" in each for each in found.warnings)
    pull.head, pull.began = "e" * 40, "b" * 40
    assert told(None, *JUDGED).check == "failure"


def test_a_forks_run_for_a_commit_that_is_past_comments_nowhere(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """The pull request went on meanwhile: what an older commit measured is not told there."""
    server.world.pulls = [Pull(9, "feature", "e" * 40, owner="stranger")]
    github("workflow_run", fork_event())
    assert told(PASSED).comment == "no-pull-request"
    assert server.bodies() == []


def test_a_branch_without_a_pull_request_still_has_its_check(
    github: Callable[..., None], server: ForgeServer, told: Run
) -> None:
    """Started by hand on a branch: nowhere to comment is said, and the commit is told."""
    server.world.pulls = []
    github("workflow_dispatch", {})
    found = told(PASSED)
    assert (found.comment, found.number, found.check) == ("no-pull-request", None, "success")
    assert any("no open pull request" in each for each in found.warnings)


def test_ten_annotations_at_most_each_on_one_line(github: Callable[..., None], told: Run) -> None:
    """Hostile words start no command of their own, and what GitHub would hide is counted."""
    github()
    nasty = f"{HOSTILE}\n::stop-commands::x\r\n::add-mask::y %0A"
    rules = tuple(
        msgspec.structs.replace(one, words=nasty, rule=f"accuracy.{nasty}:,{index}")
        for index in range(4)
        for one in BLOCKED.rules
    )
    told(replace(BLOCKED, rules=rules, headline=nasty))
    lines = told.printed.splitlines()  # type: ignore[attr-defined]
    commands = [line for line in lines if line.startswith("::")]
    assert len(commands) == 10
    assert not any("stop-commands::" in line[:40] for line in commands)
    assert all(re.match(r"::(error|warning) title=[^:,\n]*::", line) for line in commands)


def test_a_run_without_a_verdict_is_told_as_such(
    github: Callable[..., None], server: ForgeServer, told: Run, tmp_path: Path
) -> None:
    """The verdict of the lock before is not told again as if it were this one's."""
    other = msgspec.structs.replace(lock_of(PASSED), data_version="another")
    (tmp_path / LOCK_FILE).write_text(lock_text(other))
    github()
    for scene in (PASSED, None):
        found = told(scene)
        assert (found.conclusion, found.check) == ("failure", "failure")
        (said,) = server.bodies()
        assert "gave no verdict" in said.splitlines()[1]
        assert "may be promoted" not in said
        marker = read_marker(said)
        assert marker is not None
        assert (marker.key, marker.verdict) == ("digits@ort-cpu", "error")


@pytest.mark.parametrize("name", sorted(SCENES))
def test_what_is_posted_stays_short(name: str, github: Callable[..., None], told: Run) -> None:
    """With all that can be added, a body stays below what every forge takes."""
    github()
    body = told(SCENES[name], "--dry-run", "--foreign").body
    assert len(body.encode()) <= MAX_BYTES
    assert body.count("<details>") == body.count("</details>")


def test_a_changed_policy_is_the_second_line(
    github: Callable[..., None],
    server: ForgeServer,
    told: Run,
    verdict_of: Callable[[Scene], Path],
) -> None:
    """Right below the verdict: what is demanded less of than on the base branch; unchanged, nothing."""
    github()
    policy = policy_at(verdict_of(PASSED))
    server.world.files[("policy.yaml", "main")] = msgspec.json.encode(policy)
    told(PASSED)
    assert "policy is not" not in server.bodies()[0]
    strict = msgspec.structs.replace(policy, alpha=policy.alpha / 2, valid_for_days=1.0)
    server.world.files[("policy.yaml", "main")] = msgspec.json.encode(strict)
    told(PASSED)
    lines = [line for line in server.bodies()[0].splitlines() if line]
    assert lines[1].startswith("### ")
    assert lines[2].startswith("⚠️ **The policy is not `main`'s:** it demands less: alpha")
    lax = msgspec.structs.replace(policy, valid_for_days=300.0)
    server.world.files[("policy.yaml", "main")] = msgspec.json.encode(lax)
    told(PASSED)
    assert "demands no less; changed: `valid_for_days` `300.0` → `14.0`" in server.bodies()[0]
    del server.world.files[("policy.yaml", "main")]
    told(PASSED)
    assert "is new" in server.bodies()[0]
    server.world.files[("policy.yaml", "main")] = b"alpha: [}"
    found = told(PASSED)
    assert "Whether the policy changed is not known" in server.bodies()[0]
    assert found.warnings


def test_the_policy_of_a_git_revision(
    tmp_path: Path,
    told: Run,
    monkeypatch: pytest.MonkeyPatch,
    verdict_of: Callable[[Scene], Path],
) -> None:
    """`--base REV` needs no forge; a revision that git does not know is said, not passed over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    policy = msgspec.structs.replace(policy_at(verdict_of(PASSED)), alpha=0.001)
    (tmp_path / "policy.yaml").write_bytes(msgspec.json.encode(policy))
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "policy.yaml"],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "Base"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert "it demands less: alpha" in told(PASSED, "--dry-run", "--base", "main").body
    unknown = told(PASSED, "--dry-run", "--base", "elsewhere")
    assert "is not known" in unknown.body
    assert unknown.warnings
    assert told(PASSED, "--dry-run", "--base=--output=x").warnings
    assert not (tmp_path / "x").exists()


def test_gitlab(
    server: ForgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Run
) -> None:
    """The same in a merge request's pipeline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for name, value in {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": server.gitlab,
        "CI_PROJECT_ID": "7",
        "CI_MERGE_REQUEST_IID": "4",
        "CI_COMMIT_SHA": HEAD,
        "CI_PIPELINE_ID": "12",
        "CI_JOB_ID": "34",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "GITLAB_TOKEN": "secret-token",
    }.items():
        monkeypatch.setenv(name, value)
    found = told(SCENES["inconclusive"])
    assert (found.comment, found.check) == ("created", "action_required")
    assert [each["state"] for each in server.world.statuses] == ["failed"]
    marker = read_marker(server.bodies()[0])
    assert marker is not None
    assert marker.order == (12, 34)
    monkeypatch.setenv("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "8")
    assert told(PASSED).check == "action_required"


def test_outside_a_ci_it_says_what_it_needs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict_of: Callable[[Scene], Path],
) -> None:
    """Exit 2 with the options to give; and the token goes nowhere in clear text."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_EVENT_PATH"):
        monkeypatch.delenv(name, raising=False)
    place = str(verdict_of(PASSED))
    assert main(["comment", "--verdict", place]) == 2
    assert "--dry-run" in capsys.readouterr().err
    monkeypatch.setenv("GITHUB_TOKEN", "secret-token")
    far = ["--on", "github", "--api", "http://forge.example", "--repository", "them/model"]
    assert main(["comment", "--verdict", place, "--number", "4", *far]) == 0
    said = capsys.readouterr().err
    assert "clear text" in said
    assert "secret-token" not in said
    assert main(["comment", "--verdict", place, "--order", "1.x"]) == 2


def test_by_hand_with_a_token_in_a_file(
    server: ForgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Run
) -> None:
    """Everything can be said by options; other comments of ours stay."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_EVENT_PATH"):
        monkeypatch.delenv(name, raising=False)
    server.comment(ME, "unmarked")
    (tmp_path / "token").write_text("secret-token\n")
    words = ["--on", "github", "--api", server.github, "--repository", "them/model"]
    words += ["--number", "4", "--head", HEAD, "--order", "3", "--check", "none"]
    found = told(PASSED, *words, "--token-file", "token", "--author", ME)
    assert (found.comment, found.check) == ("created", None)
    assert len(server.bodies()) == 2
    assert not server.asked("POST", "graphql")


@pytest.mark.parametrize("room", [0, 300, 5000, MAX_SUMMARY_BYTES])
def test_a_summary_is_cut_whole(room: int) -> None:
    """Whole lines, folds closed, never more than there is room for."""
    text = "\n".join(
        ["# head", "<details><summary>s</summary>", *["| é | b |"] * 900, "</details>"]
    )
    cut = fitted(text, room)
    assert len(cut.encode()) <= max(room, 0)
    assert cut.count("<details>") == cut.count("</details>")
    assert (cut == text) == (room > len(text.encode()))
