"""Targets whose device is reached by a command (`target.run`): their engines and samples come from there.

Everything that a call needs goes with it, each time: engines are small beside the time of a look, and a
device that remembers nothing can serve nothing stale.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from reprune.core.errors import ChainBroken
from reprune.core.machine import Machine
from reprune.core.params import Target
from reprune.core.sniff import sniff
from reprune.core.store import disk_errors
from reprune.measure.device_call import Called, Device, calling
from reprune.measure.device_job import (
    PIPE_VALID_S,
    DeviceJob,
    Starting,
    Timing,
    add_pass,
    add_shapes,
    block_plan,
    new_job,
    schedule,
    seal,
)
from reprune.measure.device_results import (
    Compiled,
    DeviceResult,
    Returned,
    read_result_starts,
    read_result_units,
)
from reprune.measure.starts import starting_order
from reprune.runtimes.foreign import ONNX, TFLITE, inspect_apart
from reprune.runtimes.sidecar import sidecar_path

if TYPE_CHECKING:
    import numpy as np

    from reprune.judge.evidence import Start, Unit
    from reprune.measure.latency import LatencyJob
    from reprune.task.protocol import Batch

    Array = np.ndarray[Any, np.dtype[Any]]

Fill = Callable[[Path, DeviceJob], DeviceJob]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """The device of the target `name`. `engines` maps arm to file; `machine` is the one that they were
    built for: another one answers in vain. None where that is not known yet. With `bound` an engine runs only
    where its sidecar says that it may.
    """

    name: str
    target: Target
    engines: Mapping[str, Path]
    hang_seconds: float
    say: Callable[[str], None]
    machine: Machine | None = None
    bound: bool = True

    def with_engines(self, engines: Mapping[str, Path]) -> Remote:
        """The same device, with these engines."""
        return replace(self, engines=engines)

    @contextmanager
    def asking(self, fill: Fill, *, steps: int = 1) -> Iterator[Called]:
        """A job that `fill` completed, done; `steps` is about how many
        processes it takes there. Raises as device_call.call, and ChainBroken for another machine.
        """
        device = Device(
            name=self.name,
            run=self.target.run,
            limit_s=self.hang_seconds * max(1, steps),
            say=self.say,
        )

        def prepare(folder: Path) -> DeviceJob:
            job = new_job(
                self.name, self.target, hang_seconds=self.hang_seconds, valid_s=PIPE_VALID_S
            )
            arms = put_engines(folder, self.engines)
            return seal(folder, fill(folder, structs.replace(job, arms=arms, bound=self.bound)))

        with calling(device, prepare) as called:
            self._refuse_other(called.result)
            yield called

    def hello(self) -> Machine:
        """The device's machine, after it has opened every engine once."""
        with self.asking(lambda _, job: job, steps=len(self.engines)) as called:
            return called.result.machine

    @contextmanager
    def answers(self, batches: Iterable[Batch]) -> Iterator[dict[str, Returned]]:
        """Every arm's outputs on `batches` as sessions that give them back, call by call."""

        def fill(folder: Path, job: DeviceJob) -> DeviceJob:
            return structs.replace(job, passes={"eval": add_pass(folder, "eval", arrays(batches))})

        with self.asking(fill, steps=len(self.engines)) as called:
            yield {arm: called.session("eval", arm) for arm in self.engines}

    def units(
        self,
        job: LatencyJob,
        *,
        total: int,
        already: tuple[Unit, ...] = (),
        say: Callable[[str], None],
    ) -> tuple[Unit, ...]:
        """As measure.latency.take_units, on the device."""

        def fill(folder: Path, empty: DeviceJob) -> DeviceJob:
            first = already[-1].process + 1 if already else 0
            return structs.replace(
                empty, timings=(timing(folder, job, range(len(already), total), first),)
            )

        processes = total - len(already)
        with self.asking(fill, steps=processes + len(self.engines)) as called:
            taken = read_result_units(called.folder, called.result.units[0])
        say(f"{total} of {total} units taken on the device")
        return (*already, *taken)

    def starts(
        self, job: LatencyJob, *, say: Callable[[str], None]
    ) -> dict[str, tuple[Start, ...]]:
        """As measure.starts.take_starts, on the device."""
        turns = job.params.memory_processes

        def fill(folder: Path, empty: DeviceJob) -> DeviceJob:
            return structs.replace(empty, starting=starting(folder, job))

        with self.asking(fill, steps=(turns + 1) * len(self.engines)) as called:
            found = read_result_starts(called.folder, called.result)
        say(f"{len(found)} arms started in {turns} processes each on the device")
        return found

    @property
    def _before(self) -> str:
        return "its engines were built for" if self.bound else "answered first"

    def _refuse_other(self, result: DeviceResult) -> None:
        if self.machine is not None and result.machine.instance != self.machine.instance:
            raise ChainBroken(
                f"the device of '{self.name}' is another machine ({result.machine.cpu}, "
                f"{result.machine.logical_cpus} cores) than the one that {self._before} "
                f"({self.machine.cpu}, {self.machine.logical_cpus} cores)",
                where=self.target.run,
                fix="reach the same device, with the same cores, in build and benchmark; or run build "
                "again"
                if self.bound
                else "reach the same device, with the same cores, in every call; then run the step again",
            )


def take_compiled(called: Called, arm: str, path: Path) -> Compiled:
    """Afterwards the engine that was compiled there lies at `path`; its digest was checked when it came."""
    compiled = called.result.compiled[arm]
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(called.folder / compiled.file, path)
    if sniff(path) in (ONNX, TFLITE):
        # Of other formats only their own runtime knows more, and that is on the device.
        inspect_apart(path)
    return compiled


def put_engines(folder: Path, engines: Mapping[str, Path]) -> dict[str, str]:
    """Copies engines, with the sidecars that they have, into a job; arm to file."""
    placed = {arm: f"engines/{arm}/{path.name}" for arm, path in sorted(engines.items())}
    for arm, file in placed.items():
        with disk_errors(folder / file):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(engines[arm], folder / file)
            if sidecar_path(engines[arm]).is_file():
                shutil.copyfile(sidecar_path(engines[arm]), sidecar_path(folder / file))
    return placed


def arrays(batches: Iterable[Batch]) -> Iterator[Sequence[Array]]:
    """The inputs of each batch as an engine gets them."""
    for batch in batches:
        yield [tensor.detach().cpu().contiguous().numpy() for tensor in batch.inputs]


def timing(folder: Path, job: LatencyJob, indices: range, first_process: int) -> Timing:
    """The units `indices` of `job`; its workload is written into the job folder."""
    size = job.target.batch_size
    return Timing(
        batch_size=size,
        shapes=add_shapes(folder, str(size), job.shapes),
        weights=tuple(shape.weight for shape in job.shapes),
        plan=block_plan(job.params),
        pause_seconds=job.params.pause_seconds,
        units=schedule(
            job.timed,
            job.seed,
            indices,
            first_process=first_process,
            per_process=job.params.units_per_process,
        ),
    )


def starting(folder: Path, job: LatencyJob) -> Starting:
    """The starts of `job`, arms in the order that they would start in here."""
    arms = sorted(job.engines)
    return Starting(
        shapes=add_shapes(folder, "starts", job.shapes),
        weights=tuple(shape.weight for shape in job.shapes),
        turns=tuple(
            tuple(starting_order(arms, job.seed, turn))
            for turn in range(job.params.memory_processes)
        ),
    )
