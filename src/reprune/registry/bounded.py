"""Copying the files of a version: bounded in bytes and number, plain files only, never through a link.

What lies in a registry is somebody else's. It is looked over before anything is copied, and counted
again while it is, because it may change in between.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reprune.core import params, store
from reprune.core.errors import RegistryError, RegistryUnreachable, VersionNotFound

MAX_DEPTH = 32

_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one version may hold."""

    max_bytes: int = 20 * 2**30
    max_files: int = 10_000


class Budget:
    """What is left of the limits. Each method raises RegistryError where there is too little."""

    def __init__(self, limits: Limits, where: str) -> None:
        self.limits = limits
        self.where = where
        self._bytes = 0
        self._files = 0

    def file(self, path: str) -> None:
        """One more file (or folder), at this path in the version."""
        self._files += 1
        if self._files > self.limits.max_files:
            raise RegistryError(
                f"holds more than {self.limits.max_files} files",
                where=self.where,
                fix="register less, or raise registry.max_files in params.yaml",
            )
        if len(PurePosixPath(path).parts) > MAX_DEPTH:
            raise RegistryError(f"holds folders deeper than {MAX_DEPTH}", where=self.where)

    def take(self, size: int) -> None:
        """So many more bytes."""
        self._bytes += size
        if self._bytes > self.limits.max_bytes:
            raise RegistryError(
                f"is larger than {self.limits.max_bytes} bytes",
                where=self.where,
                fix="raise registry.max_bytes in params.yaml if it is meant to be so large",
            )


def limits_of(registry: params.Registry) -> Limits:
    return Limits(max_bytes=registry.max_bytes, max_files=registry.max_files)


def checked_part(part: str, what: str, where: str) -> PurePosixPath:
    """`part` as a path that stays inside a version. Raises VersionNotFound: nothing else is in there."""
    path = PurePosixPath(part)
    if ".." in path.parts or path.is_absolute() or "\0" in part:
        raise VersionNotFound(f"{what} holds no '{part}'", where=where)
    return path


def copy_part(
    source: Path, part: PurePosixPath, destination: Path, limits: Limits, *, where: str
) -> dict[str, str]:
    """Copies the files at or below `source / part` to `destination`, under their paths in `source`.

    Returns their digests by path. Nothing is written where the look over finds something amiss. Raises
    FileNotFoundError where there is no such part, RegistryError for a link, for what is no plain file
    and for too much, RegistryUnreachable for what cannot be read.
    """
    wanted = source / part
    if not _there(wanted):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(wanted))
    # A link above the part would lead out as well as one below it.
    if wanted.resolve() != source.resolve() / part:
        raise _no_link(wanted)
    found = survey(wanted, limits, where=where)
    budget = Budget(limits, where)
    digests = {}
    for path in found:
        inside = path.relative_to(source).as_posix()
        budget.file(inside)
        digests[inside] = _copy(path, destination / inside, budget)
    return digests


def survey(wanted: Path, limits: Limits, *, where: str) -> list[Path]:
    """The plain files at or below `wanted`, in order. Raises as `copy_part` does."""
    budget = Budget(limits, where)
    found: list[Path] = []
    pending = [wanted]
    while pending:
        path = pending.pop()
        with reading(path):
            state = path.lstat()
            children = sorted(path.iterdir()) if stat.S_ISDIR(state.st_mode) else []
        if stat.S_ISLNK(state.st_mode):
            raise _no_link(path)
        if stat.S_ISDIR(state.st_mode):
            pending += children
        elif stat.S_ISREG(state.st_mode):
            found.append(path)
            budget.take(state.st_size)
        else:
            raise RegistryError("a version may hold plain files only", where=str(path))
        if path != wanted:
            budget.file(path.relative_to(wanted).as_posix())
    return sorted(found)


def digest_of_files(digests: Mapping[str, str]) -> str:
    """One digest over paths and contents."""
    lines = "".join(f"{digests[path]}  {path}\n" for path in sorted(digests))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


@contextmanager
def reading(where: Path) -> Iterator[None]:
    """What a registry on this machine cannot read is unreachable."""
    try:
        yield
    except OSError as error:
        raise RegistryUnreachable(f"cannot be read: {error.strerror}", where=str(where)) from error


def _there(path: Path) -> bool:
    """Whether something is there, be it a link that leads nowhere. Only the file system's own word for
    "there is none" counts: a mount that went stale answers otherwise, and is unreachable.
    """
    with reading(path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def _copy(source: Path, target: Path, budget: Budget) -> str:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _no_link(source) from error
        raise RegistryUnreachable(f"cannot be read: {error.strerror}", where=str(source)) from error
    digest = hashlib.sha256()
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RegistryError("a version may hold plain files only", where=str(source))
        with store.disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with store.disk_errors(target), target.open("wb") as out:
            while True:
                with reading(source):
                    chunk = stream.read(_CHUNK)
                if not chunk:
                    break
                budget.take(len(chunk))
                digest.update(chunk)
                out.write(chunk)
    return f"sha256:{digest.hexdigest()}"


def _no_link(path: Path) -> RegistryError:
    return RegistryError("a version may not hold links", where=str(path))
