"""The service and a Kubeflow Pipelines that fails: nothing is started twice, and what failed is done later.

Real sweeps over real sockets; only the clock is set forward, past what the reconciler waits for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reprune.doors.service.wiring import Sweeper
from reprune.orchestrate.reconcile_seen import SETTLE_S, terminal_states
from tests.doors.service.test_serve import TOKEN, Place
from tests.kfp_server import KfpServer, State
from tests.mlflow_server import free_port

RETRY_S = 10.0
CALLS = [("GET", "/runs"), ("GET", "/experiments"), ("POST", "/experiments"), ("POST", "/runs")]
FAULTS: list[dict[str, Any]] = [
    *({"status": status} for status in (401, 403, 404, 409, 429, 500, 503)),
    *({"status": status, "done": True} for status in (409, 429, 500, 504)),
    {"drop": True},
    {"drop": True, "done": True},
    {"raw": b"<html>Sign in</html>"},
    {"raw": b"{}", "truncated": True, "done": True},
    {"slow_s": 3.0, "done": True},
]
# A question that was answered and then lost is one that was lost.
CASES = [
    (call, fault, restarts)
    for call in CALLS
    for fault in FAULTS
    for restarts in ((False, True) if call == ("POST", "/runs") else (False,))
    if call[0] == "POST" or "done" not in fault
]


class Clock:
    """The time as it is, and a little later."""

    def __init__(self) -> None:
        self.later_s = 0.0

    def now_s(self) -> float:
        return time.time() + self.later_s


class Watched:
    """A watch that is swept again and again, with its clock."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.clock = Clock()
        self.begin()

    def begin(self) -> None:
        """A process that starts again; it has what lies in `state`."""
        self.sweep: Sweeper = self.place.sweeper()
        self.sweep.ports = dataclasses.replace(self.sweep.ports, clock=self.clock)

    def later(self, seconds: float = SETTLE_S + 1.0) -> bool:
        """Sweeps once more, so much later; whether no call failed."""
        self.clock.later_s += seconds
        return self.sweep(0)[1]

    def states(self) -> dict[str, str]:
        seen = self.sweep.ports.registry.look(self.sweep.settings.watches.watches[0])
        return dict(terminal_states(seen))


def begin_run(server: KfpServer) -> None:
    server.plan = [State("RUNNING")]

    def begin(run_id: str) -> None:
        server.runs[run_id].created_at = datetime.now(UTC).isoformat()

    server.on_submit = begin


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer(token=TOKEN) as server:
        begin_run(server)
        yield server


@pytest.fixture
def watched(tmp_path: Path, server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setattr("os.fsync", lambda _: None)
    # The pauses between two tries, on the way to where it matters.
    monkeypatch.setattr("time.sleep", lambda _: None)
    place = Place(tmp_path, server.url)
    place.config["kubeflow"]["timeout_s"] = 1
    place.watch |= {"retry_first_s": RETRY_S, "retry_longest_s": RETRY_S, "attempts": 1}
    place.write()
    place.train()
    return Watched(place)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fault", "restarts"), CASES, ids=str)
def test_whatever_call_fails_there_is_one_run(
    watched: Watched,
    server: KfpServer,
    call: tuple[str, str],
    fault: dict[str, Any],
    restarts: bool,
) -> None:
    """Once, and so often that no try of this sweep is left; the process may be another one afterwards."""
    server.fail(*call, **fault)
    watched.sweep(0)
    server.faults.clear()
    server.fail(*call, times=4, **fault)
    watched.later()
    server.faults.clear()
    if restarts:
        watched.begin()
    for _ in range(3):
        watched.later(2 * SETTLE_S + 1.0)
    assert watched.later()
    assert len(server.runs) == 1
    assert watched.states() == {}


def test_a_token_that_expires_is_read_anew(watched: Watched, server: KfpServer) -> None:
    """Before a look and between a look and a submission; the new file is enough."""
    file = watched.place.root / "token"
    server.token = "the-next-token"
    assert not watched.later()
    assert server.posted() == []
    file.write_text("the-next-token")
    server.fail("POST", "/runs", status=401)
    assert not watched.later()
    page = watched.sweep.metrics.text()
    assert 'reprune_call_failures_total{call="Submit"} 1' in page
    assert watched.later(4 * SETTLE_S)
    assert len(server.runs) == 1


def test_a_dead_host_that_comes_back(watched: Watched, server: KfpServer) -> None:
    """Nothing listens there; then something does."""
    port = free_port()
    watched.place.config["kubeflow"]["host"] = f"http://127.0.0.1:{port}"
    watched.place.write()
    watched.begin()
    assert not watched.later()
    assert not watched.later()
    assert server.requests == []
    with KfpServer(token=TOKEN, port=port) as back:
        begin_run(back)
        assert watched.later()
        assert watched.later()
        assert len(back.runs) == 1


def test_a_run_that_is_canceled_is_tried_again_and_then_given_up(
    watched: Watched, server: KfpServer
) -> None:
    """CANCELED says nothing about the version: it counts as an attempt, and the end is an error."""
    for number in (1, 2):
        assert watched.later(4 * SETTLE_S)
        assert len(server.runs) == number
        assert watched.later()
        server.runs[f"run-{number}"].plan = [State("CANCELED")]
        # At once neither a retry nor an end.
        assert watched.later(0.0)
        assert len(server.runs) == number
    assert watched.later()
    assert watched.states() == {"1": "error"}
    assert watched.later(100 * SETTLE_S)
    assert len(server.runs) == 2
    names = {run.body["display_name"] for run in server.runs.values()}
    assert len(names) == 1


def test_a_submission_of_a_second_run_whose_answer_is_lost(
    watched: Watched, server: KfpServer
) -> None:
    """Its name is that of the run before, which has ended: the new one is told from it."""
    assert watched.later()
    server.runs["run-1"].plan = [State("FAILED")]
    watched.later()
    server.fail("POST", "/runs", times=2, drop=True, done=True)
    for _ in range(3):
        watched.later()
    assert len(server.runs) == 2
    assert watched.states() == {}


def test_a_state_that_nobody_knows_is_no_end(watched: Watched, server: KfpServer) -> None:
    assert watched.later()
    server.runs["run-1"].plan = [State("PAUSED")]
    for _ in range(3):
        assert watched.later(100 * SETTLE_S)
    assert len(server.runs) == 1
