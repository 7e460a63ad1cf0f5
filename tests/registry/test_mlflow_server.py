"""The adapter against a real MLflow server on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprune.core.errors import RegistryUnreachable, VersionNotFound
from reprune.core.params import Registry as Section
from reprune.registry.dense import find_dense, register_dense
from reprune.registry.open import open_registry
from tests.registry.stand import write_weights

pytestmark = pytest.mark.slow

STARTS_WITHIN_S = 240


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{tmp_path}/server.db"),
            *("--artifacts-destination", str(tmp_path / "stored")),
        ],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not is_up(address):
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def test_a_server_serves_what_the_embedded_registry_does(server: str, tmp_path: Path) -> None:
    """Register, list, fetch whole and in part, tag, alias; absent is absent; gone is unreachable."""
    registry = open_registry(Section(uri=server), tmp_path)
    with pytest.raises(VersionNotFound):
        registry.versions("digits")
    weights = write_weights(tmp_path / "w.safetensors")
    assert register_dense(registry, "digits", weights, {"who": "me"}) == "1"
    made = tmp_path / "made" / "sub"
    made.mkdir(parents=True)
    (made / "a").write_text("alpha")
    assert registry.register("digits", tmp_path / "made", {}) == "2"
    assert find_dense(registry, "digits").version == "2"
    assert registry.versions("digits")[0].tags["who"] == "me"
    registry.fetch("digits", "1", tmp_path / "one")
    assert (tmp_path / "one" / "weights.safetensors").read_bytes() == weights.read_bytes()
    registry.fetch("digits", "2", tmp_path / "two", part="sub")
    assert (tmp_path / "two" / "sub" / "a").read_text() == "alpha"
    for version, part in (("9", ""), ("2", "zip")):
        with pytest.raises(VersionNotFound):
            registry.fetch("digits", version, tmp_path / "x", part=part)
    assert registry.alias("digits", "champion") is None
    registry.set_alias("digits", "champion", "2")
    assert registry.alias("digits", "champion") == "2"
    registry.set_tags("digits", "2", {"b": "c"})
    assert registry.versions("digits")[1].tags["b"] == "c"


def test_a_server_that_ended_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens on the port any more: a fetch is unreachable, not absent."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    registry = open_registry(Section(uri=f"http://127.0.0.1:{free_port()}"), tmp_path)
    with pytest.raises(RegistryUnreachable):
        registry.fetch("digits", "1", tmp_path / "x")
