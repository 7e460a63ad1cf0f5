"""What both adapters promise, shown on real folders and on real MLflow databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reprune.core.errors import DocumentError, RegistryError, UnknownName, VersionNotFound
from reprune.core.params import Registry as Section
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, known_alias, known_versions

Folder = Callable[..., Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_registered_folder_comes_back_byte_for_byte(
    registry: Registry, folder: Folder, tmp_path: Path
) -> None:
    """Versions are numbered from 1, keep their tags and give back the same files under the same paths."""
    first = registry.register("digits", folder(), {"who": "me"})
    second = registry.register("digits", folder("other", c=b"gamma"), {})
    assert (first, second) == ("1", "2")
    infos = registry.versions("digits")
    assert [(info.name, info.version) for info in infos] == [("digits", "1"), ("digits", "2")]
    assert infos[0].tags["who"] == "me"
    assert infos[0].stamp != infos[1].stamp
    registry.fetch("digits", "1", tmp_path / "back")
    assert tree(tmp_path / "back") == {"a": b"alpha", "sub/b": b"beta"}


def test_a_part_comes_alone_and_in_its_place(
    registry: Registry, folder: Folder, tmp_path: Path
) -> None:
    """A folder or a file of a version can be fetched without the rest; its path stays what it was."""
    registry.register("digits", folder(a=b"1", x__y__b=b"2", x__c=b"3"), {})
    registry.fetch("digits", "1", tmp_path / "one", part="x")
    registry.fetch("digits", "1", tmp_path / "two", part="x/y/b")
    assert tree(tmp_path / "one") == {"x/y/b": b"2", "x/c": b"3"}
    assert tree(tmp_path / "two") == {"x/y/b": b"2"}


def test_what_is_not_there_is_said_so(registry: Registry, folder: Folder, tmp_path: Path) -> None:
    """A model, a version and a part that do not exist are VersionNotFound, and never an empty answer."""
    registry.register("digits", folder(), {})
    with pytest.raises(VersionNotFound, match="no model 'digit'"):
        registry.versions("digit")
    with pytest.raises(VersionNotFound, match="no model 'digit'"):
        registry.alias("digit", "champion")
    with pytest.raises(VersionNotFound, match="no version 9"):
        registry.fetch("digits", "9", tmp_path / "x")
    with pytest.raises(VersionNotFound, match="holds no 'zip'"):
        registry.fetch("digits", "1", tmp_path / "x", part="zip")
    with pytest.raises(VersionNotFound):
        registry.set_alias("digits", "champion", "9")
    assert registry.alias("digits", "champion") is None
    assert known_versions(registry, "digit") == ()
    assert known_alias(registry, "digit", "champion") is None


@pytest.mark.parametrize("version", ["../1", "", "1/..", "one", "-1", "01"])
def test_a_version_is_a_number_and_never_a_path(
    registry: Registry, folder: Folder, tmp_path: Path, version: str
) -> None:
    """Nothing that is not a plain number reaches the file system or the server."""
    registry.register("digits", folder(), {})
    with pytest.raises(VersionNotFound):
        registry.fetch("digits", version, tmp_path / "x")


@pytest.mark.parametrize("name", ["../digits", "", "a/b", "x' OR name LIKE '%"])
def test_a_name_is_a_name_and_never_a_path_or_a_filter(
    registry: Registry, folder: Folder, name: str
) -> None:
    """A name that could mean something else to a file system or to SQL is refused."""
    registry.register("digits", folder(), {})
    with pytest.raises(VersionNotFound):
        registry.versions(name)


@pytest.mark.parametrize("part", ["..", "../1", "a/../../x"])
def test_a_part_stays_inside_its_version(
    registry: Registry, folder: Folder, tmp_path: Path, part: str
) -> None:
    """A part cannot climb out of the version that it belongs to."""
    registry.register("digits", folder(), {})
    with pytest.raises(VersionNotFound):
        registry.fetch("digits", "1", tmp_path / "x", part=part)


@pytest.mark.slow
def test_an_alias_moves_and_tags_add_up(registry: Registry, folder: Folder) -> None:
    """An alias names the version it was set to last; new tags join those from the creation."""
    registry.register("digits", folder(), {"a": "1"})
    registry.register("digits", folder(), {})
    registry.set_alias("digits", "champion", "1")
    assert registry.alias("digits", "champion") == "1"
    registry.set_alias("digits", "champion", "2")
    assert registry.alias("digits", "champion") == "2"
    registry.set_tags("digits", "1", {"b": "2"})
    assert {"a": "1", "b": "2"}.items() <= registry.versions("digits")[0].tags.items()


def test_more_than_ten_versions_stay_in_order(registry: Registry, folder: Folder) -> None:
    """Newest last means by number: 10 comes after 9."""
    content = folder(a=b"1")
    for _ in range(11):
        registry.register("digits", content, {})
    assert [info.version for info in registry.versions("digits")] == [
        str(number) for number in range(1, 12)
    ]


def test_a_link_is_neither_registered_nor_followed(
    registry: Registry, folder: Folder, tmp_path: Path
) -> None:
    """A link in the folder to register is refused, and no version appears."""
    content = folder()
    (content / "link").symlink_to("/etc/hostname")
    with pytest.raises(RegistryError, match="links"):
        registry.register("digits", content, {})
    assert known_versions(registry, "digits") == ()


def test_unknown_kinds_and_uris_name_the_known_ones(tmp_path: Path) -> None:
    """A typing error in params.yaml is answered with what would have worked."""
    with pytest.raises(UnknownName, match="did you mean 'mlflow'"):
        open_registry(Section(kind="mlfow"), tmp_path)
    for kind, uri in (
        ("mlflow", "ftp://host"),
        ("mlflow", "http://"),
        ("files", "sqlite:///x.db"),
        ("files", "https://host"),
    ):
        with pytest.raises(DocumentError, match="uri") as caught:
            open_registry(Section(kind=kind, uri=uri), tmp_path)
        assert caught.value.fix
