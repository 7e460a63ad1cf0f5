"""A folder in which the files of versions lie, for a registry that keeps names and properties only.

    <root>/<name>/<token>/**      one version; the token is drawn before the registry hears of it

A version is written aside, fsynced and renamed into place before it is registered.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reprune.core import durable, store
from reprune.core.errors import RegistryError, RegistryUnreachable
from reprune.registry.bounded import Limits, copy_part, digest_of_files, reading

_WHERE_FIX = "copy the files below registry.artifacts and register that folder's file:// address"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a version lies below the root, and one digest over its paths and contents."""

    place: str
    digest: str


def put(root: Path, place: str, folder: Path, limits: Limits) -> Stored:
    """Copies the files of `folder` to `root / place`, durably, whole or not at all. Raises RegistryError."""
    target = root / place
    draft = target.parent / f".{target.name}.draft"
    with store.disk_errors(root):
        durable.make_folder(target.parent)
        _check_plain(root, target.parent, where=str(root))
        for left in durable.stale(target.parent, ".", ".draft"):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir()
    try:
        digests = copy_part(folder, PurePosixPath(), draft, limits, where=str(folder))
        with store.disk_errors(target):
            for each in digests:
                durable.fsync(draft / each)
            durable.fsync_folders(draft)
            draft.rename(target)
            durable.fsync(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Stored(place=place, digest=digest_of_files(digests))


def drop(root: Path, place: str) -> None:
    """Takes away what was put for a version that was never registered."""
    shutil.rmtree(root / place, ignore_errors=True)


def below(root: Path, place: str, *, where: str) -> Path:
    """`root / place`, which nothing in `place`, and no link on the way, leads out of.

    Raises RegistryError or RegistryUnreachable.
    """
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in place:
        raise RegistryError(
            f"its files are said to lie at '{place}', which is refused", where=where
        )
    _check_root(root)
    _check_plain(root, root / path, where=where)
    return root / path


def resolved(root: Path, uri: str, *, where: str) -> Path:
    """The file or folder below `root` that somebody's file:// address names.

    Raises RegistryError for every other scheme, for another host, and for what lies or leads outside.
    """
    try:
        parts = urlsplit(uri)
        text = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise RegistryError(
            "its files are said to lie at what is no address", where=where
        ) from error
    if parts.scheme != "file":
        shown = parts.scheme if parts.scheme.isalnum() else "no scheme"
        raise RegistryError(
            f"its files lie at an address that is not fetched from here ({shown}): only file:// is",
            where=where,
            fix=_WHERE_FIX,
        )
    bad = parts.netloc not in ("", "localhost") or parts.query or parts.fragment or "\0" in text
    if bad or ".." in PurePosixPath(text).parts or not text.startswith("/"):
        raise RegistryError("its file:// address is no plain path", where=where, fix=_WHERE_FIX)
    _check_root(root)
    real = Path(text).resolve()
    if not real.is_relative_to(root.resolve()) or real == root.resolve():
        raise RegistryError(
            "its files lie outside the folder that registry.artifacts names",
            where=where,
            fix=_WHERE_FIX,
        )
    return real


def _check_plain(root: Path, path: Path, *, where: str) -> None:
    """Returns only if no link lies between `root`, which may be one itself, and `path` below it."""
    with reading(root):
        plain = path.resolve() == root.resolve() / path.relative_to(root)
    if not plain:
        raise RegistryError(
            "a link lies on the way to the files of a version: links are not followed",
            where=where,
            fix="put the folder itself there; registry.artifacts may be a link",
        )


def _check_root(root: Path) -> None:
    with reading(root):
        there = root.is_dir()
    if not there:
        raise RegistryUnreachable(
            "the folder with the files of versions is not here",
            where=str(root),
            fix="mount it, or correct registry.artifacts in params.yaml",
        )
