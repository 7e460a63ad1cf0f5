"""A service on loopback that answers as the Kubeflow Model Registry (v1alpha3) does, and fails on cue.

    with ModelRegistryServer() as server:
        server.fail("GET", "/registered_model", status=429)      # the next request that fits

Ids are drawn from one row of numbers, names of versions are unique within a model, custom properties
are replaced as a whole, and lists come two a page.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/api/model_registry/v1alpha3"
PAGE = 2
Answer = tuple[int, Any]


@dataclass(frozen=True)
class Fault:
    """Happens once, to the first request of this method whose path contains `path`.

    `done` says that the service did as it was asked before it failed to say so.
    """

    method: str
    path: str
    status: int = 0
    drop: bool = False
    done: bool = False
    slow_s: float = 0.0
    raw: bytes | None = None


class ModelRegistryServer:
    """See the module. `token`: what every request must carry, now."""

    def __init__(self) -> None:
        self.token = ""
        self.models: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.before_patch: Callable[[], None] = lambda: None
        self.after_patch: Callable[[], None] = lambda: None
        self.released = threading.Event()
        self.lock = threading.RLock()
        self._ids = 0
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> ModelRegistryServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, method: str, path: str, times: int = 1, **how: Any) -> None:
        self.faults += [Fault(method, path, **how)] * times

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for each in self.faults:
                if each.method == method and each.path in path:
                    self.faults.remove(each)
                    return each
        return None

    def model_named(self, name: str) -> dict[str, Any]:
        return next(each for each in self.models.values() if each["name"] == name)

    def add_version(self, model: str, name: str, uri: str | None, **more: Any) -> str:
        """A version as somebody else registers one; without an address its artifact is still to come."""
        with self.lock:
            if not any(each["name"] == model for each in self.models.values()):
                self._make(self.models, {"name": model})
            body = {"name": name, "registeredModelId": self.model_named(model)["id"], **more}
            version: str = self._make(self.versions, body)["id"]
            if uri is not None:
                self.add_artifact(version, uri)
            return version

    def add_artifact(self, version: str, uri: str, **more: Any) -> None:
        body = {"artifactType": "model-artifact", "uri": uri, "of": version, **more}
        self._make(self.artifacts, body)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, said: str) -> Answer:
        with self.lock:
            if self.token and said != f"Bearer {self.token}":
                return 401, {"code": "401", "message": f"no: {said}"}
            head, _, rest = path.strip("/").partition("/")
            if head == "registered_model":
                found = [each for each in self.models.values() if each["name"] == query["name"]]
                return (200, found[0]) if found else _absent("registered model")
            if head == "registered_models" and method == "POST":
                return self._create(self.models, body, ("name",))
            if head == "model_versions" and method == "POST" and not rest:
                return self._create(self.versions, body, ("name", "registeredModelId"))
            return self._one(method, head, rest, query, body)

    def _one(self, method: str, head: str, rest: str, query: dict[str, str], body: Any) -> Answer:
        number, _, below = rest.partition("/")
        table = self.models if head == "registered_models" else self.versions
        found = table.get(number)
        if found is None:
            return _absent("registered model" if table is self.models else "model version")
        if below == "versions":
            rows = [v for v in self.versions.values() if v["registeredModelId"] == number]
            return _page(rows, query)
        if below == "artifacts" and method == "POST":
            return self._create(self.artifacts, {**body, "of": number}, ("name", "of"))
        if below == "artifacts":
            return _page([a for a in self.artifacts.values() if a["of"] == number], query)
        if method == "PATCH":
            self.before_patch()
            found.update({key: value for key, value in body.items() if value is not None})
            self.after_patch()
        return 200, found

    def _create(
        self, table: dict[str, dict[str, Any]], body: Any, unique: tuple[str, ...]
    ) -> Answer:
        if any(all(each[key] == body[key] for key in unique) for each in table.values()):
            return 409, {"code": "409", "message": "already exists"}
        return 201, self._make(table, body)

    def _make(self, table: dict[str, dict[str, Any]], body: Any) -> dict[str, Any]:
        self._ids += 1
        made = {
            "state": "LIVE",
            "name": f"artifact-{self._ids}",
            **body,
            "id": str(self._ids),
            "createTimeSinceEpoch": str(int(time.time() * 1000)),
        }
        table[made["id"]] = made
        return made


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: ModelRegistryServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


def _absent(what: str) -> Answer:
    return 404, {"code": "404", "message": f"no {what} found"}


def _page(rows: list[dict[str, Any]], query: dict[str, str]) -> Answer:
    start = int(query.get("nextPageToken") or 0)
    shown = rows[start : start + PAGE]
    more = str(start + PAGE) if len(rows) > start + PAGE else ""
    return 200, {"items": shown, "nextPageToken": more, "pageSize": PAGE, "size": len(shown)}


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        assert isinstance(self.server, _Server)
        api = self.server.api
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(API)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = json.loads(raw) if raw else None
        said = self.headers.get("Authorization", "")
        fault = api.fault(self.command, path)
        if fault is None:
            status, value = api.answer(self.command, path, query, body, said)
            self._send(status, json.dumps(value).encode())
            return
        if fault.done:
            api.answer(self.command, path, query, body, said)
        if fault.slow_s:
            api.released.wait(fault.slow_s)
        if fault.drop or fault.slow_s:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        on_cue = json.dumps({"code": str(fault.status), "message": "on cue"}).encode()
        self._send(fault.status or 200, on_cue if fault.raw is None else fault.raw)

    def _send(self, status: int, raw: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
