"""A day of virtual time in which no webhook arrives: what looks on time find is enough."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from reprune.orchestrate.reconcile_seen import terminal_states
from tests.orchestrate import simulation_checks as checks
from tests.orchestrate.simulation import SINCE, START_S, Plan, Replica, given
from tests.orchestrate.simulation_world import POLL_S, Model, World

DAY_S = 86_400.0
VERSIONS = 80
# Shorter than a poll, with all that a run does beside it.
SHORTEST_RUN_S, LONGEST_RUN_S = 20.0, 150.0
NOTHING_FAILS = Plan(
    rate=0.0,
    kinds=(),
    replicas=1,
    stale=False,
    late=False,
    events=False,
    jumps=False,
    forgets=False,
)


class Day:
    """Two models on machines of their own, and one service that nobody wakes."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.world = World(rng, plants=frozenset(), keep_trace=False)
        self.world.now = START_S
        self.world.attempts = 1
        self.world.shortest_run_s, self.world.longest_run_s = SHORTEST_RUN_S, LONGEST_RUN_S
        self.ended_s: dict[tuple[str, str], float] = {}
        for name in ("lenet", "minilm"):
            model = Model(name, (f"gpu-of-{name}",), "run", SINCE.timestamp())
            self.world.models[name] = model
            self.world.changed(model, name)
            for _ in range(VERSIONS):
                self.world.at(rng.uniform(120.0, DAY_S), self.world.register_dense, model)
        models = self.world.models.values()
        self.replica = Replica(
            self.world, "replica", NOTHING_FAILS, given(models, "a", self.world.attempts)
        )
        # Everybody who could hear of a change hears this, and the service is not among them.
        self.world.listeners.append(self._note)
        self.world.at(rng.uniform(0.0, 60.0), self.replica.start, 0)

    def _note(self, name: str) -> None:
        model = self.world.models.get(name.removesuffix("-compressed"))
        assert model is not None
        for version in terminal_states(model.past[-1][1]):
            self.ended_s.setdefault((model.name, version), self.world.now)

    def run(self) -> None:
        self.world.run_until(START_S + DAY_S + 2 * POLL_S)


@pytest.mark.parametrize("seed", range(10))
def test_every_version_of_a_day_ends_within_two_polls(seed: int) -> None:
    """With an end of its own, and all that holds otherwise holds as well."""
    day = Day(seed)
    day.run()
    assert not day.world.violations
    assert checks.ended(day.world)
    checks.at_the_end(day.world, strict=True)
    assert not day.world.violations
    states: Counter[str] = Counter()
    for model in day.world.models.values():
        assert len(model.ours) == VERSIONS
        found = terminal_states(model.past[-1][1])
        states.update(found[each.version] for each in model.ours)
        for each in model.ours:
            took_s = day.ended_s[model.name, each.version] - each.registered_s
            # A pause begins when a sweep has ended.
            most_s = 2 * POLL_S + checks.SWEEP_S
            assert took_s <= most_s, f"{model.name} version {each.version}: {took_s:.0f} s"
    assert {"promoted", "blocked", "superseded"} <= states.keys()
