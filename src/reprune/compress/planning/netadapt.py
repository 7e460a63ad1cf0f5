"""NetAdapt (Yang et al., arXiv:1804.03230): the budget is approached in steps, each paid by one group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reprune.compress.planning.trying import Looks, onto_budget, starts

if TYPE_CHECKING:
    from reprune.compress.planning.allocate import Problem, Widths

# Steps to the budget at least, even where not every group can be tried in each.
STEPS = 4


def by_adaptation(problem: Problem) -> dict[str, int]:
    """The widths that NetAdapt's algorithm 1 ends with, or the uniform start where that loses less.

    From the full widths on, every iteration must lower the cost to the next of equal steps: each
    group (and block) alone is cut to the widest rung that does, each such model is evaluated, and the
    one that loses least goes on. There are as many steps as evaluations allow for all groups, at least
    4: with fewer evaluations only the groups that are predicted to lose least are tried. Differs from
    the paper in what is evaluated: repaired without training, not fine-tuned for a while. Where no
    group alone can pay for a step, the one that loses least at its least width goes on instead.
    Deterministic.
    """
    looks = Looks(problem)
    # Its own way knows no floors: the start that keeps them is looked at too.
    for start in starts(problem)[: None if problem.floors else 1]:
        looks.rise(start)
    options = [name for name, rungs in problem.rungs.items() if len(rungs) > 1]
    steps = max(min(STEPS, looks.left), looks.left // max(len(options), 1), 1)
    most = max(1, looks.left // steps)
    now, full = problem.full, problem.load(problem.full)
    # The load at the budget: with several budgets, shares of them are added up.
    goal = problem.limit if not problem.others else float(len(problem.limits))
    number = 1
    while not problem.fits(now) and looks.left:
        wanted = full - (full - goal) * min(number, steps) / steps
        after = _step(problem, looks, now, wanted, most)
        if after is None:
            break
        now = after
        while number < steps and problem.load(now) <= full - (full - goal) * number / steps:
            number += 1
    if not problem.fits(now):  # the evaluations ended, or nothing could be cut
        now = onto_budget(problem, now)
        looks.rise(now)
    return now if looks.best is None else looks.chosen()


def _step(
    problem: Problem, looks: Looks, now: dict[str, int], wanted: float, most: int
) -> dict[str, int] | None:
    """`now` with the one group cut, of at most `most` that are tried, that loses least; None where no
    evaluation is left or nothing can be cut.
    """
    paying, others = [], []
    for name, rungs in problem.rungs.items():
        level = rungs.index(now[name])
        if level == 0 or _is_gone(problem, now, name):
            continue
        fitting = [rung for rung in rungs[:level] if problem.load(now | {name: rung}) <= wanted]
        if fitting:
            paying.append((name, fitting[-1]))
        elif problem.load(now | {name: rungs[0]}) < problem.load(now):
            others.append((name, rungs[0]))

    def expected(cut: tuple[str, int]) -> float:
        name, width = cut
        rungs, rises = problem.rungs[name], problem.rises[name]
        return rises[rungs.index(width)] - rises[rungs.index(now[name])]

    best: tuple[float, dict[str, int]] | None = None
    for name, width in sorted(paying or others, key=expected)[:most]:
        trial = now | {name: width}
        rise = looks.rise(trial)
        if rise is None:
            break
        if best is None or rise < best[0]:
            best = (rise, trial)
    return None if best is None else best[1]


def _is_gone(problem: Problem, widths: Widths, name: str) -> bool:
    return any(widths[block] == 0 and name in inside for block, inside in problem.blocks.items())
