"""Bugs, planted by name: each replaces functions of the reconciler, or lets the world's promote do less.

`planted(name)` holds for as long as its context lasts. They are there to be found: a simulation that does
not notice them would not notice ours either.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgspec

from reprune.core.errors import RepruneError
from reprune.orchestrate import reconcile, reconcile_drive, reconcile_seen
from reprune.orchestrate.reconcile_actions import Cancel, Decision, Dispatch
from reprune.orchestrate.reconcile_ports import Asked, ReadRuns
from reprune.orchestrate.reconcile_seen import (
    Dense,
    Memory,
    Refusal,
    Row,
    RunSeen,
    Seen,
    remember,
    terminal_states,
)
from reprune.orchestrate.reconcile_watch import Watch
from tests.orchestrate import simulation

# These the world's promote reads: see simulation_world.
WORLD = (
    "unfenced",
    "looks once",
    "moves blindly",
    "everything passes",
)

replace = msgspec.structs.replace
_decide = reconcile.decide
_superseded = reconcile._superseded
_failed_runs = reconcile.failed_runs
_start = reconcile._start
_sent = simulation.Replica.plan_sweep


def _states(change: Callable[[Watch, Seen], dict[str, Any]]) -> Callable[..., Decision]:
    """A decider that takes `change` for the terminal states."""

    def decide(watch: Watch, seen: Seen, memory: Memory, now_s: float, *, room: bool) -> Decision:
        states = change(watch, seen)
        with mock.patch.object(reconcile, "terminal_states", return_value=states):
            return _decide(watch, seen, memory, now_s, room=room)

    return decide


def _seeing(change: Callable[[Watch, Seen], Seen]) -> Callable[..., Decision]:
    """A decider that sees what `change` makes of what there is."""

    def decide(watch: Watch, seen: Seen, memory: Memory, now_s: float, *, room: bool) -> Decision:
        return _decide(watch, change(watch, seen), memory, now_s, room=room)

    return decide


def _as_kfp_says(_: Watch, seen: Seen) -> dict[str, Any]:
    ended = {run.version for run in seen.runs if run.state in ("FAILED", "SUCCEEDED")}
    return {**dict.fromkeys(ended, "blocked"), **terminal_states(seen.registry)}


def _of_this_image(watch: Watch, seen: Seen) -> dict[str, Any]:
    letter = simulation.IMAGE_LETTERS.get(watch.image, "a")
    rows = tuple(row for row in seen.registry.rows if not row.lock or row.lock.endswith(letter))
    return dict(terminal_states(replace(seen.registry, rows=rows)))


def _of_anyone(_: Watch, seen: Seen) -> dict[str, Any]:
    states = terminal_states(seen.registry)
    last = list(states.values())[-1:]
    return {**{each.version: state for each in seen.registry.dense for state in last}, **states}


def _oldest_first(watch: Watch, seen: Seen) -> Seen:
    states = terminal_states(seen.registry)
    dense = seen.registry.dense
    for place, each in enumerate(dense):
        if each.version not in states and each.registered_s > watch.since.timestamp():
            return Seen(seen.runs, replace(seen.registry, dense=dense[: place + 1]))
    return seen


def _own_rows_too(_: Watch, seen: Seen) -> Seen:
    own = tuple(Dense(f"c{row.version}", 2e9) for row in seen.registry.rows if row.verdict)
    return Seen(seen.runs, replace(seen.registry, dense=(*seen.registry.dense, *own)))


def _no_runs(_: Watch, seen: Seen) -> Seen:
    return Seen((), seen.registry)


def _closes_all(ours: tuple[Dense, ...], *rest: Any) -> Any:
    return _superseded((*ours, Dense("next", 2e9)), *rest)


def _cancels_oldest(runs: tuple[RunSeen, ...]) -> tuple[Any, ...]:
    active = [run for run in runs if not run.ended]
    return tuple(Cancel(run.run_id, run.version) for run in active[:-1])


def _one_failure(runs: tuple[RunSeen, ...], memory: Memory) -> tuple[RunSeen, ...]:
    return _failed_runs(runs, memory)[:1] if len(runs) < 8 else _failed_runs(runs, memory)


def _many_failures(runs: tuple[RunSeen, ...], memory: Memory) -> tuple[RunSeen, ...]:
    return _failed_runs(runs, memory) * 5


def _run_anyway(case: Any) -> Decision:
    return reconcile._hold(case, room=True) or reconcile._retry(case) or _start(case)


def _does_both(case: Any) -> Decision:
    found = _start(case)
    return replace(found, actions=(*found.actions, Dispatch(case.newest)))


def _pass_is_enough(row: Row, *, serves: bool) -> Any:
    return (
        "promoted" if row.outcome == "pass" or serves else reconcile_seen._STATES.get(row.outcome)
    )


def _ended_just_now(memory: Memory, seen: Seen, now_s: float) -> Memory:
    return replace(remember(memory, seen, now_s), ended={})


def _final(action: Any, error: RepruneError, now_s: float) -> Any:
    if type(action).__name__ != "WriteLock":
        return None
    refusal = Refusal(code="x", words=str(error), final=True, basis=action.basis, at_s=now_s)
    return action.version, refusal


def _failed_is_none(desk: Any, watch: Watch) -> Generator[Asked, Any, Seen | None]:
    """A list of runs that could not be read is taken for an empty one."""
    look = _LOOK(desk, watch)
    asked = next(look)
    while True:
        try:
            answer = yield asked
        except RepruneError as error:
            if asked.what.__class__ is not ReadRuns:
                return _thrown(look, error)
            answer = ()
        try:
            asked = look.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


_LOOK = reconcile_drive._look


def _thrown(look: Any, error: RepruneError) -> Any:
    try:
        look.throw(error)
    except StopIteration as end:
        return end.value
    raise AssertionError("a look that failed has ended")


def _only_events(replica: Any, delay_s: float) -> None:
    _sent(replica, delay_s if delay_s <= 1.0 else 1e6)


def _keeps_lock(memory: Memory, action: Any, now_s: float) -> Memory:
    return replace(_intended(memory, action, now_s), locks=memory.locks)


_intended = reconcile_drive._intended

_Patch = tuple[Any, str, Any]
_PLANTS: dict[str, tuple[_Patch, ...]] = {
    "trusts the state that KFP says": ((reconcile, "decide", _states(_as_kfp_says)),),
    "judges again with a new image": ((reconcile, "decide", _states(_of_this_image)),),
    "takes another version's verdict": ((reconcile, "decide", _states(_of_anyone)),),
    "runs the oldest version": ((reconcile, "decide", _seeing(_oldest_first)),),
    "runs what it registered itself": ((reconcile, "decide", _seeing(_own_rows_too)),),
    "no look-up before submitting": ((reconcile, "decide", _seeing(_no_runs)),),
    "a failed read is an empty list": ((reconcile_drive, "_look", _failed_is_none),),
    "closes the newest version": ((reconcile, "_superseded", _closes_all),),
    "never closes a version": ((reconcile, "_superseded", lambda *_: ()),),
    "closes a version that runs": ((reconcile, "_quiet", lambda *_: True),),
    "cancels the oldest run": ((reconcile, "_duplicates", _cancels_oldest),),
    "forgets attempts": ((reconcile, "failed_runs", _one_failure),),
    "gives up too early": ((reconcile, "failed_runs", _many_failures),),
    "retries at once": ((reconcile, "pause_s", lambda *_: 0.0),),
    "forgets when a run ended": ((reconcile_drive, "remember", _ended_just_now),),
    "trusts its memory of a claim": (
        (reconcile, "SETTLE_S", float("inf")),
        (reconcile_seen, "SETTLE_S", float("inf")),
    ),
    "waits for a time to come": ((reconcile_seen, "_past", lambda times, _: times),),
    "keeps a stale lock": ((reconcile, "basis_of", lambda watch, version, *_: version),),
    "submits a lock twice": ((reconcile_drive, "_intended", _keeps_lock),),
    "ignores since": ((reconcile, "after", lambda dense, _: dense),),
    "trusts events alone": ((simulation.Replica, "plan_sweep", _only_events),),
    "shares a machine": ((reconcile, "free", lambda *_, **__: True),),
    "runs a pull-request watch": ((reconcile, "_dispatch", _run_anyway),),
    "runs and dispatches": ((reconcile, "_start", _does_both),),
    "a pass is a promotion": ((reconcile_seen, "_state_of", _pass_is_enough),),
    "tells nobody the end": ((reconcile, "tell_end", lambda *_: ()),),
    "tells nobody what holds it up": ((reconcile, "tell_refusal", lambda *_: ()),),
    "closes for an outage": ((reconcile_drive, "_refused", _final),),
}

PLANTS = (*_PLANTS, *WORLD)


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug `name` is there until the context ends. Raises KeyError for a name that is none."""
    with ExitStack() as stack:
        if name not in WORLD:
            for place, attribute, value in _PLANTS[name]:
                stack.enter_context(mock.patch.object(place, attribute, value))
        yield
