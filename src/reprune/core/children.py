"""Work in a fresh process of its own, that may crash or hang: asked by a file, answered by a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from reprune.core.documents import canonical
from reprune.core.errors import BuildError, RepruneError
from reprune.core.store import write_bytes

Spec = TypeVar("Spec")
Answer = TypeVar("Answer")

EXIT_SAID_WHY = 3
# A process that takes a few units ends within seconds; a model of a second a call within minutes.
HANG_SECONDS = 1800.0


def ask(  # noqa: PLR0913  # what is asked and how it is answered, then in which process
    module: str,
    spec: object,
    kind: type[Answer],
    stem: Path,
    *,
    threads: int,
    hang_seconds: float = HANG_SECONDS,
    doing: str = "measuring",
    python: str = "",
) -> Answer:
    """What `python -m module` answers to `spec`, run in a fresh process with OMP_NUM_THREADS=`threads`.

    `stem` names the two files, each with its ending. `python` is the interpreter of another
    environment, in which this package is found where it lies here; `doing` says in errors what the
    process was for. Raises BuildError with the child's words where it said why it cannot and for an
    interpreter that is not there, RepruneError where it crashed, hung or left no answer.
    """
    told, answered = stem.with_suffix(".spec.json"), stem.with_suffix(".answer.json")
    told.write_bytes(canonical(spec))
    # -P: a file in the user's folder must not stand in for a module of ours.
    command = [python or sys.executable, "-P", "-m", module, str(told), str(answered)]
    here = {"PYTHONPATH": str(Path(__file__).parents[2])} if python else {}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **here, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=hang_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RepruneError(
            f"{doing} did not end within {hang_seconds:.0f} s and was stopped",
            where=f"{module} {stem.name}",
            fix="see whether the machine is overloaded; give it more time or less to do",
        ) from error
    except OSError as error:
        raise BuildError(
            f"{doing} needs the interpreter {command[0]}, which cannot be started: {error.strerror}",
            fix="name the python of an environment that has the runtime's tools (`python` of the target)",
        ) from error
    _check_ending(done, doing)
    try:
        return msgspec.json.decode(answered.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise RepruneError(f"{doing} left no answer: {error}") from error


def answer(arguments: Sequence[str], kind: type[Spec], measure: Callable[[Spec], object]) -> int:
    """The child's side: reads SPEC.json, measures, writes OUT.json whole or not at all; the exit code."""
    spec = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=kind)
    try:
        found = measure(spec)
    except RepruneError as error:
        print(error, file=sys.stderr)
        return EXIT_SAID_WHY
    write_bytes(Path(arguments[1]), canonical(found))
    return 0


def refuse_orphan(parent: int) -> None:
    """Raises RepruneError if the process that asked is gone: nobody else must be disturbed then."""
    if os.getppid() != parent:
        raise RepruneError("the benchmark that started this measurement is gone")


def _check_ending(done: subprocess.CompletedProcess[bytes], doing: str) -> None:
    said = done.stderr.decode("utf-8", errors="replace").strip()
    if done.returncode == EXIT_SAID_WHY:
        raise BuildError(f"{doing} is not possible: {said}")
    if done.returncode:
        how = (
            f"was killed by signal {-done.returncode}"
            if done.returncode < 0
            else f"ended with exit code {done.returncode}"
        )
        raise RepruneError(
            f"{doing} {how}" + (f": {said.splitlines()[-1]}" if said else ""),
            fix="run the step again; if it happens again, look for memory or driver errors",
        )
