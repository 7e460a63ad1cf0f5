"""A disk that fails: the process is killed, or told EIO or ENOSPC, at each of its writes in turn.

    python -m tests.core.injecting      (all scenarios; prints the counts as JSON)

Each case runs in a fork. Wherever it was hit: a reader sees what was there before or what was to be
there, the error is one of ours, and the next run succeeds.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprune.core import durable
from reprune.core.errors import RepruneError
from tests.core.crash_scenarios import SCENARIOS, Scenario

KINDS = ("kill", "EIO", "ENOSPC")
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
UNTYPED = 97


class Plan:
    """Counts the writes below `root`, and hits the one numbered `at` (none, if it is None)."""

    def __init__(self, root: Path, at: int | None, kind: str) -> None:
        self.root, self.at, self.kind = str(root), at, kind
        self.count = 0
        self.hit = False

    def write(self, where: object) -> None:
        """Called before each; raises OSError, or does not come back."""
        if isinstance(where, int):
            where = _name_of(where)
        if not isinstance(where, str | os.PathLike) or not os.fspath(where).startswith(self.root):
            return
        self.count += 1
        if self.at is None or self.count - 1 != self.at:
            return
        self.hit = True
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self.kind)
        raise OSError(code, os.strerror(code), str(where))


class _Watched:
    """A file opened for writing, whose writes are counted."""

    def __init__(self, stream: Any, plan: Plan, where: object) -> None:
        self._stream, self._plan, self._where = stream, plan, where

    def write(self, content: Any) -> Any:
        self._plan.write(self._where)
        return self._stream.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _name_of(descriptor: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""


def watch(plan: Plan) -> None:
    """From now on, in this process, every write goes through the plan. It cannot be taken back."""

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS:
            plan.write(arguments[1] if event == "os.rename" else arguments[0])
        elif event == "open" and isinstance(arguments[2], int):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not isinstance(arguments[0], int):
                plan.write(arguments[0])

    def wrapped(real: Callable[..., Any], place: Callable[..., object]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            plan.write(place(*arguments))
            return real(*arguments, **named)

        return call

    def opening(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            stream = real(file, mode, *arguments, **named)
            if set(mode) & set("wax+"):
                return _Watched(stream, plan, _name_of(stream.fileno()))
            return stream

        return call

    os.fsync = wrapped(os.fsync, lambda descriptor: descriptor)  # type: ignore[assignment]
    os.write = wrapped(os.write, lambda descriptor, _: descriptor)
    os.sendfile = wrapped(os.sendfile, lambda out, *_: out)
    durable.exchange = wrapped(durable.exchange, lambda _, other: str(other))
    # shutil hands descriptors to the kernel, and asks the stream for its number.
    io.open = opening(io.open)  # type: ignore[assignment]
    builtins.open = opening(builtins.open)  # type: ignore[assignment]
    sys.addaudithook(before)


@contextmanager
def _prepared(scenario: Scenario) -> Iterator[tuple[Path, str]]:
    """A folder in which all but the last step is done, and what is seen before and after that one."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        for step in (*scenario.before, *scenario.steps[:-1]):
            step(root)
        yield root, scenario.observe(root)


def _forked(scenario: Scenario, root: Path, at: int | None, kind: str, told: Path) -> int:
    """The last step in a fork; its wait status. `told` holds the number of writes where it ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = UNTYPED
    try:
        plan = Plan(root, at, kind)
        watch(plan)
        try:
            scenario.steps[-1](root)
            code = 0
        except RepruneError:
            code = 1
        except OSError as error:
            os.write(2, f"untyped: {error!r}\n".encode())
        plan.at = None
        with os.fdopen(os.open(told, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
            out.write(str(plan.count))
    finally:
        os._exit(code)


def inject(name: str, kinds: tuple[str, ...] = KINDS) -> dict[str, int]:
    """Every write of the scenario's last step, hit in every way.

    `injected` cases; `partial` where something else than before or after was seen, `untyped` where an
    error was none of ours, `stuck` where the next run did not succeed: each is to be 0.
    """
    scenario = SCENARIOS[name]
    found = dict.fromkeys(("injected", "partial", "untyped", "stuck"), 0)
    with _prepared(scenario) as (root, _):
        writes = _count(scenario, root)
        wanted = scenario.observe(root)
    for kind in kinds:
        for at in range(writes):
            with _prepared(scenario) as (root, before):
                told = root.parent / "told"
                status = _forked(scenario, root, at, kind, told)
                found["injected"] += 1
                seen = scenario.observe(root)
                status_next = _forked(scenario, root, None, kind, told)
                after = scenario.observe(root)
                # A name that could not be synced may be there; whole, and not acknowledged.
                found["partial"] += seen not in (before, wanted)
                found["untyped"] += os.WIFEXITED(status) and os.WEXITSTATUS(status) == UNTYPED
                found["stuck"] += status_next != 0 or after == before
    return found


def _count(scenario: Scenario, root: Path) -> int:
    told = root.parent / "told"
    assert _forked(scenario, root, None, "kill", told) == 0
    return int(told.read_text())


def inject_all() -> dict[str, int]:
    """The sums over all scenarios."""
    total: dict[str, int] = {}
    for name in SCENARIOS:
        for key, value in inject(name).items():
            total[key] = total.get(key, 0) + value
    return total


if __name__ == "__main__":
    print(json.dumps(inject_all()))
