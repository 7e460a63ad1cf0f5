"""A process of its own in which a stranger's file is parsed: it may compute, and nothing else.

No network, no program, no new or changed file, no other process; memory, time and output are bounded.
The kernel holds it to that (seccomp, on Linux), whatever the file makes the parser do.

    python -m MODULE BOUNDS.json ARGUMENT...      (MODULE ends in `sys.exit(serve(...))`)
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from reprune.core.errors import InputError, RepruneError, leaves
from reprune.core.seccomp import forbid

MAX_ANSWER_BYTES = 2**20
REFUSED = 3


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the child may take, once its libraries are loaded. `sealed` refuses to go on where the kernel
    cannot take network, programs and files away; else the child goes on with the limits alone.
    """

    memory_bytes: int
    seconds: int
    written_bytes: int = MAX_ANSWER_BYTES
    sealed: bool = False


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    what: str
    where: str
    fix: str


def ask_confined(
    module: str,
    arguments: Sequence[str],
    bounds: Bounds,
    *,
    doing: str,
    refusal: type[RepruneError],
) -> bytes:
    """What `python -m module` prints for `arguments`, run in a confined process without our environment.

    Raises the very error that the child raised; `refusal` where it was killed, took too long or too
    much, or said nothing that can be read: `doing` says then what it was at.
    """
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    told = msgspec.json.encode(bounds).decode()
    with tempfile.TemporaryFile() as answer:
        try:
            # -P: a file in the user's folder must not stand in for a module of ours.
            child = subprocess.run(
                [sys.executable, "-P", "-m", module, told, *arguments],
                env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                # Its libraries must be loaded as well, on a machine that is busy.
                timeout=4 * bounds.seconds + 120,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise refusal(f"{doing} did not end within {bounds.seconds} s") from error
        answer.seek(0)
        said = answer.read(MAX_ANSWER_BYTES + 1)
    if child.returncode == 0 and len(said) <= MAX_ANSWER_BYTES:
        return said
    if child.returncode == REFUSED:
        raise _worded(said, doing, refusal)
    how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
    raise refusal(f"{doing} ended with {how}", fix="do not use this file")


def serve(arguments: Sequence[str], work: Callable[[Sequence[str]], bytes]) -> int:
    """The child's side: confines itself, works, prints what came of it; the exit code."""
    try:
        bounds = msgspec.json.decode(arguments[0], type=Bounds)
        confine(bounds)
        answer = guarded(lambda: work(arguments[1:]))
    except RepruneError as error:
        refusal = _Refusal(code=error.code, what=error.what, where=error.where, fix=error.fix)
        os.write(1, msgspec.json.encode(refusal)[:MAX_ANSWER_BYTES])
        return REFUSED
    os.write(1, answer)
    return 0


def guarded(work: Callable[[], bytes]) -> bytes:
    """As `work`. What a parser raises for a file that makes no sense becomes an InputError."""
    try:
        return work()
    except RepruneError:
        raise
    except MemoryError:
        raise InputError("needs more memory than reading it may take") from None
    except Exception as error:
        raise InputError(f"cannot be parsed: {type(error).__name__}: {str(error)[:200]}") from error


def confine(bounds: Bounds) -> None:
    """From now on, for good, this process has nothing but what it has open, and the bounds.

    Raises InputError where `sealed` cannot be had.
    """
    here = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if (
        Path("/proc/self/statm").exists()
    ) else 2**34  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + bounds.seconds
    for what, most in (
        (resource.RLIMIT_AS, here + bounds.memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, bounds.written_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))
    if not forbid() and bounds.sealed:
        raise InputError(
            "this system cannot take network, programs and files from a process",
            fix="do it on Linux (x86_64 or aarch64), or register safetensors",
        )


def _worded(said: bytes, doing: str, refusal: type[RepruneError]) -> RepruneError:
    try:
        told = msgspec.json.decode(said, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return refusal(f"{doing} failed, and did not say why")
    kind = leaves().get(told.code, refusal)
    if kind is InputError:
        kind = refusal
    try:
        return kind(told.what, where=told.where, fix=told.fix)
    except TypeError:
        return refusal(told.what, where=told.where, fix=told.fix)
