"""The adapter against a real MLflow server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reprune.core.errors import RegistryUnreachable, VersionNotFound
from reprune.core.params import Registry as Section
from reprune.registry.dense import find_dense, register_dense
from reprune.registry.open import open_registry
from tests.mlflow_server import free_port, mlflow_server, wait_for
from tests.registry.stand import write_weights

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with mlflow_server(tmp_path / "server") as address:
        wait_for(address, tmp_path / "server")
        yield address


def test_a_server_serves_what_the_embedded_registry_does(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Register, list, fetch whole and in part, tag, alias; absent is absent; and nothing is printed."""
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
    assert capfd.readouterr().out == ""


def test_a_server_that_ended_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens on the port any more: a fetch is unreachable, not absent."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    registry = open_registry(Section(uri=f"http://127.0.0.1:{free_port()}"), tmp_path)
    with pytest.raises(RegistryUnreachable):
        registry.fetch("digits", "1", tmp_path / "x")
