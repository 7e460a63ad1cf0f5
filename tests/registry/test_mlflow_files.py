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

from reprune.core.errors import RegistryError, VersionNotFound
from reprune.registry.bounded import Limits
from reprune.registry.mlflow_artifacts import Remote, local_folder

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
