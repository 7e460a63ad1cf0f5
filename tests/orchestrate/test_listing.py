"""The runs of one model: its own, the newest, and only what their names confirm."""

from __future__ import annotations

import pytest

from reprune.core.errors import OrchestratorError, OrchestratorUnreachable
from reprune.orchestrate import listing
from reprune.orchestrate.endpoint import Endpoint
from reprune.orchestrate.listing import about, model_runs
from reprune.orchestrate.runs import Submission, run_name, submit_run
from tests.kfp_server import KfpServer, State

LOCK = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"
ENDED = State("FAILED")


def submit(endpoint: Endpoint, name: str, lock: str, description: str) -> str:
    submission = Submission(
        name=run_name(name, lock), experiment="e", pipeline_spec={}, description=description
    )
    return submit_run(endpoint, submission).run_id


def test_a_run_says_what_it_is_about_and_its_name_confirms_it(
    server: KfpServer, endpoint: Endpoint
) -> None:
    ours = submit(endpoint, "digits", LOCK, about("digits", "3", LOCK))
    liar = submit(endpoint, "digits", OTHER, about("digits", "4", LOCK))
    submit(endpoint, "more-digits", LOCK, about("more-digits", "1", LOCK))
    server.add(f"digits-v2-{'c' * 20}", ENDED)
    server.add("digits-by-hand", ENDED)
    found = model_runs(endpoint, "digits", since_s=0)
    assert [(each.run.run_id, each.version, each.lock) for each in found] == [
        (ours, "3", LOCK),
        (liar, "", ""),
    ]


def test_runs_from_before_are_left_out_and_no_page_beyond_them_is_turned(
    server: KfpServer, endpoint: Endpoint
) -> None:
    name = run_name("digits", LOCK)
    for day in range(1, 10):
        server.add(name, ENDED, created_at=f"2026-01-0{day}T00:00:00Z")
    since_s = 1_767_830_400  # 2026-01-08
    found = model_runs(endpoint, "digits", since_s=since_s)
    assert [each.run.run_id for each in found] == ["run-8", "run-9"]
    assert len(server.requests) == 3


def test_a_list_without_end_and_a_dead_service_are_errors(
    server: KfpServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        server.add(run_name("digits", LOCK), ENDED)
    monkeypatch.setattr(listing, "PAGES", 2)
    with pytest.raises(OrchestratorError, match="no end"):
        model_runs(endpoint, "digits", since_s=0)
    server.fail("GET", "/runs", times=4, status=503)
    with pytest.raises(OrchestratorUnreachable):
        model_runs(endpoint, "digits", since_s=0)
