"""Where each target of a benchmark is: this machine, a device behind a command, or one that a kit went to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.core.machine import Machine
from reprune.runtimes.sidecar import open_engine
from reprune.steps.remote import Remote
from reprune.steps.sampling import HERE, Taking

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reprune.measure.latency import LatencyJob
    from reprune.runtimes.base import Session
    from reprune.task.seal import Sealed


@dataclass(frozen=True, kw_only=True)
class Place:
    """`answers` gives each arm's outputs on the sealed examples, as sessions, while it is open."""

    taking: Taking
    answers: Callable[[Sealed], AbstractContextManager[Mapping[str, Session]]]


def here(job: LatencyJob) -> Place:
    """This machine: every engine is loaded now, so that one that does not load costs no look."""
    sessions = {arm: open_engine(path, job.target) for arm, path in job.engines.items()}

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


@contextmanager
def all_answers(places: Mapping[str, Place], task: Sealed) -> Iterator[dict[str, Session]]:
    """The outputs of every arm on every target, under its key of QualityEvidence.arms."""
    with ExitStack() as stack:
        yield {
            f"{arm}@{name}": session
            for name, place in places.items()
            for arm, session in stack.enter_context(place.answers(task)).items()
        }
