"""The allocator that proves its answer: the least sum of rises under all limits whose costs are tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reprune.compress.planning.allocate import Allocated, Limit, Problem, Widths
from reprune.compress.planning.elimination import Factor, Floats, minimiser, tree_of
from reprune.compress.planning.labels import least_rise
from reprune.compress.planning.linear import Programme, programmed
from reprune.compress.planning.local_search import by_sensitivity, tie_broken
from reprune.compress.planning.terms import Terms, merged
from reprune.core.errors import CompressionError

# Above what summing a few hundred numbers in another order changes.
ROUNDING = 1e-13


def by_exact(problem: Problem) -> Allocated:
    """The widths with the least sum of predicted rises (ties broken as by_sensitivity does) that meet
    every limit and floor, and how far from the best they could be at most.

    Under one limit whose tables link few options at a time it is found by elimination, with no gap;
    else by integer programming in limited time. Where that ends with a gap, by_sensitivity's answer is
    taken if it is better. A cost may fall where a group is widened.

    Raises CompressionError where a limit's cost is no sum of tables, or where no widths meet all limits.
    """
    names = [name for name, rungs in problem.rungs.items() if len(rungs) > 1]
    if not names:
        return Allocated(widths=problem.full, gap=0.0)
    losses = dict(zip(problem.rungs, tie_broken(problem), strict=True))
    free = [losses[name] for name in names]
    single = len(problem.limits) == 1 and not problem.floors
    levels = _eliminated(problem, names, free) if single else None
    if levels is not None and problem.fits(_widths(problem, names, levels)):
        return Allocated(widths=_widths(problem, names, levels), gap=0.0)
    return _programmed(problem, names, free)


def cheapest(problem: Problem, limit: Limit) -> dict[str, int] | None:
    """The widths that cost least by the limit's tables; None where those link too many options."""
    names = [name for name, rungs in problem.rungs.items() if len(rungs) > 1]
    _, tables = _tables(limit, problem, names)
    factors = [Factor(options, np.zeros(table.shape), table) for options, table in tables]
    tree = tree_of([len(problem.rungs[name]) for name in names], factors)
    return None if tree is None else _widths(problem, names, minimiser(tree, 0.0, 1.0))


def _eliminated(
    problem: Problem, names: list[str], losses: Sequence[Sequence[float]]
) -> list[int] | None:
    limit = problem.limits[0]
    constant, tables = _tables(limit, problem, names)
    factors = [
        Factor((option,), np.asarray(loss, dtype=np.float64), np.zeros(len(loss)))
        for option, loss in enumerate(losses)
    ]
    factors += [Factor(options, np.zeros(table.shape), table) for options, table in tables]
    tree = tree_of([len(loss) for loss in losses], factors)
    # What fits exactly must not be lost by another order of summing; who asks looks once more.
    size = abs(limit.most) + abs(constant) + sum(float(np.abs(t).max()) for _, t in tables)
    return None if tree is None else least_rise(tree, limit.most - constant + ROUNDING * size)


def _programmed(problem: Problem, names: list[str], losses: Sequence[Sequence[float]]) -> Allocated:
    bounds = (*problem.limits, *problem.floors)
    limits = [(*_tables(limit, problem, names), limit.most) for limit in bounds]
    answer = programmed(
        Programme(losses=losses, limits=limits),
        lambda levels: problem.allows(_widths(problem, names, levels)),
    )
    if answer.impossible:
        floors = "".join(f", the floor of {floor.name}" for floor in problem.floors)
        raise CompressionError(
            "no allowed widths meet all limits at once: "
            + ", ".join(limit.name for limit in problem.limits)
            + floors,
            where="params.yaml (plan)",
            fix="raise plan.fraction or one of plan.limits"
            + (" or plan.floors" if floors else "")
            + ", or allow narrower layers with a smaller plan.min_keep or plan.round_to",
        )
    found = [] if answer.levels is None else [answer.levels]

    def total(levels: Sequence[int]) -> float:
        return math.fsum(loss[level] for loss, level in zip(losses, levels, strict=True))

    if (not found or total(found[0]) > answer.bound) and problem.fits(problem.least):
        try:
            searched = by_sensitivity(problem)
            found.append([problem.rungs[name].index(searched[name]) for name in names])
        except CompressionError:  # a search may be stuck where the solver was not
            if not found:
                raise
    if not found:
        raise CompressionError(
            "no widths that meet all limits were found in the time that the solver has",
            where="params.yaml (plan)",
            fix="raise plan.fraction or one of plan.limits, or take one of them out",
        )
    best = min(found, key=total)
    rise = total(best)
    # The bound is as exact as the solver computes: below 1e-6 of the rise there is no gap.
    gap = max(0.0, rise - answer.bound) / rise if rise > 0.0 else 0.0
    return Allocated(
        widths=_widths(problem, names, best),
        gap=0.0 if gap < 1e-6 else min(gap, 1.0),
    )


def _tables(
    limit: Limit, problem: Problem, names: list[str]
) -> tuple[float, list[tuple[tuple[int, ...], Floats]]]:
    """The limit's cost as arrays over the levels of the options in `names`; options with a single rung are
    put into them.
    """
    terms = _reduced(_terms(limit), problem)
    place = {name: number for number, name in enumerate(names)}
    tables = []
    for term in terms.terms:
        order = sorted(range(len(term.options)), key=lambda axis: place[term.options[axis]])
        options = tuple(place[term.options[axis]] for axis in order)
        table = np.empty([len(problem.rungs[names[option]]) for option in options])
        for at in np.ndindex(*table.shape):
            width = {names[o]: problem.rungs[names[o]][n] for o, n in zip(options, at, strict=True)}
            table[at] = term.values[tuple(width[name] for name in term.options)]
        tables.append((options, table))
    return terms.constant, tables


def _terms(limit: Limit) -> Terms:
    if limit.terms is None:
        raise CompressionError(
            f"this allocator needs the cost in {limit.name} as a sum of tables, and it is a function only",
            where="params.yaml (plan.allocator)",
            fix="set plan.allocator to sensitivity",
        )
    return limit.terms


def _reduced(terms: Terms, problem: Problem) -> Terms:
    beyond = {name: (terms.full[name],) for name in terms.full if name not in problem.rungs}
    return merged(terms.constant, terms.terms, {**problem.rungs, **beyond})


def _widths(problem: Problem, names: Sequence[str], levels: Sequence[int]) -> dict[str, int]:
    chosen: Widths = {
        name: problem.rungs[name][level] for name, level in zip(names, levels, strict=True)
    }
    return problem.full | dict(chosen)
