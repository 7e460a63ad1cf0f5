"""The service as it is started: a registry of plain folders, a Kubeflow server on loopback, real sockets."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from reprune.core.errors import AccessDenied, InputError, RegistryError
from reprune.core.params import read_params
from reprune.doors.cli import main
from reprune.doors.service import dispatching
from reprune.doors.service.config import read_settings
from reprune.doors.service.loop import Loop
from reprune.doors.service.signatures import sign
from reprune.doors.service.wiring import Sweeper, make_sweeper
from reprune.orchestrate.reconcile_seen import terminal_states
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.steps.project import describe
from tests.doors.test_submit import PACKAGE, PLATFORM
from tests.kfp_server import KfpServer, State
from tests.registry import stand

SECRET = "the-webhook-secret-of-this-test"
TOKEN = "a-token-that-nobody-may-see"
DIGITS = "a" * 64
IMAGE = f"you/digits@sha256:{DIGITS}"
SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"


class Place:
    """A folder with a configuration, a project as its image holds it, and a registry."""

    def __init__(self, root: Path, host: str) -> None:
        self.root = root
        self.project = root / "projects" / DIGITS
        uri = str(root / "registry")
        params = (
            f"name: digits\ntask: task.digits:DigitsTask\nregistry: {{kind: files, uri: {uri}}}\n"
            "targets: {ort-cpu: {runtime: onnxruntime}}\n"
        )
        stand.write_repository(self.project, params)
        describe(self.project)
        (root / "secret").write_text(SECRET + "\n")
        (root / "token").write_text(TOKEN)
        (root / "pipeline.yaml").write_text(yaml.safe_dump_all([PACKAGE, PLATFORM]))
        self.registry = open_registry(read_params(self.project / "params.yaml").registry, root)
        self.watch: dict[str, Any] = {
            "registry": {"kind": "files", "uri": uri},
            "name": "digits",
            "since": datetime.now(UTC) - timedelta(minutes=5),
            "image": IMAGE,
            "experiment": "watched",
            "poll_s": 10.0,
        }
        self.config: dict[str, Any] = {
            "projects": "projects",
            "state": "state",
            "webhook": {"secret_files": ["secret"]},
            "kubeflow": {"host": host, "token_file": "token", "timeout_s": 5},
            "runs": {"digits": {"pipeline": "pipeline.yaml"}},
        }
        self.write()

    @property
    def file(self) -> Path:
        return self.root / "serve.yaml"

    def write(self, *more: dict[str, Any]) -> Path:
        self.file.write_text(yaml.safe_dump(self.config))
        (self.root / "watches.yaml").write_text(yaml.safe_dump({"watches": [self.watch, *more]}))
        return self.file

    def train(self, value: float = 1.0) -> str:
        weights = stand.write_weights(self.root / "weights" / "w.safetensors", value)
        return register_dense(self.registry, "digits", weights)

    def sweeper(self) -> Sweeper:
        return make_sweeper(read_settings(self.file))


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with KfpServer(token=TOKEN) as server:
        server.plan = [State("RUNNING")]

        def begin(run_id: str) -> None:
            server.runs[run_id].created_at = datetime.now(UTC).isoformat()

        server.on_submit = begin
        yield server


@pytest.fixture
def place(tmp_path: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    # Nothing here pulls the plug.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Place(tmp_path, kfp.url)


def test_the_newest_version_gets_one_run_of_the_projects_texts(
    place: Place, kfp: KfpServer
) -> None:
    for value in (1.0, 2.0):
        place.train(value)
    sweep = place.sweeper()
    for _ in range(3):
        assert sweep(0)[1]
    [body] = kfp.posted()
    sent = body["runtime_config"]["parameters"]
    lock = yaml.safe_load(sent["lock"])
    assert lock["dense"]["version"] == "2"
    assert lock["data_version"] == "data-1"
    assert sent["policy"] == (place.project / "policy.yaml").read_text()
    assert (sent["compress_image"], sent["control_image"]) == (IMAGE, IMAGE)
    page = sweep.metrics.text()
    assert 'reprune_versions_seen{model="digits",workspace="default"} 2' in page
    assert 'reprune_runs{model="digits",state="RUNNING",workspace="default"} 1' in page


def test_an_older_version_ends_as_superseded_in_the_registry(place: Place, kfp: KfpServer) -> None:
    for value in (1.0, 2.0):
        place.train(value)
    sweep = place.sweeper()
    sweep(0)
    sweep(0)
    seen = sweep.ports.registry.look(sweep.settings.watches.watches[0])
    assert terminal_states(seen) == {"1": "superseded"}
    assert 'state="superseded"' in sweep.metrics.text()


def test_a_service_that_starts_again_finds_the_run_that_is_there(
    place: Place, kfp: KfpServer
) -> None:
    place.train()
    place.sweeper()(0)
    for forgotten in (place.root / "state").iterdir():
        forgotten.unlink()
    place.sweeper()(0)
    assert len(kfp.posted()) == 1


@pytest.mark.parametrize("how", [{"status": 503}, {"status": 500}, {"drop": True}])
def test_kubeflow_down_is_a_failure_now_and_a_run_later(
    place: Place, kfp: KfpServer, how: dict[str, Any]
) -> None:
    place.train()
    kfp.fail("GET", "/runs", times=2, **how)
    sweep = place.sweeper()
    pause_s, well = sweep(0)
    assert not well
    assert pause_s < 10.0
    assert kfp.posted() == []
    assert 'reprune_call_failures_total{call="read"} 1' in sweep.metrics.text()
    assert sweep(1)[1]
    assert len(kfp.posted()) == 1


def test_a_watch_that_crashes_stops_no_other(
    place: Place, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(copy.deepcopy(place.watch) | {"name": "broken"})
    place.train()
    sweep = place.sweeper()
    registries = type(sweep.ports.registry.registry)  # type: ignore[attr-defined]
    opened = registries.open

    def crash(self: Any, watch: Any, *more: Any) -> Any:
        if watch.name == "broken":
            raise ZeroDivisionError
        return opened(self, watch, *more)

    monkeypatch.setattr(registries, "open", crash)
    assert not sweep(0)[1]
    assert len(kfp.posted()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "letters"}, "is 'letters' in the watch"),
        ({"image": f"you/digits@sha256:{'b' * 64}"}, "is not there"),
    ],
)
def test_a_watch_and_its_project_are_about_one_model(
    place: Place, kfp: KfpServer, change: dict[str, Any], words: str
) -> None:
    place.watch |= change
    place.config["runs"] = {}
    place.write()
    weights = stand.write_weights(place.root / "w.safetensors")
    register_dense(place.registry, place.watch["name"], weights)
    sweep = place.sweeper()
    watch = sweep.settings.watches.watches[0]
    with pytest.raises(InputError, match=words):
        sweep.ports.locks.write(watch, "1")
    assert not sweep(0)[1]
    assert kfp.posted() == []


def test_the_watch_says_how_much_is_fetched(place: Place, kfp: KfpServer) -> None:
    place.watch["registry"]["max_bytes"] = 1_000
    place.write()
    weights = place.root / "weights" / "w.safetensors"
    stand.write_weights(weights)
    assert weights.stat().st_size < 1_000
    register_dense(place.registry, "digits", weights)
    sweep = place.sweeper()
    watch = sweep.settings.watches.watches[0]
    assert sweep.ports.locks.write(watch, "1").text
    weights.write_bytes(bytes(2_000))
    place.registry.register("digits", weights.parent, {})
    with pytest.raises(RegistryError, match="max_bytes"):
        sweep.ports.locks.write(watch, "2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"webhook": None}, "does not start without a webhook secret"),
        ({"webhook": {"secret_files": ["gone"]}}, "cannot be read"),
        ({"webhook": {"secret_files": ["short"]}}, "16 to 4096"),
        ({"webhook": {"secret": "in-the-file-itself"}}, "unknown key 'secret'"),
        ({"kubeflow": None}, "needs `kubeflow`"),
        ({"runs": {"letters": {}}}, "nobody watches 'letters'"),
        ({"polls": 5}, "unknown key 'polls'"),
    ],
)
def test_it_does_not_start_half_configured(
    place: Place, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    (place.root / "short").write_text("short")
    place.config |= change
    place.write()
    assert main(["serve", "--config", str(place.file), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert words in answer["what"]


def test_the_configuration_fits_its_schema(place: Place) -> None:
    schema = json.loads((SCHEMAS / "serve.schema.json").read_text())
    jsonschema.validate(place.config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(place.config | {"polls": 1}, schema)


def test_a_loop_is_woken_and_outlives_a_sweep_that_crashes() -> None:
    seen: list[int] = []

    def sweep(failures: int) -> tuple[float, bool]:
        seen.append(failures)
        if len(seen) == 2:
            raise ZeroDivisionError
        return 3600.0, True

    loop = Loop(sweep=sweep, gap_s=0.0)
    loop.start()
    until(lambda: loop.ready)
    loop.wake()
    until(lambda: loop.swept == 2)
    assert loop.alive
    assert loop.failures == 1
    assert loop.stop(5.0)
    assert not loop.ready


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class Served:
    """The process, its address, and what it has logged once it has ended."""

    def __init__(self, root: Path, *program: str, **env: str) -> None:
        self.file = root / "serve.log"
        words = ("serve", "--json", "--port", "0", "--config", str(root / "serve.yaml"))
        # A file: a pipe that nobody empties would hold the service up.
        with self.file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(program or ("-m", "reprune.doors.cli")), *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"REPRUNE_WORK": str(root / "work")} | env,
            )
        assert self.process.stdout is not None
        self.told = json.loads(self.process.stdout.readline())
        self.log = ""

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.told["port"], timeout=10)
        with contextlib.closing(connection):
            names = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body or None, names)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def deliver(self, delivery: str, name: str = "digits", secret: str = SECRET) -> int:
        data = {"entity": "model_version", "action": "created", "data": {"name": name}}
        body, stamp = json.dumps(data).encode(), str(int(time.time()))
        signature = sign(secret.encode(), delivery.encode(), stamp.encode(), body).decode()
        headers = {
            "Content_Type": "application/json",
            "X_MLflow_Delivery_Id": delivery,
            "X_MLflow_Timestamp": stamp,
            "X_MLflow_Signature": signature,
        }
        return self.ask("POST", "/webhooks/mlflow", body, **headers)[0]

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=10)
        self.log = self.file.read_text()
        return self.process.returncode


@pytest.fixture
def served(place: Place) -> Iterator[Served]:
    weights = stand.write_weights(place.root / "weights" / "w.safetensors")
    register_dense(place.registry, "nobody-watches-this", weights)
    # The next look by itself is far beyond the end of a test.
    place.watch["poll_s"] = 3600.0
    place.write()
    running = Served(place.root)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


@pytest.mark.slow
def test_an_event_wakes_it_many_start_one_run_and_sigterm_ends_it(
    place: Place, kfp: KfpServer, served: Served
) -> None:
    until(lambda: served.ask("GET", "/readyz")[0] == 200)
    assert served.ask("GET", "/healthz") == (200, "alive")
    place.train()
    assert served.deliver("d-0", "somebody-elses") == 202
    assert served.ask("POST", "/webhooks/mlflow", b"{}")[0] == 401
    for number in range(1, 30):
        assert served.deliver(f"d-{number}") == 202
    assert served.deliver("d-1") == 409
    until(lambda: len(kfp.posted()) == 1)
    assert served.deliver("d-30") == 202
    until(lambda: 'state="RUNNING"' in served.ask("GET", "/metrics")[1])
    assert len(kfp.posted()) == 1
    page = served.ask("GET", "/metrics")[1]
    assert 'reprune_deliveries_total{result="woken",source="mlflow"} 30' in page
    for line in page.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .+|[a-z_]+(\{([a-z]+="[^"]*",?)*\})? [0-9.e+-]+', line)
    began = time.monotonic()
    assert served.end() == 0
    assert time.monotonic() - began < 5.0
    assert SECRET not in served.log
    assert TOKEN not in served.log
    lines = [json.loads(line) for line in served.log.splitlines()]
    started = [line for line in lines if line["event"] == "a run was started"]
    assert [(line["model"], line["version"], line["run"]) for line in started] == [
        ("digits", "1", "run-1")
    ]


def mount(folder: Path, stamp: str, files: dict[str, str]) -> None:
    """As the kubelet lays out a volume: links through a folder that is replaced as a whole."""
    new = folder / f"..{stamp}"
    new.mkdir(parents=True)
    for name, text in files.items():
        (new / name).write_text(text)
    data = folder / "..data"
    before = data.resolve() if data.exists() else None
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").replace(data)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    if before is not None:
        shutil.rmtree(before)


@pytest.mark.slow
def test_a_mounted_secret_may_be_renewed_while_it_runs(place: Place, kfp: KfpServer) -> None:
    place.config |= {name: str(place.root / name) for name in ("projects", "state")}
    place.config["runs"]["digits"]["pipeline"] = str(place.root / "pipeline.yaml")
    place.watch["poll_s"] = 3600.0
    place.write()
    names = ("serve.yaml", "watches.yaml", "secret", "token")
    files = {name: (place.root / name).read_text() for name in names}
    etc = place.root / "etc"
    mount(etc, "2026_11_22", files)
    running = Served(etc)
    try:
        until(lambda: running.ask("GET", "/readyz")[0] == 200)
        assert running.deliver("d-1") == 202
        mount(etc, "2026_11_23", files | {"secret": SECRET[::-1]})
        place.train()
        assert running.deliver("d-2", secret=SECRET[::-1]) == 202
        until(lambda: len(kfp.posted()) == 1)
        assert running.end() == 0
    finally:
        running.process.kill()
        running.process.communicate()


HANGING = """
import sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from reprune.doors.cli import main
from reprune.doors.service.registries import Registries

def look(self, watch):
    Path(tempfile.mkdtemp(), "half-a-model").touch()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(time.sleep, 300).result()

Registries.look = look
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_sigterm_ends_it_though_a_download_hangs(place: Place) -> None:
    """As MLflow downloads from a store: in threads that Python waits for at its end."""
    aside = place.root / "aside"
    aside.mkdir()
    running = Served(place.root, "-c", HANGING, TMPDIR=str(aside))
    try:
        until(lambda: any(aside.rglob("half-a-model")))
        assert running.end() == 0
    finally:
        running.process.kill()
    last = json.loads(running.log.splitlines()[-1])
    assert (last["event"], last["sweep_ended"]) == ("ended", False)
    assert not list(aside.iterdir())


def test_with_every_event_lost_the_sweep_still_starts_the_run(
    place: Place, kfp: KfpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    place.train()
    assert main(["serve", "--once", "--config", str(place.file), "--json"]) == 0
    assert len(kfp.posted()) == 1
    answer = json.loads(capsys.readouterr().out)
    schema = SCHEMAS / "output" / "serve.schema.json"
    jsonschema.validate(answer, json.loads(schema.read_text()))
    kfp.fail("GET", "/runs", times=2, status=503)
    assert main(["serve", "--once", "--config", str(place.file)]) == 1


@pytest.mark.slow
def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys, reprune.doors.service.app, reprune.doors.service.wiring, reprune.doors.serve\n"
        "print([m for m in ('torch', 'kfp', 'mlflow', 'kubernetes', 'requests') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_host_that_is_down_is_waited_for_once_a_sweep(place: Place, kfp: KfpServer) -> None:
    place.write(*(copy.deepcopy(place.watch) | {"name": f"other-{n}"} for n in range(5)))
    place.train()
    kfp.fail("GET", "/runs", times=20, drop=True)
    assert not place.sweeper()(0)[1]
    # Two tries of one request.
    assert len(kfp.requests) == 2


def test_a_host_that_answers_badly_is_asked_by_the_next_watch(place: Place, kfp: KfpServer) -> None:
    """What it cannot answer may be one watch's question alone."""
    place.write(copy.deepcopy(place.watch))
    place.watch["name"] = "asked-first"
    place.write(yaml.safe_load((place.root / "watches.yaml").read_text())["watches"][1])
    place.train()
    # Two tries of one request, of the first watch.
    kfp.fail("GET", "/runs", times=2, status=503)
    assert not place.sweeper()(0)[1]
    assert len(kfp.posted()) == 1


def test_in_mode_pull_request_the_repository_is_told_once(place: Place, kfp: KfpServer) -> None:
    for key in ("image", "experiment"):
        del place.watch[key]
    place.watch |= {"mode": "pull-request", "repository": "you/digits"}
    del place.config["kubeflow"], place.config["runs"]
    place.config["github"] = {"api": kfp.url, "token_file": "token"}
    place.write()
    place.train()
    told: list[Any] = []
    kfp.answer = lambda request: (told.append(request) or 204, None)  # type: ignore[method-assign]
    sweep = place.sweeper()
    assert sweep(0)[1]
    assert sweep(0)[1]
    [request] = told
    assert request.path == "/repos/you/digits/dispatches"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.body == {
        "event_type": "reprune",
        "client_payload": {"model": "digits", "version": "1"},
    }


def test_a_dispatch_that_is_refused_shows_no_token(place: Place, kfp: KfpServer) -> None:
    send = dispatching.send
    with pytest.raises(InputError, match="clear text"):
        send("http://api.example.org", place.root / "token", "you/digits", "digits", "1")
    kfp.answer = lambda request: (404, {"error": request.headers["authorization"]})  # type: ignore[method-assign]
    with pytest.raises(AccessDenied) as refused:
        send(kfp.url, place.root / "token", "you/digits", "digits", "1")
    assert TOKEN not in str(refused.value)
