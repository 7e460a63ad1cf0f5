"""One latency measurement at a time on a host, whoever runs it and in whichever repository."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reprune.core.errors import Busy

# TMPDIR differs from user to user; the lock only works if everybody names the same file.
_SYSTEM_TEMP = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
HOST_LOCK = _SYSTEM_TEMP / "reprune-latency.lock"
WAIT_SECONDS = 3600.0


def to_stderr(text: str) -> None:
    """Tells a person, without getting between a command and its output."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def host_lock(
    say: Callable[[str], None] = to_stderr,
    *,
    path: Path = HOST_LOCK,
    wait_seconds: float = WAIT_SECONDS,
) -> Iterator[None]:
    """Holds this host's measurement lock, after waiting for it if need be; says so once.

    The kernel frees it when the holder dies. Not re-entrant. Raises Busy after `wait_seconds`.
    """
    descriptor = _open_for_anybody(path)
    try:
        if not _try(descriptor):
            say(f"another latency measurement runs on this host; waiting for it ({path})")
            _wait(descriptor, path, wait_seconds)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while not _try(descriptor):
        if time.monotonic() >= deadline:
            raise Busy(
                f"another latency measurement has held this host for {wait_seconds:.0f} s",
                where=str(path),
                fix="wait until it has ended, or end it (see `fuser` on that file)",
            )
        time.sleep(0.1)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_for_anybody(path: Path) -> int:
    """Opened for reading, which is all that flock needs and what every user may do.

    A sticky folder forbids opening another user's file with O_CREAT, so that comes second.
    """
    for _ in range(2):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            os.fchmod(made, 0o644)
            os.close(made)
        except OSError as error:
            raise Busy(
                f"the measurement lock cannot be opened: {error.strerror}",
                where=str(path),
                fix="remove what stands in its place",
            ) from error
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
