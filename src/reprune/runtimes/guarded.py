"""A session in a process of its own: a runtime that crashes or hangs there takes nothing with it.

For a runtime that says `may_crash`. It is for outputs, not for times: every call goes through a pipe.

    python -m reprune.runtimes.guarded ENGINE TARGET.json      (arrays on stdin, arrays on stdout)
"""

from __future__ import annotations

import io
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from reprune.core.documents import canonical
from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.runtimes.base import get_runtime

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

DONE, REFUSED = b"d", b"r"
_LENGTH = struct.Struct("<Q")
MAX_MESSAGE_BYTES = 2**34
CALL_SECONDS = 600.0


class GuardedSession:
    """A Session whose engine lies in a child process. `seconds` is the longest that opening or a call may
    take. Raises BuildError with the child's words where the runtime says why not, RepruneError where it
    crashed or hung; the child is gone then, and with the session.
    """

    def __init__(self, engine: Path, target: Target, *, seconds: float = CALL_SECONDS) -> None:
        self._name = f"{target.runtime} with {engine.name}"
        self._seconds = seconds
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the session
        self._over = ""
        with tempfile.NamedTemporaryFile(suffix=".json") as told:
            told.write(canonical(target))
            told.flush()
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "reprune.runtimes.guarded", str(engine), told.name],
                env={**os.environ, "OMP_NUM_THREADS": str(target.threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
            self._answer()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """As Session.run."""
        if self._over or self._child.stdin is None:
            raise RepruneError(self._over)
        try:
            _send(self._child.stdin, DONE, _packed(inputs))
        except BrokenPipeError:
            raise self._gone() from None
        return _unpacked(self._answer())

    def close(self) -> None:
        """Ends the child."""
        self._over = self._over or f"the session of {self._name} is closed"
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._said):
            if stream is not None:
                stream.close()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()

    def _answer(self) -> bytes:
        deadline = time.monotonic() + self._seconds
        head = self._read(1 + _LENGTH.size, deadline)
        kind, (length,) = head[:1], _LENGTH.unpack(head[1:])
        if kind not in (DONE, REFUSED) or length > MAX_MESSAGE_BYTES:
            self.close()
            raise RepruneError(f"the process of {self._name} answered nonsense")
        content = self._read(length, deadline)
        if kind == REFUSED:
            raise BuildError(content.decode("utf-8", errors="replace"))
        return content

    def _read(self, count: int, deadline: float) -> bytes:
        descriptor = self._child.stdout.fileno() if self._child.stdout is not None else -1
        parts, missing = [], count
        while missing:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise RepruneError(
                    f"{self._name} did not answer within {self._seconds:g} s and was stopped",
                    fix="see whether the device hangs; run the step again",
                )
            part = os.read(descriptor, min(missing, 1 << 20))
            if not part:
                raise self._gone()
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _gone(self) -> RepruneError:
        code = self._child.wait()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", errors="replace").strip()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = f": {said.splitlines()[-1]}" if said else ""
        self._over = f"the process of {self._name} {how}{last}"
        self.close()
        return RepruneError(
            self._over,
            fix="run the step again; if it happens again, look for memory or driver errors",
        )


def _send(stream: IO[bytes], kind: bytes, content: bytes) -> None:
    stream.write(kind + _LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def _packed(arrays: Sequence[Array]) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.savez(stream, *arrays)
    return stream.getvalue()


def _unpacked(content: bytes) -> list[Array]:
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]


def _serve(engine: Path, target: Target, given: IO[bytes], answers: IO[bytes]) -> None:
    """Answers one message with one message, the opening first, until stdin ends."""
    try:
        session = get_runtime(target.runtime).open(engine, target)
    except RepruneError as error:
        _send(answers, REFUSED, str(error).encode())
        return
    _send(answers, DONE, b"")
    while head := given.read(1 + _LENGTH.size):
        (length,) = _LENGTH.unpack(head[1:])
        try:
            outputs = session.run(_unpacked(given.read(length)))
        except RepruneError as error:
            _send(answers, REFUSED, str(error).encode())
        else:
            _send(answers, DONE, _packed(outputs))


def main(arguments: Sequence[str]) -> int:
    """The child's side. What libraries print goes to stderr: stdout carries arrays."""
    target = msgspec.json.decode(Path(arguments[1]).read_bytes(), type=Target)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        _serve(Path(arguments[0]), target, sys.stdin.buffer, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
