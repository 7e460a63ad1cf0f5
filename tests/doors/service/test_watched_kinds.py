"""A watch of each kind of registry: what it is opened with, and that its versions get their runs.

A registry of plain folders is what every other test of the service has; MLflow has a test with its server.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import msgspec
import pytest
import yaml

from reprune.core import params
from reprune.core.errors import DocumentError, InputError, RegistryError, RegistryUnreachable
from reprune.doors.cli import main
from reprune.doors.service.config import read_settings
from reprune.doors.service.credentials import Introduced
from reprune.doors.service.registries import Patience, Registries
from reprune.orchestrate.reconcile_actions import Close
from reprune.orchestrate.reconcile_seen import terminal_states
from reprune.orchestrate.reconcile_watch import WatchedRegistry
from reprune.registry import model_registry_api
from reprune.registry.model_registry import TOKEN, TOKEN_FILE
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, VersionInfo, known_alias
from reprune.steps.project import describe
from tests.doors.service.test_serve import Place, kfp, place  # noqa: F401  fixtures
from tests.kfp_server import KfpServer
from tests.model_registry_server import ModelRegistryServer
from tests.registry import stand

VARIABLES = (
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", TOKEN_FILE),
)
REGISTRY_TOKEN = "a-token-for-the-registry"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRegistryServer]:
    for name in (*VARIABLES, TOKEN):
        # Put back afterwards, whatever the service makes of it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with ModelRegistryServer() as server:
        yield server


def watched(place: Place, server: ModelRegistryServer, **more: Any) -> Place:  # noqa: F811
    """The place with its model in a Kubeflow Model Registry: another mount for runs than for the service."""
    text = (
        f"name: digits\ntask: task.digits:DigitsTask\n"
        f"registry: {{kind: kubeflow, uri: '{server.url}', artifacts: /mnt/of/the/steps}}\n"
        "targets: {ort-cpu: {runtime: onnxruntime}}\n"
    )
    stand.write_repository(place.project, text)
    describe(place.project)
    (place.root / "mounted").mkdir()
    (place.root / "registry-secret").mkdir()
    (place.root / "registry-secret" / "token").write_text(REGISTRY_TOKEN + "\n")
    place.config["registry_secret"] = "registry-secret"
    place.watch |= {
        "registry": {"kind": "kubeflow", "uri": server.url, "artifacts": "mounted"} | more,
        # The server's clock stands in November 2023.
        "since": datetime(2023, 11, 1, tzinfo=UTC),
    }
    place.write()
    section = params.Registry(kind="kubeflow", uri=server.url, artifacts="mounted")
    place.registry = open_registry(section, place.root)
    return place


def test_versions_in_a_kubeflow_registry_get_their_run_and_their_end(
    place: Place,  # noqa: F811
    kfp: KfpServer,  # noqa: F811
    hub: ModelRegistryServer,
) -> None:
    watched(place, hub)
    made = [place.train(value) for value in (1.0, 2.0)]
    hub.token = REGISTRY_TOKEN
    assert main(["serve", "--once", "--config", str(place.file)]) == 0
    [body] = kfp.posted()
    lock = yaml.safe_load(body["runtime_config"]["parameters"]["lock"])
    assert lock["registry"] == hub.url
    assert lock["dense"]["version"] == made[1]
    sweep = place.sweeper()
    assert sweep(0)[1]
    seen = sweep.ports.registry.look(sweep.settings.watches.watches[0])
    assert terminal_states(seen) == {made[0]: "superseded"}


def test_a_token_that_was_replaced_or_taken_away_is_noticed(
    place: Place,  # noqa: F811
    kfp: KfpServer,  # noqa: F811
    hub: ModelRegistryServer,
) -> None:
    watched(place, hub)
    place.train()
    hub.token = "another-one-by-now"
    sweep = place.sweeper()
    assert not sweep(0)[1]
    secret = place.root / "registry-secret"
    (secret / "token").write_text(hub.token)
    assert sweep(0)[1]
    assert len(kfp.posted()) == 1
    (secret / "token").unlink()
    assert not sweep(0)[1]


def test_credentials_are_there_while_a_registry_is_spoken_to_and_no_longer(tmp_path: Path) -> None:
    """By many threads at once, each with its own registry."""
    folders = {}
    for who, names in {"a": ("username", "password"), "b": ("token",), "c": ()}.items():
        folders[who] = tmp_path / who
        folders[who].mkdir()
        for name in names:
            (folders[who] / name).write_text(f"{who}'s {name}\n")
    asked: list[tuple[str, dict[str, str]]] = []

    class Asked:
        identity = "registry"
        workspace = "default"

        def __init__(self, who: str) -> None:
            self.who = who

        def versions(self, name: str) -> tuple[VersionInfo, ...]:
            seen = {key: os.environ[key] for key in VARIABLES if key in os.environ}
            time.sleep(0.001)
            assert seen == {key: os.environ[key] for key in VARIABLES if key in os.environ}
            asked.append((self.who, seen))
            return ()

    def ask(who: str) -> None:
        Introduced(inner=cast(Registry, Asked(who)), folder=folders[who]).versions("digits")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, "abc" * 10))
    expected = {
        "a": {
            "MLFLOW_TRACKING_USERNAME": "a's username",
            "MLFLOW_TRACKING_PASSWORD": "a's password",
        },
        "b": {"MLFLOW_TRACKING_TOKEN": "b's token", TOKEN_FILE: str(tmp_path / "b" / "token")},
        "c": {},
    }
    assert len(asked) == 30
    assert all(seen == expected[who] for who, seen in asked)
    assert not set(VARIABLES) & os.environ.keys()
    (tmp_path / "b" / "token").unlink()
    (tmp_path / "b" / "token").mkdir()
    with pytest.raises(RegistryError, match="cannot be read"):
        ask("b")


def test_no_registry_sees_the_secret_of_another(
    place: Place,  # noqa: F811
    kfp: KfpServer,  # noqa: F811
    hub: ModelRegistryServer,
) -> None:
    watched(place, hub)
    place.train()
    hub.token = REGISTRY_TOKEN
    with ModelRegistryServer() as another:
        (place.root / "other-secret").mkdir()
        (place.root / "other-secret" / "token").write_text("for-the-other-one-alone")
        registry = place.watch["registry"] | {"uri": another.url}
        second = copy.deepcopy(place.watch) | {"registry": registry, "namespace": "another"}
        place.config["registry_secrets"] = {another.url: "other-secret"}
        place.write(second)
        another.token = "for-the-other-one-alone"
        settings = read_settings(place.file)
        sweep = place.sweeper()
        assert sweep(0)[1]
        assert len(kfp.posted()) == 1
        assert set(settings.confidential()) >= {REGISTRY_TOKEN, "for-the-other-one-alone"}
        # With no default, who is not named gets nothing.
        del place.config["registry_secret"]
        place.write(second)
        sweep = place.sweeper()
        first, other = sweep.settings.watches.watches
        with pytest.raises(RegistryUnreachable, match="answered 401"):
            sweep.ports.registry.look(first)
        assert not sweep.ports.registry.look(other).dense
    place.config["registry_secrets"] = {"http://nobody": "other-secret"}
    place.write()
    with pytest.raises(InputError, match="nobody watches 'http://nobody'"):
        read_settings(place.file)


def test_a_registry_that_is_down_is_waited_for_once_whatever_is_asked_of_it(
    place: Place,  # noqa: F811
    hub: ModelRegistryServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Locks and ends too."""
    monkeypatch.setattr(model_registry_api, "_pause", lambda *_: None)
    watched(place, hub)
    version = place.train()
    sweep = place.sweeper()
    [watch] = sweep.settings.watches.watches
    close = Close(versions=(version,), state="superseded", why="a newer one")
    asks = (
        lambda: sweep.ports.locks.write(watch, version),
        lambda: sweep.ports.registry.close(watch, close),
        lambda: sweep.ports.registry.look(watch),
    )
    for first in asks:
        hub.faults.clear()
        for method in ("GET", "POST"):
            hub.fail(method, "", times=20, drop=True)
        with pytest.raises(RegistryUnreachable, match="does not answer"):
            first()
        left = len(hub.faults)
        for ask in asks:
            with pytest.raises(RegistryUnreachable, match="does not answer"):
                ask()
        assert len(hub.faults) == left < 40
        sweep.patience.forget()


@contextmanager
def with_workspaces() -> Iterator[tuple[str, set[tuple[str, str]]]]:
    """A server of MLflow's kind that holds nothing; also who asked for which model in which workspace."""
    asked: set[tuple[str, str]] = set()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, said = 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}'
            if self.path.endswith("/server-info"):
                # Between the making of a client and its first request: as long as that may take.
                time.sleep(0.02)
                status, said = 200, b'{"workspaces_enabled": true}'
            else:
                name = self.path.partition("name=")[2]
                asked.add((name, self.headers.get("X-MLFLOW-WORKSPACE", "")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("secret", [True, False])
def test_no_thread_switches_the_workspace_of_another(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    secret: bool,
) -> None:
    """Couriers look at registries while a sweep does."""
    monkeypatch.setenv("MLFLOW_WORKSPACE", "")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "from-the-environment")
    with with_workspaces() as (address, asked):
        watches = [
            copy.deepcopy(place.watch)
            | {"name": f"of-{each}", "registry": {"uri": address, "workspace": each}}
            for each in ("default", "team-a", "team-b")
        ]
        place.watch = watches[0]
        place.config["runs"] = {}
        if secret:
            (place.root / "no-secret").mkdir()
            place.config["registry_secret"] = "no-secret"
        place.write(*watches[1:])
        settings = read_settings(place.file)

        def ask(number: int) -> None:
            watch = settings.watches.watches[number % 3]
            registry = Registries(settings=settings, patience=Patience()).open(watch)
            assert known_alias(registry, watch.name, "champion") is None

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(ask, range(24)))
    assert asked == {("of-default", ""), ("of-team-a", "team-a"), ("of-team-b", "team-b")}
    # Where no secret is configured, what the service was started with still counts.
    assert ("MLFLOW_TRACKING_TOKEN" in os.environ) is not secret


@pytest.mark.parametrize("who", ["watch", "project"])
def test_the_narrower_limit_holds(
    place: Place,  # noqa: F811
    hub: ModelRegistryServer,
    who: str,
) -> None:
    more = {"max_files": 1} if who == "watch" else {}
    watched(place, hub, **more)
    if who == "project":
        text = (place.project / "params.yaml").read_text()
        (place.project / "params.yaml").write_text(text.replace("steps}", "steps, max_files: 1}"))
        describe(place.project)
    folder = place.root / "two-files"
    stand.write_weights(folder / "w.safetensors")
    (folder / "README.md").write_text("one too many")
    version = place.registry.register("digits", folder, {})
    sweep = place.sweeper()
    with pytest.raises(RegistryError, match="more than 1 files"):
        sweep.ports.locks.write(sweep.settings.watches.watches[0], version)


def test_a_project_without_a_folder_for_the_files_is_refused(
    place: Place,  # noqa: F811
    hub: ModelRegistryServer,
) -> None:
    watched(place, hub)
    text = (place.project / "params.yaml").read_text()
    (place.project / "params.yaml").write_text(text.replace(", artifacts: /mnt/of/the/steps", ""))
    version = place.train()
    sweep = place.sweeper()
    with pytest.raises(InputError, match=r"registry\.artifacts.* is empty"):
        sweep.ports.locks.write(sweep.settings.watches.watches[0], version)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifacts": ""}, "name their folder in `artifacts`"),
        ({"workspace": "vision"}, "has one `workspace`"),
        ({"max_bytes": 10}, "max_bytes"),
    ],
)
def test_a_watch_that_no_registry_could_be_opened_for_is_refused_at_the_start(
    place: Place,  # noqa: F811
    hub: ModelRegistryServer,
    change: dict[str, Any],
    words: str,
) -> None:
    watched(place, hub, **change)
    with pytest.raises(DocumentError, match=words):
        read_settings(place.file)


def test_a_watched_registry_has_the_fields_and_defaults_of_a_projects() -> None:
    """But for what is the project's alone to say: the service opens no model and checks no signature."""
    theirs = {each.name: each.default for each in msgspec.structs.fields(params.Registry)}
    ours = {each.name: each.default for each in msgspec.structs.fields(WatchedRegistry)}
    del theirs["allow_pickle"], theirs["trusted_keys"], theirs["uri"], ours["uri"]
    assert ours == theirs


@pytest.mark.parametrize("gone", ["serve.yaml", "watches.yaml"])
def test_a_file_that_is_not_there_is_named_with_what_belongs_into_it(
    place: Place,  # noqa: F811
    gone: str,
) -> None:
    """It is none of those that `reprune init` writes."""
    file = place.write()
    (file.parent / gone).unlink()
    with pytest.raises(InputError, match="there is no such file") as caught:
        read_settings(file)
    assert caught.value.where.endswith(gone)
    assert "docs/serve.md" in caught.value.fix
