"""The commands of targets that are not this machine: device-run, kit, import."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from reprune.core.errors import EXIT_BROKEN, EXIT_DONE, InputError
from reprune.doors.local import artifact
from reprune.doors.output import DeviceRunOutput, ImportOutput, KitOutput
from reprune.doors.root import enter

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
        enter(parsed.root)
        if parsed.job == "-":
            return _through_pipes()
        if parsed.out is None:
            raise InputError("a job in a folder needs --out, the folder for its result")
        return _in_folders(Path(parsed.job), parsed.out, as_json=parsed.json)

    return execute


def define_kit(parser: argparse.ArgumentParser) -> Execute:
    """`reprune kit`: a benchmark's work in a folder, for a device that cannot be called."""
    parser.description = (
        "Writes OUT/<target> for each target with `kit: true`: engines of all arms, inputs, the schedule, "
        "a runner of one file, a README. Counts one look at the sealed examples, whose inputs are in it; "
        "the benchmark that takes the result is the same look. Bring the result back with `reprune import`."
    )
    parser.add_argument("--target", metavar="NAME", default="", help="only this target")
    for name in ("engines", "dense", "previous", "data"):
        default = artifact(Path(), name)
        parser.add_argument(
            f"--{name}", metavar="DIR", type=Path, default=default, help="default: %(default)s"
        )
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="a new folder")

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.core import store
        from reprune.core.artifacts import DataReport, Engines, ModelBundle, Previous
        from reprune.doors.steps import read_documents
        from reprune.steps.kit_out import Parts, make_kits

        enter(parsed.root)
        parts = Parts(
            engines=store.read(parsed.engines, Engines),
            dense=store.read(parsed.dense, ModelBundle),
            previous=store.read(parsed.previous, Previous),
            data=store.read(parsed.data, DataReport),
        )
        attempt, kits = make_kits(
            read_documents(), parts, parsed.out, target=parsed.target, say=_say
        )
        folders = {name: str(parsed.out / name) for name in kits}
        if parsed.json:
            nonces = {name: kit.job.nonce for name, kit in kits.items()}
            output = KitOutput(folders=folders, nonces=nonces, attempt=attempt)
            print(msgspec.json.encode(output).decode())
        else:
            for name, folder in folders.items():
                _say(f"{name}: {folder} (its README.txt says what to do)")
        return EXIT_DONE

    return execute


def define_import(parser: argparse.ArgumentParser) -> Execute:
    """`reprune import`: what a kit brought back, checked and put where the benchmark finds it."""
    parser.description = (
        "Checks a kit's result (digests, nonce, age, schedule, clock, used once) and keeps a copy where "
        "`reprune benchmark` finds it."
    )
    parser.add_argument("result", metavar="RESULT", type=Path, help="the folder from the device")
    parser.add_argument(
        "--kit",
        metavar="DIR",
        type=Path,
        help="the kit's folder, where it was made elsewhere (default: as remembered in .reprune/kits)",
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.kits import import_result

        enter(parsed.root)
        imported = import_result(Path.cwd(), parsed.result, kit=parsed.kit, now=time.time())
        job, result = imported.kit.job, imported.result
        if parsed.json:
            output = ImportOutput(
                target=job.name,
                nonce=job.nonce,
                machine=result.machine,
                runtime_version=result.runtime_version,
                units=sum(len(timing.units) for timing in job.timings),
                kept=str(imported.folder.relative_to(Path.cwd())),
            )
            print(msgspec.json.encode(output).decode())
        else:
            _say(
                f"{job.name}: from {result.machine.cpu}, {job.target.runtime} {result.runtime_version}\n"
                "next: dvc repro"
            )
        return EXIT_DONE

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
