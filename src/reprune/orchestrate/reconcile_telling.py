"""What the reconciler says of a version and of what holds it up, each once, or once a day. Pure."""

from __future__ import annotations

from reprune.orchestrate.reconcile_actions import Action, Tell
from reprune.orchestrate.reconcile_seen import Memory, Refusal, RunSeen, Seen, State

# A dispatch event, or a word about what holds a version up, can be lost by whoever took it: it is said
# again while nothing came of it.
AGAIN_S = 86_400.0
# A run that has not ended by now, and a watch that cannot be read for so long, keep others waiting: no
# task of ours takes longer than some hours.
STUCK_S = 3 * 86_400.0
UNREAD_S = 6 * 3600.0
STUCK, UNREAD = "run_stuck", "watch_unreadable"

_FATE = {
    "promoted": "was promoted",
    "passed": "passed, and was not promoted: it was a dry run",
    "blocked": "was blocked",
    "inconclusive": "could not be decided",
    "error": "ended in an error",
    "superseded": "was superseded",
}


def tell_unread(memory: Memory, now_s: float, why: str) -> tuple[Action, ...]:
    """What to say of a watch whose runs or registry cannot be read, `why` being the last error's words."""
    since_s = now_s if memory.unread_s is None else memory.unread_s
    if now_s - since_s < UNREAD_S or now_s - memory.told.get(UNREAD, float("-inf")) < AGAIN_S:
        return ()
    words = f"for {_long(now_s - since_s)} it could not be looked at, and nothing is run: {why}"
    return (Tell(UNREAD, "", UNREAD, words),)


def tell_end(
    version: str, state: State, memory: Memory, runs: tuple[RunSeen, ...]
) -> tuple[Action, ...]:
    """Once: that the version has come to this end."""
    key = f"{version} {state}"
    if key in memory.told:
        return ()
    words = f"version {version} {_FATE[state]}"
    return (Tell(key, version, state, words, newest_run(version, runs)),)


def tell_stuck(seen: Seen, memory: Memory, now_s: float) -> tuple[Action, ...]:
    """Once a day, of the oldest run that does not end. It may be of any version: all wait for it."""
    stuck = [
        run
        for run in seen.runs
        if not run.ended and run.created_s is not None and now_s - run.created_s >= STUCK_S
    ]
    # As what is remembered of the newest version: see `remember`.
    newest = seen.registry.dense[-1].version if seen.registry.dense else ""
    key = f"{newest} {STUCK}"
    if not stuck or now_s - memory.told.get(key, float("-inf")) < AGAIN_S:
        return ()
    run = min(stuck, key=lambda each: each.place)
    words = (
        f"the run {run.run_id} was begun {_long(now_s - run.place[0])} ago and is {run.state}; until it "
        "ends, nothing else is run of this model or on its machines"
    )
    return (Tell(key, run.version, STUCK, words, run.run_id),)


def _long(seconds: float) -> str:
    hours = int(seconds // 3600)
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def newest_run(version: str, runs: tuple[RunSeen, ...]) -> str:
    """The id of the version's newest run; empty where it has none."""
    return next((run.run_id for run in reversed(runs) if run.version == version), "")


def tell_refusal(
    version: str, refused: Refusal, memory: Memory, now_s: float, runs: tuple[RunSeen, ...]
) -> tuple[Action, ...]:
    """Once a day: why there is no lock for the version, or no run of it."""
    key = f"{version} {refused.code}"
    if now_s - memory.told.get(key, float("-inf")) < AGAIN_S:
        return ()
    return (Tell(key, version, refused.code, refused.words, newest_run(version, runs)),)
