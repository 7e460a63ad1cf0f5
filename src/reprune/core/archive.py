"""Folders as a tar stream, between two machines that trust neither the line nor each other's paths."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from reprune.core.errors import ArtifactError
from reprune.core.store import disk_errors

MAX_BYTES = 8 * 2**30
MAX_FILES = 200_000
_CHUNK = 2**20


class Readable(Protocol):
    """What a pipe offers."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, none at the end."""


def pack(folder: Path, stream: IO[bytes]) -> None:
    """Writes all files below `folder` to `stream`, the same for the same files: no owner, no clock.

    Raises ArtifactError for a link, and where there is more than `unpack` takes.
    """
    total = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for count, path in enumerate(_files(folder), start=1):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            total += member.size
            _refuse_too_much(total, count)
            with path.open("rb") as content:
                tar.addfile(member, content)


def unpack(stream: Readable, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Writes the files of a tar stream below `folder`, an empty directory of the caller's.

    Only plain files with relative names and without "..", each name once; nothing outside `folder` is
    touched. Raises ArtifactError for anything else: links, devices, a stream that is no tar, that
    ends too early, or that holds more than `max_bytes` or 200,000 files; then `folder` is to be
    thrown away.
    """
    total = 0
    try:
        bounded = _Bounded(stream, max_bytes)
        with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]  # only read
            for count, member in enumerate(tar, start=1):
                total += member.size
                _refuse_too_much(total, count, max_bytes)
                if not member.isdir():
                    _write(tar, member, folder / _checked_name(member))
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        raise ArtifactError(f"is no whole tar stream: {error}") from error


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ArtifactError("may not hold links", where=str(path))
        if path.is_file():
            yield path


def _checked_name(member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if not member.isreg():
        raise ArtifactError(f"holds '{member.name}', which is no plain file")
    if name.is_absolute() or ".." in name.parts or not name.parts or "\\" in member.name:
        raise ArtifactError(f"holds '{member.name}', which is no name inside a folder")
    return name


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        raise ArtifactError(f"holds '{member.name}' without content")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A name that comes twice is refused here, whatever is in its place by now.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            raise ArtifactError(f"holds '{member.name}' twice") from None
    written = 0
    with disk_errors(path), os.fdopen(descriptor, "wb") as out:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            out.write(chunk)
    if written != member.size:
        raise ArtifactError(f"ends inside '{member.name}'")


def _refuse_too_much(total: int, count: int, max_bytes: int = MAX_BYTES) -> None:
    if total > max_bytes or count > MAX_FILES:
        raise ArtifactError(
            f"holds more than {max_bytes} bytes or {MAX_FILES} files",
            fix="give the device less at once: fewer examples, smaller outputs",
        )


class _Bounded:
    """A stream that ends in an error when more was read from it than files of `most` bytes need."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream = stream
        # Every file has a header and padding.
        self._left = most + MAX_FILES * 1024

    def read(self, size: int = -1, /) -> bytes:
        found = self._stream.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise ArtifactError("is longer than anything that it may hold")
        return found
