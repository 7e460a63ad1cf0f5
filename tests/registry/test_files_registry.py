"""The plain-folder registry: whole versions or none, and no silence about a folder that is not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprune.core import store
from reprune.core.errors import (
    DocumentError,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.core.params import Registry as Section
from reprune.registry.files import FilesRegistry, open_files
from reprune.registry.mlflow_registry import open_mlflow

Folder = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> FilesRegistry:
    return open_files(Section(kind="files", uri="registry"), tmp_path)


def test_a_missing_folder_is_unreachable_and_not_empty(
    files: FilesRegistry, folder: Folder
) -> None:
    """A registry that is gone (an unmounted disk) is never read as one without versions."""
    for _ in range(2):
        with pytest.raises(RegistryUnreachable, match="no registry here"):
            files.versions("digits")
        with pytest.raises(RegistryUnreachable):
            files.alias("digits", "champion")
        files.folder.mkdir(exist_ok=True)
    files.register("digits", folder(), {})
    shutil.rmtree(files.folder)
    with pytest.raises(RegistryUnreachable):
        files.versions("digits")


def test_a_folder_of_something_else_is_not_taken_over(files: FilesRegistry, folder: Folder) -> None:
    """Registering into a folder with other people's files is refused and leaves them alone."""
    files.folder.mkdir()
    (files.folder / "thesis.tex").write_text("x")
    with pytest.raises(RegistryError, match="not a registry"):
        files.register("digits", folder(), {})
    assert [path.name for path in files.folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["registry.json", "digits/1/version.json", "digits/aliases.json"])
def test_a_damaged_file_is_unreachable_and_not_none(
    files: FilesRegistry, folder: Folder, name: str
) -> None:
    """Half a file is an error that names it; it never reads as an absent version or alias."""
    files.register("digits", folder(), {})
    files.set_alias("digits", "champion", "1")
    path = files.folder / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RegistryUnreachable) as caught:
        files.versions("digits")
        files.alias("digits", "champion")
    assert path.name in caught.value.where


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_what_cannot_be_looked_at_is_unreachable_and_not_none(
    files: FilesRegistry,
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """A mount that went stale between two reads: the file may well be there."""
    files.register("digits", folder(), {})
    stale = [files.folder / "digits" / "1" / "files" / "receipt.json", tmp_path / "registry.db"]
    with pytest.raises(VersionNotFound):
        files.fetch("digits", "1", tmp_path / "x", part="receipt.json")
    stat, lstat = os.stat, os.lstat

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any, *args: Any, **more: Any) -> Any:
            if path in (*stale, *map(str, stale)):
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *args, **more)

        return look

    monkeypatch.setattr(os, "stat", failing(stat))
    monkeypatch.setattr(os, "lstat", failing(lstat))
    with pytest.raises(RegistryUnreachable, match="cannot be read"):
        files.fetch("digits", "1", tmp_path / "x", part="receipt.json")
    embedded = open_mlflow(Section(uri="sqlite:///registry.db"), tmp_path)
    with pytest.raises(RegistryUnreachable, match="cannot be read"):
        embedded.versions("digits")


@pytest.mark.parametrize("call", ["copyfile", "write_bytes", "rename"])
def test_a_failed_registration_leaves_no_version(
    files: FilesRegistry, folder: Folder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Wherever a registration stops, readers see the versions of before and the next number is free."""
    files.register("digits", folder(), {})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    place = {"copyfile": shutil, "write_bytes": store, "rename": Path}[call]
    with monkeypatch.context() as patched:
        patched.setattr(place, call, fail)
        with pytest.raises((RegistryError, OSError, store.DiskFull)):
            files.register("digits", folder(), {})
    assert [info.version for info in files.versions("digits")] == ["1"]
    assert files.register("digits", folder(), {}) == "2"


def test_a_number_taken_by_another_writer_is_not_overwritten(
    files: FilesRegistry, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers that count at the same time get two numbers."""
    files.register("digits", folder(), {})
    original = Path.rename
    raced: list[str] = []

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".draft") and not raced:
            raced.append("once")
            files.register("digits", folder("theirs", z=b"theirs"), {})
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert files.register("digits", folder("mine", z=b"mine"), {}) == "3"
    assert len(files.versions("digits")) == 3


def test_a_number_that_an_alias_names_is_not_given_again(
    files: FilesRegistry, folder: Folder
) -> None:
    """Who deletes the champion's folder does not make the next version the champion."""
    files.register("digits", folder(), {})
    files.set_alias("digits", "champion", "1")
    shutil.rmtree(files.folder / "digits" / "1")
    assert files.register("digits", folder(), {}) == "2"
    assert files.alias("digits", "champion") == "1"


def test_a_link_in_a_version_is_refused(
    files: FilesRegistry, folder: Folder, tmp_path: Path
) -> None:
    """A link that somebody put into the registry does not bring in the file it points to."""
    files.register("digits", folder(), {})
    (files.folder / "digits" / "1" / "files" / "evil").symlink_to("/etc/hostname")
    with pytest.raises(RegistryError, match="links"):
        files.fetch("digits", "1", tmp_path / "x")
    with pytest.raises((RegistryError, VersionNotFound)):
        files.fetch("digits", "1", tmp_path / "x", part="evil")
    assert not (tmp_path / "x").exists()


def test_there_is_one_workspace(tmp_path: Path) -> None:
    """In one folder another one's names would be the same: its decisions would be read, and undone."""
    with pytest.raises(DocumentError, match="one workspace, 'default'") as caught:
        open_files(Section(kind="files", uri="registry", workspace="team"), tmp_path)
    assert caught.value.where == "params.yaml (registry.workspace)"
    assert "another folder" in caught.value.fix
