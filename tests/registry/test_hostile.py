"""A registry is written to by many: what it says is a stranger's word, and none of it does harm here."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.errors import (
    CheckpointError,
    RegistryError,
    RegistryUnreachable,
    RepruneError,
    VersionNotFound,
)
from reprune.core.params import Registry as Section
from reprune.registry import mlflow_versions
from reprune.registry.bounded import Limits
from reprune.registry.files import FilesRegistry
from reprune.registry.mlflow_artifacts import Remote
from reprune.registry.mlflow_registry import open_mlflow
from reprune.registry.model_registry import ModelRegistry
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, known_versions
from reprune.registry.store_address import STORES, check_address
from reprune.registry.weights import check_weights, take_weights
from tests.model_registry_server import ModelRegistryServer

TRACKING = "https://mlflow.example.org:8443/base"
Answer = tuple[int, dict[str, str], bytes]
Folder = Callable[..., Path]


@contextmanager
def answering(answer: Callable[[str], Answer]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that answers each path as it is told; also what it was asked, with the credentials."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            status, headers, body = answer(urlsplit(self.path).path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  http.server asks for these names

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_who_asks_for_an_hour_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway's Retry-After is a stranger's word too."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "")
    monkeypatch.delenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER")
    failed: list[Exception] = []
    with answering(lambda _: (503, {"Retry-After": "3600"}, b"")) as (address, asked):

        def ask() -> None:
            try:
                open_mlflow(Section(uri=address), tmp_path).versions("digits")
            except RegistryUnreachable as error:
                failed.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(30)
        assert len(failed) == 1
        assert len(asked) == 2


LEADS_ELSEWHERE = [
    "mlflow-artifacts://169.254.169.254/latest/meta-data",
    "mlflow-artifacts://evil.example.org/1/x",
    "mlflow-artifacts://mlflow.example.org/1/x",
    "mlflow-artifacts://mlflow.example.org:8443@evil.example.org/1/x",
    "mlflow-artifacts://user:pass@mlflow.example.org:8443/1/x",
    "mlflow-artifacts:/../../../api/2.0/mlflow/users/get?username=admin",
    "mlflow-artifacts:/1/%2e%2e/%2e%2e/x",
    "mlflow-artifacts:/1/x?path=/etc",
    "mlflow-artifacts:/1/x#y",
    "mlflow-artifacts:/1/x\r\nHost: evil",
    "mlflow-artifacts:/1/x%0d%0aHost:evil",
    "mlflow-artifacts:/1/x\\..\\y",
    "s3://bucket/../other-bucket/x",
    "s3://bucket/a/%2e%2e/%2e%2e/x",
    "s3://169.254.169.254/latest",
    "s3://key:secret@bucket/x",
    "gs://bucket/a/../../x",
    "r2://bucket@169.254.169.254/x",
    "r2://bucket@evil.example.org/x",
    "r2://bucket@a.r2.cloudflarestorage.com.evil.org/x",
    "b2://bucket@evil.example.org/x",
    "b2://bucket@backblazeb2.com.evil.org/x",
    "wasbs://container@evil.example.org/x",
    "wasbs://container@account.blob.core.windows.net.evil.org/x",
    "abfss://files@account.evil.example.org/x",
    "hdfs://169.254.169.254:80/x",
    "hdfs://0xA9FEA9FE/x",
    "hdfs://2852039166/x",
    "hdfs://[fd00:ec2::254]/x",
    "hdfs://localhost:22/x",
    "hdfs://metadata.google.internal/x",
    "dbfs://169.254.169.254/x",
    "http://169.254.169.254/latest",
    "https://host/x",
    "file:///etc/passwd",
    "ftp://host/x",
    "gopher://169.254.169.254/x",
    "s3://[bad",
    "",
    "s3",
]


@pytest.mark.parametrize("uri", LEADS_ELSEWHERE)
def test_an_address_that_leads_elsewhere_is_refused_before_anybody_is_asked(uri: str) -> None:
    """A metadata service, another's host (which would be handed our credentials), a way out of the store."""
    with pytest.raises(RegistryError) as refused:
        Remote(uri, TRACKING, Limits(), "here")
    assert "evil" not in str(refused.value)
    assert "169.254" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow-artifacts:/1/a b/artifacts/model", "mlflow-artifacts://mlflow.example.org:8443/1/x",
        "s3://my-bucket/models/1", "s3://my.bucket.example.org/x", "gs://bucket/x",
        "r2://bucket@account.r2.cloudflarestorage.com/x", "b2://bucket@s3.us-west-004.backblazeb2.com/x",
        "wasbs://container@account.blob.core.windows.net/x",
        "abfss://files@account.dfs.core.windows.net/x", "hdfs://namenode:8020/x", "hdfs:///x",
        "dbfs:/databricks/x", "dbfs://profile@databricks/x",
    ],
)  # fmt: skip
def test_addresses_of_stores_are_asked(uri: str) -> None:
    """What people really use."""
    check_address(uri, TRACKING, where="here")


@given(
    scheme=st.sampled_from(["mlflow-artifacts", *sorted(STORES)]),
    rest=st.text(max_size=30)
    | st.from_regex(r"//[a-z@:.\[\]0-9%]{0,20}/[a-z./%]{0,9}", fullmatch=True),
)
@settings(max_examples=100, deadline=None)
def test_law_any_address_is_asked_or_refused_in_our_words(scheme: str, rest: str) -> None:
    """And none that is asked of a server or a vendor's store names a host of somebody else."""
    uri = f"{scheme}:{rest}"
    try:
        check_address(uri, TRACKING, where="here")
    except RegistryError:
        return
    host = urlsplit(uri).hostname
    if scheme == "mlflow-artifacts":
        assert host in (None, "mlflow.example.org")
    elif scheme in ("r2", "b2", "wasbs", "abfss"):
        assert host
        assert host.endswith((".cloudflarestorage.com", ".backblazeb2.com", ".net", ".cn"))


def test_a_version_that_names_another_host_does_not_get_our_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own client would hand it over."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token-of-ours")
    with answering(lambda _: (200, {}, b'{"files": []}')) as (other, stolen):
        uri = f"mlflow-artifacts://{urlsplit(other).netloc}/1/x"
        body = json.dumps({"artifact_uri": uri}).encode()
        with answering(lambda _: (200, {}, body)) as (address, asked):
            registry = open_mlflow(Section(uri=address), tmp_path)
            with pytest.raises(RegistryError, match="host that is not asked"):
                registry.fetch("digits", "1", tmp_path / "out")
        assert asked
        assert stolen == []


def test_no_redirect_is_followed(tmp_path: Path) -> None:
    """Neither of a question nor of a file."""
    with answering(lambda _: (200, {}, b"secret of another host")) as (other, reached):
        away = {"Location": f"{other}/latest/meta-data"}
        listing = json.dumps({"files": [{"path": "w", "is_dir": False, "file_size": 4}]}).encode()

        def redirect(path: str) -> Answer:
            return (200, {}, listing) if path.endswith("/artifacts") else (302, away, b"")

        with answering(redirect) as (address, _):
            registry = open_mlflow(Section(uri=address), tmp_path)
            with pytest.raises(RegistryUnreachable):
                registry.versions("digits")
            remote = Remote("mlflow-artifacts:/1/x", address, Limits(), "here")
            with pytest.raises(RegistryError):
                remote.fetch(["w"], tmp_path)
        assert reached == []


MODEL = {"registered_model": {"name": "digits"}}
GOOD = {"name": "digits", "version": "1", "creation_timestamp": 1, "status": "READY", "source": "x"}
LISTS = {
    "a version that is no number": [GOOD, {**GOOD, "version": "2; rm -rf /"}],
    "a path": [{**GOOD, "version": "../../etc"}],
    "a newline": [{**GOOD, "version": "1\n"}],
    "digits of elsewhere": [{**GOOD, "version": "\u0661"}],
    "none at all": [{**GOOD, "version": ""}],
    "a huge one": [{**GOOD, "version": "9" * 400}],
    "another model's": [{**GOOD, "name": "letters"}],
    "one twice": [GOOD, GOOD],
    "no list": "digits",
    "no versions in it": [7],
}


def lists(versions: Any, token: str = "") -> Callable[[str], Answer]:
    page = {"model_versions": versions} | ({"next_page_token": token} if token else {})

    def answer(path: str) -> Answer:
        return 200, {}, json.dumps(page if "versions/search" in path else MODEL).encode()

    return answer


@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_cannot_be_is_never_an_empty_one(tmp_path: Path, case: str) -> None:
    """Else a reconciler would think that there is nothing to do, or nothing registered."""
    with answering(lists(LISTS[case])) as (address, _):
        registry = open_mlflow(Section(uri=address), tmp_path)
        with pytest.raises(RegistryUnreachable):
            known_versions(registry, "digits")


@pytest.mark.parametrize("versions", [[GOOD], []])
def test_a_list_without_end_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: list[Any]
) -> None:
    """A server that always has one more page holds up no sweep."""
    monkeypatch.setattr(mlflow_versions, "MAX_PAGES", 5)
    with answering(lists(versions, token="again")) as (address, asked):
        registry = open_mlflow(Section(uri=address), tmp_path)
        with pytest.raises(RegistryUnreachable, match="no end"):
            registry.versions("digits")
    assert len(asked) <= 6


DEEP = b'{"registered_model":' + b'{"a":[' * 50_000
BODIES = {
    "deep": DEEP,
    "not UTF-8": b'{"registered_model": {"name": "\xff\xfe"}}',
    "a list": b"[1, 2]",
    "null": b"null",
    "other types": b'{"registered_model": {"name": ["digits"], "aliases": 5}}',
    "a number without end": b'{"registered_model": {"creation_timestamp": ' + b"9" * 5000 + b"}}",
}


@pytest.mark.parametrize("case", BODIES)
def test_any_answer_is_an_error_of_ours(tmp_path: Path, case: str) -> None:
    """Whatever MLflow's client makes of it."""
    with answering(lambda _: (200, {}, BODIES[case])) as (address, _):
        registry = open_mlflow(Section(uri=address), tmp_path)
        for ask in (
            lambda: registry.versions("digits"),
            lambda: registry.alias("digits", "champion"),
            lambda: registry.fetch("digits", "1", tmp_path / "out"),
        ):
            with pytest.raises(RegistryError):
                ask()


FILES = {
    "a list": [],
    "no path": {"files": [{"is_dir": False}]},
    "a text": {"files": "w"},
    "a path that is none": {"files": [{"path": 7, "is_dir": False}]},
    "no file's size": {"files": [{"path": "w", "is_dir": False, "file_size": "much"}]},
    "out": {"files": [{"path": "../w", "is_dir": False}]},
    "absolute": {"files": [{"path": "/etc/passwd", "is_dir": False}]},
    "itself": {"files": [{"path": "a", "is_dir": True}]},
}


@pytest.mark.parametrize("case", FILES)
def test_a_list_of_files_that_cannot_be_is_refused(tmp_path: Path, case: str) -> None:
    """And one that goes round in a circle ends at the limits."""

    def answer(path: str) -> Answer:
        found = {"artifact_uri": "mlflow-artifacts:/1/x"} if "download-uri" in path else FILES[case]
        return 200, {}, json.dumps(found).encode()

    with answering(answer) as (address, _):
        registry = open_mlflow(Section(uri=address, max_files=50), tmp_path)
        with pytest.raises(RegistryError):
            registry.fetch("digits", "1", tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_negative_size_buys_no_room(tmp_path: Path) -> None:
    """The listing's sum counts what is there, and not less than nothing."""
    rows = [{"path": "a", "file_size": -(10**6)}, {"path": "b", "file_size": 1500}]
    body = json.dumps({"files": [{**row, "is_dir": False} for row in rows]}).encode()
    with answering(lambda _: (200, {}, body)) as (address, _):
        remote = Remote("mlflow-artifacts:/1/x", address, Limits(max_bytes=1000), "here")
        with pytest.raises(RegistryError, match="larger than 1000"):
            remote.listed(PurePosixPath())


@pytest.mark.parametrize("source", ["/etc/passwd", "/proc/self/environ", "/dev/zero"])
def test_an_embedded_registry_takes_no_single_file(
    tmp_path: Path, mlflow_section: Section, source: str
) -> None:
    """A version is a folder: not a file of the system, and no device."""
    root = tmp_path / "repo"
    registry = open_registry(mlflow_section, root)
    client = registry._client(create=True)  # type: ignore[attr-defined]
    client.create_registered_model("digits")
    client.create_model_version("digits", source=f"file://{source}")
    with pytest.raises(RegistryError):
        registry.fetch("digits", "1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


NAMES = ["../x", "..", "a/b", "{{7*7}}", "${jndi:ldap://x}", "%s%n", "digits\n", "a\nb", "'\"", "\u202eabc",
         "a\0b", "", "x" * 251, "digits\u0000", "\u0663", "$(id)", "`id`", "-rf", "x' OR 1=1"]  # fmt: skip


@pytest.mark.parametrize("kind", ["files", "mlflow", "kubeflow"])
def test_a_name_or_a_number_that_is_none_reaches_nobody(tmp_path: Path, kind: str) -> None:
    """No path, no filter, no address is made of it; the registry is not even asked."""

    def check(registry: Registry) -> None:
        for name in NAMES:
            for ask in (
                lambda n=name: registry.versions(n),
                lambda n=name: registry.alias(n, "champion"),
                lambda n=name: registry.register(n, tmp_path / "source", {}),
            ):
                with pytest.raises(VersionNotFound):
                    ask()  # type: ignore[misc]
            with pytest.raises(VersionNotFound):
                registry.fetch("digits", name, tmp_path / "out")

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "w").write_bytes(b"1")
    (tmp_path / "store").mkdir()
    if kind == "files":
        registry = open_registry(Section(kind="files", uri="registry"), tmp_path)
        registry.register("digits", tmp_path / "source", {})
        check(registry)
        assert {path.name for path in (tmp_path / "registry").iterdir()} == {
            "digits",
            "registry.json",
        }
        return
    with answering(lambda _: (404, {}, b"")) as (address, asked):
        check(open_registry(Section(kind=kind, uri=address, artifacts="store"), tmp_path))
    assert [path for path, _ in asked if "registered_model?name=digits" not in path] == []


def test_a_version_that_is_half_gone_is_not_an_empty_registry(tmp_path: Path) -> None:
    """A folder with a number and nothing in it: unreachable, and never "there are no versions"."""
    registry = open_registry(Section(kind="files", uri="registry"), tmp_path)
    assert isinstance(registry, FilesRegistry)
    source = tmp_path / "source"
    source.mkdir()
    (source / "w").write_bytes(b"1")
    registry.register("digits", source, {})
    (registry.folder / "digits" / "2").mkdir()
    with pytest.raises(RegistryUnreachable):
        known_versions(registry, "digits")


def test_ids_of_the_kubeflow_registry_are_numbers_to_the_last_letter(tmp_path: Path) -> None:
    """A newline at the end, or a path, would end up in a log, a lock or an address."""
    (tmp_path / "store").mkdir()
    with ModelRegistryServer() as server:
        section = Section(kind="kubeflow", uri=server.url, artifacts="store")
        registry = open_registry(section, tmp_path)
        assert isinstance(registry, ModelRegistry)
        version = server.add_version("digits", "a", None)
        for hostile in ("1\n", "../1", "1 OR 1=1", "", "-1", "1" * 40):
            server.versions[version]["id"] = hostile
            with pytest.raises(RegistryUnreachable):
                known_versions(registry, "digits")


def header(path: Path, text: bytes, data: bytes = b"", claims: int | None = None) -> Path:
    path.write_bytes(
        (claims if claims is not None else len(text)).to_bytes(8, "little") + text + data
    )
    return path


def tensor(shape: list[int], end: int) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


BOMBS = {
    "a header deeper than any": b'{"w":' + b"[" * 100_000,
    "a header deeper than any, closed": b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a size beyond the file": tensor([2**40], 2**42),
    "a size beyond numbers": tensor([2**62, 2**62], 4),
    "a shape of many": tensor([1] * 100_000 + [2], 4),
    "a negative shape": tensor([-1, -1], 4),
    "offsets that run back": b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    "a number without end": b'{"w": {"dtype": "F32", "shape": ['
    + b"9" * 5000
    + b'], "data_offsets": [0, 4]}}',
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_safetensors_bomb_costs_neither_memory_nor_time(tmp_path: Path, case: str) -> None:
    """It is refused by what it claims."""
    path = header(tmp_path / "w.safetensors", BOMBS[case], b"\0" * 4)
    began = time.process_time()
    with pytest.raises(CheckpointError):
        check_weights(path)
    # Far from what reading 4 TiB, or one tensor a claimed number, would take.
    assert time.process_time() - began < 20.0


@pytest.mark.slow
@pytest.mark.parametrize("bomb", ["zip", "view"])
def test_a_pickled_bomb_does_not_go_off(tmp_path: Path, bomb: str) -> None:
    """An archive that unpacks to far more than it has, and a view of one number that claims a terabyte."""
    import torch

    path = tmp_path / "model.pt"
    if bomb == "view":
        torch.save({"w": torch.zeros(1).expand(2**38)}, path)
    else:
        torch.save({"w": torch.zeros(4)}, tmp_path / "small.pt")
        with zipfile.ZipFile(tmp_path / "small.pt") as small:
            members = {each.filename: small.read(each) for each in small.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            archive.writestr(next(iter(members)).split("/")[0] + "/data/1", bytes(2**26))
    with pytest.raises(CheckpointError, match=r"unpacks to more|far larger"):
        take_weights(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@given(raw=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_law_any_header_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    """With its length stated rightly; nothing else is raised than our own error."""
    path = header(tmp_path_factory.mktemp("h") / "w.safetensors", raw, b"\0" * 8)
    with pytest.raises(RepruneError):
        check_weights(path)


def test_numbers_of_a_real_file_are_still_read(tmp_path: Path) -> None:
    """The limits above refuse no honest file."""
    from safetensors.numpy import save_file

    save_file({"w": np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    check_weights(tmp_path / "w.safetensors")
