"""The service and everybody who means it harm: who connects, who signs, and who writes to its registry."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import schemathesis
import uvicorn
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection
from starlette.types import ASGIApp

from reprune.doors.service import listening
from reprune.doors.service.app import Service, build_app
from reprune.doors.service.logs import LOGGER, JsonLines
from reprune.doors.service.loop import Loop
from reprune.doors.service.metrics import Metrics
from reprune.doors.service.signatures import sign
from reprune.doors.service.wiring import make_sweeper
from reprune.registry import tags
from reprune.registry.files import FilesRegistry
from tests.doors.service.staging import SECRET, TOKEN, Stage, delivery
from tests.kfp_server import KfpServer, State
from tests.registry.filling import fill_files
from tests.registry.test_hostile import LISTS, answering, lists

TAGS = (*tags.TAGS, *tags.MARKS, tags.PROMOTED, tags.CLOSED, tags.CLOSES, tags.WHY, "a\nb{")
CLOSES = b"host: x\r\nconnection: close\r\n\r\n"
LINE = re.compile(r'# (HELP|TYPE) .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)*\})? [0-9.e+-]+')


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with KfpServer(token=TOKEN) as server:
        server.plan = [State("RUNNING")]
        yield server


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(lambda: (SECRET, TOKEN)))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield stream
    LOGGER.removeHandler(handler)


@pytest.fixture
def stage(tmp_path: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Stage(tmp_path, kfp.url, run=("victim", "other"))


# --- who connects -------------------------------------------------------------------------------


class Served:
    """`reprune serve` as it is started, and raw bytes sent to it."""

    def __init__(self, stage: Stage) -> None:
        self.log = stage.root / "log"
        words = ("serve", "--json", "--port", "0", "--config", str(stage.file))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reprune.doors.cli", *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.port: int = json.loads(self.process.stdout.readline())["port"]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def say(self, raw: bytes, *, ends: bool) -> bytes:
        """All that comes back until the connection is closed; `ends` says that no more is coming."""
        with self.connect() as connection:
            try:
                for start in range(0, len(raw), 65_536):
                    connection.sendall(raw[start : start + 65_536])
                if ends:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return drained(connection)

    def status(self, raw: bytes, *, ends: bool = False) -> int:
        """0 where nothing came back."""
        return int([*self.say(raw, ends=ends).split(b" ", 2), b"0", b"0"][1])


def drained(connection: socket.socket) -> bytes:
    found = b""
    try:
        while more := connection.recv(65_536):
            found += more
    except OSError:
        pass
    return found


def request(headers: dict[str, bytes], body: bytes, *, length: bool = True) -> bytes:
    lines = {"host": b"here", "connection": b"close", **headers}
    if length:
        lines["content-length"] = str(len(body)).encode()
    head = b"".join(key.encode() + b": " + value + b"\r\n" for key, value in lines.items())
    return b"POST /webhooks/mlflow HTTP/1.1\r\n" + head + b"\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (*chunks, b""))


@pytest.mark.slow
def test_what_comes_over_the_wire_is_a_4xx_and_the_next_one_is_served(stage: Stage) -> None:
    """Bodies without end, lengths that lie, heads that are none, and letters one at a time."""
    served = Served(stage)
    headers, body = delivery(1, "victim", int(time.time()))
    big = b"x" * 3_000_000
    pieces = [big[:50_000]] * 60
    two = request(headers, body).replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n", 1)
    wire: dict[str, tuple[bytes, set[int]]] = {
        "declared too large": (request(headers, big), {413}),
        "chunked too large": (
            request({**headers, "transfer-encoding": b"chunked"}, chunked(*pieces), length=False),
            {413},
        ),
        "a chunk that lies": (
            request({**headers, "transfer-encoding": b"chunked"}, b"ffffffffffffffff\r\nx", length=False),
            {0, 400, 413},
        ),
        "two lengths": (two, {400}),
        "a length that is none": (request({**headers, "content-length": b"1e9"}, b"", length=False), {400}),
        "a length below none": (request({**headers, "content-length": b"-1"}, b"", length=False), {400}),
        "both": (request({**headers, "transfer-encoding": b"chunked"}, chunked(body)), {202, 400}),
        "a body that ends early": (
            request({**headers, "content-length": b"500"}, body, length=False), {0, 400, 401},
        ),
        "a header without end": (request({"x": b"y" * 1_000_000}, b""), {400}),
        "headers without end": (request({f"x-{n}": b"y" for n in range(50_000)}, b""), {400}),
        "a NUL": (request({**headers, "x-mlflow-delivery-id": b"a\0b"}, body), {400}),
        "a line in a header": (request({**headers, "x": b"a\r\n b"}, body), {202, 400, 409}),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50, {400}),
        "a path without end": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", {400}),
        "a path that climbs": (b"GET /../../etc/passwd HTTP/1.1\r\n" + CLOSES, {404}),
        "a whole address": (b"GET http://169.254.169.254/ HTTP/1.1\r\n" + CLOSES, {400, 404}),
        "another verb": (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + CLOSES, {400, 404, 405}),
        "a preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405, 505}),
    }  # fmt: skip
    try:
        for case, (raw, good) in wire.items():
            assert served.status(raw, ends=0 in good) in good, case
        again, body = delivery(2, "victim", int(time.time()))
        assert served.status(request(again, body)) == 202
        assert served.process.poll() is None
    finally:
        served.process.terminate()
        served.process.communicate(timeout=20)
    text = served.log.read_text()
    assert SECRET not in text
    for line in text.splitlines():
        json.loads(line)
    assert "Traceback" not in text


@pytest.mark.slow
def test_who_sends_one_letter_at_a_time_is_shown_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a head that trickles in nor a connection on which nothing comes is kept."""
    monkeypatch.setattr(listening, "HEAD_S", 0.4)
    server = uvicorn.Server(listening.server_config(build_app(_service()), graceful_s=1))
    here = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [here]}, daemon=True)
    thread.start()
    address = here.getsockname()
    try:
        with (
            socket.create_connection(address, timeout=20) as silent,
            socket.create_connection(address, timeout=20) as slow,
        ):
            until_s, closed = time.monotonic() + 20, False
            for letter in b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 2000:
                try:
                    slow.sendall(bytes([letter]))
                except OSError:
                    closed = True
                    break
                time.sleep(0.02)
                assert time.monotonic() < until_s
            assert closed
            assert drained(silent) == b""
        busy = http.client.HTTPConnection(*address, timeout=20)
        busy.connect()
        kept, until_s = busy.sock, time.monotonic() + 4 * listening.HEAD_S
        while time.monotonic() < until_s:
            busy.request("GET", "/healthz")
            assert busy.getresponse().read() == b"alive"
            time.sleep(0.01)
        assert busy.sock is kept
        busy.close()
        with socket.create_connection(address, timeout=20) as quick:
            quick.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert drained(quick).startswith(b"HTTP/1.1 200")
    finally:
        server.should_exit = True
        thread.join(timeout=20)


# --- who signs ----------------------------------------------------------------------------------


def _service() -> Service:
    loop = Loop(sweep=lambda _: (3600.0, True))
    loop.start()
    return Service(
        loop=loop,
        metrics=Metrics(clock=time.monotonic),
        models=(("victim", "default"),),
        secrets=lambda: (SECRET.encode(),),
        window_s=300,
        max_body_bytes=100_000,
    )


NAMES = {
    "/webhooks/mlflow": (b"x-mlflow-delivery-id", b"x-mlflow-timestamp", b"x-mlflow-signature"),
    "/webhooks/cloudevents": (b"ce-id", b"x-reprune-timestamp", b"x-reprune-signature"),
}


def signing(app: ASGIApp, seen: Counter[int]) -> ASGIApp:
    """The application as those see it who know the secret: each body is signed on its way."""

    async def signed(scope: Any, receive: Any, send: Any) -> None:
        names = NAMES.get(scope["path"])
        if scope["method"] != "POST" or names is None:
            await app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        ident, stamp = secrets.token_hex(8).encode(), str(int(time.time())).encode()
        values = (ident, stamp, sign(SECRET.encode(), ident, stamp, body))
        others = [(key, value) for key, value in scope["headers"] if key not in names]

        async def whole() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen[message["status"]] += 1
            await send(message)

        headers = [*others, *zip(names, values, strict=True)]
        await app({**scope, "headers": headers}, whole, told)

    return signed


@pytest.mark.slow
@pytest.mark.parametrize("knows_the_secret", [False, True])
def test_every_answer_is_one_that_the_description_names(knows_the_secret: bool) -> None:
    """Whatever fits the description and whatever does not: no 5xx, and the answer is as described."""
    described_cases(knows_the_secret, 20)


@pytest.mark.deep
@pytest.mark.parametrize("part", range(1, 14))
@pytest.mark.parametrize("knows_the_secret", [False, True])
def test_thousands_of_cases_are_answered_as_described(knows_the_secret: bool, part: int) -> None:
    """26 parts of 200 and more, each from a seed of its own: more than 5,000 cases, and no failure."""
    assert described_cases(knows_the_secret, 100, part) >= 200


def described_cases(knows_the_secret: bool, examples: int, part: int = 0) -> int:
    """How many cases were made up and answered; any failure is raised."""
    many = 0
    seen: Counter[int] = Counter()
    app: ASGIApp = build_app(_service())
    if knows_the_secret:
        app = signing(app, seen)
    # The headers that a case leaves out are put in on the way.
    unchecked = [negative_data_rejection] if knows_the_secret else []
    described = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in described.get_all_operations():
        operation = found.ok()

        @seed(part)
        @given(case=operation.as_strategy() | operation.as_strategy(GenerationMode.NEGATIVE))
        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        def each(case: Case) -> None:
            nonlocal many
            many += 1
            response = case.call()
            assert response.status_code < 500
            case.validate_response(response, excluded_checks=unchecked)

        each()
    if knows_the_secret:
        assert seen[202] > 10
        assert seen[400] > 0
    return many


# --- who writes to the registry -----------------------------------------------------------------

HOSTILE_TEXT = st.text(max_size=30) | st.sampled_from(
    ["\n{}", '"} 1\nreprune_runs{model="x', "\u2028", "\\", "{{7*7}}", "${jndi:ldap://x}", "%s%n", "\u202e",
     "../../etc/passwd", "9" * 400, "-1", "\u0661", "pass", "superseded", "1 2 3", "\r\nreprune_x 1"]
)  # fmt: skip


@pytest.mark.slow
@given(rows=st.lists(st.dictionaries(st.sampled_from(TAGS), HOSTILE_TEXT, max_size=6), max_size=4))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_law_tags_of_others_stop_no_sweep_and_forge_no_line(
    stage: Stage, kfp: KfpServer, log: io.StringIO, rows: list[dict[str, str]]
) -> None:
    """Whatever stands beside what was judged: another model's run is started, logs and numbers are whole."""
    registry = stage.registry
    assert isinstance(registry, FilesRegistry)
    shutil.rmtree(registry.folder, ignore_errors=True)
    shutil.rmtree(stage.root / "state", ignore_errors=True)
    kfp.runs.clear()
    kfp.requests.clear()
    for name in ("victim", "other"):
        stage.train(name)
    fill_files(registry, "victim-compressed", len(rows))
    for number, row in enumerate(rows, start=1):
        version = {"stamp": "s", "tags": row}
        path = registry.folder / "victim-compressed" / str(number) / "version.json"
        path.write_text(json.dumps(version))
    sweep = make_sweeper(stage.settings())
    sweep(0)
    assert "other" in [yaml.safe_load(lock)["name"] for lock in locks(kfp)]
    for line in sweep.metrics.text().splitlines():
        assert LINE.fullmatch(line), line
    assert sweep.metrics.text().count("\nreprune_versions_seen{") == 2
    for line in log.getvalue().splitlines():
        json.loads(line)
    assert "crashed" not in log.getvalue()


def locks(kfp: KfpServer) -> list[str]:
    return [sent["runtime_config"]["parameters"]["lock"] for sent in kfp.posted()]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*LISTS, "http 500", "garbage"])
def test_a_registry_that_lies_fails_its_own_watch(
    stage: Stage, kfp: KfpServer, log: io.StringIO, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The others are looked at, the failure is counted and told, and nothing of it is a line of its own."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    stage.train("other")
    answer = {
        "http 500": lambda _: (500, {}, b"\n{}\nreprune_x 1"),
        "garbage": lambda _: (200, {}, b"\xff\n\n" * 50),
    }.get(case) or lists(LISTS[case])
    with answering(answer) as (address, _):
        watches = yaml.safe_load((stage.root / "watches.yaml").read_text())["watches"]
        watches[0] |= {"name": "digits", "registry": {"kind": "mlflow", "uri": address}}
        (stage.root / "watches.yaml").write_text(json.dumps({"watches": watches}))
        config = yaml.safe_load(stage.file.read_text())
        config["runs"] = {"other": config["runs"]["other"]}
        stage.file.write_text(json.dumps(config))
        sweep = make_sweeper(stage.settings())
        assert not sweep(0)[1]
    assert len(kfp.posted()) == 1
    assert 'reprune_call_failures_total{call="read"} 1' in sweep.metrics.text()
    for line in sweep.metrics.text().splitlines():
        assert LINE.fullmatch(line), line
    told = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["model"] for line in told if line["event"] == "a call failed"] == ["digits"]


def test_a_version_that_is_garbage_stops_no_other_model_of_its_registry(
    stage: Stage, kfp: KfpServer
) -> None:
    """For ever: not only in the sweep that finds it."""
    for name in ("victim", "other"):
        stage.train(name)
    (stage.root / "registry" / "victim" / "1" / "version.json").write_text("{")
    sweep = make_sweeper(stage.settings())
    for failures in range(2):
        assert not sweep(failures)[1]
    [body] = kfp.posted()
    lock = yaml.safe_load(body["runtime_config"]["parameters"]["lock"])
    assert lock["name"] == "other"


# --- what no log may show -----------------------------------------------------------------------

SECRET_TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=16, max_size=40
)
FORMS: tuple[Callable[[str], str], ...] = (
    str, repr, quote, quote_plus, json.dumps,
    lambda text: base64.b64encode(text.encode()).decode(),
)  # fmt: skip


@pytest.mark.slow
@given(
    drawn=st.lists(SECRET_TEXT, min_size=4, max_size=4, unique=True), form=st.sampled_from(FORMS)
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.generate],
)
def test_law_no_configured_secret_is_in_any_line(
    stage: Stage, drawn: list[str], form: Callable[[str], str]
) -> None:
    """Not in a fact, a message or a crash, however an exception or a client wrote it."""
    config = yaml.safe_load(stage.file.read_text())
    (stage.root / "credentials").mkdir(exist_ok=True)
    config["registry_secret"] = "credentials"
    stage.file.write_text(json.dumps(config))
    files = ["secret", "token", "credentials/password", "credentials/token"]
    for name, text in zip(files, drawn, strict=True):
        (stage.root / name).write_text(text + "\n", encoding="utf-8")
    stream = io.StringIO()
    logger = logging.getLogger("of-this-law")
    logger.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(stage.settings().confidential))
    logger.handlers[:] = [handler]
    for text in drawn:
        shown = form(text)
        logger.error("a call failed", extra={"facts": {"words": shown, "path": Path(shown[:50])}})
        logger.error("%s", shown, extra={"facts": {"deep": [{"x": (shown,), shown: 1}]}})
        try:
            {}[shown]
        except KeyError:
            logger.exception("crashed with %r", shown)
    written = stream.getvalue()
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) == 3 * len(drawn)
    for text in drawn:
        for line in lines:
            assert text not in everything(line)
            assert form(text) not in everything(line)
        assert text not in written


def everything(value: Any) -> str:
    """All texts in it, side by side."""
    if isinstance(value, dict):
        return "\0".join(f"{key}\0{everything(each)}" for key, each in value.items())
    if isinstance(value, list):
        return "\0".join(map(everything, value))
    return str(value)


def test_a_run_with_crashes_shows_no_secret(
    stage: Stage, kfp: KfpServer, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that dies with its credentials in its hand, and a service that says what it was sent."""
    stage.train("other")
    sweep = make_sweeper(stage.settings())
    registries = type(sweep.ports.registry.registry)  # type: ignore[attr-defined]
    opened = registries.open

    def crash(self: Any, watch: Any) -> Any:
        if watch.name == "victim":
            raise RuntimeError(f"Authorization: Bearer {TOKEN} {SECRET!r}")
        return opened(self, watch)

    monkeypatch.setattr(registries, "open", crash)
    kfp.fail("POST", "/runs", raw=f'{{"error": "{TOKEN}"}}'.encode(), status=400)
    assert not sweep(0)[1]
    text = log.getvalue()
    assert "a watch crashed" in text
    assert TOKEN not in text
    assert SECRET not in text
