"""update, judge, promote: the workflows' own steps, against the git remote and the forge of world.py."""

from __future__ import annotations

import shutil

import pytest

from reprune.core.lock import LOCK_FILE
from reprune.core.marker import read_marker
from reprune.registry.protocol import known_alias
from tests.ci.world import BRANCH, World, git, pull_event
from tests.forge_server import Pull
from tests.registry.promotion import COMPRESSED, registry_of

pytestmark = pytest.mark.slow


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


def test_a_fork_is_told_by_the_second_of_the_pair(world: World) -> None:
    """The fork's own run tells nothing; the other judges its samples again and passes nothing."""
    locked = (world.root / "locked.yaml").read_text()
    head = world.pushed("Lock", {LOCK_FILE: locked}, "theirs")
    world.forge.world.pulls = [Pull(9, "theirs", head, owner="stranger")]
    event = pull_event(head, "theirs", "stranger")
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
