"""A service on loopback that answers as GitHub's REST API and as GitLab's do, and fails on cue.

    with ForgeServer() as server:
        server.comment("github-actions[bot]", "text")
        server.fail("POST", "/comments", status=403)          # the next request that fits
        GitHub(service=Service(host=server.github), repository="them/model")

The shapes of its answers are those of the two APIs, cut down to what anybody here reads, and some of what
nobody should. `requests` is what it was asked, oldest first.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

ME = "github-actions[bot]"


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Fault:
    """Happens once, to the first request of this method whose path contains `path`. `done`: it did as it was
    asked, and then failed to say so.
    """

    method: str
    path: str
    status: int = 500
    message: str = "on cue"
    drop: bool = False
    done: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Pull:
    number: int
    branch: str
    head: str
    owner: str = "them"
    base: str = "main"
    # The commit that the branch left the base at, and what it changed since: names, or pairs of two.
    began: str = ""
    changed: tuple[str | tuple[str, str], ...] = ()
    title: str = ""
    body: str = ""


@dataclass
class World:
    """What the forge holds. `login` is whose the token is, never writing to paths with `denied` words."""

    login: str = ME
    comments: dict[int, dict[str, Any]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)
    dispatches: list[dict[str, Any]] = field(default_factory=list)
    # Workflows and the commits that they were run on.
    runs: list[tuple[str, str]] = field(default_factory=list)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    denied: tuple[str, ...] = ()
    next_id: int = 100


class ForgeServer:
    def __init__(self, *, token: str = "secret-token") -> None:
        self.token = token
        self.world = World()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.before: Callable[[Request], None] = lambda _: None
        # The newest commit of a branch that a pull request is opened for.
        self.head_of: Callable[[str], str] = lambda _: ""
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.forge = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> ForgeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def github(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def gitlab(self) -> str:
        return f"{self.github}/api/v4"

    def comment(self, author: str, body: str) -> int:
        with self.lock:
            self.world.next_id += 1
            self.world.comments[self.world.next_id] = {"author": author, "body": body}
            return self.world.next_id

    def fail(self, method: str, path: str, times: int = 1, **how: Any) -> None:
        self.faults += [Fault(method, path, **how) for _ in range(times)]

    def asked(self, method: str, path: str = "") -> list[Request]:
        return [each for each in self.requests if each.method == method and path in each.path]

    def bodies(self, author: str = ME) -> list[str]:
        """What comments of this author say, oldest first."""
        found = sorted(self.world.comments.items())
        return [each["body"] for _, each in found if each["author"] == author]

    def answer(self, request: Request) -> tuple[int, Any]:
        with self.lock:
            if request.headers.get("authorization") != f"Bearer {self.token}":
                # As careless proxies do, it says what it was given.
                return 401, {"message": f"Bad credentials: {request.headers.get('authorization')}"}
            if request.method != "GET" and any(w in request.path for w in self.world.denied):
                return 403, {"message": "Resource not accessible by integration"}
            path = request.path
            if path.startswith("/api/v4"):
                return self._gitlab(request, path.removeprefix("/api/v4"))
            return self._github(request, path)

    def _github(self, request: Request, path: str) -> tuple[int, Any]:
        if path == "/graphql":
            return 200, {"data": {"viewer": {"login": self.world.login}}}
        return self._routed(request, path, "/repos/them/model", GITHUB)

    def _gitlab(self, request: Request, path: str) -> tuple[int, Any]:
        if path == "/user":
            return 200, {"username": self.world.login, "email": "not-for-logs@example.org"}
        return self._routed(request, path, "/projects/7", GITLAB)

    def _routed(
        self, request: Request, path: str, below: str, routes: list[Route]
    ) -> tuple[int, Any]:
        for method, pattern, work in routes:
            match = re.fullmatch(f"{below}{pattern}", path)
            if match and request.method == method:
                return work(self, request, match[1] if match.groups() else "")
        return 404, {"message": "Not Found"}

    def comments(self, request: Request, _: str) -> tuple[int, Any]:
        if request.method == "GET":
            return 200, self._paged(request, [self._shown(i) for i in self.world.comments])
        return 201, self._shown(self.comment(self.world.login, request.body["body"]))

    def notes(self, request: Request, _: str) -> tuple[int, Any]:
        if request.method == "GET":
            rows = [dict(_SYSTEM), *(self._note(i) for i in self.world.comments)]
            return 200, self._paged(request, rows)
        return 201, self._note(self.comment(self.world.login, request.body["body"]))

    def checks(self, request: Request, sha: str) -> tuple[int, Any]:
        if request.method == "GET":
            found = [each for each in self.world.checks if each["head_sha"] == sha]
            return 200, {"total_count": len(found), "check_runs": found}
        self.world.checks.append(request.body)
        return 201, request.body

    def status(self, request: Request, sha: str) -> tuple[int, Any]:
        self.world.statuses.append(request.body | {"sha": sha})
        return 201, request.body

    def dispatch(self, request: Request, name: str) -> tuple[int, Any]:
        self.world.dispatches.append(request.body | {"workflow": name})
        self.world.runs.append((name, self.head_of(request.body["ref"])))
        return 204, None

    def workflow_runs(self, request: Request, name: str) -> tuple[int, Any]:
        found = [each for each in self.world.runs if each == (name, request.query["head_sha"])]
        return 200, {"total_count": len(found), "workflow_runs": [{} for _ in found]}

    def github_pulls(self, request: Request, _: str) -> tuple[int, Any]:
        if request.method == "GET":
            # The filter is left out, as where it is not understood.
            return 200, self._paged(request, [_github_pull(p) for p in self.world.pulls])
        said = request.body
        return 201, _github_pull(
            self._opened(said["head"], said["base"], said["title"], said["body"])
        )

    def gitlab_pulls(self, request: Request, _: str) -> tuple[int, Any]:
        if request.method == "GET":
            return 200, self._paged(request, [_gitlab_pull(p) for p in self.world.pulls])
        said = request.body
        branches = said["source_branch"], said["target_branch"]
        return 201, _gitlab_pull(self._opened(*branches, said["title"], said["description"]))

    def _opened(self, branch: str, base: str, title: str, body: str) -> Pull:
        number = len(self.world.pulls) + 1
        pull = Pull(number, branch, self.head_of(branch), base=base, title=title, body=body)
        self.world.pulls.append(pull)
        return pull

    def refresh(self, request: Request, number: str) -> tuple[int, Any]:
        pull = next(each for each in self.world.pulls if each.number == int(number))
        pull.title = request.body["title"]
        pull.body = request.body.get("body") or request.body["description"]
        return 200, _github_pull(pull)

    def compare(self, request: Request, pair: str) -> tuple[int, Any]:
        head = pair.rpartition("...")[2]
        pulls = [each for each in self.world.pulls if each.head == head]
        pull = next((each for each in pulls if each.base == pair.partition("...")[0]), None)
        if pull is None or not pull.began:
            return 404, {"message": "No common ancestor"}
        found: dict[str, Any] = {"merge_base_commit": {"sha": pull.began}}
        # Only the first page has the files.
        if request.query.get("page", "1") == "1":
            found["files"] = [_file_row(each) for each in pull.changed][:300]
        return 200, found

    def gitlab_pull(self, request: Request, number: str) -> tuple[int, Any]:
        pull = next(each for each in self.world.pulls if each.number == int(number))
        return 200, _gitlab_pull(pull) | {"diff_refs": {"base_sha": pull.began}}

    def change(self, request: Request, number: str) -> tuple[int, Any]:
        key = int(number)
        if key not in self.world.comments:
            return 404, {"message": "Not Found"}
        if request.method == "DELETE":
            del self.world.comments[key]
            return 204, None
        self.world.comments[key]["body"] = request.body["body"]
        return 200, self._shown(key)

    def file(self, request: Request, path: str) -> tuple[int, Any]:
        raw = self.world.files.get((unquote(path), request.query["ref"]))
        if raw is None:
            return 404, {"message": "Not Found"}
        return 200, {"encoding": "base64", "content": base64.encodebytes(raw).decode()}

    def _shown(self, key: int) -> dict[str, Any]:
        held = self.world.comments[key]
        # As GitHub gives a text back.
        body = held["body"].rstrip().replace("\n", "\r\n")
        return {"id": key, "body": body, "user": {"login": held["author"], "type": "Bot"}}

    def _note(self, key: int) -> dict[str, Any]:
        held = self.world.comments[key]
        return {
            "id": key,
            "body": held["body"],
            "author": {"username": held["author"]},
            "system": False,
        }

    def _paged(self, request: Request, rows: list[Any]) -> list[Any]:
        size = int(request.query.get("per_page", "30"))
        start = (int(request.query.get("page", "1")) - 1) * size
        return rows[start : start + size]


Route: TypeAlias = tuple[str, str, Callable[[ForgeServer, Request, str], tuple[int, Any]]]
GITHUB: list[Route] = [
    ("GET", r"/issues/\d+/comments", ForgeServer.comments),
    ("POST", r"/issues/\d+/comments", ForgeServer.comments),
    ("PATCH", r"/issues/comments/(\d+)", ForgeServer.change),
    ("DELETE", r"/issues/comments/(\d+)", ForgeServer.change),
    ("GET", r"/commits/(\w+)/check-runs", ForgeServer.checks),
    ("POST", r"/check-runs", ForgeServer.checks),
    ("POST", r"/statuses/(\w+)", ForgeServer.status),
    ("POST", r"/actions/workflows/([^/]+)/dispatches", ForgeServer.dispatch),
    ("GET", r"/actions/workflows/([^/]+)/runs", ForgeServer.workflow_runs),
    ("GET", r"/contents/(.+)", ForgeServer.file),
    ("GET", r"/pulls", ForgeServer.github_pulls),
    ("POST", r"/pulls", ForgeServer.github_pulls),
    ("PATCH", r"/pulls/(\d+)", ForgeServer.refresh),
    ("GET", r"/compare/(.+)", ForgeServer.compare),
]
GITLAB: list[Route] = [
    ("GET", r"/merge_requests/\d+/notes", ForgeServer.notes),
    ("POST", r"/merge_requests/\d+/notes", ForgeServer.notes),
    ("PUT", r"/merge_requests/\d+/notes/(\d+)", ForgeServer.change),
    ("DELETE", r"/merge_requests/\d+/notes/(\d+)", ForgeServer.change),
    ("POST", r"/statuses/(\w+)", ForgeServer.status),
    ("GET", r"/repository/files/([^/]+)", ForgeServer.file),
    ("GET", r"/merge_requests", ForgeServer.gitlab_pulls),
    ("POST", r"/merge_requests", ForgeServer.gitlab_pulls),
    ("GET", r"/merge_requests/(\d+)", ForgeServer.gitlab_pull),
    ("PUT", r"/merge_requests/(\d+)", ForgeServer.refresh),
]
_SYSTEM = {"id": 1, "body": "changed the title", "author": {"username": "root"}, "system": True}


def _file_row(changed: str | tuple[str, str]) -> dict[str, str]:
    if isinstance(changed, str):
        return {"filename": changed, "status": "modified"}
    before, after = changed
    return {"filename": after, "previous_filename": before, "status": "renamed"}


def _github_pull(pull: Pull) -> dict[str, Any]:
    head = {
        "ref": pull.branch,
        "sha": pull.head,
        "repo": {"owner": {"login": pull.owner}, "full_name": f"{pull.owner}/model"},
    }
    return {"number": pull.number, "head": head, "base": {"ref": pull.base}, "title": pull.title}


def _gitlab_pull(pull: Pull) -> dict[str, Any]:
    return {
        "iid": pull.number,
        "sha": pull.head,
        "source_branch": pull.branch,
        "target_branch": pull.base,
        "source_project_id": 7 if pull.owner == "them" else 8,
        "target_project_id": 7,
    }


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        forge: ForgeServer = self.server.forge  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            method=self.command,
            path=parts.path,
            query={key: values[0] for key, values in parse_qs(parts.query).items()},
            headers={key.lower(): value for key, value in self.headers.items()},
            body=json.loads(raw) if raw else None,
        )
        forge.requests.append(request)
        forge.before(request)
        fault = next(
            (f for f in forge.faults if f.method == self.command and f.path in parts.path), None
        )
        if fault is None:
            self._send(*forge.answer(request))
            return
        forge.faults.remove(fault)
        if fault.done:
            forge.answer(request)
        if fault.drop:
            self.close_connection = True
            return
        self._send(fault.status, {"message": fault.message}, fault.headers)

    def _send(self, status: int, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> None:
        raw = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, text in headers:
            self.send_header(name, text)
        if status != 204:
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
