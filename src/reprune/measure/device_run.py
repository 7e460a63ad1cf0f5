"""Runs a device job: this is the device's side. Imports no torch, and knows no task.

Whatever may crash or hang (a runtime over its driver, an engine) is in a process of its own.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from reprune import __version__
from reprune.core.artifacts import BuildFact
from reprune.core.children import ask
from reprune.core.documents import canonical
from reprune.core.errors import BuildError, RepruneError
from reprune.core.store import write_bytes
from reprune.judge.evidence import CONTROL, Start, Unit
from reprune.measure.accelerator import timing_machine
from reprune.measure.device_job import Arrays, DeviceJob, Timing, job_digest, read_job
from reprune.measure.device_outputs import OutputsSpec
from reprune.measure.device_results import Compiled, DeviceResult, seal_result
from reprune.measure.foreign_results import MAX_OUTPUT_BYTES
from reprune.measure.hostlock import host_lock, to_stderr
from reprune.measure.pairs import PairSpec, PairTimes
from reprune.measure.starts import StartSpec
from reprune.measure.unit import UnitSpec
from reprune.runtimes.base import get_runtime
from reprune.runtimes.isolated import compile_isolated

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Desk:
    """One job being done: where it lies, where the result goes, `scratch` for what is neither."""

    job: DeviceJob
    source: Path
    out: Path
    scratch: Path
    say: Say

    def engine(self, arm: str) -> Path:
        """The arm's engine: one that came, or one that was compiled here."""
        made = self.job.to_compile.get(arm)
        return self.out / made.file if made else self.source / self.job.arms[arm]

    @property
    def arms(self) -> list[str]:
        return sorted({*self.job.arms, *self.job.to_compile})


def run_job(source: Path, out: Path, *, say: Say = to_stderr) -> DeviceResult:
    """Does what `job.json` in `source` asks and leaves a sealed result in `out`, an empty folder.

    Waits for this host's measurement lock before anything is timed. Raises what read_job raises,
    BuildError for engines that do not compile, load or run here and for outputs that are larger than a
    result may be, RepruneError for a process that crashed or hung, Busy for an occupied host.
    """
    job = read_job(source)
    runtime = get_runtime(job.target.runtime)
    version, binding = runtime.version(), runtime.binding(job.target)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="reprune-device-") as scratch:
        desk = _Desk(job=job, source=source, out=out, scratch=Path(scratch), say=say)
        compiled = {arm: _compile(desk, arm) for arm in sorted(job.to_compile)}
        outputs = _outputs(desk)
        units = tuple(_time(desk, place, timing) for place, timing in enumerate(job.timings))
        starts = _starts(desk)
        pairs = _pairs(desk)
    result = DeviceResult(
        nonce=job.nonce,
        job=job_digest(job),
        reprune=__version__,
        machine=timing_machine(runtime, job.target, job.target.threads),
        python=platform.python_version(),
        runtime_version=version,
        binding=binding,
        began_s=round(began, 3),
        ended_s=round(time.time(), 3),
        compiled=compiled,
        outputs=outputs,
        units=units,
        starts=starts,
        pairs=pairs,
    )
    return seal_result(out, result)


def _compile(desk: _Desk, arm: str) -> Compiled:
    asked = desk.job.to_compile[arm]
    desk.say(f"compiling {arm}")
    built: BuildFact = compile_isolated(
        desk.job.target,
        desk.source / asked.folder,
        desk.out / asked.file,
        seconds=desk.job.hang_seconds,
    )
    return Compiled(file=asked.file, built=built)


def _outputs(desk: _Desk) -> dict[str, dict[str, tuple[str, ...]]]:
    """Every pass through every arm. Without any pass each engine is opened once, here or by pairs."""
    left = MAX_OUTPUT_BYTES
    once: dict[str, tuple[Arrays, ...]] = {} if desk.job.pairs else {"": ()}
    found: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in desk.job.passes}
    for arm in desk.arms:
        for name, calls in (desk.job.passes or once).items():
            files = tuple(f"outputs/{name}/{arm}/{index:06d}.npz" for index in range(len(calls)))
            left -= _one_pass(desk, arm, [call.file for call in calls], files, left)
            if name:
                found[name][arm] = files
                desk.say(f"{arm}: {len(files)} batches of {name}")
    return found


def _one_pass(desk: _Desk, arm: str, inputs: Sequence[str], files: Sequence[str], left: int) -> int:
    spec = OutputsSpec(
        parent=os.getpid(),
        target=desk.job.target,
        engine=str(desk.engine(arm).resolve()),
        bound=desk.job.bound and arm not in desk.job.to_compile,
        inputs=tuple(str((desk.source / file).resolve()) for file in inputs),
        outputs=tuple(str((desk.out / file).resolve()) for file in files),
        most_bytes=left,
    )
    return _ask(desk, "reprune.measure.device_outputs", spec, int, f"outputs of {arm}")


def _time(desk: _Desk, place: int, timing: Timing) -> str:
    units: list[Unit] = []
    target = structs.replace(desk.job.target, batch_size=timing.batch_size)
    with host_lock(desk.say):
        for process, group in _by_process(timing):
            if units and timing.pause_seconds:
                time.sleep(timing.pause_seconds)
            spec = UnitSpec(
                parent=os.getpid(),
                process=process,
                target=target,
                engines=_timed_engines(desk, timing),
                shapes=tuple(str((desk.source / file).resolve()) for file in timing.shapes),
                weights=timing.weights,
                blocks=timing.plan,
                units=group,
            )
            units += _ask(desk, "reprune.measure.unit", spec, tuple[Unit, ...], f"units {place}")
            desk.say(f"{len(units)} of {len(timing.units)} units taken")
    file = f"units/{place}.json"
    write_bytes(desk.out / file, canonical(units))
    return file


def _by_process(timing: Timing) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    for process, units in groupby(timing.units, key=lambda unit: unit.process):
        yield process, tuple((unit.index, unit.seed) for unit in units)


def _timed_engines(desk: _Desk, timing: Timing) -> dict[str, str]:
    """The arms that the units name: the control is a second session of the dense engine."""
    arms = timing.units[0].blocks if timing.units else ()
    return {arm: str(desk.engine("dense" if arm == CONTROL else arm).resolve()) for arm in arms}


def _starts(desk: _Desk) -> str:
    asked = desk.job.starting
    if asked is None:
        return ""
    found: dict[str, list[Start]] = {arm: [] for arm in desk.arms}
    with host_lock(desk.say):
        for turn in asked.turns:
            for arm in turn:
                spec = StartSpec(
                    parent=os.getpid(),
                    target=desk.job.target,
                    engine=str(desk.engine(arm).resolve()),
                    shapes=tuple(str((desk.source / file).resolve()) for file in asked.shapes),
                    weights=asked.weights,
                )
                found[arm].append(
                    _ask(desk, "reprune.measure.starts", spec, Start, f"start of {arm}")
                )
    write_bytes(desk.out / "starts.json", canonical(found))
    return "starts.json"


def _pairs(desk: _Desk) -> str:
    """Each pair in a process of its own, which has the job's time for it."""
    if not desk.job.pairs:
        return ""
    found = []
    for number, pair in enumerate(desk.job.pairs, start=1):
        here = structs.replace(
            pair,
            engine=str(desk.engine(pair.engine).resolve()),
            other=str(desk.engine(pair.other).resolve()),
            inputs=str((desk.source / pair.inputs).resolve()),
            other_inputs=str((desk.source / pair.other_inputs).resolve()),
        )
        spec = PairSpec(parent=os.getpid(), target=desk.job.target, pair=here)
        with host_lock(desk.say):
            found.append(_ask(desk, "reprune.measure.pairs", spec, PairTimes, f"pair {number}"))
    write_bytes(desk.out / "pairs.json", canonical(found))
    return "pairs.json"


def _ask(desk: _Desk, module: str, spec: object, kind: type[T], doing: str) -> T:
    try:
        return ask(
            module,
            spec,
            kind,
            desk.scratch / "asked",
            threads=desk.job.target.threads,
            hang_seconds=desk.job.hang_seconds,
            doing=f"{doing} on this device",
        )
    except BuildError:
        raise
    except RepruneError as error:
        raise RepruneError(error.what, where=desk.job.name, fix=error.fix) from error
