"""A device job: a folder with all that a device needs to run engines on arrays. Imports no torch.

No code of the user goes there and none of the task: `job.json`, engines with their sidecars (or what
`prepare` left, to be compiled there), inputs as arrays, the schedule of what is timed. A result folder
comes back (`measure.device_results`). The same folder goes over a pipe (`measure.device_call`) and, with
a runner beside it, as a kit in somebody's hands (`measure.kit_runner`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec import structs

from reprune import __version__
from reprune.core.artifacts import Fact
from reprune.core.documents import canonical, decode_json, digest_of, read_bounded, strict_json
from reprune.core.errors import BuildError, DocumentError, PayloadCorrupt
from reprune.core.params import BenchmarkParams, Target
from reprune.core.store import file_digest, write_bytes
from reprune.judge.evidence import CONTROL
from reprune.measure.calls import Shape, write_inputs
from reprune.measure.latency import unit_seed
from reprune.measure.pairs import Pair
from reprune.measure.unit import BlockPlan, block_order, creation_order

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

JOB_FILE = "job.json"
# Beside the job in a kit: what the one who sent it wants to know again (steps.kits.Kit).
KIT_FILE = "kit.json"
SCHEMA = 1
# How long a job that goes over a pipe may be on its way.
PIPE_VALID_S = 86_400.0


class Arrays(Fact, kw_only=True):
    """The inputs of one call: a file of `write_inputs`, its examples, and a digest over what it holds."""

    file: str
    examples: int
    content: str


class UnitAsked(Fact, kw_only=True):
    """A unit to take. `created` and `blocks` are what its seed means (measure.unit), written out for
    devices that run another program than ours.
    """

    index: int
    process: int
    seed: int
    created: tuple[str, ...]
    blocks: tuple[str, ...]


class Timing(Fact, kw_only=True):
    """Units at one batch size. `pause_seconds` lie between two processes."""

    batch_size: int
    shapes: tuple[str, ...]
    weights: tuple[float, ...]
    plan: BlockPlan
    pause_seconds: float
    units: tuple[UnitAsked, ...]


class Starting(Fact, kw_only=True):
    """`turns` are orders of the arms: each starts once a turn, in a fresh process."""

    shapes: tuple[str, ...]
    weights: tuple[float, ...]
    turns: tuple[tuple[str, ...], ...]


class ToCompile(Fact, kw_only=True):
    """`folder` holds what Compiling.prepare left; `file` is where the engine goes in the result."""

    folder: str
    file: str


class DeviceJob(Fact, kw_only=True):
    """`nonce` is used once. `arms` maps arm to engine file; one that is in `to_compile` has none yet.

    With `bound` an engine runs only where its sidecar says that it may; pairs do not ask. `passes` are inputs
    that all arms are run on, in order, and whose outputs come back. `pairs` name arms and files of the job.
    `files` maps every file of the folder but this one to its digest. Times are Unix seconds of the machine
    that wrote the job.
    """

    schema: Literal[1] = 1
    nonce: str
    reprune: str
    created_s: float
    expires_s: float
    name: str
    target: Target
    hang_seconds: float
    arms: dict[str, str] = {}
    bound: bool = True
    to_compile: dict[str, ToCompile] = {}
    passes: dict[str, tuple[Arrays, ...]] = {}
    timings: tuple[Timing, ...] = ()
    starting: Starting | None = None
    pairs: tuple[Pair, ...] = ()
    files: dict[str, str] = {}


def new_job(name: str, target: Target, *, hang_seconds: float, valid_s: float) -> DeviceJob:
    """A job with nothing to do yet, valid from now on for `valid_s` seconds."""
    now = time.time()
    return DeviceJob(
        nonce=secrets.token_hex(16),
        reprune=__version__,
        created_s=now,
        expires_s=now + valid_s,
        name=name,
        target=plain_target(target),
        hang_seconds=hang_seconds,
    )


def add_pass(folder: Path, name: str, inputs: Iterable[Sequence[Array]]) -> tuple[Arrays, ...]:
    """Writes each call's inputs below `folder` and says where, in order."""
    found = []
    for index, arrays in enumerate(inputs):
        file = f"inputs/{name}/{index:06d}.npz"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_inputs(folder / file, arrays)
        found.append(Arrays(file=file, examples=len(arrays[0]), content=content_digest(arrays)))
    return tuple(found)


def add_shapes(folder: Path, place: str, shapes: Sequence[Shape]) -> tuple[str, ...]:
    """Writes a workload below `folder`; the files, in order."""
    files = tuple(f"shapes/{place}/shape-{index}.npz" for index in range(len(shapes)))
    for file, shape in zip(files, shapes, strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_inputs(folder / file, shape.inputs)
    return files


def block_plan(params: BenchmarkParams) -> BlockPlan:
    """The part of the params that a unit is told."""
    return BlockPlan(
        block_ms=params.block_ms,
        min_calls=params.min_calls,
        discard_calls=params.discard_calls,
        warmup_seconds=params.warmup_seconds,
    )


def schedule(
    arms: Iterable[str], seed: str, indices: range, *, first_process: int, per_process: int
) -> tuple[UnitAsked, ...]:
    """The units `indices`, `per_process` of them in each fresh process: a function of the seed and the
    set of arms (the control among them, where it is measured) alone.
    """
    names = sorted(arms)
    return tuple(
        UnitAsked(
            index=index,
            process=first_process + place // per_process,
            seed=unit_seed(seed, index),
            created=tuple(creation_order(names, unit_seed(seed, index))),
            blocks=tuple(block_order(names, unit_seed(seed, index))),
        )
        for place, index in enumerate(indices)
    )


def seal(folder: Path, job: DeviceJob) -> DeviceJob:
    """Writes `job.json` with the digest of every file below `folder`; nothing may be added afterwards."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    # As whoever reads it will see it: a 60 is a 60.0 there, and has another digest.
    whole = decode_job(canonical(structs.replace(job, files=files)), name=JOB_FILE)
    write_bytes(folder / JOB_FILE, canonical(whole) + b"\n")
    return whole


def read_job(folder: Path, *, now: float | None = None) -> DeviceJob:
    """The job in `folder`, every file of it as it was sealed.

    Raises BuildError for one that another Reprune version wrote or that has expired, PayloadCorrupt
    for files that are missing, changed or too many, DocumentError for a job that does not decode.
    """
    path = folder / JOB_FILE
    try:
        raw = read_bounded(path)
    except (FileNotFoundError, NotADirectoryError):
        raise PayloadCorrupt("is no device job: job.json is missing", where=str(folder)) from None
    job = decode_job(raw, name=str(path))
    now = time.time() if now is None else now
    if now > job.expires_s:
        raise BuildError(
            f"this job expired {now - job.expires_s:.0f} s ago by this machine's clock",
            where=str(folder),
            fix="make a new one; if it is new, set the clock of this machine",
        )
    check_files(folder, job.files, but=(JOB_FILE, KIT_FILE))
    return job


def decode_job(raw: bytes, *, name: str) -> DeviceJob:
    """As read_job, without the files: a job of another version is refused before it is decoded."""
    value = strict_json(raw, name=name)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DocumentError("is no device job that this Reprune reads", where=name)
    if value.get("reprune") != __version__:
        raise BuildError(
            f"the job was written by Reprune {value.get('reprune')}, and this is {__version__}",
            where=name,
            fix=f"install reprune=={value.get('reprune')} here, or this version there",
        )
    return decode_json(raw, DeviceJob, name=name)


def job_digest(job: DeviceJob) -> str:
    """What a result names its job by."""
    return digest_of(job)


def check_files(folder: Path, files: dict[str, str], *, but: Sequence[str] = ()) -> None:
    """Raises PayloadCorrupt unless exactly `files` lie below `folder`, with these digests."""
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    strange = sorted(there - set(files) - set(but))
    if strange:
        raise PayloadCorrupt(f"holds '{strange[0]}', which nothing lists", where=str(folder))
    for name, digest in files.items():
        path = folder / name
        if ".." in PurePosixPath(name).parts or not _plain_file(folder, name):
            raise PayloadCorrupt(f"lacks '{name}', which it lists", where=str(folder))
        if file_digest(path) != digest:
            raise PayloadCorrupt(
                "is not what was sealed: its digest differs",
                where=str(path),
                fix="copy the folder again, or let it be made again",
            )


def content_digest(arrays: Sequence[Array]) -> str:
    """Over types, shapes and bytes of a call's arrays, whatever file they lie in."""
    digest = hashlib.sha256()
    for array in arrays:
        whole = np.ascontiguousarray(array)
        digest.update(f"{whole.dtype.str}{whole.shape};".encode())
        digest.update(whole.tobytes())
    return f"sha256:{digest.hexdigest()}"


def with_control(arms: Iterable[str], *, control: bool) -> list[str]:
    """The arms that a unit has, the second session of the dense engine among them."""
    return sorted({*arms, *([CONTROL] if control else [])})


def _plain_file(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_file() and folder.resolve() in path.resolve().parents and not path.is_symlink()


def plain_target(target: Target) -> Target:
    """The target as its device sees it: how it is reached is left out."""
    return structs.replace(target, run="", kit=False, python="")
