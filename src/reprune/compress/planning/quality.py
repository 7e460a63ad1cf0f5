"""Whether single cuts add up near the budget: measured on joint cuts, refitted, or said not to be so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy.optimize import nnls

from reprune.compress.planning.trying import canonical
from reprune.compress.sensitivity.joint import check

if TYPE_CHECKING:
    from reprune.compress.planning.allocate import Problem

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Below this rank correlation (Kendall's tau) of predicted with measured rises, cuts do not add up.
ADDITIVE = 0.8
# Joint cuts of one round.
ROUND = 8
# Their cost over the limit.
SPREAD = (0.9, 1.1)
HALVINGS = 30
# A block is gone from a random plan with this probability.
REMOVED = 0.15
# How strongly the weights are held to their common scale, tried in turn; the one whose predictions of the
# points left out are nearest is used.
PULLS = (0.01, 0.1, 1.0, 10.0)

Outcome = Literal["additive", "refitted", "not-additive"]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """`weights` multiply each option's predicted rise (all 1 where sums were good enough, or are not to be
    trusted). `before` is the rank correlation of plain sums over the first round's plans, `after` that
    of the refitted ones over the last round's, none of which it was fitted to (None: not refitted).
    """

    plans: int
    before: float
    after: float | None
    outcome: Outcome
    weights: Mapping[str, float]


def checked(
    problem: Problem, *, most: int, seed: int, say: Callable[[str], None]
) -> Quality | None:
    """How far the sum of `problem.rises` can be trusted near the limits, from at most `most` evaluations of
    random joint cuts; None where fewer than 8 are allowed, or where fewer than two options can be cut.

    8 plans are measured and compared with their sums. Where the rank correlation is below 0.8, one
    weight an option is fitted to all measured plans (non-negative least squares, drawn to a common
    scale), and compared with 8 fresh ones, until it is 0.8 there or the evaluations are spent.
    """
    evaluate = problem.evaluate
    names = [name for name, rungs in problem.rungs.items() if len(rungs) > 1]
    if evaluate is None or most < ROUND or len(names) < 2:
        return None
    rows: list[list[float]] = []
    rises: list[float] = []
    weights: Array = np.ones(len(names))
    taus: list[float] = []
    while len(rises) + ROUND <= most:
        fresh = []
        for number in range(len(rises), len(rises) + ROUND):
            plan = random_plan(problem, np.random.default_rng([seed, 0x9A, number]))
            fresh.append((_row(problem, names, plan), evaluate(plan)))
        taus.append(
            check(
                [float(weights @ np.array(row)) for row, _ in fresh], [rise for _, rise in fresh]
            ).rank_correlation
        )
        rows += [row for row, _ in fresh]
        rises += [rise for _, rise in fresh]
        say(
            f"plan: rank correlation of {'sums' if len(taus) == 1 else 'refitted sums'} with "
            f"{ROUND} joint cuts {taus[-1]:.2f}"
        )
        if taus[-1] >= ADDITIVE:
            break
        weights = fitted(rows, rises)
    good = taus[-1] >= ADDITIVE
    refitted = good and len(taus) > 1
    if refitted:
        weights = fitted(rows, rises)
    return Quality(
        plans=len(rises),
        before=taus[0],
        after=taus[-1] if len(taus) > 1 else None,
        outcome="refitted" if refitted else "additive" if good else "not-additive",
        weights={
            name: float(weight) if refitted else 1.0
            for name, weight in zip(names, weights, strict=True)
        },
    )


def fitted(rows: Sequence[Sequence[float]], rises: Sequence[float]) -> Array:
    """One weight a column, none negative: the least squares of relative errors, drawn to the scale that is
    best for all columns together. How strongly is decided by leaving each row out in turn.
    """
    x, y = np.array(rows, dtype=np.float64), np.array(rises, dtype=np.float64)
    middle = float(np.median(np.abs(y))) or 1.0
    by = 1.0 / (np.abs(y) + middle)
    x, y = x * by[:, None], y * by
    errors = []
    for pull in PULLS:
        left_out = []
        for row in range(len(y)):
            rest = np.arange(len(y)) != row
            left_out.append(float(x[row] @ _weights(x[rest], y[rest], pull) - y[row]) ** 2)
        errors.append(sum(left_out))
    return _weights(x, y, PULLS[errors.index(min(errors))])


def _weights(x: Array, y: Array, pull: float) -> Array:
    total = x.sum(axis=1)
    square = float(total @ total)
    scale = max(float(total @ y) / square, 0.0) if square > 0.0 else 1.0
    # Each column is held in proportion to how much it moves the sum.
    hold = np.sqrt(pull * np.mean(x**2, axis=0)) + 1e-12
    system = np.vstack([x, np.diag(hold)])
    found: Array = nnls(system, np.concatenate([y, hold * scale]))[0]
    return found


def random_plan(problem: Problem, rng: np.random.Generator) -> dict[str, int]:
    """Random widths, each between its least and its full one, whose load is near the limit (0.9 to 1.1
    times it), or as near as the rungs allow.
    """
    share = float(rng.uniform(*SPREAD))
    # With several limits the load is never below 1 for each of them.
    target = share * problem.limit if not problem.others else max(1.0, share) * len(problem.limits)
    least = {block: problem.rungs[block][0] for block in problem.blocks}
    most = {block: problem.rungs[block][-1] for block in problem.blocks}
    gone = {block: most[block] if rng.random() >= REMOVED else least[block] for block in most}
    if problem.load(problem.least | gone) > target:
        gone = least
    if problem.load(problem.full | gone) < target:
        gone = most
    free = [name for name in problem.rungs if name not in problem.blocks]
    depth = dict(zip(free, rng.exponential(1.0, len(free)), strict=True))

    def at(level: float) -> dict[str, int]:
        tops = {name: len(problem.rungs[name]) - 1 for name in free}
        return gone | {
            name: problem.rungs[name][round(top * (1.0 - min(1.0, level * depth[name])))]
            for name, top in tops.items()
        }

    low, high = 0.0, 1.0 / max(min(depth.values(), default=1.0), 1e-6)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if problem.load(at(middle)) <= target else (middle, high)
    return canonical(problem, at(high))


def _row(problem: Problem, names: Sequence[str], plan: Mapping[str, int]) -> list[float]:
    return [problem.rises[name][problem.rungs[name].index(plan[name])] for name in names]
