"""Runs: found by name, submitted once, waited for to an end that they said themselves."""

from __future__ import annotations

import pytest

from reprune.core.errors import (
    AccessDenied,
    OrchestratorError,
    OrchestratorUnreachable,
    RunNotFound,
    StillRunning,
)
from reprune.orchestrate.endpoint import Backoff, Endpoint
from reprune.orchestrate.runs import (
    Submission,
    cancel_run,
    find_runs,
    run_name,
    run_state,
    submit_run,
)
from reprune.orchestrate.wait import Pace, wait
from tests.kfp_server import KfpServer, State

NAME = run_name("digits", "sha256:" + "0123456789abcdef" * 4)
WANTED = Submission(
    name=NAME,
    experiment="nightly",
    pipeline_spec={"pipelineInfo": {"name": "p"}},
    platform_spec={"platforms": {}},
    parameters={"lock": "text", "share": 0.5},
    service_account="runner",
    pipeline_root="s3://root",
)


def test_a_run_is_named_by_model_and_lock() -> None:
    """The beginning of the digest, so that the same lock has the same name."""
    assert NAME == "digits-0123456789abcdef0123"


def test_what_is_submitted_arrives(server: KfpServer, endpoint: Endpoint) -> None:
    """The body is the one that the API takes; a missing experiment is made, a known one is used."""
    run = submit_run(endpoint, WANTED)
    assert (run.name, run.state) == (NAME, "PENDING")
    assert run.link == f"{server.url}/#/runs/details/{run.run_id}"
    assert server.posted() == [
        {
            "display_name": NAME,
            "experiment_id": "experiment-1",
            "pipeline_spec": {
                "pipeline_spec": WANTED.pipeline_spec,
                "platform_spec": WANTED.platform_spec,
            },
            "runtime_config": {"parameters": WANTED.parameters, "pipeline_root": "s3://root"},
            "service_account": "runner",
        }
    ]
    bare = Submission(name="bare", experiment="nightly", pipeline_spec={"a": 1})
    submit_run(endpoint, bare)
    assert server.posted()[-1]["pipeline_spec"] == {"a": 1}
    assert server.posted("/experiments") == [{"display_name": "nightly"}]


def test_an_experiment_that_two_make_at_once(server: KfpServer, endpoint: Endpoint) -> None:
    """Losing that race is no error."""

    def other() -> None:
        server.experiments["nightly"] = {"experiment_id": "theirs", "display_name": "nightly"}

    server.fail("GET", "/experiments", raw=b"{}", then=other)
    assert submit_run(endpoint, WANTED).name == NAME
    assert server.posted()[0]["experiment_id"] == "theirs"


def test_runs_are_found_by_their_whole_name(server: KfpServer, endpoint: Endpoint) -> None:
    """Over all pages, oldest first, and nothing that only looks like it, whatever the filter let pass."""
    younger = server.add(NAME, State("RUNNING"), created_at="2026-01-03T00:00:00Z")
    older = server.add(NAME, State("FAILED"), created_at="2026-01-02T00:00:00Z")
    server.add(f"{NAME}-2", State("RUNNING"))
    assert [run.run_id for run in find_runs(endpoint, NAME)] == [older, younger]
    server.fail("GET", "/runs", raw=b'{"runs": [{"run_id": "x", "display_name": "other"}]}')
    assert find_runs(endpoint, NAME) == ()


@pytest.mark.parametrize(
    "raw",
    [b'{"runs": 3}', b'{"runs": [3]}', b"[]"],
)
def test_a_list_that_is_none_is_not_an_empty_one(
    server: KfpServer, endpoint: Endpoint, raw: bytes
) -> None:
    """Else a second run would be submitted."""
    server.fail("GET", "/runs", raw=raw)
    with pytest.raises(OrchestratorError):
        find_runs(endpoint, NAME)


@pytest.mark.parametrize(
    "fault",
    [{"drop": True}, {"status": 502}, {"raw": b"<html>"}, {"raw": b"{}"}, {"raw": b"{", "truncated": True}],
    ids=str,
)  # fmt: skip
def test_a_lost_answer_is_looked_up(
    server: KfpServer, endpoint: Endpoint, fault: dict[str, object]
) -> None:
    """The run was made and nobody told us: it is found by its name, and no second one is sent."""
    known = server.add(NAME, State("FAILED"))
    server.fail("POST", "/runs", done=True, **fault)
    run = submit_run(endpoint, WANTED, known=[known])
    assert run.run_id != known
    assert len(server.runs) == 2
    assert len(server.posted()) == 1


def test_the_lookup_itself_may_be_lost(server: KfpServer, endpoint: Endpoint) -> None:
    """Still one run."""
    server.fail("POST", "/runs", done=True, drop=True)
    server.fail("GET", "/runs", times=2, drop=True)
    submit_run(endpoint, WANTED)
    assert len(server.runs) == 1


def test_a_run_that_shows_late_is_found(server: KfpServer, endpoint: Endpoint) -> None:
    """The list may lag behind the service."""
    server.fail("POST", "/runs", done=True, drop=True)
    server.fail("GET", "/runs", raw=b"{}")
    submit_run(endpoint, WANTED)
    assert len(server.runs) == 1


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 503}, {"status": 429}], ids=str)
def test_a_submission_that_did_not_arrive_is_sent_again(
    server: KfpServer, endpoint: Endpoint, fault: dict[str, object]
) -> None:
    """Only after a look, and not for ever."""
    server.fail("POST", "/runs", **fault)
    submit_run(endpoint, WANTED)
    assert len(server.runs) == 1
    between = [each.method for each in server.requests if each.path == "/runs"]
    assert between == ["POST", "GET", "GET", "POST"]
    server.fail("POST", "/runs", times=4, **fault)
    with pytest.raises(OrchestratorUnreachable):
        submit_run(endpoint, WANTED, known=list(server.runs))
    assert len(server.runs) == 1


def test_a_refused_submission_is_not_repeated(server: KfpServer, endpoint: Endpoint) -> None:
    """The service's own words are what a person reads."""
    server.fail("POST", "/runs", status=400, raw=b'{"error": "x", "message": "bad spec"}')
    with pytest.raises(OrchestratorError, match="answered 400: bad spec"):
        submit_run(endpoint, WANTED)
    assert len(server.posted()) == 1
    server.fail("POST", "/runs", status=403)
    with pytest.raises(AccessDenied):
        submit_run(endpoint, WANTED)


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"])
def test_every_end_is_an_end(server: KfpServer, endpoint: Endpoint, end: str) -> None:
    """Each change is seen once, tasks too, and the last is the end; drivers are nobody's tasks."""
    run_id = server.add(
        NAME,
        State("PENDING"),
        State("RUNNING", {"fetch": "RUNNING"}),
        State("RUNNING", {"fetch": "RUNNING"}),
        State("RUNNING", {"fetch": "SUCCEEDED", "prune": "RUNNING"}),
        State(end, {"fetch": "SUCCEEDED", "prune": end}, error="it broke"),
    )
    seen = list(wait(endpoint, run_id))
    assert [run.state for run in seen] == ["PENDING", "RUNNING", "RUNNING", end]
    assert [[task.name for task in run.tasks] for run in seen][-2:] == [["fetch", "prune"]] * 2
    assert [run.ended for run in seen] == [False, False, False, True]
    assert seen[-1].error == "it broke"


@pytest.mark.parametrize("word", ["CANCELLED", "SUCCESS", "DONE", "succeeded", "PAUSED"])
def test_a_word_that_we_do_not_know_is_no_end(
    server: KfpServer, endpoint: Endpoint, word: str
) -> None:
    """It is said once and waited through, whatever it looks like."""
    run_id = server.add(NAME, *[State("")] * 2, *[State(word)] * 3, State("FAILED"))
    said: list[str] = []
    assert [run.state for run in wait(endpoint, run_id, warn=said.append)][-1] == "FAILED"
    assert len(said) == (0 if word == "PAUSED" else 1)


def test_a_state_that_is_none_is_no_end(server: KfpServer, endpoint: Endpoint) -> None:
    """A run without a state, or with one of another type, has not begun."""
    run_id = server.add(NAME, State("SUCCEEDED"))
    for state in (b"", b', "state": null', b', "state": 5', b', "state": ["SUCCEEDED"]'):
        server.fail("GET", "/runs/", raw=b'{"run_id": "run-1"' + state + b"}")
        assert not run_state(endpoint, run_id).ended


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 500}, {"status": 429}], ids=str)
def test_a_lost_connection_is_waited_through(
    server: KfpServer, endpoint: Endpoint, pauses: list[float], fault: dict[str, object]
) -> None:
    """More often than one question would be repeated, with longer pauses, told once."""
    run_id = server.add(NAME, State("RUNNING"), State("RUNNING"), State("SUCCEEDED"))
    looks = wait(endpoint, run_id, warn=(said := []).append)  # type: ignore[var-annotated]
    assert next(looks).state == "RUNNING"
    server.fail("GET", "/runs/", times=9, **fault)
    assert [run.state for run in looks] == ["SUCCEEDED"]
    assert said[1:] == ["connected again"]
    assert "the connection was lost" in said[0]
    assert pauses[1:10] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_patience_ends(server: KfpServer) -> None:
    """A service that is gone for good is an error in the end; the run is not called failed."""
    run_id = server.add(NAME, State("RUNNING"))
    endpoint = Endpoint(host=server.url, backoff=Backoff(give_up_s=0.0))
    server.fail("GET", "/runs/", times=3, drop=True)
    with pytest.raises(OrchestratorUnreachable):
        list(wait(endpoint, run_id))


def test_time_ends(server: KfpServer, endpoint: Endpoint) -> None:
    """--timeout is about us, not about the run: the error says where it goes on."""
    run_id = server.add(NAME, State("RUNNING"))
    with pytest.raises(StillRunning, match="it goes on") as caught:
        list(wait(endpoint, run_id, Pace(timeout_s=0.05)))
    assert caught.value.where == endpoint.link(run_id)
    assert server.runs[run_id].plan[0].state == "RUNNING"


def test_a_run_that_was_deleted_ends_the_wait(server: KfpServer, endpoint: Endpoint) -> None:
    """With "no such run", not with a state."""
    looks = wait(endpoint, server.add(NAME, State("RUNNING")))
    next(looks)
    server.runs.clear()
    with pytest.raises(RunNotFound):
        next(looks)


def test_access_that_ends_is_told_while_waiting(server: KfpServer, endpoint: Endpoint) -> None:
    """A token that has expired is not waited through."""
    looks = wait(endpoint, server.add(NAME, State("RUNNING")))
    next(looks)
    server.token = "new"
    with pytest.raises(AccessDenied):
        next(looks)


def test_a_run_is_cancelled_once(server: KfpServer, endpoint: Endpoint) -> None:
    """A lost answer is looked up; asking again changes nothing; what has ended stays as it ended."""
    run_id = server.add(NAME, State("RUNNING"))
    server.fail("POST", ":terminate", done=True, drop=True)
    assert cancel_run(endpoint, run_id).state in ("CANCELING", "CANCELED")
    assert cancel_run(endpoint, run_id).state == "CANCELED"
    assert len(server.posted(f"/runs/{run_id}:terminate")) == 1
    done = server.add(NAME, State("SUCCEEDED"))
    assert cancel_run(endpoint, done).state == "SUCCEEDED"
    with pytest.raises(RunNotFound):
        cancel_run(endpoint, "run-9")
