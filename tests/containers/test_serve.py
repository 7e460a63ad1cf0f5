"""The service in the control image, as the chart starts it: any user, no writable disk but /tmp."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from reprune.core.params import Registry
from reprune.doors.init import TEMPLATE
from reprune.doors.service.signatures import sign
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.steps.project import describe
from tests.containers.conftest import Builder, call
from tests.containers.test_images import CONFINED
from tests.kfp_server import KfpServer, State
from tests.registry import stand

pytestmark = pytest.mark.containers

SECRET = "the-webhook-secret-of-this-test"
DIGITS = "a" * 64
STRANGER = "1000770000:0"
TOKEN = "a-token-that-nobody-may-see"
TOLD = "/srv/reprune"


def configured(root: Path, host: str) -> Path:
    """What the chart would mount: configuration, a secret, a project by its digest, a registry's folder."""
    params = (
        "name: digits\ntask: task.digits:DigitsTask\n"
        f"registry: {{kind: files, uri: {TOLD}/registry}}\n"
        "targets: {ort-cpu: {runtime: onnxruntime}}\n"
    )
    project = root / "repository"
    stand.write_repository(project, params)
    for name in ("Containerfile", "Containerfile.dockerignore"):
        shutil.copyfile(TEMPLATE / name, project / name)
    describe(project)
    (root / "projects").mkdir()
    (root / "projects").chmod(0o777)
    watch = {
        "registry": {"kind": "files", "uri": f"{TOLD}/registry"},
        "name": "digits",
        "since": "2026-01-01T00:00:00Z",
        "image": f"you/digits@sha256:{DIGITS}",
        "experiment": "watched",
    }
    config = {
        "projects": "projects",
        "state": "/tmp/state",
        "webhook": {"secret_files": ["secret"]},
        "kubeflow": {"host": host, "token_file": "token"},
    }
    (root / "serve.yaml").write_text(yaml.safe_dump(config))
    (root / "watches.yaml").write_text(yaml.safe_dump({"watches": [watch]}))
    (root / "secret").write_text(SECRET)
    (root / "token").write_text(TOKEN)
    registry = open_registry(Registry(kind="files", uri="registry"), root)
    register_dense(registry, "digits", stand.write_weights(root / "w.safetensors"))
    call("chmod", "-R", "a+rX", str(root))
    return root


class Running:
    """A container with the service in it, on the host's network so that we can ask it."""

    def __init__(self, image: str, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = [each for each in CONFINED[1:] if each not in ("--rm", "none", "--network")]
        self.name = call(
            *("docker", "run", "--detach", *options, "--network", "host", "--user", STRANGER),
            *("--volume", f"{root}:{TOLD}:ro", image, "reprune", "serve"),
            *("--config", f"{TOLD}/serve.yaml", "--port", str(self.port)),
        ).strip()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body or None, named)
            return connection.getresponse().status

    def up(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/readyz") == 200:
                    return
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def state(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(call("docker", "inspect", self.name))[0]["State"]
        return found

    def log(self) -> str:
        done = subprocess.run(
            ["docker", "logs", self.name], capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with KfpServer(token=TOKEN) as server:
        server.plan = [State("RUNNING")]
        yield server


@pytest.fixture
def root(control: str, builder: Builder, kfp: KfpServer, tmp_path: Path) -> Path:
    """As `configured`, the project taken out of an image of its own as the chart's init container does."""
    root = configured(tmp_path, kfp.url)
    image = "localhost/digits/watched:test"
    call(
        *(call("images/build.sh", "--client").strip(), "build", "--network=host"),
        *(*builder.secrets, "--build-arg", f"BASE={control}", "--tag", image),
        *("--file", str(root / "repository" / "Containerfile"), str(root / "repository")),
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    copy = ("cp", "-RT", "/project", f"/projects/{DIGITS}")
    for _ in range(2):
        volume = f"{root / 'projects'}:/projects"
        call("docker", *CONFINED, "--user", STRANGER, "--volume", volume, image, *copy)
    return root


@pytest.fixture
def running(control: str, root: Path) -> Iterator[Running]:
    started = Running(control, root)
    try:
        started.up()
        yield started
    finally:
        call("docker", "rm", "--force", started.name)


def test_it_starts_a_run_answers_and_ends_within_seconds(running: Running, kfp: KfpServer) -> None:
    [submitted] = kfp.posted()
    assert yaml.safe_load(submitted["runtime_config"]["parameters"]["lock"])["name"] == "digits"
    assert running.ask("GET", "/healthz") == 200
    assert running.ask("GET", "/metrics") == 200
    event = {"entity": "model_version", "action": "created", "data": {"name": "digits"}}
    body = json.dumps(event).encode()
    unsigned = {"Content_Type": "application/json"}
    assert running.ask("POST", "/webhooks/mlflow", body, **unsigned) == 401
    stamp = str(int(time.time()))
    signed = unsigned | {
        "X_MLflow_Delivery_Id": "d-1",
        "X_MLflow_Timestamp": stamp,
        "X_MLflow_Signature": sign(SECRET.encode(), b"d-1", stamp.encode(), body).decode(),
    }
    assert running.ask("POST", "/webhooks/mlflow", body, **signed) == 202
    began = time.monotonic()
    # Beyond the 5 seconds it would be killed, and say 137.
    call("docker", "stop", "--time", "5", running.name)
    assert time.monotonic() - began < 6.0
    assert running.state()["ExitCode"] == 0
    log = running.log()
    assert SECRET not in log
    assert TOKEN not in log
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[-1] == "ended"
    assert "a call failed" not in events


def test_the_server_is_no_other_than_the_images_own(control: str) -> None:
    look = (
        "import starlette, uvicorn, sys, reprune.doors.service.wiring as w;"
        "print(w.__file__, [m for m in ('torch', 'kfp', 'mlflow') if m in sys.modules])"
    )
    told = call("docker", *CONFINED, control, "python3", "-c", look)
    assert told.startswith("/opt/venv/")
    assert told.strip().endswith("[]")
