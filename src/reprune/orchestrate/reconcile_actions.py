"""What the reconciler can want done. Each may be done twice without harm, and each may be lost."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from reprune.orchestrate.reconcile_seen import Closed, LockKnown

# A registry keeps the versions that were closed at once in one tag, of 65,535 bytes or more.
MOST_CLOSED = 2_000


class WriteLock(msgspec.Struct, frozen=True, tag=True):
    """Compute the lock for `version`: from the registry and the project image, and nothing else."""

    version: str
    basis: str


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Start a run of the lock, named by its digest. `known` are the runs of this version so far."""

    lock: LockKnown
    known: tuple[str, ...]


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a run that came second: an older one of the same lock goes on."""

    run_id: str
    version: str


class Close(msgspec.Struct, frozen=True, tag=True):
    """Write into `<name>-compressed` that the versions have ended in `state` without a verdict."""

    versions: tuple[str, ...]
    state: Closed
    why: str


class Dispatch(msgspec.Struct, frozen=True, tag=True):
    """Send the repository a dispatch event: there is a version to make a pull request for."""

    version: str


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Tell people, once for each `key`; `state` is a terminal state or what holds the version up. `run` is
    the id of the version's newest run; empty where it has none.
    """

    key: str
    version: str
    state: str
    words: str
    run: str = ""


Action: TypeAlias = WriteLock | Submit | Cancel | Close | Dispatch | Tell


class Decision(msgspec.Struct, frozen=True):
    """What to do now, in this order, and when to look again at the latest (Unix time).

    `waiting` says in a few words why nothing more is done for the newest version; empty if it has ended.
    """

    actions: tuple[Action, ...]
    look_again_s: float
    waiting: str = ""
