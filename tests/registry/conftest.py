"""Registries of both kinds, each in a folder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reprune.core.params import Registry as Section
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry
from tests.registry.promotion import ready

SQLITE = "sqlite:///.reprune/registry.db"


@pytest.fixture(autouse=True)
def _own_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, caches and locks of a test stay its own; so does whatever promoter is configured."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("REPRUNE_PROMOTER", raising=False)
    # Nothing here pulls the plug; waiting for a busy disk would be most of these tests' time.
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a verdict that passes, made once; copy it."""
    with pytest.MonkeyPatch.context() as patched:
        root = tmp_path_factory.mktemp("template")
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        patched.setattr(os, "fsync", lambda _: None)
        ready(root)
    return root


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database: making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("mlflow")
    section = Section(kind="mlflow", uri="sqlite:///registry.db")
    registry = open_registry(section, folder)
    client = registry._client(create=True)  # type: ignore[attr-defined]
    client.search_registered_models()
    return folder / "registry.db"


@pytest.fixture
def mlflow_section(tmp_path: Path, empty_database: Path) -> Section:
    """The default `registry` section, with its database already below tmp_path/repo."""
    target = tmp_path / "repo" / ".reprune" / "registry.db"
    target.parent.mkdir(parents=True)
    shutil.copyfile(empty_database, target)
    return Section()


@pytest.fixture(params=["files", "mlflow"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """An empty registry of either kind."""
    if request.param == "files":
        return open_registry(Section(kind="files", uri=".reprune/registry"), tmp_path / "repo")
    return open_registry(request.getfixturevalue("mlflow_section"), tmp_path / "repo")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of the given files, by relative path."""

    def make(name: str = "content", **contents: bytes) -> Path:
        made = tmp_path / name
        for key, content in (contents or {"a": b"alpha", "sub__b": b"beta"}).items():
            path = made / key.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return made

    return make
