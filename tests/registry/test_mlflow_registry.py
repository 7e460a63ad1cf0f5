"""MLflow as it is: embedded below the repository, quiet, and never believed when it answers nonsense."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from reprune.core.errors import (
    DocumentError,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.core.params import Registry as Section
from reprune.registry.mlflow_registry import open_mlflow
from tests.registry.stand import write_weights

Folder = Callable[..., Path]


@pytest.fixture
def repo(tmp_path: Path, mlflow_section: Section) -> Path:
    return tmp_path / "repo"


def test_a_missing_database_is_unreachable_and_is_not_made(tmp_path: Path) -> None:
    """Asking a registry that is not there makes no file and does not answer "none"."""
    registry = open_mlflow(Section(), tmp_path)
    for ask in (
        lambda: registry.versions("digits"),
        lambda: registry.alias("digits", "champion"),
        lambda: registry.fetch("digits", "1", tmp_path / "x"),
    ):
        with pytest.raises(RegistryUnreachable, match="no registry here"):
            ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_damaged_database_is_unreachable(tmp_path: Path) -> None:
    """A file that is no database is an error that names it, not an empty registry."""
    (tmp_path / ".reprune").mkdir()
    (tmp_path / ".reprune" / "registry.db").write_text("not a database " * 100)
    with pytest.raises(RegistryUnreachable, match="not a database"):
        open_mlflow(Section(), tmp_path).versions("digits")


@pytest.mark.slow
def test_the_embedded_registry_lies_below_the_root_and_is_quiet(tmp_path: Path, repo: Path) -> None:
    """The first registration, in a fresh process elsewhere, writes only below `.reprune/`, silently."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fresh = tmp_path / "fresh repo"
    weights = write_weights(tmp_path / "weights.safetensors")
    code = (
        "import sys; from pathlib import Path\n"
        "from reprune.core.params import Registry\n"
        "from reprune.registry.open import open_registry\n"
        "from reprune.registry.dense import register_dense\n"
        "root = Path(sys.argv[1]); registry = open_registry(Registry(), root)\n"
        "print(register_dense(registry, 'digits', Path(sys.argv[2])))\n"
        "registry.fetch('digits', '1', root / 'back')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(fresh), str(weights)],
        cwd=elsewhere,
        env={**os.environ, "PYTHONWARNINGS": "default::UserWarning"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert done.stderr == ""
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in fresh.iterdir()) == [".reprune", "back"]
    assert (fresh / "back" / "weights.safetensors").read_bytes() == weights.read_bytes()


@pytest.mark.slow
def test_versions_that_others_registered_are_served(
    repo: Path, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain MLflow user's version is fetched, from a run's artefacts and from a logged model alike."""
    registry = open_mlflow(Section(), repo)
    registry.register("other", folder(), {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    client = registry._client()
    experiment = client.create_experiment("theirs", artifact_location=(tmp_path / "art").as_uri())
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(folder("run", MLmodel=b"x", data__w=b"1")), "model")
    client.create_registered_model("digits")
    client.create_model_version("digits", source=f"runs:/{run.info.run_id}/model")
    logged = client.create_logged_model(experiment)
    client.log_model_artifacts(logged.model_id, str(folder("logged", weights=b"2")))
    client.create_model_version("digits", source=f"models:/{logged.model_id}")
    registry.fetch("digits", "1", tmp_path / "one")
    registry.fetch("digits", "2", tmp_path / "two")
    assert (tmp_path / "one" / "data" / "w").read_bytes() == b"1"
    assert (tmp_path / "two" / "weights").read_bytes() == b"2"


def test_a_deleted_version_takes_its_alias_along(repo: Path, folder: Folder) -> None:
    """An alias of a version that was deleted reads as not set, as MLflow has it."""
    registry = open_mlflow(Section(), repo)
    registry.register("digits", folder(), {})
    registry.set_alias("digits", "champion", "1")
    registry._client().delete_model_version("digits", "1")
    assert registry.versions("digits") == ()
    assert registry.alias("digits", "champion") is None


@pytest.mark.parametrize(
    ("uri", "workspace", "message"),
    [
        ("https://me:secret@host", "default", "password"),
        ("http://me@host", "default", "user name"),
        ("postgresql://host/db", "default", "no address"),
        (Section().uri, "team", "one workspace"),
    ],
)
def test_addresses_that_would_mislead_are_refused(
    tmp_path: Path, uri: str, workspace: str, message: str
) -> None:
    """A password in a reviewed file, a backend that is not ours to open, a workspace that is none."""
    with pytest.raises(DocumentError, match=message):
        open_mlflow(Section(uri=uri, workspace=workspace), tmp_path)


@contextmanager
def answering(status: int, body: bytes, info: bytes = b"", more: int = 0) -> Iterator[str]:
    """A real HTTP server that gives every request the same answer, but `info` to who asks what it is.

    So many bytes `more` are promised, and come when the client is gone.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about = bool(info) and self.path.endswith("/server-info")
            said = info if about else body
            self.send_response(200 if about else status)
            self.send_header("Content-Length", str(len(said) + more))
            self.end_headers()
            self.wfile.write(said)
            if more:
                self.wfile.flush()
                self.rfile.read(1)

        do_POST = do_GET  # noqa: N815  http.server asks for these names

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"{}"),
        (200, b"<html>login</html>"),
        (200, b'{"registered_model": {"name": "another"}}'),
        (404, b"<html>not found</html>"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "boom"}'),
    ],
)
def test_an_answer_that_is_none_is_never_read_as_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes
) -> None:
    """A proxy's page, an empty body, a refusal: unreachable each time, so no run starts without champion."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, body) as address:
        registry = open_mlflow(Section(uri=address), tmp_path)
        for ask in (
            lambda: registry.versions("digits"),
            lambda: registry.alias("digits", "champion"),
        ):
            with pytest.raises(RegistryUnreachable) as caught:
                ask()
            # It may be an answer about this model alone.
            assert not caught.value.silent


def test_the_registrys_own_word_for_absent_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESOURCE_DOES_NOT_EXIST from the server is an answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    body = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}'
    with answering(404, body) as address:
        registry = open_mlflow(Section(uri=address), tmp_path)
        with pytest.raises(VersionNotFound, match="no model 'digits'"):
            registry.alias("digits", "champion")


@pytest.mark.parametrize("workspace", ["default", "nowhere"])
def test_a_workspace_that_is_not_there_is_no_model_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: str
) -> None:
    """The server has one code for both; read as "no model", a misspelt workspace would be silence."""
    said = f"Workspace '{workspace}' not found"
    known = b'{"workspaces_enabled": true}'
    body = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": said}).encode()
    with answering(404, body, info=known) as address:
        registry = open_mlflow(Section(uri=address, workspace=workspace), tmp_path)
        for ask in (
            lambda: registry.versions("digits"),
            lambda: registry.alias("digits", "champion"),
            lambda: registry.fetch("digits", "1", tmp_path / "x"),
        ):
            with pytest.raises(RegistryUnreachable, match=f"no workspace '{workspace}'"):
                ask()


def test_a_workspace_is_its_own_registrys_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow keeps it in the environment; the next registry of this process starts without."""
    from mlflow.utils.workspace_context import get_request_workspace

    monkeypatch.setenv("MLFLOW_WORKSPACE", "")
    seen = []
    for workspace in ("default", "team-a", "default", "team-b", "team-a"):
        open_mlflow(Section(uri="http://127.0.0.1:9", workspace=workspace), tmp_path)._client()
        seen.append(get_request_workspace())
    assert seen == [None, "team-a", None, "team-b", "team-a"]


def test_a_server_that_is_not_there_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection names the address and what to look at."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = open_mlflow(Section(uri="http://127.0.0.1:9"), tmp_path)
    with pytest.raises(RegistryUnreachable) as caught:
        registry.versions("digits")
    assert caught.value.where == "http://127.0.0.1:9"
    assert "registry.uri" in caught.value.fix
    assert caught.value.silent


@pytest.mark.slow
def test_a_server_that_takes_the_request_and_says_nothing_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout, and not one in the midst of an answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(RegistryUnreachable) as caught:
            open_mlflow(Section(uri=address), tmp_path).versions("digits")
    assert caught.value.silent
    with answering(200, b"{}", more=100) as address, pytest.raises(RegistryUnreachable) as caught:
        open_mlflow(Section(uri=address), tmp_path).versions("digits")
    assert not caught.value.silent


@pytest.mark.slow
def test_a_deleted_experiment_is_to_be_restored(repo: Path, folder: Folder) -> None:
    """Its name stays taken: nothing can be registered, and the words say by which command it can again."""
    registry = open_mlflow(Section(), repo)
    registry.register("digits", folder(), {})
    client = registry._client()
    found = client.get_experiment_by_name("reprune").experiment_id
    client.delete_experiment(found)
    with pytest.raises(RegistryError, match=r"experiment 'reprune'.* was deleted") as caught:
        registry.register("digits", folder(), {})
    assert f"mlflow experiments restore --experiment-id {found}" in caught.value.fix
    client.restore_experiment(found)
    assert registry.register("digits", folder(), {}) == "2"
