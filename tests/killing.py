"""Components that die: at each of their writes, as the kernel would see it, or whenever the test says.

`python -m tests.killing` is a server: it has imported the components, and forks for each call it is
sent, so that a death costs no new interpreter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reprune.doors.kfp.run import Texts
from tests.component_run import Given, Run, call

ROOT = Path(__file__).resolve().parents[1]
# Whatever leaves a trace on a disk; `open` counts where it may write.
WRITES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.truncate")


@dataclass(frozen=True)
class Death:
    """How a call ended: killed, or with an exit code; and its writes, in their order, where it ended."""

    killed: bool
    code: int
    writes: tuple[str, ...]


def called(run: Run, component: str, out: Path, **changed: Given) -> dict[str, Any]:
    """A call as plain data."""
    inputs = {**run.inputs(component), **changed}
    return {
        "name": component,
        "texts": asdict(run.texts),
        "inputs": {
            name: [str(each) for each in given] if isinstance(given, list) else str(given)
            for name, given in inputs.items()
        },
        "out": str(out),
        "root": str(run.root),
        "machine": "a",
    }


def obey(asked: dict[str, Any]) -> int:
    """Makes the call, and returns its exit code."""
    inputs: dict[str, Given] = {
        name: [Path(each) for each in given] if isinstance(given, list) else Path(given)
        for name, given in asked["inputs"].items()
    }
    ended = call(
        asked["name"],
        Texts(**asked["texts"]),
        inputs,
        Path(asked["out"]),
        root=Path(asked["root"]),
        machine=asked["machine"],
    )
    sys.stderr.write(ended.said)
    return ended.code


class Server:
    """Forks for each call."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def die(self, asked: dict[str, Any], at: int | None) -> Death:
        """Makes the call, killed right before its write number `at` (from 0); to the end without one."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({**asked, "at": at}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Death(answer["killed"], answer["code"], tuple(answer["writes"]))


@contextmanager
def server() -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.killing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    try:
        yield Server(process)
    finally:
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.wait()
        process.stdout.close()


@contextmanager
def started(asked: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """The call in a process and session of its own; all of it is killed in the end."""
    code = "import json, sys; from tests.killing import obey; sys.exit(obey(json.load(sys.stdin)))"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=ROOT,
    )
    assert process.stdin
    try:
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _watched(at: int | None, writes: list[str]) -> None:
    """From now on this process notes its writes, and dies before the one numbered `at`."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 else 0
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in WRITES:
            return
        where = arguments[0]
        if not isinstance(where, str | os.PathLike):
            return
        # What Python caches for itself comes and goes.
        if "__pycache__" in os.fspath(where) or os.fspath(where).startswith("/dev/"):
            return
        if len(writes) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        writes.append(f"{event} {os.fspath(where)}")

    sys.addaudithook(note)


def serve() -> None:
    """Answers each line with how the call ended."""
    from components.gate import gate  # noqa: F401 - forks then start with it loaded
    from reprune.steps import STEPS, get_step

    for name in STEPS:
        get_step(name)
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.NamedTemporaryFile("r") as noted:
            child = os.fork()
            if child == 0:
                os.setsid()
                writes: list[str] = []
                _watched(asked.pop("at"), writes)
                code = 1
                try:
                    code = obey(asked)
                finally:
                    Path(noted.name).write_text(json.dumps(writes))
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            killed = os.WIFSIGNALED(status)
            answer = {
                "killed": killed,
                "code": -1 if killed else os.WEXITSTATUS(status),
                "writes": [] if killed else json.loads(noted.read()),
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
