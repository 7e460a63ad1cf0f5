"""Where each target of a benchmark is: this machine, a device behind a command, or one that a kit went to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.core.artifacts import Engines
from reprune.core.machine import Machine
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.runtimes.sidecar import open_engine
from reprune.steps.kits import (
    PARITY,
    Imported,
    carried_answers,
    carried_starts,
    carried_units,
    find_imported,
    refuse_other_function,
)
from reprune.steps.remote import Remote, arrays
from reprune.steps.sampling import HERE, Taking

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reprune.judge.evidence import Start, Unit
    from reprune.measure.latency import LatencyJob
    from reprune.runtimes.base import Session
    from reprune.task.seal import Sealed


@dataclass(frozen=True, kw_only=True)
class Place:
    """`answers` gives each arm's outputs on the sealed examples, as sessions, while it is open."""

    taking: Taking
    answers: Callable[[Sealed], AbstractContextManager[Mapping[str, Session]]]


def here(job: LatencyJob) -> Place:
    """This machine: every engine, and every further build of one, is loaded now, so that one that does
    not load costs no look.
    """
    sessions = {arm: open_engine(path, job.target) for arm, path in job.engines.items()}
    for path in (path for copies in job.copies.values() for path in copies):
        open_engine(path, job.target)

    @contextmanager
    def answers(_: Sealed) -> Iterator[Mapping[str, Session]]:
        yield sessions
        sessions.clear()

    return Place(taking=HERE, answers=answers)


def behind(name: str, job: LatencyJob, machine: Machine, say: Callable[[str], None]) -> Place:
    """The device behind `target.run`, which has opened every engine when this returns.

    Raises ChainBroken for another machine than the engines were built for.
    """
    remote = Remote(
        name=name,
        target=job.target,
        engines=job.engines,
        hang_seconds=job.hang_seconds,
        say=say,
        machine=machine,
    )
    answered = remote.hello()
    say(f"{name}: the device answers: {answered.cpu}, {answered.logical_cpus} cores")

    @contextmanager
    def answers(task: Sealed) -> Iterator[Mapping[str, Session]]:
        with remote.answers(task.batches("eval", epoch=0, seed=0)) as sessions:
            yield sessions

    taking = Taking(units=remote.units, starts=remote.starts, machine=machine)
    return Place(taking=taking, answers=answers)


def carried(
    name: str, job: LatencyJob, engines: Artifact[Engines], task: Sealed, ctx: Context
) -> tuple[Place, Imported]:
    """The device that a kit went to, by what it brought back. Raises InputError where that is nothing."""
    from reprune.measure.source import calibration_batches

    imported = find_imported(ctx.root, name, job, engines, now=time.time())
    examples = sum(call.examples for call in imported.kit.job.passes[PARITY])
    inputs = list(arrays(calibration_batches(task, examples)))
    cosines = refuse_other_function(imported, job, inputs)
    result = imported.result
    ctx.say(
        f"{name}: kit {result.nonce[:8]} came back from {result.machine.cpu} with "
        f"{job.target.runtime} {result.runtime_version}; smallest cosine {min(cosines.values()):.6f}"
    )

    def units(
        job: LatencyJob,
        *,
        total: int,  # noqa: ARG001  # what came back is all there is
        already: tuple[Unit, ...] = (),
        say: Callable[[str], None],
    ) -> tuple[Unit, ...]:
        if already:
            return already
        found = carried_units(imported, job)
        say(f"{len(found)} units were taken on the device")
        return found

    def starts(
        job: LatencyJob,  # noqa: ARG001
        *,
        say: Callable[[str], None],
    ) -> dict[str, tuple[Start, ...]]:
        found = carried_starts(imported)
        say(f"{len(found)} arms started on the device")
        return found

    taking = Taking(units=units, starts=starts, machine=result.machine)
    return Place(taking=taking, answers=lambda _: carried_answers(imported)), imported


@contextmanager
def all_answers(places: Mapping[str, Place], task: Sealed) -> Iterator[dict[str, Session]]:
    """The outputs of every arm on every target, under its key of QualityEvidence.arms."""
    with ExitStack() as stack:
        yield {
            f"{arm}@{name}": session
            for name, place in places.items()
            for arm, session in stack.enter_context(place.answers(task)).items()
        }
