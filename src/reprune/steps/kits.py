"""Kits on this machine: what went out, what came back, and the benchmark's use of it.

A kit is remembered in `.reprune/kits/<nonce>`: `kit.json` says what went out, `result/` is what came
back, and `used` is there once a benchmark took it for its look.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from reprune.core.artifacts import Engines, Fact
from reprune.core.documents import decode_json, read_bounded
from reprune.core.errors import BuildError, ChainBroken, InputError, PayloadCorrupt
from reprune.core.step import exclusive
from reprune.core.store import Artifact, disk_errors, write_bytes
from reprune.measure.attempts import Look
from reprune.measure.device_job import JOB_FILE, KIT_FILE, DeviceJob
from reprune.measure.device_results import (
    RESULT_FILE,
    DeviceResult,
    Returned,
    read_result,
    read_result_starts,
    read_result_units,
)
from reprune.measure.foreign_results import weigh
from reprune.runtimes.sidecar import open_engine
from reprune.steps.kit_schedule import refuse_other_schedule

if TYPE_CHECKING:
    from reprune.judge.evidence import Start, Unit
    from reprune.measure.latency import LatencyJob
    from reprune.runtimes.base import Session

    Array = np.ndarray[Any, np.dtype[Any]]

KITS = Path(".reprune/kits")
RESULT = "result"
USED = "used"
PARITY = "parity"
EVAL = "eval"
# As measure.parity's: below it an engine computes another function on the device than here.
LEAST_COSINE = 0.9


class Kit(Fact, kw_only=True):
    """What went out: the job, the digest of the Engines that it was made of, and the look that was
    counted for it.
    """

    schema: Literal[1] = 1
    job: DeviceJob
    engines: str
    attempt: int
    look: Look


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A kit that came back. `folder` holds the result, whose digests were checked just now."""

    kit: Kit
    place: Path
    result: DeviceResult

    @property
    def folder(self) -> Path:
        return self.place / RESULT

    @property
    def used(self) -> bool:
        """Whether a benchmark has already taken it for its look."""
        return (self.place / USED).exists()


def kit_place(root: Path, nonce: str) -> Path:
    """Where the kit of that nonce is remembered. Raises InputError for what is no nonce."""
    if len(nonce) != 32 or not all(letter in "0123456789abcdef" for letter in nonce):
        raise InputError(f"'{nonce[:40]}' is no nonce of a kit")
    return root / KITS / nonce


def remember(root: Path, kit: Kit) -> None:
    """Writes what went out, so that what comes back can be told from anything else."""
    write_bytes(kit_place(root, kit.job.nonce) / KIT_FILE, msgspec.json.encode(kit) + b"\n")


def import_result(root: Path, folder: Path, *, kit: Path | None, now: float) -> Imported:
    """Afterwards the result in `folder`, a copy of it, is where the benchmark finds it.

    The kit is the one remembered here, or lies in `kit`, the folder that `reprune kit` wrote. Raises
    InputError for a result of no kit that is known, one that is too old or was imported before, and
    what read_result raises; then nothing is changed.
    """
    nonce = _nonce(folder)
    place = kit_place(root, nonce)
    known = _read_kit((kit if kit is not None else place) / KIT_FILE, nonce)
    if now > known.job.expires_s:
        raise InputError(
            f"this kit was made {(now - known.job.created_s) / 86400:.1f} days ago, and results are "
            f"taken for {(known.job.expires_s - known.job.created_s) / 86400:.1f} (valid_for_days of the "
            "policy)",
            where=str(folder),
            fix="make a new one with `reprune kit`",
        )
    with exclusive(f"kit:{nonce}", what=f"another import of kit {nonce[:8]} is running"):
        if (place / RESULT).exists():
            raise InputError(
                f"the result of kit {nonce[:8]} was imported before: each is taken once",
                where=str(folder),
                fix="make a new kit with `reprune kit` to measure again",
            )
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".import-") as scratch:
            aside = Path(scratch, RESULT)
            weigh(folder)
            with disk_errors(aside):
                # What is checked is the copy, which nobody else changes.
                shutil.copytree(folder, aside, symlinks=True)
            result = read_result(aside, known.job, now=now)
            if kit is not None:
                remember(root, known)
            aside.rename(place / RESULT)
    return Imported(kit=known, place=place, result=result)


def find_imported(
    root: Path, name: str, job: LatencyJob, engines: Artifact[Engines], *, now: float
) -> Imported:
    """The newest result of a kit for the target `name`, made of these engines, that is still young enough.

    Raises InputError, with what to do, where there is none, and what read_result raises for one that was
    changed since it was imported.
    """
    found: list[tuple[float, Path, Kit]] = []
    out = 0
    for file in sorted((root / KITS).glob(f"*/{KIT_FILE}")):
        kit = _read_kit(file, file.parent.name)
        if kit.job.name != name or kit.engines != engines.digest or now > kit.job.expires_s:
            continue
        if (file.parent / RESULT).is_dir():
            found.append((kit.job.created_s, file.parent, kit))
        else:
            out += 1
    if not found:
        still = f"; {out} kit(s) for it are out and have not come back" if out else ""
        raise InputError(
            f"the target '{name}' is measured by a kit, and nothing was imported for these engines{still}",
            where="params.yaml (targets)",
            fix=f"`reprune kit --target {name} --out KIT`, run it on the device, then `reprune import "
            "KIT/RESULT`; a target without samples is never judged",
        )
    _, place, kit = max(found, key=lambda one: one[:2])
    refuse_other_schedule(kit.job, job, where=str(place))
    # Not `now`: the result was young enough when it came, and its clock was compared then.
    result = read_result(place / RESULT, kit.job, now=max(now, kit.job.created_s))
    return Imported(kit=kit, place=place, result=result)


def carried_units(imported: Imported, job: LatencyJob) -> tuple[Unit, ...]:
    """The units at the job's batch size. Raises ChainBroken for a kit that measured it otherwise."""
    timings = imported.kit.job.timings
    timing = refuse_other_schedule(imported.kit.job, job, where=str(imported.folder))
    return read_result_units(imported.folder, imported.result.units[timings.index(timing)])


def carried_starts(imported: Imported) -> dict[str, tuple[Start, ...]]:
    """How engines began on the device."""
    return read_result_starts(imported.folder, imported.result)


@contextmanager
def carried_answers(imported: Imported) -> Iterator[Mapping[str, Session]]:
    """Every arm's outputs on the sealed examples, as sessions."""
    yield {
        arm: Returned(imported.folder, imported.kit.job.passes[EVAL], files)
        for arm, files in imported.result.outputs[EVAL].items()
    }


def refuse_other_function(
    imported: Imported, job: LatencyJob, kit_inputs: Sequence[Sequence[Array]]
) -> dict[str, float]:
    """The cosine of each arm's outputs there and here on the calibration examples, all above 0.9.

    Raises BuildError for a device on which an engine computes something else.
    """
    found: dict[str, float] = {}
    for arm, engine in sorted(job.engines.items()):
        session = open_engine(engine, job.target)
        there = Returned(
            imported.folder,
            imported.kit.job.passes[PARITY],
            imported.result.outputs[PARITY][arm],
        )
        pairs = [
            (np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel())
            for inputs in kit_inputs
            for a, b in zip(session.run(inputs), there.run(inputs), strict=True)
        ]
        if any(one.shape != other.shape for one, other in pairs):
            raise BuildError(f"the engine of {arm} gives outputs of other shapes on the device")
        one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
        norms = float(np.linalg.norm(one) * np.linalg.norm(other))
        found[arm] = float(one @ other) / norms if norms else float(not one.any() | other.any())
        if not found[arm] >= LEAST_COSINE:
            raise BuildError(
                f"the engine of {arm} computes something else on the device than here: the cosine of "
                f"their outputs on the calibration examples is {found[arm]:.6f}",
                where=str(imported.folder),
                fix="look at the runtime's version on the device, and for hardware faults",
            )
    return found


def mark_used(imported: Imported) -> None:
    """A benchmark has taken it for the look that was counted when the kit was made."""
    write_bytes(imported.place / USED, b"")


def carried_attempt(
    imported: Sequence[Imported], look: Look, *, last: int, registered: int
) -> int | None:
    """The number of the look that was counted when these kits were made, where the benchmark is that look.

    It is if no other look at this dense model came in between, the registry knows of none, and no
    benchmark has used it up. None: the benchmark is a look of its own, and must be counted.
    """
    attempts = {one.kit.attempt for one in imported}
    same = all(one.kit.look == look and not one.used for one in imported)
    if len(attempts) != 1 or not same:
        return None
    (attempt,) = attempts
    return attempt if attempt == last and attempt > registered else None


def _read_kit(path: Path, nonce: str) -> Kit:
    try:
        kit = decode_json(read_bounded(path), Kit, name=str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"no kit with the nonce {nonce[:8]}... went out from here",
            where=str(path),
            fix="import it where `reprune kit` was run, or name its folder with --kit",
        ) from None
    if kit.job.nonce != nonce:
        raise ChainBroken(f"is the kit {kit.job.nonce[:8]}..., not {nonce[:8]}...", where=str(path))
    return kit


class _Named(msgspec.Struct):
    nonce: str


def _nonce(folder: Path) -> str:
    path = folder / RESULT_FILE
    try:
        return msgspec.json.decode(read_bounded(path), type=_Named).nonce
    except (FileNotFoundError, NotADirectoryError):
        hint = " (this is the kit itself)" if (folder / JOB_FILE).exists() else ""
        raise PayloadCorrupt(
            f"is no result of a kit: {RESULT_FILE} is missing{hint}",
            where=str(folder),
            fix="name the folder that runner.py wrote",
        ) from None
    except msgspec.MsgspecError as error:
        raise PayloadCorrupt(f"does not decode: {error}", where=str(path)) from error
