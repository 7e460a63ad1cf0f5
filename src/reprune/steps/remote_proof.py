"""The selftest of a target whose device is reached by a command: built here, run there."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from reprune.core.errors import BuildError, RepruneError
from reprune.core.machine import Machine
from reprune.core.params import BenchmarkParams, Target
from reprune.measure.calls import Shape
from reprune.measure.conformance import (
    BATCHES,
    BUILD_SECONDS,
    agreement,
    small_inputs,
    small_net,
    small_source,
)
from reprune.measure.device_job import DeviceJob, ToCompile, add_pass
from reprune.measure.latency import LatencyJob
from reprune.measure.promises import Check, Conformance
from reprune.runtimes.base import Compiling, get_runtime
from reprune.steps.proofs import store_proof
from reprune.steps.remote import Remote, timing

if TYPE_CHECKING:
    from torch import nn

ARM = "dense"
UNITS = 2


def selftest_there(name: str, target: Target, *, say: Callable[[str], None]) -> Conformance:
    """Builds the small net here in every precision, and holds the device against what can be seen from
    here: it agrees with the module at several batch sizes, is timed, and refuses a damaged file.

    The result is stored for the device's kind of machine. Raises what makes it impossible to reach it.
    """
    begin = time.monotonic()
    runtime = get_runtime(target.runtime)
    with Remote(name=name, target=target, engines={}, hang_seconds=BUILD_SECONDS, say=say).asking(
        lambda _, job: job
    ) as called:
        machine, version = called.result.machine, called.result.runtime_version
    checks: list[Check] = []
    for precision in runtime.capabilities.precisions:
        one = structs.replace(target, precision=precision)
        with tempfile.TemporaryDirectory(prefix="reprune-selftest-") as folder:
            checks += _in_one_precision(name, one, Path(folder), machine, say)
    found = Conformance(
        runtime=target.runtime,
        version=version,
        device=target.device,
        machine=machine,
        checks=tuple(checks),
        seconds=round(time.monotonic() - begin, 1),
    )
    store_proof(found, target)
    return found


def _in_one_precision(
    name: str, target: Target, folder: Path, machine: Machine, say: Callable[[str], None]
) -> list[Check]:
    module = small_net()

    def remote(engine: Path | None) -> Remote:
        return Remote(
            name=name,
            target=target,
            engines={ARM: engine} if engine else {},
            hang_seconds=BUILD_SECONDS,
            say=say,
            machine=machine,
        )

    found: list[Check] = []

    def check(what: str, does: Callable[[], str]) -> bool:
        try:
            words, ok = does(), True
        except RepruneError as error:
            words, ok = error.what.partition("\n")[0], False
        found.append(Check(precision=target.precision, name=what, ok=ok, words=words))
        return ok

    engine = folder / f"net{get_runtime(target.runtime).suffix}"
    if not check("builds", lambda: _built(target, module, engine, folder)):
        return found
    compiled = not engine.exists()
    there = remote(None if compiled else engine)
    check("agrees with the module, and is timed", lambda: _agrees(there, module, folder, compiled))
    if not compiled:
        damaged = engine.with_name(f"damaged{engine.suffix}")
        damaged.write_bytes(engine.read_bytes()[: engine.stat().st_size // 3])
        check("refuses a damaged file", lambda: _refuses(remote(damaged)))
    return found


def _built(target: Target, module: nn.Module, engine: Path, folder: Path) -> str:
    """The engine, or in `folder/prepared` what the device compiles."""
    runtime, here = get_runtime(target.runtime), structs.replace(target, run="")
    if isinstance(runtime, Compiling):
        (folder / "prepared").mkdir()
        runtime.prepare(small_source(module), here, folder / "prepared")
        return "prepared here, compiled there"
    runtime.build(small_source(module), here, engine)
    return f"{engine.stat().st_size} bytes"


def _agrees(remote: Remote, module: nn.Module, folder: Path, compiled: bool) -> str:
    sizes = sorted({*BATCHES, remote.target.batch_size})
    job = LatencyJob(
        target=remote.target,
        engines={ARM: folder},
        shapes=[Shape(inputs=(small_inputs(remote.target.batch_size),), weight=1.0)],
        params=BenchmarkParams(block_ms=1.0, warmup_seconds=0.1),
        seed="selftest",
    )

    def fill(place: Path, empty: DeviceJob) -> DeviceJob:
        to_compile = {}
        if compiled:
            shutil.copytree(folder / "prepared", place / "prepared")
            suffix = get_runtime(remote.target.runtime).suffix
            to_compile = {ARM: ToCompile(folder="prepared", file=f"engines/{ARM}{suffix}")}
        return structs.replace(
            empty,
            bound=False,
            to_compile=to_compile,
            passes={str(n): add_pass(place, str(n), [[small_inputs(n)]]) for n in sizes},
            timings=(timing(place, job, range(UNITS), 0),),
        )

    with remote.asking(fill, steps=len(sizes) + UNITS + 1) as called:
        words = agreement(remote.target, module, {n: called.session(str(n), ARM) for n in sizes})
    return f"{words}; {UNITS} units"


def _refuses(remote: Remote) -> str:
    try:
        with remote.asking(lambda _, job: structs.replace(job, bound=False)):
            pass
    except BuildError:
        return "with an error of ours"
    raise BuildError("it opens a file that is no engine")
