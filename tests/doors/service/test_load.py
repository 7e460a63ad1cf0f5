"""Much of everything, small: what grows with the load is counted."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprune.doors.service.app import Service, build_app
from reprune.doors.service.loop import Loop
from reprune.doors.service.metrics import Metrics
from reprune.doors.service.wiring import make_sweeper
from reprune.registry.files import FilesRegistry
from tests.doors.service.asgi import call
from tests.doors.service.staging import SECRET, Stage, delivery, kfp_whose_runs_are
from tests.kfp_server import KfpServer
from tests.registry.filling import fill_files

MANY = 3_000


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with kfp_whose_runs_are("FAILED") as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Stage(tmp_path, kfp.url)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths of all files that are opened by number from now on, as the registry's own are."""
    found: list[Path] = []
    opened = os.open

    def counted(path: Any, *given: Any, **more: Any) -> int:
        found.append(Path(path))
        return opened(path, *given, **more)

    monkeypatch.setattr(os, "open", counted)
    return found


@pytest.mark.slow
def test_many_versions_are_read_once_and_closed_in_few_rows(
    stage: Stage, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sweep reads each version once, the next ones a few; none asks Kubeflow for each."""
    registry = stage.registry
    assert isinstance(registry, FilesRegistry)
    stage.train("digits")
    fill_files(registry, "digits", MANY - 2, first=2)
    newest = stage.train("digits")
    sweeper = make_sweeper(stage.settings())
    read = reads(monkeypatch)
    assert sweeper(0)[1]
    first = len([path for path in read if path.parent.parent.name == "digits"])
    assert MANY <= first < 1.1 * MANY
    read.clear()
    assert sweeper(0)[1]
    assert len([path for path in read if path.parent.parent.name == "digits"]) < 0.05 * MANY
    assert len(kfp.requests) < 20
    seen = sweeper.ports.registry.look(sweeper.settings.watches.watches[0])
    assert sorted(int(each) for row in seen.rows for each in row.closes) == list(range(1, MANY))
    assert len(seen.rows) == 2
    assert newest == str(MANY)


def test_a_burst_of_events_wakes_once_or_twice_and_all_are_accepted() -> None:
    """Sweeps are as many as there is time for, and not as many as there are events."""
    began, go_on = threading.Event(), threading.Event()
    swept: list[int] = []

    def sweep(_: int) -> tuple[float, bool]:
        swept.append(1)
        began.set()
        go_on.wait(30)
        return 3600.0, True

    loop = Loop(sweep=sweep, gap_s=0.0)
    service = Service(
        loop=loop,
        metrics=Metrics(clock=time.monotonic),
        models=(("digits", "default"),),
        secrets=lambda: (SECRET.encode(),),
        window_s=300,
        max_body_bytes=10_000,
    )
    app = build_app(service)
    loop.start()
    assert began.wait(30)
    for number in range(500):
        headers, body = delivery(number, "digits", int(time.time()))
        assert call(app, "POST", "/webhooks/mlflow", headers, (body,)).json == {"result": "woken"}
    go_on.set()
    until_s = time.monotonic() + 30
    while len(swept) < 2 and time.monotonic() < until_s:
        time.sleep(0.01)
    assert loop.stop(30)
    # The one that was under way, and one that sees all that came meanwhile.
    assert len(swept) == 2
