"""Carries the reconciler's decisions out: one sweep over all watches, as a generator that asks for calls.

It calls nobody itself. It yields an `Asked`, and is sent the answer or thrown the error; `run_sweep` does
so through `Ports`, and a simulation may do it one call at a time. It can be dropped at any call: the next
sweep begins from what the registry and Kubeflow Pipelines then say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from reprune.core.errors import (
    Busy,
    CheckpointError,
    DiskFull,
    InputError,
    OrchestratorUnreachable,
    RegistryUnreachable,
    RepruneError,
)
from reprune.orchestrate import reconcile
from reprune.orchestrate.reconcile_actions import (
    Action,
    Cancel,
    Close,
    Decision,
    Dispatch,
    Submit,
    Tell,
    WriteLock,
)
from reprune.orchestrate.reconcile_ports import (
    Asked,
    LockMade,
    Ports,
    ReadClock,
    ReadRegistry,
    ReadRuns,
    Save,
    perform,
)
from reprune.orchestrate.reconcile_seen import (
    ENDS,
    LockKnown,
    Memory,
    Refusal,
    RegistrySeen,
    RunSeen,
    Seen,
    after,
    remember,
)
from reprune.orchestrate.reconcile_telling import tell_unread
from reprune.orchestrate.reconcile_watch import Key, Watch, Watches

# A lock is written, then submitted; the third look is for a registry that changed in between.
_ROUNDS = 3
_FIRST_PAUSE_S = 5.0
_SHORTEST_PAUSE_S = 1.0
# These pass by themselves: nobody has to be told at once.
_PASSING = (RegistryUnreachable, OrchestratorUnreachable, DiskFull, Busy)

Sweep: TypeAlias = Generator[Asked, Any, "Swept"]
_Step: TypeAlias = Generator[Asked, Any, None]


class Failure(msgspec.Struct, frozen=True):
    """A call of this sweep that did not succeed, in the words of its error."""

    watch: str
    call: str
    words: str


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep leaves: the memories to give to the next one, and after how many seconds that is due.

    A pause, not a time: the clock may be set while we sleep, so sleep by one that cannot be.
    `waiting` says for each watch, by its label, why its newest version has no terminal state yet.
    """

    memories: dict[Key, Memory]
    pause_s: float
    failures: tuple[Failure, ...]
    waiting: dict[str, str]


class _Desk(msgspec.Struct, kw_only=True):
    """What one sweep works with. `runs` is None for a watch whose runs could not be read."""

    given: Watches
    memories: dict[Key, Memory]
    runs: dict[Key, tuple[RunSeen, ...] | None] = {}
    failures: list[Failure] = []
    pause_s: float = float("inf")
    waiting: dict[str, str] = {}
    now_s: float = 0.0


def sweep(given: Watches, memories: Mapping[Key, Memory], *, failures_before: int = 0) -> Sweep:
    """Looks at every watch and does what is to be done now; what fails is done by a later sweep.

    `failures_before` is the number of sweeps in a row before this one that had failures. What is thrown
    in and is no RepruneError ends the sweep, and nothing is lost by that.
    """
    desk = _Desk(given=given, memories=dict(memories))
    looks: list[tuple[Watch, Seen]] = []
    for watch in given.watches:
        seen = yield from _look(desk, watch)
        if seen is not None:
            looks.append((watch, seen))
        else:
            yield from _unread(desk, watch, desk.failures[-1].words)
    # Who has waited longest is answered first, where two want the same machine.
    for watch, seen in sorted(looks, key=_waits_since):
        yield from _answer(desk, watch, seen)
    if desk.failures:
        desk.pause_s = min(desk.pause_s, _after_failures_s(given, failures_before + 1))
    return Swept(
        memories=desk.memories,
        pause_s=max(desk.pause_s, _SHORTEST_PAUSE_S),
        failures=tuple(desk.failures),
        waiting=desk.waiting,
    )


def load_memories(ports: Ports, watches: Iterable[Watch]) -> dict[Key, Memory]:
    """What the store still has; what cannot be read is forgotten."""
    found: dict[Key, Memory] = {}
    for watch in watches:
        try:
            found[watch.key] = ports.store.load(watch)
        except RepruneError:
            # A memory saves time; starting without one is always right.
            continue
    return found


def run_sweep(ports: Ports, sweeping: Sweep) -> Swept:
    """The sweep, carried out through `ports`. Raises what they raise, unless it is a RepruneError."""
    answer: Any = None
    error: RepruneError | None = None
    while True:
        try:
            asked = sweeping.send(answer) if error is None else sweeping.throw(error)
        except StopIteration as end:
            swept: Swept = end.value
            return swept
        answer, error = None, None
        try:
            answer = perform(ports, asked)
        except RepruneError as raised:
            error = raised


def _look(desk: _Desk, watch: Watch) -> Generator[Asked, Any, Seen | None]:
    """Runs first: what a run wrote before it ended is then in the registry that we read."""
    desk.now_s = yield Asked(watch, ReadClock())
    desk.pause_s = min(desk.pause_s, watch.poll_s)
    desk.runs[watch.key] = None
    runs: tuple[RunSeen, ...] = ()
    try:
        if watch.mode == "run":
            runs = yield Asked(watch, ReadRuns())
        desk.runs[watch.key] = runs
        registry: RegistrySeen = yield Asked(watch, ReadRegistry())
    except RepruneError as error:
        _failed(desk, watch, "read", error)
        return None
    seen = Seen(runs, registry)
    memory = desk.memories.get(watch.key, Memory())
    desk.memories[watch.key] = remember(memory, seen, desk.now_s)
    return seen


def _unread(desk: _Desk, watch: Watch, why: str) -> _Step:
    """Remembers since when it is so, and says so where that is long."""
    memory = desk.memories.get(watch.key, Memory())
    since_s = min(desk.now_s, desk.now_s if memory.unread_s is None else memory.unread_s)
    desk.memories[watch.key] = msgspec.structs.replace(memory, unread_s=since_s)
    for action in tell_unread(desk.memories[watch.key], desk.now_s, why):
        yield from _do(desk, watch, action)
    if desk.memories[watch.key] != memory:
        yield from _save(desk, watch)


def _answer(desk: _Desk, watch: Watch, seen: Seen) -> _Step:
    before = desk.memories[watch.key]
    looked: Seen | None = seen
    for _ in range(_ROUNDS):
        if looked is None:
            break
        decision = _decide(desk, watch, looked)
        again = False
        for action in decision.actions:
            again = (yield from _do(desk, watch, action)) or again
        desk.pause_s = min(desk.pause_s, decision.look_again_s - desk.now_s)
        desk.waiting[watch.label] = decision.waiting
        if not again:
            break
        looked = yield from _look(desk, watch)
    if desk.memories[watch.key] != before:
        yield from _save(desk, watch)


def _decide(desk: _Desk, watch: Watch, seen: Seen) -> Decision:
    others = [
        (other, desk.runs.get(other.key), desk.memories.get(other.key, Memory()))
        for other in desk.given.watches
        if other.key != watch.key
    ]
    room = reconcile.free(watch, others, concurrency=desk.given.concurrency, now_s=desk.now_s)
    return reconcile.decide(watch, seen, desk.memories[watch.key], desk.now_s, room=room)


def _do(desk: _Desk, watch: Watch, action: Action) -> Generator[Asked, Any, bool]:
    """Whether another look may find more to do at once."""
    memory = desk.memories[watch.key]
    claimed = _intended(memory, action, desk.now_s)
    if claimed != memory:
        desk.memories[watch.key] = claimed
        yield from _save(desk, watch)
    try:
        answer = yield Asked(watch, action)
    except RepruneError as error:
        _failed(desk, watch, type(action).__name__, error)
        refusal = _refused(action, error, desk.now_s)
        if refusal is None:
            return False
        version, why = refusal
        memory = desk.memories[watch.key]
        desk.memories[watch.key] = msgspec.structs.replace(
            memory, refusals={**memory.refusals, version: why}
        )
        return True
    desk.memories[watch.key] = _done(desk.memories[watch.key], watch, action, answer, desk.now_s)
    return isinstance(action, WriteLock) or (isinstance(action, Close) and action.state == "error")


def _intended(memory: Memory, action: Action, now_s: float) -> Memory:
    """What is remembered before the call, because its answer may be lost."""
    if isinstance(action, Submit):
        # A lock serves once. The next one is written anew, and finds a promotion that was cut short.
        version = action.lock.version
        return msgspec.structs.replace(
            memory,
            claims={**memory.claims, version: now_s},
            before={**memory.before, version: action.known},
            locks={},
        )
    if isinstance(action, Cancel) and action.run_id not in memory.yielded:
        return msgspec.structs.replace(memory, yielded=(*memory.yielded, action.run_id))
    return memory


def _done(memory: Memory, watch: Watch, action: Action, answer: Any, now_s: float) -> Memory:
    """What is remembered once the call has succeeded."""
    match action:
        case WriteLock():
            made: LockMade = answer
            # The lock says itself what it rests on; the registry may have changed since our look.
            basis = reconcile.basis_of(watch, action.version, made.champion, made.anchor)
            lock = LockKnown(
                version=action.version, digest=made.digest, text=made.text, basis=basis
            )
            return msgspec.structs.replace(memory, locks={action.version: lock})
        case Dispatch():
            return msgspec.structs.replace(memory, dispatched={action.version: now_s})
        case Tell():
            told = {**memory.told, action.key: now_s}
            gone = action.version if action.state in ENDS else ""
            return msgspec.structs.replace(
                memory,
                told=told,
                open=tuple(each for each in memory.open if each != gone),
                # Who has an end needs no run to appear.
                claims={key: at_s for key, at_s in memory.claims.items() if key != gone},
            )
        case _:
            return memory


def _refused(action: Action, error: RepruneError, now_s: float) -> tuple[str, Refusal] | None:
    """A "no" that will not pass by itself: somebody is told, or the version is closed."""
    if isinstance(error, _PASSING) or not isinstance(error, InputError):
        return None
    match action:
        case WriteLock(version, basis):
            final = isinstance(error, CheckpointError)
        case Submit(lock, _):
            version, basis, final = lock.version, lock.basis, False
        case _:
            return None
    return version, Refusal(code=error.code, words=str(error), final=final, basis=basis, at_s=now_s)


def _save(desk: _Desk, watch: Watch) -> _Step:
    try:
        yield Asked(watch, Save(desk.memories[watch.key]))
    except RepruneError as error:
        _failed(desk, watch, "save", error)


def _failed(desk: _Desk, watch: Watch, call: str, error: RepruneError) -> None:
    desk.failures.append(Failure(watch.label, call, str(error)))


def _waits_since(look: tuple[Watch, Seen]) -> float:
    watch, seen = look
    ours = after(seen.registry.dense, watch.since.timestamp())
    return ours[-1].registered_s if ours else float("inf")


def _after_failures_s(given: Watches, failures: int) -> float:
    """Doubled for each sweep in a row that had failures, and spread over the upper half of that."""
    longest_s = min(watch.poll_s for watch in given.watches)
    doubled: float = _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30)
    text = f"{given.watches[0].label} {failures}"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return min(longest_s, doubled) * (0.5 + 0.5 * share)
