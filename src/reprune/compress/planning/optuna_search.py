"""Widths by Optuna: TPE on the measured rise under the budget, or NSGA-II for the front of rise and cost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from reprune.compress.planning.trying import Looks, onto_budget, starts
from reprune.core.plugins import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reprune.compress.planning.allocate import Problem, Widths

# Proposals for one evaluation: many lead to widths that were seen.
PROPOSALS = 20
# NSGA-II's generation; smaller where few evaluations are allowed.
POPULATION = 20
# Random proposals before TPE has a model.
STARTUP = 10


def by_search(problem: Problem) -> dict[str, int]:
    """The widths with the least measured rise that fit, among those that Optuna proposed.

    "tpe" (`tries.sampler`) proposes a rung for every group and whether every block stays; each
    proposal is brought onto the budget (`trying.onto_budget`) before it is evaluated, so every one
    fits, and its rise is what the sampler learns from. "nsga2" looks for the front of (rise, cost)
    with proposals as they are, and the best of it that fits is taken. Both begin with the uniform
    and the sensitivity allocation and are never worse than those.

    Deterministic for a seed: after a kill the same proposals come again, and what was evaluated is
    not evaluated twice. Raises MissingExtra without Optuna.
    """
    optuna: Any = require("optuna", "search")
    looks = Looks(problem)
    tries = problem.tries
    seed = tries.seed if tries is not None else 0
    fronts = tries is not None and tries.sampler == "nsga2"
    generation = max(2, min(POPULATION, looks.most // 5))
    quiet = logging.getLogger("optuna")
    before = quiet.level
    quiet.setLevel(logging.WARNING)
    try:
        sampler = (
            optuna.samplers.NSGAIISampler(seed=seed, population_size=generation)
            if fronts
            else optuna.samplers.TPESampler(
                seed=seed, multivariate=True, n_startup_trials=min(STARTUP, looks.most // 4 + 1)
            )
        )
        study = optuna.create_study(directions=["minimize"] * (2 if fronts else 1), sampler=sampler)
        first = starts(problem)
        for start in first:
            study.enqueue_trial(_levels(problem, start))
        for number in range(PROPOSALS * looks.most):
            if not looks.left:
                break
            trial = study.ask()
            wish = _proposed(problem, trial)
            # A start is looked at as it is: it fits, and a champion's widths are to be told apart.
            widths = wish if fronts or number < len(first) else onto_budget(problem, wish)
            rise = looks.rise(widths)
            if rise is None:
                break
            study.tell(trial, [rise, problem.load(widths)] if fronts else rise)
    finally:
        quiet.setLevel(before)
    return looks.chosen()


def _levels(problem: Problem, widths: Widths) -> dict[str, int]:
    return {
        name: rungs.index(widths[name]) for name, rungs in problem.rungs.items() if len(rungs) > 1
    }


def _proposed(problem: Problem, trial: Any) -> Mapping[str, int]:
    return {
        name: rungs[trial.suggest_int(name, 0, len(rungs) - 1)] if len(rungs) > 1 else rungs[0]
        for name, rungs in problem.rungs.items()
    }
