"""The commands of targets that are not this machine: device-run, kit, import."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from reprune.core.errors import EXIT_BROKEN, EXIT_DONE, InputError
from reprune.doors.output import DeviceRunOutput

Execute: TypeAlias = Callable[[argparse.Namespace], int]


def define_device_run(parser: argparse.ArgumentParser) -> Execute:
    """`reprune device-run`: the device's side of a job."""
    parser.description = (
        "Runs a device job: engines on arrays, without any task. With `-` the job comes as a tar stream "
        "on standard input and the result goes to standard output; this is what `run` of a target "
        "starts. With a folder (a kit, for example), the result goes to --out."
    )
    parser.add_argument("job", metavar="JOB", help="`-`, or a folder with a job")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the result of a folder goes")

    def execute(parsed: argparse.Namespace) -> int:
        os.chdir(parsed.root)
        if parsed.job == "-":
            return _through_pipes()
        if parsed.out is None:
            raise InputError("a job in a folder needs --out, the folder for its result")
        return _in_folders(Path(parsed.job), parsed.out, as_json=parsed.json)

    return execute


def _through_pipes() -> int:
    """Job from standard input, result to standard output, and nothing else there."""
    from reprune.core.archive import pack, unpack
    from reprune.measure.device_run import run_job

    # Whatever a library prints must not get into the result: it goes to standard error from here on.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        over = threading.Event()
        threading.Thread(target=_beat, args=(over,), daemon=True).start()
        try:
            with tempfile.TemporaryDirectory(prefix="reprune-device-run-") as scratch:
                source, out = Path(scratch, "job"), Path(scratch, "result")
                source.mkdir()
                out.mkdir()
                unpack(sys.stdin.buffer, source)
                run_job(source, out, say=_say)
                pack(out, answer)
                answer.flush()
        finally:
            over.set()
    return EXIT_DONE


def _in_folders(source: Path, out: Path, *, as_json: bool) -> int:
    from reprune.measure.device_run import run_job

    if out.exists():
        raise InputError("is there already", where=str(out), fix="name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".result-") as scratch:
        aside = Path(scratch, "result")
        aside.mkdir()
        result = run_job(source, aside, say=_say)
        aside.rename(out)
    if as_json:
        output = DeviceRunOutput(out=str(out), nonce=result.nonce, job=result.job)
        print(msgspec.json.encode(output).decode())
    else:
        _say(f"the result lies in {out}; bring it back and run: reprune import {out}")
    return EXIT_DONE


def _beat(over: threading.Event) -> None:
    """Says now and then that it is alive. Where nobody listens any more, it ends the process: what
    was asked is wanted no longer, and must not disturb the next one.
    """
    from reprune.measure.device_call import BEAT_S, HEARTBEAT

    while not over.wait(BEAT_S):
        try:
            _say(HEARTBEAT)
        except OSError:
            os._exit(EXIT_BROKEN)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
