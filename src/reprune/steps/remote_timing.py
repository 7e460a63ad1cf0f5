"""The device behind `target.run` as a place where engines are timed: for tables and plans, no evidence."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from msgspec import structs

from reprune.core.params import BuildParams, Target
from reprune.core.store import disk_errors
from reprune.judge.evidence import Unit
from reprune.measure.device_job import DeviceJob, ToCompile
from reprune.measure.device_results import read_result_pairs
from reprune.measure.latency import LatencyJob
from reprune.measure.pairs import Pair, PairTimes
from reprune.measure.timing_place import TimingPlace
from reprune.runtimes.base import Compiling, Runtime, Source, get_runtime
from reprune.steps.remote import Remote, take_compiled


def there(name: str, target: Target, say: Callable[[str], None]) -> TimingPlace:
    """The device of the target `name`, asked first who it is: another one answers in vain afterwards.

    Engines are built here, or prepared here and compiled there; each goes with every call. This and all that
    is done there raise what device_call.call raises, and ChainBroken for another machine.
    """
    # Engines that are only timed have no sidecar: none of them outlives the step.
    remote = Remote(
        name=name,
        target=target,
        engines={},
        hang_seconds=BuildParams().max_seconds,
        say=say,
        bound=False,
    )
    with remote.asking(lambda _, job: job) as called:
        machine, version = called.result.machine, called.result.runtime_version
    remote = replace(remote, machine=machine)
    runtime = get_runtime(target.runtime)
    return TimingPlace(
        target=target,
        runtime=runtime,
        machine=machine,
        version=version,
        inside=False,
        make=partial(_make, remote, runtime),
        take=partial(_take, remote),
        units=partial(_units, remote),
    )


def _make(known: Remote, runtime: Runtime, sources: Mapping[Path, Source], target: Target) -> None:
    """What must be compiled there is in one call."""
    if not isinstance(runtime, Compiling):
        for engine, source in sources.items():
            runtime.build(source, structs.replace(target, run=""), engine)
        return
    remote = replace(known, target=target)
    names = _numbered("engine", [str(engine) for engine in sources])
    with tempfile.TemporaryDirectory(prefix="reprune-prepared-") as prepared:
        for engine, source in sources.items():
            Path(prepared, names[str(engine)]).mkdir()
            runtime.prepare(source, target, Path(prepared, names[str(engine)]))

        def fill(folder: Path, job: DeviceJob) -> DeviceJob:
            with disk_errors(folder):
                shutil.copytree(prepared, folder / "prepared")
            asked = {
                name: ToCompile(folder=f"prepared/{name}", file=f"engines/{name}{runtime.suffix}")
                for name in names.values()
            }
            return structs.replace(job, to_compile=asked)

        with remote.asking(fill, steps=2 * len(names)) as called:
            for path, name in names.items():
                take_compiled(called, name, Path(path))


def _take(remote: Remote, pairs: Sequence[Pair]) -> tuple[PairTimes, ...]:
    engines = _numbered("engine", [path for pair in pairs for path in (pair.engine, pair.other)])
    inputs = _numbered(
        "call", [path for pair in pairs for path in (pair.inputs, pair.other_inputs)]
    )

    def fill(folder: Path, job: DeviceJob) -> DeviceJob:
        with disk_errors(folder):
            (folder / "pairs").mkdir()
            for path, name in inputs.items():
                shutil.copyfile(path, folder / "pairs" / f"{name}.npz")
        named = tuple(
            structs.replace(
                pair,
                engine=engines[pair.engine],
                other=engines[pair.other],
                inputs=f"pairs/{inputs[pair.inputs]}.npz",
                other_inputs=f"pairs/{inputs[pair.other_inputs]}.npz",
            )
            for pair in pairs
        )
        return structs.replace(job, pairs=named)

    known = remote.with_engines({name: Path(path) for path, name in engines.items()})
    with known.asking(fill, steps=len(pairs)) as called:
        return read_result_pairs(called.folder, called.result)


def _units(remote: Remote, job: LatencyJob, total: int) -> tuple[Unit, ...]:
    # What a look of evidence says of itself is not said of a figure.
    return remote.with_engines(job.engines).units(job, total=total, say=lambda _: None)


def _numbered(word: str, paths: Sequence[str]) -> dict[str, str]:
    """A name for each of the paths; equal ones have one."""
    return {path: f"{word}-{number}" for number, path in enumerate(dict.fromkeys(paths))}
