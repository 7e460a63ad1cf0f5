"""A service on loopback that answers as the API of Kubeflow Pipelines (v2beta1) does, and fails on cue.

    with KfpServer() as server:
        server.plan = [State("RUNNING"), State("SUCCEEDED")]     # what a new run goes through, a look each
        server.fail("GET", "/runs/", drop=True)                  # the next request that fits
        Endpoint(host=server.url)

`server.runs` is what it holds and `server.requests` what it was asked, oldest first.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"
CREATED = "2026-01-02T03:04:05Z"
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


@dataclass(frozen=True)
class State:
    """What a look at a run shows: its state, states of tasks by name, the service's error."""

    state: str
    tasks: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass
class StoredRun:
    body: dict[str, Any]
    plan: list[State]
    created_at: str = CREATED
    finished_at: str = ""

    def look(self, run_id: str) -> dict[str, Any]:
        """The run as it is now; the next look sees what comes next."""
        shown = self.describe(run_id)
        if len(self.plan) > 1:
            self.plan.pop(0)
        return shown

    def describe(self, run_id: str) -> dict[str, Any]:
        now = self.plan[0]
        tasks = [
            {"task_id": f"{run_id}-{name}", "display_name": name, "state": state}
            for name, state in now.tasks.items()
        ]
        shown: dict[str, Any] = {
            "run_id": run_id,
            "display_name": self.body["display_name"],
            "experiment_id": self.body["experiment_id"],
            "description": self.body.get("description", ""),
            "created_at": self.created_at,
            "state": now.state,
            "run_details": {
                "task_details": [*tasks, {"task_id": "d", "display_name": "root-driver"}]
            },
        }
        if self.finished_at:
            shown["finished_at"] = self.finished_at
        return shown | ({"error": {"code": 13, "message": now.error}} if now.error else {})


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Fault:
    """Happens once, to the first request of this method whose path contains `path`.

    `done` says that the service did as it was asked before it failed to say so; `raw` is sent as it is,
    `truncated` with a longer length than it has.
    """

    method: str
    path: str
    status: int = 0
    drop: bool = False
    done: bool = False
    slow_s: float = 0.0
    raw: bytes | None = None
    truncated: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    then: Callable[[], None] | None = None


class KfpServer:
    """See the module. `token`: what every request must carry; `certificate`: paths of a chain and a key."""

    def __init__(
        self,
        *,
        token: str = "",
        multi_user: bool = False,
        certificate: tuple[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.token = token
        self.multi_user = multi_user
        self.plan = [State("PENDING"), State("RUNNING"), State("SUCCEEDED")]
        self.runs: dict[str, StoredRun] = {}
        self.experiments: dict[str, dict[str, str]] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.on_submit: Callable[[str], None] = lambda _: None
        self.released = threading.Event()
        self._lock = threading.RLock()
        self._server = _Server(self, port)
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> KfpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, method: str, path: str, times: int = 1, **how: Any) -> None:
        self.faults += [Fault(method, path, **how)] * times

    def add(self, name: str, *plan: State, created_at: str = CREATED) -> str:
        """A run that is there already; returns its id."""
        with self._lock:
            run_id = f"run-{len(self.runs) + 1}"
            body = {"display_name": name, "experiment_id": "experiment-0"}
            self.runs[run_id] = StoredRun(body, list(plan), created_at)
            return run_id

    def posted(self, path: str = "/runs") -> list[Any]:
        """The bodies that were sent to exactly this path."""
        return [each.body for each in self.requests if (each.method, each.path) == ("POST", path)]

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for each in self.faults:
                if each.method == method and each.path in path:
                    self.faults.remove(each)
                    return each
        return None

    def answer(self, request: Request) -> tuple[int, Any]:
        with self._lock:
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                # As careless proxies do, it says what it was given.
                return 401, {"error": f"no: {request.headers.get('authorization', '')}"}
            if request.path == "/healthz":
                return 200, {"multi_user": self.multi_user}
            if request.path == "/experiments":
                return self._experiments(request)
            if request.path == "/runs":
                return self._runs(request)
            return self._one_run(request)

    def _experiments(self, request: Request) -> tuple[int, Any]:
        if request.method == "POST":
            name = request.body["display_name"]
            if name in self.experiments:
                return 409, {"error": "already exists", "code": 6}
            made = {
                "experiment_id": f"experiment-{len(self.experiments) + 1}",
                "display_name": name,
            }
            self.experiments[name] = made
            return 200, made
        found = _filtered(request, list(self.experiments.values()))
        return 200, {"experiments": found} if found else {}

    def _runs(self, request: Request) -> tuple[int, Any]:
        if request.method == "POST":
            run_id = f"run-{len(self.runs) + 1}"
            self.runs[run_id] = StoredRun(request.body, list(self.plan))
            self.on_submit(run_id)
            return 200, self.runs[run_id].describe(run_id)
        found = _filtered(request, [run.describe(run_id) for run_id, run in self.runs.items()])
        # A few a page, so that nobody reads the first page only; but no more pages than a client turns.
        start, size = int(request.query.get("page_token") or 0), 1 + len(found) // 10
        page: dict[str, Any] = {"runs": found[start : start + size]} if found else {}
        end = start + size
        return 200, page | ({"next_page_token": str(end)} if len(found) > end else {})

    def _one_run(self, request: Request) -> tuple[int, Any]:
        run_id, _, verb = request.path.removeprefix("/runs/").partition(":")
        run = self.runs.get(run_id)
        if run is None:
            return 404, {"error": f"run {run_id} not found", "code": 5}
        if verb == "terminate" and request.method == "POST":
            if run.plan[0].state not in TERMINAL:
                run.plan = [State("CANCELING"), State("CANCELED")]
            return 200, {}
        return 200, run.look(run_id)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: KfpServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


def _filtered(request: Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for predicate in json.loads(request.query.get("filter", "{}")).get("predicates", []):
        key, text = predicate["key"], predicate["stringValue"]
        if predicate["operation"] == "IS_SUBSTRING":
            rows = [row for row in rows if text in row[key]]
        else:
            assert predicate["operation"] == 1, predicate
            rows = [row for row in rows if row[key] == text]
    key, _, order = request.query.get("sort_by", "").partition(" ")
    return sorted(rows, key=lambda row: str(row[key]), reverse=order == "desc") if key else rows


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    @property
    def api(self) -> KfpServer:
        assert isinstance(self.server, _Server)
        return self.server.api

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(API)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            method=self.command,
            path=path,
            query={key: values[0] for key, values in parse_qs(parts.query).items()},
            headers={key.lower(): value for key, value in self.headers.items()},
            body=json.loads(raw) if raw else None,
        )
        self.api.requests.append(request)
        fault = self.api.fault(self.command, path)
        if fault is None:
            self._send(*self.api.answer(request))
            return
        if fault.done:
            self.api.answer(request)
        if fault.then:
            fault.then()
        self._fail(fault)

    def _fail(self, fault: Fault) -> None:
        if fault.slow_s:
            self.api.released.wait(fault.slow_s)
        if fault.drop or fault.slow_s:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.raw is not None:
            self._send_raw(fault.status or 200, fault.raw, fault)
        else:
            self._send_raw(fault.status, json.dumps({"error": "on cue"}).encode(), fault)

    def _send(self, status: int, value: Any) -> None:
        self._send_raw(status, json.dumps(value).encode(), Fault("", ""))

    def _send_raw(self, status: int, raw: bytes, fault: Fault) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw) + (100 if fault.truncated else 0)))
        for name, value in fault.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)
