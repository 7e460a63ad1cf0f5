"""Whether a kit that went out asked its device for what a benchmark would ask of it now."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from reprune.core.errors import ChainBroken
from reprune.core.store import disk_errors, file_digest
from reprune.measure.device_job import (
    DeviceJob,
    Timing,
    add_shapes,
    block_plan,
    plain_target,
    schedule,
)

if TYPE_CHECKING:
    from reprune.measure.latency import LatencyJob


def refuse_other_schedule(kit: DeviceJob, job: LatencyJob, *, where: str) -> Timing:
    """What the kit asked at the batch size of `job`, where a benchmark would ask the same now: the same
    target, arms, seeds, inputs and knobs of a block. The number of units may be another.

    Raises ChainBroken naming what differs.
    """
    size = job.target.batch_size
    asked = [timing for timing in kit.timings if timing.batch_size == size]
    if not asked:
        raise _other(f"did not measure batch size {size}", where)
    (timing,) = asked
    wanted = schedule(
        job.timed,
        job.seed,
        range(len(timing.units)),
        first_process=0,
        per_process=job.params.units_per_process,
    )
    same = {
        # But for the batch size, which a job at another one has of its own.
        "the target": structs.replace(plain_target(job.target), batch_size=kit.target.batch_size)
        == kit.target,
        "arms, seeds or units a process": timing.units == wanted,
        # Of every batch size: where one differs, that is said before the sealed split is opened.
        "the knobs of a block": all(one.plan == block_plan(job.params) for one in kit.timings),
        "the pause between processes": all(
            one.pause_seconds == job.params.pause_seconds for one in kit.timings
        ),
        "the weights of shapes": timing.weights == tuple(shape.weight for shape in job.shapes),
        "the inputs": _same_shapes(kit, timing, job),
    }
    differing = [name for name, equal in same.items() if not equal]
    if differing:
        raise _other(
            f"measured batch size {size} otherwise than params.yaml, policy.yaml and the engines ask for "
            f"now: {', '.join(differing)} differ",
            where,
        )
    return timing


def _other(what: str, where: str) -> ChainBroken:
    return ChainBroken(
        f"the kit {what}", where=where, fix="make a new kit with `reprune kit`, and carry it there"
    )


def _same_shapes(kit: DeviceJob, timing: Timing, job: LatencyJob) -> bool:
    """By the digests that the kit was sealed with: its files lie on the device, and not here."""
    with tempfile.TemporaryDirectory(prefix="reprune-shapes-") as folder, disk_errors(Path(folder)):
        files = add_shapes(Path(folder), "now", job.shapes)
        now = [file_digest(Path(folder, file)) for file in files]
    return now == [kit.files.get(file) for file in timing.shapes]
