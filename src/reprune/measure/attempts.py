"""The local ledger of looks at sealed data: written before each look, never rewritten.

A retried gate passes bad candidates (a 2 % error becomes 20 % in ten tries), so every look counts,
the aborted ones too. One JSON object a line, appended and fsynced; DVC keeps the file.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from reprune.core import durable
from reprune.core.documents import canonical
from reprune.core.store import disk_errors

ATTEMPTS_FILE = "reprune.attempts.jsonl"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is about to be judged, and on what. `name`, `dense_version` and `weights` say whose attempt
    it is; `eval_digest` and `candidate` are there for the reader.
    """

    name: str
    dense_version: str
    weights: str
    eval_digest: str
    candidate: str


class _Entry(Look, frozen=True, kw_only=True):
    attempt: int


def next_attempt(ledger: Path, look: Look, *, registered: int = 0) -> int:
    """Appends `look`, on disk when this returns, and gives the number of the attempt that it is.

    The number is one more than the larger of what the ledger held for the same dense model and what
    the registry knew. A line that cannot be read (a torn write) counts for everybody.
    Raises DiskFull or another RepruneError; then the look must not happen.
    """
    with disk_errors(ledger):
        durable.make_folder(ledger.parent)
        descriptor = os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # Two benchmarks at once must not both believe to be the first.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            raw = ledger.read_bytes()
            attempt = max(_count(raw, look), registered) + 1
            torn = b"\n" if raw and not raw.endswith(b"\n") else b""
            entry = {"attempt": attempt, **msgspec.structs.asdict(look)}
            _append(descriptor, torn + canonical(entry) + b"\n")
        finally:
            os.close(descriptor)
        durable.fsync(ledger.parent)
    return attempt


def last_attempt(ledger: Path, look: Look) -> int:
    """The number of the last look at the dense model of `look`, if it was this very look; else 0."""
    try:
        lines = ledger.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    counted = [line for line in lines if line.strip() and _counts(line, look)]
    try:
        last = msgspec.json.decode(counted[-1], type=_Entry) if counted else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    same = last is not None and (last.eval_digest, last.candidate) == (
        look.eval_digest,
        look.candidate,
    )
    return last.attempt if same and last is not None else 0


def local_attempts(ledger: Path, look: Look) -> int:
    """How many looks the ledger holds for the dense model of `look`; 0 where there is no ledger."""
    try:
        raw = ledger.read_bytes()
    except FileNotFoundError:
        return 0
    return _count(raw, look)


def local_uses(ledger: Path, eval_digest: str) -> int:
    """How many looks the ledger holds at these eval examples, whatever the model; 0 where there is none.

    A line that cannot be read counts, as it may have been one.
    """
    try:
        lines = ledger.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    looks = [_decoded(line) for line in lines if line.strip()]
    return sum(look is None or look.eval_digest == eval_digest for look in looks)


def _count(raw: bytes, look: Look) -> int:
    return sum(_counts(line, look) for line in raw.split(b"\n") if line.strip())


def _counts(line: bytes, look: Look) -> bool:
    """Whether the line is a look at `look`'s dense model, or may have been one."""
    entry = _decoded(line)
    if entry is None:
        return True
    wanted = (look.name, look.dense_version, look.weights)
    return (entry.name, entry.dense_version, entry.weights) == wanted


def _decoded(line: bytes) -> Look | None:
    try:
        return msgspec.json.decode(line, type=Look)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _append(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)
