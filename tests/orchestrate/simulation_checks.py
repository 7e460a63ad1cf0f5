"""The invariants, against what really happened in the world and never against what a replica believes.

Those under `strict` hold where nothing makes a second run unavoidable: one replica, no stale read, no call
that is done after its caller gave up. The others hold in every schedule.
"""

from __future__ import annotations

from reprune.orchestrate.reconcile_actions import Close
from reprune.orchestrate.reconcile_seen import Row, terminal_states
from tests.orchestrate.simulation_world import (
    POLL_S,
    RETRY_FIRST_S,
    Model,
    SimLock,
    SimRun,
    World,
)

# A sweep at these rates of faults ends within this; what it read may be so old when it acts.
SWEEP_S = 60.0


def ends(model: Model) -> dict[str, set[str]]:
    """Every end that the registry claims for a version, counted here anew: for each lock the first
    verdict, and what was closed.
    """
    found: dict[str, set[str]] = {}
    for row in effective(model):
        served = row.outcome == "pass"
        found.setdefault(row.parent, set()).add("promoted" if served else row.outcome)
    for row in model.rows:
        for version in row.closes:
            found.setdefault(version, set()).add(row.closed)
    return found


def effective(model: Model) -> list[Row]:
    """The verdicts that had an effect, counted here anew: those that became champion, and those that came
    first for their lock and are no pass.
    """
    first: dict[str, str] = {}
    found = []
    for row in model.rows:
        if not row.verdict:
            continue
        came_first = first.setdefault(row.lock, row.verdict) == row.verdict
        served = row.promoted or row.version == model.champion
        if served or (came_first and row.outcome != "pass"):
            found.append(row)
    return found


def submission(world: World, model: Model, lock: SimLock, *, strict: bool, jumps: bool) -> None:
    """Checks a run at the moment that it is asked for."""
    version, ours = lock.version, {each.version for each in model.ours}
    about = f"{model.name} version {version}"
    if version not in ours:
        world.wrong("since", f"{about} is run, but is none that counts")
    if model.mode != "run":
        world.wrong("mode", f"{about} is run, though people merge pull requests for it")
    if strict:
        _check_need(world, model, version)
        _check_beside(world, model, version)
        _check_retry(world, model, version, jumps=jumps)
        _check_lock(world, model, lock)


def _check_need(world: World, model: Model, version: str) -> None:
    about = f"{model.name} version {version}"
    if any(world.now - since_s > SWEEP_S for since_s in _ended_at(world, model, version)):
        world.wrong("judged-again", f"{about} has ended, and is run")
    newer = [each for each in model.ours if int(each.version) > int(version)]
    if newer and world.now - newer[0].registered_s > SWEEP_S:
        world.wrong("newest", f"{about} is run, but {newer[0].version} is newer")


def _check_beside(world: World, model: Model, version: str) -> None:
    about = f"{model.name} version {version}"
    if any(run.active for run in model.runs):
        world.wrong("one-run", f"{about} is run beside another run of the model")
    for other in world.models.values():
        shared = other is not model and set(other.kinds) & set(model.kinds)
        if shared and any(run.active for run in other.runs):
            world.wrong("one-a-machine", f"{about} is run on a machine that {other.name} has")


def _check_retry(world: World, model: Model, version: str, *, jumps: bool) -> None:
    about = f"{model.name} version {version}"
    runs = [run for run in model.runs if run.lock.version == version]
    if len(runs) > world.attempts:
        world.wrong("attempts", f"{about} is run {len(runs) + 1} times")
    ended_s = max((run.ended_s or 0.0 for run in runs), default=0.0)
    if runs and not jumps and world.now - ended_s < RETRY_FIRST_S / 2:
        world.wrong("backoff", f"{about} is run again after {world.now - ended_s:.1f} s")


def _check_lock(world: World, model: Model, lock: SimLock) -> None:
    about = f"{model.name} version {lock.version}"
    if lock.champion != model.champion and world.now - model.champion_moved_s > SWEEP_S:
        world.wrong("stale-lock", f"{about}: its lock names champion {lock.champion}")
    short_s = [model.added_s[row.version] for row in model.cut_short()]
    if model.champion is None and short_s and world.now - min(short_s) > SWEEP_S:
        world.wrong("champion-lost", f"{about} is run, though a promotion was cut short")
    if lock.image != world.images[-1] and world.now - world.image_changed_s > SWEEP_S:
        world.wrong("stale-lock", f"{about}: its lock names image {lock.image}")


def _ended_at(world: World, model: Model, version: str) -> list[float]:
    """Since when the version has had an end; empty if it has none."""
    if not _state(model, version):
        return []
    for when_s, seen in model.past:
        if version in terminal_states(seen):
            return [when_s]
    return []


def _state(model: Model, version: str) -> bool:
    return bool(ends(model).get(version))


def closing(world: World, model: Model, close: Close, *, strict: bool) -> None:
    """Checks what is closed, and closes it."""
    for version in close.versions:
        about = f"{model.name} version {version} is closed as {close.state}"
        if version not in {each.version for each in model.ours}:
            world.wrong("since", f"{about}, but is none that counts")
        newest = model.dense[-1].version
        if close.state == "superseded" and version == newest:
            world.wrong("newest", f"{about}, but nothing is newer")
        failed = [run for run in model.runs if run.lock.version == version and not run.active]
        spent = len(failed) > world.attempts or version in model.unusable
        if close.state == "error" and not spent:
            world.wrong("attempts", f"{about} after {len(failed)} runs")
        # What CI does with a pull request is not seen from here.
        seen = [run for run in model.runs if not run.outside]
        if strict and any(run.active for run in seen if run.lock.version == version):
            world.wrong("closed-running", f"{about}, but a run of it is active")
        if strict and any(run.why == "cancelled" for run in failed):
            world.wrong("cancelled", f"{about}: a run was cancelled, and no second one was there")
    world.note("close", model.name, close.state, *close.versions)
    world.add_row(model, Row(version="", closed=close.state, closes=close.versions))


def cancelling(world: World, model: Model, run: SimRun) -> None:
    """Only a run that came second is cancelled: an older one of its lock is there, or was."""
    older = [
        each
        for each in model.runs
        if each.lock.digest == run.lock.digest
        and each is not run
        and (each.created_s, each.run_id) < (run.created_s, run.run_id)
    ]
    if not older:
        world.wrong("cancelled", f"{run.run_id} is cancelled, and came first")


def dispatching(world: World, model: Model, version: str) -> None:
    """Only a version that counts, of a model that people merge pull requests for."""
    if model.mode == "run":
        world.wrong("mode", f"{model.name} is dispatched, though it is run")
    if version not in {each.version for each in model.ours}:
        world.wrong("since", f"{model.name} version {version} is dispatched, but does not count")


def settled(world: World) -> None:
    """Two polls after the faults: the newest version has an end or a run, or waits for a named reason."""
    for model in world.models.values():
        if not model.ours or world.now - model.disturbed_s <= 2 * POLL_S:
            continue
        newest = model.ours[-1].version
        if _state(model, newest) or any(run.active for run in model.runs):
            continue
        machine = any(
            set(other.kinds) & set(model.kinds)
            and (
                any(run.active for run in other.runs) or world.now - other.disturbed_s <= 2 * POLL_S
            )
            for other in world.models.values()
        )
        if not machine and newest not in model.dispatched:
            world.wrong("settles", f"{model.name} version {newest} has no run and no end")


def ended(world: World) -> bool:
    """Whether every version that counts has an end and nothing runs."""
    for model in world.models.values():
        if any(run.active for run in model.runs):
            return False
        states = terminal_states(model.past[-1][1])
        if any(each.version not in states for each in model.ours):
            return False
    return True


def at_the_end(world: World, *, strict: bool) -> None:
    """One end each, none superseded but by a newer one, one accepted run a lock, and people know."""
    for model in world.models.values():
        claims, states = ends(model), terminal_states(model.past[-1][1])
        for each in model.ours:
            _check_end(world, model, each.version, claims, states, strict=strict)
        accepted: dict[str, set[str]] = {}
        for row in effective(model):
            accepted.setdefault(row.lock, set()).add(row.verdict)
        for run in model.runs:
            if run.why == run.outcome != "":
                accepted.setdefault(run.lock.digest, set()).add(run.verdict)
        for lock, verdicts in accepted.items():
            if len(verdicts) > 1:
                world.wrong("one-accepted", f"{lock} has {len(verdicts)} accepted runs")
        for version in set(claims) - {each.version for each in model.ours}:
            world.wrong("since", f"{model.name} version {version} does not count, but has an end")


def _check_end(
    world: World,
    model: Model,
    version: str,
    claims: dict[str, set[str]],
    states: dict[str, str],
    *,
    strict: bool,
) -> None:
    about = f"{model.name} version {version}"
    found = claims.get(version, set())
    if not found or version not in states:
        world.wrong("left", f"{about} has no end (the reconciler reads {states.get(version)})")
        return
    newest = version == model.ours[-1].version
    if newest and states[version] == "superseded":
        world.wrong("newest", f"{about} is the newest, and superseded")
    said = {"block": "blocked"}
    words = {said.get(each, each) for each in found}
    if states[version] not in words:
        world.wrong("one-end", f"{about} reads as {states[version]}, but is {sorted(words)}")
    if strict and len(words) > 1 and version not in model.touched and model.mode == "run":
        world.wrong("one-end", f"{about} has {len(words)} ends: {sorted(words)}")
    if newest and (version, states[version]) not in model.told:
        world.wrong("told", f"nobody was told how {about} ended")
