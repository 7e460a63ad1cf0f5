"""What the reconciler needs of the world. Every method may fail, and may have been done all the same.

A method raises a leaf of RepruneError: RegistryUnreachable or OrchestratorUnreachable for what may pass,
another for what will not. A read that failed never answers "there is nothing".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from reprune.orchestrate.reconcile_actions import (
    Action,
    Cancel,
    Close,
    Dispatch,
    Submit,
    Tell,
    WriteLock,
)
from reprune.orchestrate.reconcile_seen import Memory, RegistrySeen, RunSeen
from reprune.orchestrate.reconcile_watch import Watch


class LockMade(msgspec.Struct, frozen=True, kw_only=True):
    """A lock, and the versions of `<name>-compressed` that it names as champion and anchor, if any."""

    digest: str
    text: str
    champion: str | None
    anchor: str | None


class RegistryView(Protocol):
    """The watched model and its `<name>-compressed`."""

    def look(self, watch: Watch) -> RegistrySeen:
        """All that is registered now. A model that does not exist has no versions."""

    def close(self, watch: Watch, close: Close) -> None:
        """Adds one row that says so at the end of `<name>-compressed`."""


class Locks(Protocol):
    """The lock as a pure function of the registry and the project image."""

    def write(self, watch: Watch, version: str) -> LockMade:
        """Raises CheckpointError (PickleRefused, ...) for a version that nobody could ever use, and
        ChampionLost, ChampionForeign, TaskError or DocumentError for what somebody has to put right.
        """


class Runs(Protocol):
    """Runs of the watched model in Kubeflow Pipelines, whoever submitted them."""

    def of(self, watch: Watch) -> tuple[RunSeen, ...]:
        """All runs whose name is that of a lock of this model, oldest first, archived ones too. Where
        the version cannot be told, it is the empty text.
        """

    def submit(self, watch: Watch, submit: Submit) -> None:
        """Starts a run named by the lock's digest."""

    def cancel(self, watch: Watch, run_id: str) -> None:
        """Asks for the end of a run; one that has ended stays as it is."""


class People(Protocol):
    """Whoever works with the repository, and whoever wants to know."""

    def dispatch(self, watch: Watch, version: str) -> None:
        """Sends the repository of the watch a dispatch event that names model and version."""

    def tell(self, watch: Watch, tell: Tell) -> None:
        """Says it where the service was told to say it."""


class Clock(Protocol):
    """Unix time in seconds, which may jump."""

    def now_s(self) -> float:
        """The time now."""


class Store(Protocol):
    """Keeps one memory a watch, whole or not at all. It may forget."""

    def load(self, watch: Watch) -> Memory:
        """The memory that was saved last; an empty one where there is none."""

    def save(self, watch: Watch, memory: Memory) -> None:
        """Replaces the memory of the watch."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """All of them, for one service."""

    registry: RegistryView
    locks: Locks
    runs: Runs
    people: People
    clock: Clock
    store: Store


class ReadClock(msgspec.Struct, frozen=True, tag=True):
    """Answered by Unix time."""


class ReadRuns(msgspec.Struct, frozen=True, tag=True):
    """Answered by a tuple of RunSeen."""


class ReadRegistry(msgspec.Struct, frozen=True, tag=True):
    """Answered by a RegistrySeen."""


class Save(msgspec.Struct, frozen=True, tag=True):
    """Answered by nothing."""

    memory: Memory


Call: TypeAlias = ReadClock | ReadRuns | ReadRegistry | Save | Action


class Asked(NamedTuple):
    """One call that a sweep wants made, for one watch."""

    watch: Watch
    what: Call


_CALLS: dict[type, Callable[[Ports, Watch, Any], Any]] = {
    ReadClock: lambda ports, _, __: ports.clock.now_s(),
    ReadRuns: lambda ports, watch, _: ports.runs.of(watch),
    ReadRegistry: lambda ports, watch, _: ports.registry.look(watch),
    Save: lambda ports, watch, what: ports.store.save(watch, what.memory),
    WriteLock: lambda ports, watch, what: ports.locks.write(watch, what.version),
    Submit: lambda ports, watch, what: ports.runs.submit(watch, what),
    Cancel: lambda ports, watch, what: ports.runs.cancel(watch, what.run_id),
    Close: lambda ports, watch, what: ports.registry.close(watch, what),
    Dispatch: lambda ports, watch, what: ports.people.dispatch(watch, what.version),
    Tell: lambda ports, watch, what: ports.people.tell(watch, what),
}


def perform(ports: Ports, asked: Asked) -> Any:
    """Makes the call; returns what the method returned and raises what it raised."""
    return _CALLS[type(asked.what)](ports, asked.watch, asked.what)
