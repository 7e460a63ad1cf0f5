"""update, judge, promote: the workflows' own steps, against the git remote and the forge of world.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from reprune.core.lock import LOCK_FILE
from reprune.core.marker import read_marker
from reprune.registry.protocol import known_alias
from tests.ci.workflows import Job
from tests.ci.world import BRANCH, World, git, pull_event
from tests.forge_server import Pull
from tests.registry.promotion import COMPRESSED, registry_of

pytestmark = pytest.mark.slow


def champion(world: World) -> str | None:
    return known_alias(registry_of(world.root / "first"), COMPRESSED, "champion")


def test_from_an_event_to_the_champion(world: World) -> None:
    """An update opens one pull request; the judge records, tells and checks; merged, it is promoted."""
    told = {"action": "reprune", "client_payload": {"model": "digits", "version": "1"}}
    update = world.run("update", "repository_dispatch", told)
    assert {name: job.result for name, job in update.items()} == {
        "update": "success",
        "propose": "success",
    }, "\n".join(job.log for job in update.values())
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
    assert world.run("update", "schedule")["propose"].result == "success"
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
    event = pull_event(head, "words", "them")
    jobs = world.run("judge", "pull_request", event, branch="words", base_ref="main")
    assert {name: job.result for name, job in jobs.items()} == {
        "look": "success",
        "measure": "skipped",
        "tell": "skipped",
    }, jobs["look"].log
    assert [each["conclusion"] for each in world.forge.world.checks] == ["success"]
    assert world.forge.bodies() == []
    head = world.pushed("Loosen", {"params.yaml": f"{params}seed: 3\n"}, "loose")
    event = pull_event(head, "loose", "them")
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
    event = pull_event(head, "mine", "them")
    jobs = world.run(
        "judge", "pull_request", event, branch="mine", head_ref="mine", base_ref="main"
    )
    assert (jobs["measure"].result, jobs["tell"].result) == ("failure", "failure")
    (said,) = world.forge.bodies()
    assert "gave no verdict" in said
    assert [each["conclusion"] for each in world.forge.world.checks] == ["failure"]
    assert git(world.remote, "rev-parse", "mine") == head


def test_a_verdict_that_could_not_be_kept_passes_nothing(world: World) -> None:
    """`dvc push` fails after a pass: what would be promoted lies nowhere, so the check is no success."""
    locked = (world.root / "locked.yaml").read_text()
    head = world.pushed("Lock", {LOCK_FILE: locked}, "mine")
    (world.root / "kept").write_text("no folder that a remote could be")
    world.forge.world.pulls = [Pull(4, "mine", head)]
    event = pull_event(head, "mine", "them")
    jobs = world.run(
        "judge", "pull_request", event, branch="mine", head_ref="mine", base_ref="main"
    )
    assert "--- Run the pipeline (0)" in jobs["measure"].log
    assert (jobs["measure"].result, jobs["tell"].result) == ("failure", "failure")
    (said,) = world.forge.bodies()
    assert "gave no verdict" in said
    assert [each["conclusion"] for each in world.forge.world.checks] == ["failure"]
    assert git(world.remote, "rev-parse", "mine") == head


def test_a_remote_whose_package_is_missing_is_told_before_anything_is_measured(
    world: World,
) -> None:
    """What is computed could not be kept; other remotes that do not answer cost no more than time."""
    head = world.pushed("Lock", {LOCK_FILE: (world.root / "locked.yaml").read_text()}, "mine")
    config = "[core]\nremote = kept\n['remote \"kept\"']\nurl = s3://bucket/model\n"
    event = pull_event(head, "mine", "them")
    with_s3 = world.pushed("Lock", {".dvc/config": config, LOCK_FILE: "x"}, "cloud")
    for branch, commit in (("mine", head), ("cloud", with_s3)):
        event = pull_event(commit, branch, "them")
        judged = world.run(
            "judge", "pull_request", event, branch=branch, base_ref="main", only=("look", "measure")
        )["measure"]
        assert judged.result == ("success" if branch == "mine" else "failure")
        assert ("--- Run the pipeline" in judged.log) is (branch == "mine")
    assert "::error title=dvc pull::the DVC remote needs a package (dvc-s3 for s3://)" in judged.log


def test_what_the_project_needs_is_installed(world: World) -> None:
    """What the task imports, where it is run; and where a token is, what the main branch names: never what
    the judged commit does.
    """
    task = (world.root / "first" / "task" / "digits.py").read_text()
    first = {
        "requirements.txt": wheel(world.root, "for_the_task"),
        "requirements-control.txt": wheel(world.root, "of_main"),
        "task/digits.py": f"import for_the_task\n{task}",
    }
    world.pushed("Need", first, "main")
    update = world.run("update", "schedule")["update"]
    assert update.result == "success", update.log
    assert installed(update) == {"for_the_task", "of_main"}

    change = {
        LOCK_FILE: (world.root / "locked.yaml").read_text(),
        "requirements-control.txt": wheel(world.root, "of_the_change"),
    }
    head = world.pushed("Lock", change, "mine")
    world.forge.world.pulls = [Pull(4, "mine", head)]
    event = pull_event(head, "mine", "them")
    judge = world.run(
        "judge", "pull_request", event, branch="mine", head_ref="mine", base_ref="main"
    )
    assert judge["measure"].result == judge["tell"].result == "success", judge["tell"].log
    assert installed(judge["measure"]) == {"for_the_task", "of_the_change"}
    assert installed(judge["tell"]) == {"of_main"}
    promote = world.run("promote", "push")
    assert installed(promote["promote"]) == {"of_main"}


def test_data_that_dvc_tracks_are_there_when_the_task_tells_their_version(world: World) -> None:
    """They are fetched before the task is imported; where they cannot be, the job goes on without."""
    first = world.root / "first"
    task = (first / "task" / "digits.py").read_text()
    reading = task.replace('"data-1"', 'open("parts.txt").read()')
    assert reading != task
    (first / "task" / "digits.py").write_text(reading)
    (first / "parts.txt").write_text("data-7")
    for words in (["add", "-q", "parts.txt"], ["push", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=first, check=True)
    git(first, "add", ".")
    git(first, "commit", "-qm", "Track the data")
    git(first, "push", "-q", str(world.remote), "main")
    update = world.run("update", "schedule")
    assert update["propose"].result == "success", update["update"].log
    assert "data_version: data-7" in git(world.remote, "show", f"{BRANCH}:{LOCK_FILE}")

    shutil.rmtree(world.root / "kept")
    update = world.run("update", "schedule")
    assert update["update"].result == "failure"
    assert "::warning title=dvc pull::data that DVC tracks could not be" in update["update"].log
    assert "parts.txt" in update["update"].log


def wheel(folder: Path, name: str) -> str:
    """The line of a list that names a wheel, which is made, with an empty module of that name."""
    path = folder / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{path}\n"


def installed(job: Job) -> set[str]:
    return {path.stem for path in job.site.glob("*.py")}


def test_a_fork_is_told_by_the_second_of_the_pair(world: World) -> None:
    """The fork's own run tells nothing; the other judges its samples again and passes nothing."""
    locked = (world.root / "locked.yaml").read_text()
    head = world.pushed("Lock", {LOCK_FILE: locked}, "theirs")
    world.forge.world.pulls = [Pull(9, "theirs", head, owner="stranger")]
    event = pull_event(head, "theirs", "stranger")
    jobs = world.run("judge", "pull_request", event, branch="theirs", base_ref="main")
    assert (jobs["measure"].result, jobs["tell"].result) == ("success", "skipped")
    assert world.forge.bodies() == []
    done = run_event(head, "theirs")
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
    waits = {"workflow_run": {**done["workflow_run"], "conclusion": "action_required"}}
    assert world.run("fork", "workflow_run", waits)["tell"].result == "skipped"


def test_a_fork_that_changes_nothing_is_not_judged(world: World) -> None:
    """Its run has no token to say so, and leaves nothing behind: the forge says what the commit changes."""
    head = world.pushed("Write", {"README.md": "words"}, "theirs")
    began = git(world.remote, "rev-parse", "main")
    pull = Pull(9, "theirs", head, owner="stranger", began=began, changed=("README.md",))
    world.forge.world.pulls = [pull]
    event = pull_event(head, "theirs", "stranger")
    world.forge.world.denied = ("/comments", "/check-runs", "/statuses")
    jobs = world.run("judge", "pull_request", event, branch="theirs", base_ref="main")
    assert (jobs["look"].result, jobs["measure"].result) == ("success", "skipped")
    assert world.forge.world.checks == []
    world.forge.world.denied = ()
    params = (world.root / "first" / "params.yaml").read_bytes()
    world.forge.world.files[("params.yaml", "main")] = params
    told = world.run("fork", "workflow_run", run_event(head, "theirs"))["tell"]
    assert told.result == "success", told.log
    (check,) = world.forge.world.checks
    assert (check["name"], check["conclusion"]) == ("reprune/digits", "success")
    assert world.forge.bodies() == []


def test_a_forks_pipeline_that_fails_is_told_as_such(world: World) -> None:
    """There is no verdict and, where it ends before its look, no artefact: the name is the base branch's."""
    locked = (world.root / "locked.yaml").read_text()
    head = world.pushed("Lock", {LOCK_FILE: locked}, "theirs")
    shutil.rmtree(world.measured)
    began = git(world.remote, "rev-parse", "main")
    pull = Pull(9, "theirs", head, owner="stranger", began=began, changed=(LOCK_FILE,))
    world.forge.world.pulls = [pull]
    event = pull_event(head, "theirs", "stranger")
    jobs = world.run("judge", "pull_request", event, branch="theirs", base_ref="main")
    assert (jobs["measure"].result, jobs["tell"].result) == ("failure", "skipped")
    params = (world.root / "first" / "params.yaml").read_bytes()
    world.forge.world.files[("params.yaml", "main")] = params
    told = world.run("fork", "workflow_run", run_event(head, "theirs"))["tell"]
    assert told.result == "success", told.log
    (said,) = world.forge.bodies()
    assert "gave no verdict" in said
    (check,) = world.forge.world.checks
    assert (check["name"], check["conclusion"]) == ("reprune/digits", "failure")


def run_event(head: str, branch: str) -> dict[str, Any]:
    """A run of the judge for a fork is completed."""
    return {
        "workflow_run": {
            "id": 501,
            "run_attempt": 1,
            "event": "pull_request",
            "head_sha": head,
            "head_branch": branch,
            "head_repository": {"full_name": "stranger/model", "owner": {"login": "stranger"}},
        }
    }
