"""Writes that hold what they say: temporary, fsync, rename, fsync of the folder, and only then a return.

Nothing here is tried twice. A failed fsync leaves it open what the disk holds, so what was being
written is given up, and the next run writes it anew. Failures are plain OSErrors; `store` words them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# What a killed process left is not of one that still writes when it is older than this.
STALE_S = 24 * 3600.0

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def fsync(path: Path) -> None:
    """Afterwards what the file or folder itself holds is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folders(folder: Path) -> None:
    """Afterwards every name at and below `folder` is on disk; what files hold is not looked after."""
    below = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in (*reversed(below), folder):
        fsync(path)


def make_folder(folder: Path) -> None:
    """Afterwards the folder is there, and its name is on disk, with all above it that were missing."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        fsync(each.parent)


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Writes a file whole or not at all; with `private`, nobody else may ever read it.

    What killed writers of the same file left beside it long ago is gone afterwards.
    """
    make_folder(path.parent)
    sweep_stale(path.parent, f".{path.name}.", ".tmp")
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    flags, mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(draft: Path, out: Path) -> None:
    """Afterwards `out` is what `draft` was, on disk; if this raises, `out` is what it was before.

    The files in `draft` are on disk already. What `out` was lies at `draft`, for the caller to remove.
    At no moment is there neither, where the system can swap two names.
    """
    fsync_folders(draft)
    if not (out.exists() or out.is_symlink()):
        draft.rename(out)
        with _undone(lambda: out.rename(draft)):
            fsync(out.parent)
    elif exchange(draft, out):
        with _undone(lambda: exchange(draft, out)):
            fsync(out.parent)
    else:
        _replace_in_two(draft, out)


def exchange(one: Path, other: Path) -> bool:
    """Swaps what two names mean, in one step; False, and nothing done, where the system cannot."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def sweep_stale(folder: Path, start: str, end: str) -> None:
    """Removes files in `folder` that begin and end so, and that nobody has written to for a day."""
    for path in stale(folder, start, end):
        with contextlib.suppress(OSError):
            path.unlink()


def stale(folder: Path, start: str, end: str) -> list[Path]:
    """What is in `folder` under a name that begins and ends so, untouched for a day."""
    before_s = time.time() - STALE_S
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(start) and entry.name.endswith(end):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < before_s:
                        found.append(folder / entry.name)
    return found


def _replace_in_two(draft: Path, out: Path) -> None:
    """As `replace_folder`, by a name aside, which `store.sweep` brings back after a crash in between."""
    aside = out.parent / f".{out.name}.{os.getpid()}.old"
    out.rename(aside)
    with _undone(lambda: aside.rename(out)):
        draft.rename(out)
    with _undone(lambda: (out.rename(draft), aside.rename(out))):
        fsync(out.parent)
    # Under this name nothing brings it back any more.
    aside.rename(draft)


@contextlib.contextmanager
def _undone(undo: Callable[[], object]) -> Iterator[None]:
    """If the block fails, `undo` was done: as far as the disk still lets us."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            undo()
        raise
