"""Widths by evolution: mutation and crossover of the best so far, each child brought onto the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reprune.compress.planning.trying import Looks, onto_budget, starts

if TYPE_CHECKING:
    from reprune.compress.planning.allocate import Problem, Widths

# The best that breed; fewer where few evaluations are allowed.
PARENTS = 12
# How often in a row a child may be one that was seen before.
STALE = 200
# A block flips with this probability in a mutation.
FLIP = 0.1


def by_evolution(problem: Problem) -> dict[str, int]:
    """The widths with the least measured rise among those that were bred.

    Begins with the uniform and the sensitivity allocation and random ones; then, again and again, two of
    the best are crossed (each group's width from either), the child is mutated and brought onto the
    budget (`trying.onto_budget`), and what loses least stays (elitist). Ends when the evaluations are
    spent, or when nothing new is bred. Never worse than its starts; deterministic for a seed.
    """
    looks = Looks(problem)
    rng = np.random.default_rng([problem.tries.seed if problem.tries else 0, 0xE0])
    herd: list[tuple[float, int, dict[str, int]]] = []

    def add(widths: dict[str, int]) -> bool:
        """Whether it is new and was looked at."""
        if any(widths == known for _, _, known in herd):
            return False
        rise = looks.rise(widths)
        if rise is None:
            return False
        herd.append((rise, len(herd), widths))
        return True

    for start in starts(problem):
        add(start)
    parents = max(2, min(PARENTS, looks.most // 4))
    stale = 0
    while looks.left and stale < STALE:
        if len(herd) < parents:
            child = _random(problem, rng)
        else:
            best = sorted(herd)[:parents]
            one, two = (best[int(i)][2] for i in rng.choice(len(best), 2, replace=False))
            child = _mutated(problem, _crossed(one, two, rng), rng)
        stale = 0 if add(onto_budget(problem, child)) else stale + 1
    return looks.chosen()


def _random(problem: Problem, rng: np.random.Generator) -> dict[str, int]:
    return {
        name: rungs[-1] if name in problem.blocks and rng.random() > FLIP else _any(rungs, rng)
        for name, rungs in problem.rungs.items()
    }


def _any(rungs: tuple[int, ...], rng: np.random.Generator) -> int:
    return rungs[int(rng.integers(len(rungs)))]


def _crossed(one: Widths, two: Widths, rng: np.random.Generator) -> dict[str, int]:
    return {name: (one if rng.random() < 0.5 else two)[name] for name in one}


def _mutated(problem: Problem, widths: Widths, rng: np.random.Generator) -> dict[str, int]:
    """About a third of the groups (one at least) moved by a quarter of their rungs, or so."""
    names = [name for name in problem.rungs if name not in problem.blocks]
    found = dict(widths)
    sure = names[int(rng.integers(len(names)))] if names else None
    for name in names:
        rungs = problem.rungs[name]
        if name == sure or rng.random() < 1.0 / 3.0:
            step = 1.0 + abs(rng.normal(0.0, len(rungs) / 4.0))
            sign = 1 if rng.random() < 0.5 else -1
            level = rungs.index(found[name]) + sign * round(step)
            found[name] = rungs[min(max(level, 0), len(rungs) - 1)]
    for block in problem.blocks:
        if rng.random() < FLIP:
            found[block] = 1 - found[block]
    return found
