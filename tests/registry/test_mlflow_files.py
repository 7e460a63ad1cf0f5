"""Where the files of an MLflow version may lie, and that a server cannot send more than the limits allow."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from reprune.core.errors import MissingExtra, RegistryError, RegistryUnreachable, VersionNotFound
from reprune.core.params import Registry as Section
from reprune.registry.bounded import Limits
from reprune.registry.mlflow_artifacts import Remote, local_folder
from reprune.registry.mlflow_registry import open_mlflow
from reprune.registry.store_address import CLIENTS, STORES, missing_client

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@contextmanager
def serving(listing: list[dict[str, Any]], content: bytes) -> Iterator[str]:
    """A server of files that lists what it is told to, and sends `content` for each of them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = self.path.partition("?")[0] == ARTIFACTS
            body = json.dumps({"files": listing}).encode() if listed else content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def remote(address: str, **limits: int) -> Remote:
    return Remote("mlflow-artifacts:/1/run", address, Limits(**limits), "here")


def row(path: str, size: int = 4) -> dict[str, Any]:
    return {"path": path, "is_dir": False, "file_size": size}


def test_what_is_listed_comes(tmp_path: Path) -> None:
    """The served file lands under its path; one that is not listed is not there."""
    with serving([row("w")], b"1234") as address:
        found = remote(address)
        assert found.listed(PurePosixPath()) == ["w"]
        found.fetch(["w"], tmp_path)
        with pytest.raises(VersionNotFound):
            found.listed(PurePosixPath("v"))
    assert (tmp_path / "w").read_bytes() == b"1234"


def test_a_listing_over_the_limits_is_refused() -> None:
    """By the bytes and by the number that it states, before anything is downloaded."""
    with serving([row("a", 600), row("b", 600)], b"") as address:
        with pytest.raises(RegistryError, match="larger than 1000"):
            remote(address, max_bytes=1000).listed(PurePosixPath())
        with pytest.raises(RegistryError, match="more than 1 files"):
            remote(address, max_files=1).listed(PurePosixPath())


def test_a_server_that_sends_more_than_it_lists_is_cut_off(tmp_path: Path) -> None:
    """The stream ends at the limit, whatever the listing said."""
    with serving([row("w")], b"x" * 5_000_000) as address:
        found = remote(address, max_bytes=1_500_000)
        with pytest.raises(RegistryError, match="larger than"):
            found.fetch(found.listed(PurePosixPath()), tmp_path)
    assert (tmp_path / "w").stat().st_size <= 1_500_000


@pytest.mark.parametrize(
    "uri",
    [
        "/etc", "file:///etc", "file:///etc/passwd", "http://169.254.169.254/latest", "https://host/x",
        "ftp://host/x", "models:/m-1", "runs:/1/x", "file://{shared}/../x", "relative/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("with_shared", [False, True])
def test_a_servers_versions_do_not_read_this_machine(
    tmp_path: Path, uri: str, with_shared: bool
) -> None:
    """Neither files outside the shared folder nor web addresses."""
    shared = tmp_path if with_shared else None
    with pytest.raises(RegistryError):
        local_folder(uri.replace("{shared}", str(tmp_path)), shared, embedded=False, where="here")


def test_addresses_that_are_read(tmp_path: Path) -> None:
    """Served and stored ones remotely; a folder below the shared one, and an embedded registry's own."""
    (tmp_path / "a b").mkdir()
    inside = (tmp_path / "a b").as_uri()
    for uri in ("mlflow-artifacts:/1/x", "s3://bucket/x", "gs://bucket/x"):
        assert local_folder(uri, None, embedded=False, where="here") is None
    assert local_folder(inside, tmp_path, embedded=False, where="here") == tmp_path / "a b"
    assert local_folder(inside, None, embedded=True, where="here") == tmp_path / "a b"
    with pytest.raises(RegistryError):
        local_folder("http://169.254.169.254/x", None, embedded=True, where="here")


class Store(ArtifactRepository):
    """A store whose client dies of `death`, in listing or in downloading."""

    death: Exception = OSError()
    lists: bool = False

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        if self.lists and path == "w":
            return []
        if self.lists:
            return [FileInfo("w", is_dir=False, file_size=4)]
        raise self.death

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        raise self.death

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None: ...

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None: ...


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    kind = type("Own", (Store,), {})
    monkeypatch.setitem(
        _artifact_repository_registry.get_registered_artifact_repositories(), "s3", kind
    )
    return kind


def from_bucket(tmp_path: Path, uri: str = "s3://bucket/models/1") -> None:
    registry = open_mlflow(Section(uri="https://mlflow.example"), tmp_path)
    registry._fetch_remote(uri, PurePosixPath(), tmp_path / "x", where="v 1", absent="none there")


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize(
    "death",
    [
        RuntimeError(
            "AccessDenied for AKIA" + "x" * 60 + " at https://me:pw@host/x?sig=hush secret=hush"
        ),
        KeyError("Contents"),
        MlflowException("no such object", error_code=RESOURCE_DOES_NOT_EXIST),
    ],
)
def test_whatever_a_store_dies_of_is_no_answer(
    store: type[Store], tmp_path: Path, death: Exception, lists: bool
) -> None:
    """Never that there is none: a rollback whose record were absent would not have been one."""
    store.death, store.lists = death, lists
    with pytest.raises(RegistryUnreachable, match="store of its files did not answer") as caught:
        from_bucket(tmp_path)
    assert any(each in caught.value.what for each in ("AccessDenied", "Contents", "no such object"))
    assert not any(each in str(caught.value) for each in ("hush", "pw", "xxx"))
    assert list((tmp_path / "x").iterdir() if (tmp_path / "x").exists() else []) == []


@pytest.mark.parametrize(
    ("death", "uri", "package"),
    [
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "s3://bucket/x", "boto3"),
        (NameError("name 'FileSelector' is not defined"), "s3://bucket/x", "boto3"),
    ],
)
def test_a_stores_client_that_is_not_installed_is_named(
    store: type[Store], tmp_path: Path, death: Exception, uri: str, package: str
) -> None:
    store.death = death
    with pytest.raises(MissingExtra, match="whose client is not installed") as caught:
        from_bucket(tmp_path, uri)
    assert caught.value.fix == f"pip install {package}"


def test_every_store_names_its_client() -> None:
    assert set(CLIENTS) == STORES
    for scheme, packages in CLIENTS.items():
        assert missing_client(f"{scheme}://x/y", where="w").fix == f"pip install {packages}"
