"""A real MLflow server on loopback: SQLite, files that it serves itself, one worker, webhooks to this host.

    with mlflow_server(folder) as address: ...

Its process group is ended with it. Started again on the same folder, it knows what it knew.
"""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STARTS_WITHIN_S = 240

# Webhooks to plain http on this machine are refused without the first two; without a fixed key a server
# that starts again can read none of its webhooks' secrets.
WEBHOOKS = {
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(
        hashlib.sha256(b"of a test").digest()
    ).decode(),
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # A second process that nothing here needs.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def mlflow_server(folder: Path, port: int = 0) -> Iterator[str]:
    """The address of a server that keeps all below `folder`. It may still be starting: see `wait_for`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder}/server.db"),
                *("--artifacts-destination", str(folder / "stored")),
            ],
            cwd=folder,
            env={**os.environ, **QUIET, **WEBHOOKS},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(address: str, folder: Path) -> None:
    """Returns once the server answers."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not is_up(address):
        said = (folder / "server.log").read_text()[-2000:]
        assert time.monotonic() < deadline, f"the server did not start: {said}"
        time.sleep(0.2)


def call_back(address: str, url: str, secret: str) -> None:
    """A webhook as a person creates it, through MLflow's own client."""
    from mlflow import MlflowClient
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent

    events = [
        WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED),
        WebhookEvent(WebhookEntity.MODEL_VERSION_TAG, WebhookAction.SET),
    ]
    MlflowClient(address, address).create_webhook("reprune", url, events, secret=secret)
