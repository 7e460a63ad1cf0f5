"""What `reprune serve` bears: events at a fixed rate, long registries, and a long life.

    python -m benchmarks.service_load [--quick] [--verify] [--json FILE]

`load`: the real process, alone on one core, gets 200 signed events a second for a minute over real
sockets, while versions of four models are registered in its registry (a folder); a watch in mode `run`
must end with a run of its newest version, one in mode `pull-request` with a dispatch event about it, else
the version is lost. Answers are timed from the moment at which an event was due, so that a service that
falls behind shows. `reconcile`: the first sweep over 10,000 versions that nobody has seen: all are listed,
9,999 are closed, the newest gets its lock and its run; and a second sweep. `soak`: 5,000 sweeps in virtual
time, while runs fail and versions arrive, and 50,000 events; memory after the warm-up against the end.
`--quick` does a tenth of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common
from reprune.doors.service.app import Service, build_app
from reprune.doors.service.wiring import Sweeper, make_loop, make_sweeper
from reprune.registry.files import FilesRegistry
from tests.doors.service.asgi import call
from tests.doors.service.staging import SECRET, TOKEN, Stage, delivery
from tests.kfp_server import KfpServer, State
from tests.registry.filling import fill_files, fill_mlflow

NAME = "service_load"
RATE, SECONDS = 200, 60
VERSIONS, RECONCILE_S = 10_000, 10.0
SWEEPS, EVENTS, SOAK_MB = 5_000, 50_000, 16.0
CONNECTIONS = 16
RUN, TOLD = ("run-a", "run-b"), ("told-a", "told-b")
EACH_S = 2.0
# A run fails after so long, so that it does not keep newer versions waiting.
RUN_S = 3.0
SETTLES_S = 200.0


def main() -> int:
    """Runs the three parts; 1 if a version was lost, an event refused, or a bound missed."""
    given = common.options(__doc__)
    part = 10 if given.quick else 1
    logging.disable(logging.CRITICAL)
    if given.verify:
        return _verify()
    rows = [
        load(SECONDS / part),
        *(reconcile(kind, VERSIONS // part) for kind in ("files", "mlflow")),
        soak(SWEEPS // part, EVENTS // part),
    ]
    figures = _figures(rows)
    if given.json:
        common.write(given.json, common.result(figures, rows, load_average=os.getloadavg()[1]))
    print(json.dumps(figures, indent=1))
    return int(not _good(figures))


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    loaded, *reconciled, soaked = rows
    return {
        "events_per_second": loaded["answered"] / loaded["seconds"],
        "events_sent": loaded["sent"],
        "events_accepted": loaded["statuses"].get("202", 0),
        "p50_ms": loaded["p50_ms"],
        "p99_ms": loaded["p99_ms"],
        "lost_versions": loaded["lost_versions"],
        "load_rss_growth_mb": loaded["rss_end_mb"] - loaded["rss_start_mb"],
        "reconcile_10000_s": max(row["first_s"] for row in reconciled),
        "reconcile_10000_cpu_s": max(row["first_cpu_s"] for row in reconciled),
        "soak_rss_growth_mb": soaked["growth_mb"],
    }


def _good(figures: dict[str, float]) -> bool:
    return (
        figures["lost_versions"] == 0
        and figures["events_accepted"] == figures["events_sent"]
        and figures["reconcile_10000_s"] < RECONCILE_S
        and figures["soak_rss_growth_mb"] < SOAK_MB
    )


def _verify() -> int:
    """The reconciliation of a folder again, against the bound; one wall clock says little of another."""
    found, wanted = reconcile("files", VERSIONS), common.committed(NAME)["rows"][1]
    print(f"files: {found['first_s']:.2f} s, committed {wanted['first_s']:.2f} s")
    return int(found["first_s"] >= RECONCILE_S or found["closed"] != wanted["closed"])


# --- load ---------------------------------------------------------------------------------------


def load(seconds: float) -> dict[str, Any]:
    """The figures of one minute; see the module."""
    own, theirs = _cores()
    with _stage(run=RUN, told=TOLD) as (stage, kfp, told):
        for name in (*RUN, *TOLD):
            stage.train(name)
        with _served(stage, theirs) as (process, port):
            os.sched_setaffinity(0, {own})
            rss_start = _rss_mb(process.pid)
            stopped = threading.Event()
            trainer = threading.Thread(target=_train, args=(stage, stopped))
            trainer.start()
            try:
                times, statuses, took_s = asyncio.run(_send(port, seconds))
            finally:
                stopped.set()
                trainer.join()
            waited_s, lost = _settled(stage, kfp, told)
            rss_end = _rss_mb(process.pid)
        versions = sum(len(stage.registry.versions(name)) for name in (*RUN, *TOLD))
    times.sort()
    return {
        "part": "load",
        "seconds": took_s,
        "sent": round(seconds * RATE),
        "answered": len(times),
        "statuses": statuses,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[int(len(times) * 0.99)],
        "slowest_ms": 1000 * times[-1],
        "versions": versions,
        "lost_versions": lost,
        "settled_after_s": waited_s,
        "rss_start_mb": rss_start,
        "rss_end_mb": rss_end,
    }


def _cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the service, one for who sends")
    return cores[0], cores[1]


@contextlib.contextmanager
def _stage(**watches: Any) -> Iterator[tuple[Stage, KfpServer, list[Any]]]:
    with tempfile.TemporaryDirectory() as folder, KfpServer(token=TOKEN) as kfp:
        served = kfp.answer
        told: list[Any] = []

        def answer(request: Any) -> tuple[int, Any]:
            if request.path.startswith("/repos/"):
                told.append(request.body)
                return 204, None
            return served(request)

        def begin(run_id: str) -> None:
            run = kfp.runs[run_id]
            run.created_at = datetime.now(UTC).isoformat()
            run.plan = [State("RUNNING")]
            ending = threading.Timer(RUN_S, setattr, (run, "plan", [State("FAILED")]))
            ending.daemon = True
            ending.start()

        kfp.answer, kfp.on_submit = answer, begin  # type: ignore[method-assign]
        yield Stage(Path(folder), kfp.url, **watches), kfp, told


@contextlib.contextmanager
def _served(stage: Stage, core: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The service on that core alone, once it is ready."""
    words = ("serve", "--json", "--port", "0", "--config", str(stage.file))
    with (stage.root / "log").open("w") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, "-m", "reprune.doors.cli", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"REPRUNE_WORK": str(stage.root / "work")},
        )
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        asyncio.run(_ready(port))
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert SECRET not in (stage.root / "log").read_text()


async def _ready(port: int) -> None:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n")
        status = await _answer(reader)
        writer.close()
        if status == 200:
            return
        await asyncio.sleep(0.1)


async def _send(port: int, seconds: float) -> tuple[list[float], dict[str, int], float]:
    """Every event at its time, whichever connection is free; how long after it each answer came."""
    due: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    times: list[float] = []
    statuses: Counter[str] = Counter()
    names = (*RUN, *TOLD, "somebody-elses")

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            number, due_s = await due.get()
            if number < 0:
                writer.close()
                return
            headers, body = delivery(number, names[number % len(names)], int(time.time()))
            try:
                writer.write(_request(headers, body))
                statuses[str(await _answer(reader))] += 1
                times.append(time.monotonic() - due_s)
            except (ConnectionError, asyncio.IncompleteReadError):
                statuses["none"] += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)

    senders = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    began_s = time.monotonic()
    for number in range(round(seconds * RATE)):
        due_s = began_s + number / RATE
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        due.put_nowait((number, due_s))
    for _ in senders:
        due.put_nowait((-1, 0.0))
    await asyncio.gather(*senders)
    return times, dict(statuses), time.monotonic() - began_s


def _request(headers: dict[str, bytes], body: bytes) -> bytes:
    whole = headers | {"host": b"here", "content-length": str(len(body)).encode()}
    lines = b"".join(key.encode() + b": " + value + b"\r\n" for key, value in whole.items())
    return b"POST /webhooks/mlflow HTTP/1.1\r\n" + lines + b"\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = head.partition("content-length:")[2].partition("\r\n")[0].strip()
    await reader.readexactly(int(length or 0))
    return int(head.split(" ", 2)[1])


def _train(stage: Stage, stopped: threading.Event) -> None:
    value = 1.0
    while not stopped.wait(EACH_S):
        for name in (*RUN, *TOLD):
            value += 1.0
            stage.train(name, value)


def _settled(stage: Stage, kfp: KfpServer, told: list[Any]) -> tuple[float, int]:
    """How long it took until the newest version of each model was answered, and how many never were."""
    began_s = time.monotonic()
    while True:
        lost = len(_unanswered(stage, kfp, told))
        waited_s = time.monotonic() - began_s
        if not lost or waited_s > SETTLES_S:
            return waited_s, lost
        time.sleep(0.5)


def _unanswered(stage: Stage, kfp: KfpServer, told: list[Any]) -> list[str]:
    locks = [yaml.safe_load(sent["runtime_config"]["parameters"]["lock"]) for sent in kfp.posted()]
    answered = {(lock["name"], lock["dense"]["version"]) for lock in locks}
    payloads = [each["client_payload"] for each in list(told)]
    answered |= {(each["model"], each["version"]) for each in payloads}
    newest = {(name, stage.registry.versions(name)[-1].version) for name in (*RUN, *TOLD)}
    return sorted(name for name, _ in newest - answered)


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


# --- a long registry ----------------------------------------------------------------------------


def reconcile(kind: str, versions: int) -> dict[str, Any]:
    """The first sweep over so many versions, and the second."""
    with _stage(kind=kind) as (stage, kfp, _):
        stage.train("digits")
        _fill(stage, versions - 2)
        newest = stage.train("digits")
        sweeper = make_sweeper(stage.settings())
        first_s, first_cpu_s = _timed(sweeper)
        posted = kfp.posted()
        second_s, _ = _timed(sweeper)
        watch = sweeper.settings.watches.watches[0]
        rows = sweeper.ports.registry.look(watch).rows
    assert int(newest) == versions
    assert len(posted) == 1
    closed = sum(len(row.closes) for row in rows)
    assert closed == versions - 1, closed
    return {
        "part": "reconcile",
        "kind": kind,
        "versions": versions,
        "first_s": first_s,
        "first_cpu_s": first_cpu_s,
        "second_s": second_s,
        "closed": closed,
        "rows": len(rows),
    }


def _fill(stage: Stage, count: int) -> None:
    if isinstance(stage.registry, FilesRegistry):
        fill_files(stage.registry, "digits", count, first=2)
    else:
        now_ms = int(time.time() * 1000) - count
        fill_mlflow(stage.root / "registry.db", "digits", count, first=2, at_ms=now_ms)


def _timed(sweeper: Sweeper) -> tuple[float, float]:
    gc.collect()
    began_s, cpu_s = time.monotonic(), time.process_time()
    _, well = sweeper(0)
    assert well
    return time.monotonic() - began_s, time.process_time() - cpu_s


# --- a long life --------------------------------------------------------------------------------


class Virtual:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.at_s = time.time()

    def now_s(self) -> float:
        """The time now."""
        return self.at_s


def soak(sweeps: int, events: int) -> dict[str, Any]:
    """Resident memory over so many sweeps and events; `growth_mb` is that after the first two fifths."""
    with _stage() as (stage, kfp, _):
        clock = Virtual()
        sweeper = make_sweeper(stage.settings())
        sweeper.ports = replace(sweeper.ports, clock=clock)
        service = Service(
            loop=make_loop(sweeper),
            metrics=sweeper.metrics,
            models=(("digits", "default"),),
            secrets=stage.settings().secrets,
            window_s=300,
            max_body_bytes=1_000_000,
            clock=clock.now_s,
        )
        app, each = build_app(service), events // sweeps
        seen, statuses = [], Counter[int]()
        for number in range(sweeps):
            if number % 50 == 0:
                stage.train("digits", float(number))
            sweeper(0)
            for place in range(each):
                headers, body = delivery(number * each + place, "digits", int(clock.at_s))
                statuses[call(app, "POST", "/webhooks/mlflow", headers, (body,)).status] += 1
            call(app, "GET", "/metrics")
            clock.at_s += 60.0
            # What the other side remembers is not ours.
            kfp.requests.clear()
            if number % max(1, sweeps // 50) == 0:
                gc.collect()
                seen.append(_rss_mb(os.getpid()))
        gc.collect()
        seen.append(_rss_mb(os.getpid()))
    warm = seen[len(seen) * 2 // 5]
    return {
        "part": "soak",
        "sweeps": sweeps,
        "events": sum(statuses.values()),
        "statuses": {str(key): value for key, value in statuses.items()},
        "rss_mb": seen,
        "warm_mb": warm,
        "end_mb": seen[-1],
        "growth_mb": seen[-1] - warm,
    }


if __name__ == "__main__":
    raise SystemExit(main())
