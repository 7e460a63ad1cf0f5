"""The reconciler: from what is seen of a watch, and the time, to what to do now. Level-triggered and pure.

    newest version after `since`   has a terminal state           done; people are told
                                   has an active run              wait
                                   has neither                    lock -> run, or a dispatch event
    older versions                 no terminal state, no run      superseded

Terminal states are read from the registry and never from a run: a blocked run and a crashed pod both
say FAILED. A version that has one is never run again, whatever changes in policy or image.
One run of a model at a time: its lock names the champion that the run before may move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from reprune.orchestrate.reconcile_actions import (
    MOST_CLOSED,
    Action,
    Cancel,
    Close,
    Decision,
    Dispatch,
    Submit,
    WriteLock,
)
from reprune.orchestrate.reconcile_seen import (
    SETTLE_S,
    Dense,
    Memory,
    RegistrySeen,
    RunSeen,
    Seen,
    State,
    after,
    terminal_states,
)
from reprune.orchestrate.reconcile_telling import AGAIN_S, tell_end, tell_refusal, tell_stuck
from reprune.orchestrate.reconcile_watch import Watch


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """What one decision is about: `newest` has no terminal state; `runs` are those of it."""

    watch: Watch
    seen: Seen
    memory: Memory
    now_s: float
    newest: str
    runs: tuple[RunSeen, ...]


def decide(watch: Watch, seen: Seen, memory: Memory, now_s: float, *, room: bool) -> Decision:
    """What to do about `watch` now. `room` says whether one more run may start (see `free`).

    A function of its arguments alone. `memory` went through `remember`.
    """
    ours = after(seen.registry.dense, watch.since.timestamp())
    poll_s = now_s + watch.poll_s
    stuck = tell_stuck(seen, memory, now_s)
    if not ours:
        return Decision(stuck, poll_s)
    states = terminal_states(seen.registry)
    duplicates = _duplicates(seen.runs)
    closing = _superseded(ours, states, seen.runs, memory, now_s)
    newest = ours[-1].version
    told = tuple(
        tell
        for version in memory.open
        if version in states and version != newest
        for tell in tell_end(version, states[version], memory, seen.runs)
    )
    told += stuck
    if newest in states:
        told += tell_end(newest, states[newest], memory, seen.runs)
        return Decision((*duplicates, *closing, *told), poll_s)
    case = _Case(
        watch=watch,
        seen=seen,
        memory=memory,
        now_s=now_s,
        newest=newest,
        runs=tuple(run for run in seen.runs if run.version == newest),
    )
    if watch.mode == "pull-request":
        found = _dispatch(case)
    else:
        found = _hold(case, room=room) or _retry(case) or _start(case)
    return Decision(
        (*duplicates, *closing, *told, *found.actions),
        min(poll_s, found.look_again_s),
        found.waiting,
    )


def basis_of(watch: Watch, version: str, champion: str | None, anchor: str | None) -> str:
    """What a lock for `version` rests on; as long as this is the same, so is the lock."""
    return "\n".join((watch.image, version, champion or "none", anchor or "none"))


def pause_s(watch: Watch, version: str, failures: int) -> float:
    """How long to wait after so many failed runs of a version: doubled each time, and spread over the
    upper half of that by the version's name, so that many do not come back at one moment.
    """
    doubled: float = watch.retry_first_s * 2.0 ** min(failures - 1, 30)
    text = f"{watch.label} {version} {failures}"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return min(watch.retry_longest_s, doubled) * (0.5 + 0.5 * share)


def free(
    watch: Watch,
    others: Iterable[tuple[Watch, tuple[RunSeen, ...] | None, Memory]],
    *,
    concurrency: int,
    now_s: float,
) -> bool:
    """Whether a run of `watch` may start beside what `others` run: on machines that are idle, and within
    `concurrency`. A watch whose runs could not be read (None) is taken to have one.
    """
    active = 0
    for other, runs, memory in others:
        if other.mode == "run" and (runs is None or occupied(runs, memory, now_s)):
            active += 1
            if set(other.machine_kinds) & set(watch.machine_kinds):
                return False
    return active < concurrency


def occupied(runs: tuple[RunSeen, ...], memory: Memory, now_s: float) -> bool:
    """Whether a run is active, or was asked for so lately that it may still appear."""
    return any(not run.ended for run in runs) or any(
        now_s - time_s < SETTLE_S for time_s in memory.claims.values()
    )


def failed_runs(runs: tuple[RunSeen, ...], memory: Memory) -> tuple[RunSeen, ...]:
    """The runs that ended, whatever they say of themselves; not those that we cancelled as second."""
    return tuple(run for run in runs if run.ended and run.run_id not in memory.yielded)


def _duplicates(runs: tuple[RunSeen, ...]) -> tuple[Action, ...]:
    """All but the oldest active run of each lock. Whoever sees both picks the same one to go on.

    A run that does not say which lock it is of may be somebody else's.
    """
    active = [run for run in runs if not run.ended and run.lock]
    if len(active) < 2:
        return ()
    first: dict[str, RunSeen] = {}
    for run in sorted(active, key=lambda run: run.place):
        first.setdefault(run.lock, run)
    kept = {run.run_id for run in first.values()}
    return tuple(Cancel(run.run_id, run.version) for run in active if run.run_id not in kept)


def _superseded(
    ours: tuple[Dense, ...],
    states: dict[str, State],
    runs: tuple[RunSeen, ...],
    memory: Memory,
    now_s: float,
) -> tuple[Action, ...]:
    """Closes the older versions that have no end and nothing under way that could give them one."""
    older = [each.version for each in ours[:-1] if each.version not in states]
    if not older:
        return ()
    quiet = [each for each in older if _quiet(each, runs, memory, now_s)]
    why = f"version {ours[-1].version} is newer"
    return tuple(
        Close(tuple(quiet[place : place + MOST_CLOSED]), "superseded", why)
        for place in range(0, len(quiet), MOST_CLOSED)
    )


def _quiet(version: str, runs: tuple[RunSeen, ...], memory: Memory, now_s: float) -> bool:
    """Whether no run of the version is active, may appear, or ended so lately that its verdict may."""
    if now_s - memory.claims.get(version, float("-inf")) < SETTLE_S:
        return False
    mine = [run for run in runs if run.version == version]
    return all(run.ended and now_s - _ended_s(run, memory, now_s) >= SETTLE_S for run in mine)


def _dispatch(case: _Case) -> Decision:
    sent_s = case.memory.dispatched.get(case.newest)
    if sent_s is not None and case.now_s - sent_s < AGAIN_S:
        return Decision((), sent_s + AGAIN_S, "for the pull request")
    again_s = case.now_s + AGAIN_S
    return Decision((Dispatch(case.newest),), again_s, "for the pull request")


def _hold(case: _Case, *, room: bool) -> Decision | None:
    """Nothing to do while a run is under way, here or on the machines that this one would need."""
    poll_s = case.now_s + case.watch.poll_s
    active = [run for run in case.seen.runs if not run.ended]
    if active:
        mine = any(run.version == case.newest for run in active)
        return Decision((), poll_s, "for its run" if mine else f"for version {active[0].version}")
    claims = case.memory.claims.values()
    asked_s = max(claims, default=float("-inf"))
    if case.now_s - asked_s < SETTLE_S:
        return Decision((), asked_s + SETTLE_S, "for a run that was asked for to appear")
    return None if room else Decision((), poll_s, "for room")


def _retry(case: _Case) -> Decision | None:
    """None if a run may start. Runs that ended without a verdict are counted, at most `attempts` retried."""
    failed = failed_runs(case.runs, case.memory)
    if not failed:
        return None
    ended_s = max(_ended_s(run, case.memory, case.now_s) for run in failed)
    spent = len(failed) > case.watch.attempts
    wait_s = SETTLE_S if spent else pause_s(case.watch, case.newest, len(failed))
    if case.now_s - ended_s < wait_s:
        return Decision((), ended_s + wait_s, f"to retry: {len(failed)} runs gave no verdict")
    if not spent:
        return None
    why = f"{len(failed)} runs ended without a verdict, the last one {failed[-1].state}"
    return _give_up(case, why)


def _start(case: _Case) -> Decision:
    """Writes the lock, and then submits it: by the time of the second look, the first is still true."""
    registry: RegistrySeen = case.seen.registry
    basis = basis_of(case.watch, case.newest, registry.champion, registry.anchor)
    poll_s = case.now_s + case.watch.poll_s
    refused = case.memory.refusals.get(case.newest)
    if refused is not None and refused.basis == basis:
        if refused.final:
            return _give_up(case, f"there can be no lock: {refused.words}")
        # Longer than a claim holds, so that a submission that was refused is told of as well.
        if case.now_s - refused.at_s < max(case.watch.poll_s / 2, 2 * SETTLE_S):
            said = tell_refusal(case.newest, refused, case.memory, case.now_s, case.runs)
            return Decision(said, poll_s, refused.code)
    lock = case.memory.locks.get(case.newest)
    if lock is None or lock.basis != basis:
        return Decision((WriteLock(case.newest, basis),), poll_s, "for its lock")
    known = tuple(run.run_id for run in case.runs)
    return Decision((Submit(lock, known),), case.now_s + SETTLE_S, "for its run")


def _give_up(case: _Case, why: str) -> Decision:
    # It is told once it can be read in the registry.
    poll_s = case.now_s + case.watch.poll_s
    return Decision((Close((case.newest,), "error", why),), poll_s, "to be closed")


def _ended_s(run: RunSeen, memory: Memory, now_s: float) -> float:
    """When the run ended: as the service says or as we first saw it, whichever was earlier."""
    first_s = memory.ended.get(run.run_id, now_s)
    return first_s if run.ended_s is None else min(first_s, run.ended_s)
