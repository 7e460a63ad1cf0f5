"""A device job over a pipe: `target.run` is started here, the job goes in, the result comes out.

Whatever the command is (ssh, docker exec, a wrapper around adb, another environment on this machine),
at its other end stands `reprune device-run -`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reprune.core.archive import pack, unpack
from reprune.core.errors import ArtifactError, BuildError, InputError, RepruneError
from reprune.core.store import disk_errors
from reprune.measure.device_job import DeviceJob
from reprune.measure.device_results import DeviceResult, Returned, read_result
from reprune.measure.hostlock import to_stderr

PLACE = "{args}"
WORDS = ("device-run", "-")
# What the device's side says now and then while it works, so that silence means that it is gone.
HEARTBEAT = "device-run: at work"
BEAT_S = 15.0
SILENT_S = 180.0
_SHOWN = 12
_LINE = 2000

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Device:
    """How a target's device is reached. A call ends in an error after `limit_s`, or after `silent_s`
    without a word from it.
    """

    name: str
    run: str
    limit_s: float
    silent_s: float = SILENT_S
    say: Say = to_stderr


def command_line(run: str) -> list[str]:
    """`run` as words, {args} among them or inside one replaced by what the device is to do. No shell
    reads them here. Raises InputError where {args} does not stand in it once, or quotes do not close.
    """
    try:
        words = shlex.split(run)
    except ValueError as error:
        raise _unusable(run, f"cannot be split into words: {error}") from error
    if sum(word.count(PLACE) for word in words) != 1:
        raise _unusable(run, "does not hold {args} exactly once")
    found: list[str] = []
    for word in words:
        found += WORDS if word == PLACE else [word.replace(PLACE, " ".join(WORDS))]
    if found[0] == WORDS[0] or not found[0]:
        raise _unusable(run, "names no command")
    return found


def call(device: Device, source: Path, job: DeviceJob, out: Path) -> DeviceResult:
    """Sends the sealed job in `source` to the device; afterwards its result, checked, lies in `out`.

    `out` is an empty folder of the caller's; after an error, what is in it is to be thrown away.
    Raises BuildError with the device's own words where it said what is wrong, RepruneError for one that
    cannot be reached, hangs, dies or answers something else, and what read_result raises.
    """
    command = command_line(device.run)
    _talk(device, command, source, out)
    try:
        return read_result(out, job, now=time.time())
    except RepruneError as error:
        # Whichever leaf it is, the reader must know whose answer it was.
        error.what = f"the answer of the device of '{device.name}' is refused: {error.what}"
        error.args = (error.what,)
        raise


@dataclass(frozen=True, kw_only=True)
class Called:
    """A job that was done, and the folder that its checked result lies in."""

    job: DeviceJob
    result: DeviceResult
    folder: Path

    def session(self, name: str, arm: str) -> Returned:
        """The arm's outputs in the pass `name`, call by call."""
        return Returned(self.folder, self.job.passes[name], self.result.outputs[name][arm])


@contextlib.contextmanager
def calling(device: Device, prepare: Callable[[Path], DeviceJob]) -> Iterator[Called]:
    """A call in folders that are gone afterwards: `prepare` fills one and seals it. Raises as `call`."""
    with tempfile.TemporaryDirectory(prefix="reprune-job-") as scratch:
        source, out = Path(scratch, "job"), Path(scratch, "result")
        with disk_errors(source):
            source.mkdir()
            out.mkdir()
        job = prepare(source)
        yield Called(job=job, result=call(device, source, job, out), folder=out)


def _talk(device: Device, command: list[str], source: Path, out: Path) -> None:
    """One process, three pipes: the job into it, the result out of it, words to `say`."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A group of its own, so that what it starts ends with it.
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(
            f"the command that reaches '{device.name}' cannot be started: {error.strerror}",
            where=f"params.yaml (targets.{device.name}.run): {command[0]}",
            fix="install it, or correct the command",
        ) from error
    talk = _Talk(device=device, process=process)
    threads = [
        threading.Thread(target=talk.send, args=(source,), daemon=True),
        threading.Thread(target=talk.listen, daemon=True),
        threading.Thread(target=talk.watch, daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        talk.receive(out)
        process.wait()
    finally:
        _end(process)
        talk.over.set()
        for thread in threads:
            thread.join(timeout=10)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
    talk.judge()


@dataclass(kw_only=True)
class _Talk:
    """What went over the pipes of one call, and what went wrong."""

    device: Device
    process: subprocess.Popen[bytes]
    over: threading.Event = field(default_factory=threading.Event)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_SHOWN))
    begun: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    stopped: str = ""
    refused: ArtifactError | None = None
    unsent: ArtifactError | None = None

    def send(self, source: Path) -> None:
        """The job into the process. One that does not want it says so by its exit code."""
        with contextlib.suppress(OSError, ValueError):
            stream = _pipe(self.process.stdin)
            try:
                pack(source, stream)
            except ArtifactError as error:
                # Half a job is none: the device must not wait for the rest.
                self.unsent = error
                _end(self.process)
            stream.close()

    def listen(self) -> None:
        """Passes on what the device says, line by line, but for its heartbeat."""
        stream = _pipe(self.process.stderr)
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(_LINE):
                self.heard = time.monotonic()
                text = _printable(line)
                if text and text != HEARTBEAT:
                    self.last.append(text)
                    self.device.say(f"{self.device.name}: {text}")

    def receive(self, out: Path) -> None:
        """The result out of the process, to the end of its output."""
        stream = _pipe(self.process.stdout)
        first = _Remembering(stream, self)
        try:
            unpack(first, out)
        except ArtifactError as error:
            begun = _printable(first.head)
            shown = f"; it begins with '{begun[:80]}'" if begun else ""
            self.refused = ArtifactError(f"{error.what}{shown}")
            if first.head and not self.over.is_set():
                # It answers, but no result: nothing more is to be heard from it.
                _grace(self.process)
        with contextlib.suppress(OSError, ValueError):
            while stream.read(2**20):
                self.heard = time.monotonic()

    def watch(self) -> None:
        """Ends the process when it takes too long, or says nothing for too long."""
        while not self.over.wait(0.1):
            now = time.monotonic()
            if now - self.begun > self.device.limit_s:
                self.stopped = f"did not end within {self.device.limit_s:.0f} s"
            elif now - self.heard > self.device.silent_s:
                self.stopped = f"said nothing for {self.device.silent_s:.0f} s"
            if self.stopped:
                _end(self.process, left_over=True)
                return

    def judge(self) -> None:
        """Raises for a call that did not go well."""
        code = self.process.returncode
        words = "\n".join(self.last)
        name = f"the device of '{self.device.name}'"
        if self.unsent is not None:
            raise RepruneError(
                f"the job for {name} cannot be sent: it {self.unsent.what}",
                where=self.device.run,
                fix=self.unsent.fix or "give it less at once: a smaller batch, or fewer examples",
            ) from self.unsent
        if self.stopped:
            raise RepruneError(
                f"{name} {self.stopped} and was stopped" + (f"; it said: {words}" if words else ""),
                where=self.device.run,
                fix="see whether it is up and not overloaded; try the command by hand",
            )
        if code == InputError.exit_code:
            raise BuildError(f"{name} refuses: {words or 'without a word'}", where=self.device.run)
        if code:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise RepruneError(
                f"{name} {how}: {words or 'without a word'}",
                where=self.device.run,
                fix="see whether it can be reached, and has this Reprune installed: "
                "try the command by hand with `doctor` in place of {args}",
            )
        if self.refused is not None:
            raise RepruneError(
                f"{name} answered something that is no result: it {self.refused.what}",
                where=self.device.run,
                fix="nothing but the result may go to its standard output: look for a banner or a "
                "login script that prints",
            ) from self.refused


class _Remembering:
    """The process's output: notes that something came, and how it began."""

    def __init__(self, stream: IO[bytes], talk: _Talk) -> None:
        self._stream = stream
        self._talk = talk
        self.head = b""

    def read(self, size: int = -1, /) -> bytes:
        found = self._stream.read(size)
        self._talk.heard = time.monotonic()
        if len(self.head) < 256:
            self.head += found[:256]
        return found


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RepruneError("a process was started without pipes")
    return stream


def _printable(raw: bytes) -> str:
    """A line of somebody else's, without what could move a terminal's cursor."""
    text = raw.decode("utf-8", errors="replace").strip()
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _grace(process: subprocess.Popen[bytes], seconds: float = 2.0) -> None:
    """Lets a process that may be about to end with words of its own do so, then ends it."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)


def _end(process: subprocess.Popen[bytes], *, left_over: bool = False) -> None:
    """Ends the process and everything in its group; returns when it is gone. With `left_over` also what
    it started and left behind, which still holds its pipes.
    """
    if left_over or process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _unusable(run: str, what: str) -> InputError:
    return InputError(
        f"the command {what}",
        where=f"params.yaml (targets: run: {run!r})",
        fix="write it as `ssh jetson reprune {args}`",
    )
