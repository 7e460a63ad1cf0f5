"""Deterministic simulation of the reconciler: one seed is one schedule of events and faults.

    python -m tests.orchestrate.simulation SEED [--plant NAME]     replays one schedule, with its trace

The reconciler's own generator runs, one call at a time, in a world of virtual time (simulation_world). A
call may fail, time out (and be done, or be done later), be done with the answer lost, or be the last thing
that a replica does; a read may be stale. Which of these a schedule has, and how often (up to 40 %), is
drawn from the seed; after a while the faults stop, and everything has to come to its end.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reprune.core.errors import (
    ChampionLost,
    OrchestratorUnreachable,
    PickleRefused,
    RegistryUnreachable,
    RepruneError,
)
from reprune.orchestrate import reconcile_drive
from reprune.orchestrate.reconcile_actions import Cancel, Close, Submit, Tell
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
from reprune.orchestrate.reconcile_seen import Memory, RegistrySeen, RunSeen
from reprune.orchestrate.reconcile_watch import Key, Watch, WatchedRegistry, Watches, woken
from tests.orchestrate import simulation_checks as checks
from tests.orchestrate.simulation_world import (
    POLL_S,
    RETRY_FIRST_S,
    RETRY_LONGEST_S,
    STALE_S,
    Model,
    World,
)

URI = "http://registry"
START_S = 1_000_000_000.0
SINCE = datetime.fromtimestamp(START_S + 100.0, tz=UTC)
FAULTS_STOP_S = 9 * POLL_S
MOST_POLLS = 60
IMAGES = {"a": f"project@sha256:{'a' * 64}", "b": f"project@sha256:{'b' * 64}"}
IMAGE_LETTERS = {image: letter for letter, image in IMAGES.items()}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What can go wrong in a schedule. `strict`: nothing that makes a second run of a lock unavoidable."""

    rate: float
    kinds: tuple[str, ...]
    replicas: int
    stale: bool
    late: bool
    events: bool
    jumps: bool
    forgets: bool

    @property
    def strict(self) -> bool:
        return self.replicas == 1 and not self.stale and not self.late


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`violations` is empty if all invariants held."""

    seed: int
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    calls: int
    plants: tuple[str, ...] = ()

    @property
    def replay(self) -> str:
        planted = "".join(f" --plant '{name}'" for name in self.plants)
        return f"python -m tests.orchestrate.simulation {self.seed}{planted}"


class Crash(Exception):
    """A replica dies at this call."""


class Replica:
    """One service: the real sweep, what it remembers, its clock, and the ports through which it calls."""

    def __init__(self, world: World, name: str, plan: Plan, given: Watches) -> None:
        self.world, self.name, self.plan, self.given = world, name, plan, given
        self.ports = Ports(
            registry=self, locks=self, runs=self, people=self, clock=self, store=self
        )
        self.disk: dict[Key, Memory] = {}
        self.offset_s = 0.0
        self.life = 0
        self.calls = 0
        self.memories: dict[Key, Memory] = {}
        self.sweeping: Any = None
        self.due_s = 0.0
        self.failures = 0

    # --- life ---

    def start(self, life: int) -> None:
        if life != self.life:
            return
        if self.plan.forgets and self.faulty and self.world.rng.random() < 0.5:
            self.disk.clear()
        self.memories = dict(self.disk)
        self.failures = 0
        self.begin(life)

    def restart(self, given: Watches | None = None) -> None:
        self.life += 1
        self.sweeping = None
        self.given = given or self.given
        self.world.note(self.name, "restarts")
        self.world.at(self.world.rng.uniform(1.0, 30.0), self.start, self.life)

    def begin(self, life: int) -> None:
        if life != self.life or self.sweeping is not None:
            return
        self.sweeping = reconcile_drive.sweep(
            self.given, self.memories, failures_before=self.failures
        )
        self._next(life, None, None)

    def wake(self, name: str) -> None:
        if woken(self.given.watches, uri=URI, workspace="default", name=name):
            self.plan_sweep(1.0)

    def plan_sweep(self, delay_s: float) -> None:
        """A sweep in a while, unless one comes earlier."""
        due_s = self.world.now + delay_s
        if self.sweeping is None and due_s < self.due_s:
            self.due_s = due_s
            self.world.at(delay_s, self._due, self.life, due_s)
        elif self.sweeping is not None:
            self.woken = True

    woken = False

    def _due(self, life: int, due_s: float) -> None:
        if due_s == self.due_s:
            self.begin(life)

    def _next(self, life: int, answer: Any, error: RepruneError | None) -> None:
        """Sends the answer; what is asked next happens after a while, and anything may happen before."""
        if life != self.life:
            return
        try:
            asked = self.sweeping.send(answer) if error is None else self.sweeping.throw(error)
            # Clock and store are near: they need no event of their own.
            while asked.what.__class__ is ReadClock or asked.what.__class__ is Save:
                asked = self.sweeping.send(perform(self.ports, asked))
        except StopIteration as end:
            self._swept(end.value)
            return
        self.world.at(self.world.rng.random() * 1.5, self._call, life, asked)

    def _swept(self, swept: Any) -> None:
        self.sweeping = None
        self.memories = swept.memories
        self.failures = self.failures + 1 if swept.failures else 0
        self.due_s = float("inf")
        self.plan_sweep(swept.pause_s)
        if self.woken:
            self.woken = False
            self.plan_sweep(1.0)

    # --- calls and their faults ---

    @property
    def faulty(self) -> bool:
        return self.world.now < START_S + FAULTS_STOP_S

    def _call(self, life: int, asked: Asked) -> None:
        if life != self.life:
            return
        self.calls += 1
        fault = ""
        plan, rng = self.plan, self.world.rng
        if plan.kinds and self.faulty and rng.random() < plan.rate:
            fault = rng.choice(plan.kinds)
        answer: Any = None
        error: RepruneError | None = None
        if fault == "crash before":
            self.restart()
            return
        if fault in ("fails", "late"):
            error = self._unreachable(asked)
            read = asked.what.__class__ in (ReadRuns, ReadRegistry)
            if fault == "late" and not read:
                self.world.at(rng.uniform(1.0, 60.0), self._late, asked)
        else:
            self.stale_s = rng.uniform(1.0, STALE_S) if fault == "stale" else 0.0
            try:
                answer = perform(self.ports, asked)
            except RepruneError as raised:
                error = raised
            if fault == "answer lost":
                error = self._unreachable(asked)
            elif fault == "crash after":
                self.restart()
                return
        self._next(life, answer, error)

    stale_s = 0.0

    def _late(self, asked: Asked) -> None:
        """What timed out was done after all, when nobody waits for it any more."""
        try:
            perform(self.ports, asked)
        except RepruneError as error:
            self.world.note("late", error.code)

    @staticmethod
    def _unreachable(asked: Asked) -> RepruneError:
        if isinstance(asked.what, ReadRuns | Submit | Cancel):
            return OrchestratorUnreachable("does not answer")
        return RegistryUnreachable("does not answer")

    # --- the ports ---

    def look(self, watch: Watch) -> RegistrySeen:
        return self.world.seen(self.world.models[watch.name], self.stale_s)

    def close(self, watch: Watch, close: Close) -> None:
        checks.closing(self.world, self.world.models[watch.name], close, strict=self.plan.strict)

    def write(self, watch: Watch, version: str) -> LockMade:
        model = self.world.models[watch.name]
        seen = self.world.seen(model, self.stale_s)
        if version in model.unusable:
            raise PickleRefused(f"version {version} is a pickle")
        if seen.champion is None and model.cut_short():
            raise ChampionLost("a promotion was cut short")
        image = IMAGE_LETTERS.get(watch.image, "a")
        lock = self.world.lock(model, version, image, seen.champion, seen.rows)
        return LockMade(digest=lock.digest, text=lock.digest, champion=lock.champion, anchor=None)

    def of(self, watch: Watch) -> tuple[RunSeen, ...]:
        return self.world.runs_of(self.world.models[watch.name], self.stale_s)

    def submit(self, watch: Watch, submit: Submit) -> None:
        model = self.world.models[watch.name]
        lock = self.world.lock_of(submit.lock.digest)
        checks.submission(self.world, model, lock, strict=self.plan.strict, jumps=self.plan.jumps)
        self.world.start_run(model, lock)

    def cancel(self, watch: Watch, run_id: str) -> None:
        model = self.world.models[watch.name]
        run = next(each for each in model.runs if each.run_id == run_id)
        checks.cancelling(self.world, model, run)
        self.world.end_run(run, "CANCELED", "cancelled")

    def dispatch(self, watch: Watch, version: str) -> None:
        model = self.world.models[watch.name]
        checks.dispatching(self.world, model, version)
        model.dispatched.add(version)
        self.world.at(self.world.rng.uniform(10.0, 200.0), self.world.merge, model)

    def tell(self, watch: Watch, tell: Tell) -> None:
        model = self.world.models[watch.name]
        self.world.note("tell", watch.name, tell.version, tell.state)
        model.told.add((tell.version, tell.state))
        if tell.state == ChampionLost.code:
            self.world.at(self.world.rng.uniform(10.0, 60.0), self.world.cure, model)

    def now_s(self) -> float:
        return self.world.now + self.offset_s

    def load(self, watch: Watch) -> Memory:
        return self.disk.get(watch.key, Memory())

    def save(self, watch: Watch, memory: Memory) -> None:
        self.disk[watch.key] = memory


# --- schedules ---


def draw_plan(rng: random.Random) -> Plan:
    """Each kind of fault is there or not, so that some schedules have one alone."""
    calm = rng.random() < 0.1
    stale, late = rng.random() < 0.25, rng.random() < 0.25
    kinds = [
        kind
        for kind in ("fails", "answer lost", "crash before", "crash after")
        if rng.random() < 0.6
    ]
    kinds += ["stale"] * stale + ["late"] * late
    return Plan(
        rate=0.0 if calm else rng.choice((0.05, 0.1, 0.2, 0.4)),
        kinds=() if calm else tuple(kinds),
        replicas=2 if rng.random() < 0.35 else 1,
        stale=stale,
        late=late,
        events=rng.random() < 0.6,
        jumps=rng.random() < 0.3,
        forgets=rng.random() < 0.4,
    )


_GIVEN: dict[tuple[Any, ...], Watches] = {}


def given(models: Iterable[Model], image: str, attempts: int) -> Watches:
    """The service's configuration; the same for the same arguments, so that few are made."""
    names = tuple((model.name, model.mode, model.kinds) for model in models)
    key = (names, image, attempts)
    if key not in _GIVEN:
        _GIVEN[key] = Watches(
            concurrency=2,
            watches=tuple(_watch(*each, image=image, attempts=attempts) for each in names),
        )
    return _GIVEN[key]


def _watch(name: str, mode: str, kinds: tuple[str, ...], *, image: str, attempts: int) -> Watch:
    run = mode == "run"
    return Watch(
        registry=WatchedRegistry(uri=URI),
        name=name,
        since=SINCE,
        mode="run" if run else "pull-request",
        image=IMAGES[image] if run else "",
        experiment="reprune" if run else "",
        repository="" if run else "team/project",
        machine_kinds=kinds,
        attempts=attempts,
        poll_s=POLL_S,
        retry_first_s=RETRY_FIRST_S,
        retry_longest_s=RETRY_LONGEST_S,
    )


class Simulation:
    """One schedule: drawn at construction, run by `run`."""

    def __init__(self, seed: int, plants: frozenset[str], *, keep_trace: bool) -> None:
        self.rng = random.Random(seed)
        self.plan = draw_plan(self.rng)
        self.world = World(self.rng, plants=plants, keep_trace=keep_trace)
        self.world.now = START_S
        self.world.attempts = self.rng.choice((0, 1, 2, 3))
        self.world.says_end = self.rng.random() < 0.5
        self.world.pod_rate = self.rng.choice((0.0, 0.05, 0.15))
        if self.rng.random() < (0.6 if self.plan.replicas > 1 else 0.2):
            self.world.shortest_run_s, self.world.longest_run_s = 2.0, 20.0
        self.world.rollback_rate = self.rng.choice((0.0, 0.0, 0.5))
        self._draw_models()
        models = self.world.models.values()
        self.replicas = [
            Replica(
                self.world, f"replica-{place}", self.plan, given(models, "a", self.world.attempts)
            )
            for place in range(self.plan.replicas)
        ]
        self.world.listeners.append(self._event)
        self._draw_happenings()

    def _draw_models(self) -> None:
        rng, world = self.rng, self.world
        kinds = [("gpu",), ("gpu",) if rng.random() < 0.5 else ()]
        modes = ["run", "run" if rng.random() < 0.6 else "pull-request"]
        for place in range(2 if rng.random() < 0.4 else 1):
            run = modes[place] == "run"
            model = Model(
                "lenet" if place == 0 else "minilm",
                kinds[place] if run else (),
                modes[place],
                SINCE.timestamp(),
            )
            world.models[model.name] = model
            world.changed(model, model.name)
            for _ in range(rng.choice((0, 0, 1, 2))):
                world.at(rng.uniform(0.0, 90.0), world.register_dense, model)
            for _ in range(rng.choice((1, 2, 3, 4))):
                world.at(rng.uniform(120.0, 8 * POLL_S), world.register_dense, model)

    def _draw_happenings(self) -> None:
        rng, world, plan = self.rng, self.world, self.plan
        for replica in self.replicas:
            world.at(rng.uniform(0.0, 60.0), replica.start, 0)
            if plan.jumps:
                for _ in range(2):
                    world.at(rng.uniform(0.0, FAULTS_STOP_S), self._jump, replica)
        for model in world.models.values():
            if rng.random() < 0.25:
                world.at(rng.uniform(4 * POLL_S, FAULTS_STOP_S), world.rollback, model)
        if rng.random() < 0.3:
            world.at(rng.uniform(2 * POLL_S, FAULTS_STOP_S), self._change_image)
        if rng.random() < 0.1:
            world.at(rng.uniform(POLL_S, FAULTS_STOP_S), self._replay, "somebody-elses")
        world.at(FAULTS_STOP_S, self._calm)

    def _jump(self, replica: Replica) -> None:
        replica.offset_s = self.rng.choice((-7200.0, -600.0, -30.0, 30.0, 600.0, 7200.0))
        self.world.note(replica.name, "clock", replica.offset_s)

    def _change_image(self) -> None:
        self.world.images = ("a", "b")
        self.world.image_changed_s = self.world.now
        for replica in self.replicas:
            replica.restart(given(self.world.models.values(), "b", self.world.attempts))

    def _calm(self) -> None:
        self.world.pod_rate = self.world.rollback_rate = 0.0
        self.world.note("the faults stop")

    def _replay(self, name: str) -> None:
        for replica in self.replicas:
            replica.wake(name)

    def _event(self, name: str) -> None:
        """A webhook: to one replica, as a service sends it to one of several."""
        if not self.plan.events:
            return
        rng = self.rng
        copies = 1
        if self.world.now < START_S + FAULTS_STOP_S and self.plan.rate:
            copies = rng.choice((0, 0, 1, 1, 2))
        if rng.random() < 0.3:
            for replica in self.replicas:
                self.world.at(0.1, replica.wake, name)
        for _ in range(copies):
            replica = rng.choice(self.replicas)
            # Late enough, some of the time, to overtake one another.
            self.world.at(rng.choice((0.1, 5.0, 200.0)) * rng.random(), replica.wake, name)

    def run(self) -> None:
        world, stop_s = self.world, START_S + FAULTS_STOP_S
        world.run_until(stop_s + 2 * POLL_S)
        checks.settled(world)
        for _ in range(MOST_POLLS):
            if world.violations or checks.ended(world):
                break
            world.run_until(world.now + POLL_S)
        # Whoever would still do something at the next poll has done it then.
        world.run_until(world.now + 1.1 * POLL_S)
        checks.at_the_end(world, strict=self.plan.strict)


def simulate(seed: int, plants: Iterable[str] = (), *, keep_trace: bool = False) -> Outcome:
    """The schedule of `seed`; the same seed and plants give the same trace."""
    names = frozenset(plants)
    with ExitStack() as stack:
        if names:
            from tests.orchestrate.simulation_plants import planted

            for name in sorted(names):
                stack.enter_context(planted(name))
        simulation = Simulation(seed, names, keep_trace=keep_trace)
        simulation.run()
    world = simulation.world
    return Outcome(
        seed=seed,
        violations=tuple(world.violations),
        trace=tuple(world.trace or ()),
        plants=tuple(sorted(names)),
        calls=sum(replica.calls for replica in simulation.replicas),
    )


def main(arguments: list[str] | None = None) -> int:
    """Replays one schedule; 1 if it violates an invariant."""
    parser = argparse.ArgumentParser(description="Replays one schedule, with its trace.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--plant", action="append", default=[])
    asked = parser.parse_args(arguments)
    found = simulate(asked.seed, asked.plant, keep_trace=True)
    for line in (*found.trace, *found.violations):
        print(line)
    return int(bool(found.violations))


if __name__ == "__main__":
    sys.exit(main())
