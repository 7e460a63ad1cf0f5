"""What the reconciler sees of the world and remembers of it, and how far each version has come.

The versions of `<name>-compressed` are an ordered log: the registry numbers them, and nobody can put one
before another. So "the first" means the same to every reader, however many replicas, runs and promotes
write at once.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar, get_args

import msgspec

from reprune.core.accepted import accepted
from reprune.core.artifacts import Outcome

T = TypeVar("T")
State: TypeAlias = Literal["promoted", "passed", "blocked", "inconclusive", "error", "superseded"]
ENDS: frozenset[str] = frozenset(get_args(State))
Closed: TypeAlias = Literal["error", "superseded"]

# So long may an answer be under way: a run that was asked for may still appear, and a verdict that was
# written may still be missing from what a registry's replica answers.
SETTLE_S = 120.0

_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
_STATES: dict[str, State] = {"block": "blocked", "inconclusive": "inconclusive", "error": "error"}


class Dense(msgspec.Struct, frozen=True, gc=False):
    """A version of the watched model, and when the registry says that it was registered (Unix time)."""

    version: str
    registered_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A version of `<name>-compressed`, as its tags describe it.

    Either promote wrote it (`verdict` is set), or we did (`closed` is set, `closes` the dense versions
    that it is about), or it is somebody else's and says nothing.
    """

    version: str
    parent: str = ""
    lock: str = ""
    verdict: str = ""
    outcome: Outcome | Literal[""] = ""
    attempt: int = 0
    waived: bool = False
    dry_run: bool = False
    promoted: bool = False
    closed: Closed | Literal[""] = ""
    closes: tuple[str, ...] = ()


class RegistrySeen(msgspec.Struct, frozen=True, kw_only=True):
    """One look: dense versions and rows in the registry's order, oldest first; who the aliases name."""

    dense: tuple[Dense, ...]
    rows: tuple[Row, ...]
    champion: str | None = None
    anchor: str | None = None


class RunSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the watched model, whoever submitted it. Times are Unix time, None where nobody says."""

    run_id: str
    version: str
    lock: str
    state: str
    created_s: float | None = None
    ended_s: float | None = None

    @property
    def place(self) -> tuple[float, str]:
        """Orders runs, the oldest first."""
        return (self.created_s if self.created_s is not None else float("inf"), self.run_id)

    @property
    def ended(self) -> bool:
        """Whether the state never changes again; a word that we do not know may."""
        return self.state in _ENDED


class Seen(msgspec.Struct, frozen=True):
    """`runs` were read before `registry`, so that what a run that has ended wrote is in there."""

    runs: tuple[RunSeen, ...]
    registry: RegistrySeen


class LockKnown(msgspec.Struct, frozen=True, kw_only=True):
    """A lock for `version`, good as long as the registry and the image are what `basis` says."""

    version: str
    digest: str
    text: str
    basis: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no lock for a version. `final`: the version itself cannot be used, whoever tries."""

    code: str
    words: str
    final: bool
    basis: str
    at_s: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica remembers of one watch. All of it may be lost: that costs time, and a second
    notification, and nothing else.

    `claims`: when a run for a version was last asked for, and has not appeared since; `before`: the runs
    of it that there were by then. `ended`: when a run was first seen to have
    ended. `yielded`: runs that we cancelled as duplicates. `told` and `dispatched`: what was said, when.
    `open`: versions that had a run, or were asked one for, and no end, until theirs is told. `unread_s`:
    since when runs or registry cannot be read; None where they can.
    """

    claims: dict[str, float] = {}
    before: dict[str, tuple[str, ...]] = {}
    ended: dict[str, float] = {}
    yielded: tuple[str, ...] = ()
    locks: dict[str, LockKnown] = {}
    refusals: dict[str, Refusal] = {}
    told: dict[str, float] = {}
    dispatched: dict[str, float] = {}
    open: tuple[str, ...] = ()
    unread_s: float | None = None


def after(dense: tuple[Dense, ...], since_s: float) -> tuple[Dense, ...]:
    """The versions that count: the first that was registered after `since_s`, and all that follow it.

    The registry's order decides, not its clock, which may have been set back in between.
    """
    for place, each in enumerate(dense):
        if each.registered_s > since_s:
            return dense[place:]
    return ()


def terminal_states(seen: RegistrySeen) -> dict[str, State]:
    """How each dense version ended; those that have not are not in it.

    The first verdict for a lock is the accepted one (see core.accepted, which promote goes by as well). So
    a duplicate run changes nothing, unless promote itself made it champion. A verdict outweighs what we
    wrote ourselves. A pass that never became champion, though it could have, is a promotion cut short, and
    no end. Superseded is nobody but for a newer version: if that is deleted, what came before is judged.
    """
    closed: dict[str, State] = {}
    judged: dict[str, State] = {}
    first = accepted(seen.rows)
    for row in seen.rows:
        if row.closed:
            for version in row.closes:
                # One that was judged after all may have been given up.
                if closed.get(version) != "error":
                    closed[version] = row.closed
        state = _state_of(row, serves=row.version == seen.champion) if row.verdict else None
        if state == "promoted":
            judged[row.parent] = "promoted"
        if state is None or row.lock not in first or first[row.lock].verdict != row.verdict:
            continue
        if judged.get(row.parent) != "promoted":
            judged[row.parent] = state
    newest = seen.dense[-1].version if seen.dense else ""
    if closed.get(newest) == "superseded":
        del closed[newest]
    return {**closed, **judged}


def _state_of(row: Row, *, serves: bool) -> State | None:
    promotes = (row.outcome == "pass" or row.waived) and not row.dry_run
    if promotes and (row.promoted or serves):
        return "promoted"
    if row.outcome == "pass":
        return "passed" if row.dry_run else None
    return _STATES.get(row.outcome)


def remember(memory: Memory, seen: Seen, now_s: float) -> Memory:
    """The memory after this look: when runs were first seen ended, and nothing about what is gone.

    No time in it is later than `now_s`: a clock that was set back makes nobody wait for it.
    """
    ended = {run.run_id: now_s for run in seen.runs if run.ended}
    ended |= {run_id: memory.ended[run_id] for run_id in ended if run_id in memory.ended}
    newest = seen.registry.dense[-1].version if seen.registry.dense else ""
    there = {run.run_id for run in seen.runs}
    claims = {
        version: at_s
        for version, at_s in _past(memory.claims, now_s).items()
        if now_s - at_s < SETTLE_S and not _appeared(version, memory, seen.runs)
    }
    return msgspec.structs.replace(
        memory,
        claims=claims,
        before={version: memory.before.get(version, ()) for version in claims},
        yielded=tuple(run_id for run_id in memory.yielded if run_id in there),
        ended=_past(ended, now_s),
        told=_past(_about(memory.told, newest), now_s),
        dispatched=_past(_about(memory.dispatched, newest), now_s),
        open=_open(memory, seen),
        unread_s=None,
        locks=_about(memory.locks, newest),
        refusals={
            version: msgspec.structs.replace(each, at_s=min(each.at_s, now_s))
            for version, each in _about(memory.refusals, newest).items()
        },
    )


def _open(memory: Memory, seen: Seen) -> tuple[str, ...]:
    """Those that have a run and no end, and those whose end is still to be told."""
    kept = {*memory.open, *memory.claims}
    running = {run.version for run in seen.runs}
    if not running and not kept:
        return ()
    states = terminal_states(seen.registry)
    return tuple(
        each.version
        for each in seen.registry.dense
        if each.version in kept or (each.version in running and each.version not in states)
        if states.get(each.version) != "superseded"
    )


def _appeared(version: str, memory: Memory, runs: tuple[RunSeen, ...]) -> bool:
    """Whether the run that was asked for is there: one of the version that was not there before."""
    before = memory.before.get(version)
    return before is not None and any(
        run.version == version and run.run_id not in before for run in runs
    )


def _about(kept: dict[str, T], version: str) -> dict[str, T]:
    """What a key that begins with `version` tells of it; the rest is settled, or will be seen again."""
    return {key: value for key, value in kept.items() if key.partition(" ")[0] == version}


def _past(times: dict[str, float], now_s: float) -> dict[str, float]:
    return {key: min(time_s, now_s) for key, time_s in times.items()}
