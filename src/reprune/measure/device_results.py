"""What a device gives back, and whether it can be believed. Imports no torch.

Digests tell that a file is not what the device sealed, the nonce and the job's digest that a result
belongs to another job, the schedule that units were taken in another order. That somebody who holds
the job writes numbers of his own cannot be told: see docs/devices.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec import structs

from reprune import __version__
from reprune.core.artifacts import BuildFact, Fact
from reprune.core.documents import canonical, decode_json, read_bounded, strict_json
from reprune.core.errors import BuildError, ChainBroken, DocumentError, PayloadCorrupt
from reprune.core.machine import Machine
from reprune.core.store import file_digest, write_bytes
from reprune.judge.evidence import Start, Unit, decode_units
from reprune.measure.device_job import (
    Arrays,
    DeviceJob,
    Timing,
    check_files,
    content_digest,
    job_digest,
)
from reprune.measure.foreign_arrays import read_npz
from reprune.measure.foreign_results import MAX_OUTPUT_BYTES, check_apart, weigh
from reprune.measure.pairs import PairTimes, unlike

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

RESULT_FILE = "result.json"
SCHEMA = 1
# A clock that is further off than this dates its evidence wrongly.
MAX_SKEW_S = 600.0
# An arm has in a unit: one on the way there, and one back (measure.unit.take_unit).
BLOCKS = 2


class Compiled(Fact, kw_only=True):
    """An engine that was made on the device, and what its compiler said."""

    file: str
    built: BuildFact


class DeviceResult(Fact, kw_only=True):
    """`job` is the digest of the job that was done. `outputs` maps pass and arm to one file a call;
    `units` are files, one for each timing of the job; `starts` and `pairs` one more each.
    Times are by the device's clock.
    """

    schema: Literal[1] = 1
    nonce: str
    job: str
    reprune: str
    machine: Machine
    python: str
    runtime_version: str
    binding: dict[str, str]
    began_s: float
    ended_s: float
    compiled: dict[str, Compiled] = {}
    outputs: dict[str, dict[str, tuple[str, ...]]] = {}
    units: tuple[str, ...] = ()
    starts: str = ""
    pairs: str = ""
    files: dict[str, str] = {}


def seal_result(folder: Path, result: DeviceResult) -> DeviceResult:
    """Writes `result.json` with the digest of every file below `folder`."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    whole = structs.replace(result, files=files)
    write_bytes(folder / RESULT_FILE, canonical(whole) + b"\n")
    return whole


def read_result(folder: Path, job: DeviceJob, *, now: float) -> DeviceResult:
    """The result of `job` that lies in `folder`, whole, and of this job alone.

    `now` is this machine's time when the result came. Raises PayloadCorrupt for files that are missing,
    changed or too many, ChainBroken for the result of another job or other units than were asked for,
    BuildError for a device whose clock is off or that runs another Reprune version.
    """
    path = folder / RESULT_FILE
    weigh(folder)
    try:
        raw = read_bounded(path)
    except (FileNotFoundError, NotADirectoryError):
        raise PayloadCorrupt(
            "is no whole result: result.json is missing",
            where=str(folder),
            fix="let the device run the job to its end, and copy the whole folder",
        ) from None
    result = _decoded(raw, str(path))
    if (result.nonce, result.job) != (job.nonce, job_digest(job)):
        raise ChainBroken(
            f"is the result of another job ({result.nonce[:8]}..., this one is {job.nonce[:8]}...)",
            where=str(path),
            fix="bring the result of this very job",
        )
    check_files(folder, result.files, but=(RESULT_FILE,))
    _check_clock(result, job, now, str(path))
    _check_parts(result, job, str(path))
    # Only then is anything parsed that is more than a list of names: by somebody else, first.
    check_apart(folder)
    for timing, file in zip(job.timings, result.units, strict=True):
        _check_units(read_result_units(folder, file), timing, result, str(folder / file))
    _check_pairs(folder, result, job)
    return result


def read_result_units(folder: Path, file: str) -> tuple[Unit, ...]:
    """The units in one file of a result."""
    return decode_units(read_bounded(folder / file), name=str(folder / file))


def read_result_starts(folder: Path, result: DeviceResult) -> dict[str, tuple[Start, ...]]:
    """How the engines began."""
    path = folder / result.starts
    return decode_json(read_bounded(path), dict[str, tuple[Start, ...]], name=str(path))


def read_result_pairs(folder: Path, result: DeviceResult) -> tuple[PairTimes, ...]:
    """The times of the job's pairs, in its order; none where it has none."""
    if not result.pairs:
        return ()
    path = folder / result.pairs
    return decode_json(read_bounded(path), tuple[PairTimes, ...], name=str(path))


class Returned:
    """A Session that has run already, elsewhere: it gives the outputs that came back, call by call.

    Calls must come in the order, and with the inputs, of the job's pass.
    """

    def __init__(self, folder: Path, calls: Sequence[Arrays], files: Sequence[str]) -> None:
        self._calls = list(zip(calls, files, strict=True))
        self._folder = folder
        self._next = 0

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for the next call. Raises ChainBroken for inputs that the device was not given,
        PayloadCorrupt for outputs that are not one row an example.
        """
        if self._next >= len(self._calls):
            raise ChainBroken("the device was given fewer batches than this", fix="ask it again")
        call, file = self._calls[self._next]
        self._next += 1
        if content_digest(inputs) != call.content:
            raise ChainBroken(
                "the device was given other inputs than these",
                where=str(self._folder / file),
                fix="make order and content of the task's batches a function of seed and epoch",
            )
        outputs = list(read_arrays(self._folder / file))
        if not outputs or any(output.shape[:1] != (call.examples,) for output in outputs):
            raise PayloadCorrupt(
                f"holds outputs {[output.shape for output in outputs]} for {call.examples} examples",
                where=str(self._folder / file),
            )
        return outputs


def read_arrays(path: Path) -> tuple[Array, ...]:
    """The arrays of an .npz that came from elsewhere. Raises PayloadCorrupt for one that is none, that
    would unpack to more than a result may hold, or whose arrays claim more than lies in the file.
    """
    try:
        return tuple(read_npz(path, max_bytes=MAX_OUTPUT_BYTES))
    except BuildError as error:
        raise PayloadCorrupt(error.what, where=str(path)) from error


def _decoded(raw: bytes, name: str) -> DeviceResult:
    value = strict_json(raw, name=name)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DocumentError("is no result that this Reprune reads", where=name)
    if value.get("reprune") != __version__:
        raise BuildError(
            f"the device runs Reprune {value.get('reprune')}, and this is {__version__}",
            where=name,
            fix="install one version on both",
        )
    return decode_json(raw, DeviceResult, name=name)


def _check_clock(result: DeviceResult, job: DeviceJob, now: float, where: str) -> None:
    begin, end = job.created_s - MAX_SKEW_S, now + MAX_SKEW_S
    if not begin <= result.began_s <= result.ended_s <= end:
        raise BuildError(
            f"by the device's clock the job ran {result.began_s - job.created_s:.0f} s to "
            f"{result.ended_s - job.created_s:.0f} s after it was made, and it is "
            f"{now - job.created_s:.0f} s since then: one of the clocks is off",
            where=where,
            fix="set the device's clock (or this machine's) and run the job again",
        )


def _check_parts(result: DeviceResult, job: DeviceJob, where: str) -> None:
    """Everything that was asked for is there, and nothing else."""
    arms = {*job.arms, *job.to_compile}
    outputs = {name: dict.fromkeys(arms, len(calls)) for name, calls in job.passes.items() if arms}
    told = {
        name: {arm: len(files) for arm, files in by_arm.items()}
        for name, by_arm in result.outputs.items()
    }
    named = [
        *(
            file
            for by_arm in result.outputs.values()
            for files in by_arm.values()
            for file in files
        ),
        *result.units,
        *(one.file for one in result.compiled.values()),
        *(file for file in (result.starts, result.pairs) if file),
    ]
    wrong = {
        "outputs": told != outputs,
        "units": len(result.units) != len(job.timings),
        "starts": bool(result.starts) != (job.starting is not None),
        "pairs": bool(result.pairs) != bool(job.pairs),
        "engines": {a: c.file for a, c in result.compiled.items()}
        != {a: c.file for a, c in job.to_compile.items()},
        "files": sorted(named) != sorted(result.files),
    }
    missing = [name for name, differs in wrong.items() if differs]
    if missing:
        raise ChainBroken(
            f"does not hold what the job asked for: {', '.join(missing)} differ",
            where=where,
            fix="let the device run the whole job again",
        )


def _check_units(units: Sequence[Unit], timing: Timing, result: DeviceResult, where: str) -> None:
    """The units are those of the schedule, were taken one after the other, and within the job's time."""
    asked = [(unit.index, unit.process, unit.seed) for unit in timing.units]
    found = [(unit.index, unit.process, unit.seed) for unit in units]
    orders = [
        {arm: times.order for arm, times in unit.arms.items()}
        == {arm: place for place, arm in enumerate(wanted.blocks)}
        for unit, wanted in zip(units, timing.units, strict=False)
    ]
    if found != asked or not all(orders):
        raise ChainBroken("holds other units than the job asked for", where=where)
    begun = [unit.started_s for unit in units]
    within = all(result.began_s - 1 <= at <= result.ended_s + 1 for at in begun)
    if begun != sorted(begun) or not within:
        raise ChainBroken(
            "holds units that began before the job, after it, or before each other",
            where=where,
            fix="run the job again while nobody sets the clock",
        )
    times = [
        block for unit in units for arm in unit.arms.values() for block in (arm.blocks_ns or ((),))
    ]
    if not all(block and min(block) > 0 for block in times):
        raise ChainBroken("holds blocks without a call, or calls that took no time", where=where)
    least = timing.plan.min_calls
    if not all(
        len(arm.blocks_ns) == BLOCKS and min(map(len, arm.blocks_ns)) >= least
        for unit in units
        for arm in unit.arms.values()
    ):
        raise ChainBroken(
            f"holds an arm without two blocks of at least {least} calls (benchmark.min_calls)",
            where=where,
        )
    impossible = any(
        condition.wall_ns < sum(block)
        for unit in units
        for times in unit.arms.values()
        for condition, block in zip(times.conditions, times.blocks_ns, strict=False)
    )
    # Several shapes are timed as one weighted call, which is shorter than their sum: never longer.
    if impossible:
        raise ChainBroken("holds blocks that lasted longer than the clock on the wall", where=where)


def _check_pairs(folder: Path, result: DeviceResult, job: DeviceJob) -> None:
    wrong = unlike(job.pairs, read_result_pairs(folder, result))
    if wrong:
        raise ChainBroken(
            f"does not hold the times that the job asked for: {wrong}",
            where=str(folder / result.pairs),
            fix="let the device run the whole job again",
        )
