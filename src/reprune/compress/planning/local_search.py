"""The allocator that loses least: greedy from several starts, then local search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from reprune.compress.planning.allocate import Problem, Widths, at_share, uniform
from reprune.core.errors import CompressionError

# Where measured increases tie (often at zero: the cut cost nothing that could be seen), the more
# even of two allocations is the safer one. This share of the most robust group's increase, times the
# squared share that is cut, decides; it is far below what a plan predicts.
TIE_BREAK = 1e-3


def by_sensitivity(problem: Problem) -> dict[str, int]:
    """The widths with the least sum of predicted increases that fit, as far as local search finds.

    Two starts: from the dense widths, always the cut with the least increase for its saving (to the
    next vertex of the convex hull of the group's curve, so that a flat shoulder behind a bump is
    seen); and the uniform allocation. With blocks, two more without those that lose least for what
    they save: a block and the widths inside it cannot be exchanged in one step. Each is improved until
    no single group can be widened, and no pair exchanged, for a lower sum; the best one is returned,
    so it never predicts more loss than uniform. Every floor is kept on the way. Deterministic. It needs
    no tables (see exact.by_exact for what proves its answer with them), and the curves are known less
    exactly than this search finds.

    Raises CompressionError where no cut that the floors allow leads to the budget.
    """
    names = list(problem.rungs)
    losses = tie_broken(problem)
    full = _levels(problem, problem.full)
    begins: list[list[int] | None] = [_greedy(problem, losses, full)]
    begins += _without_blocks(problem, losses)
    if problem.fits(at_share(problem, Fraction(0))):
        begins.append(_levels(problem, uniform(problem)))
    starts = [start for start in begins if start is not None and _spares(problem, start)]
    if not starts:
        raise _below_floors(problem)
    best = min(
        (_improve(problem, losses, start) for start in starts),
        key=lambda levels: _total(losses, levels),
    )
    return {name: problem.rungs[name][level] for name, level in zip(names, best, strict=True)}


def tie_broken(problem: Problem) -> list[tuple[float, ...]]:
    """The rises of every option at its rungs, with what breaks ties between equal ones (TIE_BREAK)."""
    scale = min((rises[0] for rises in problem.rises.values() if rises[0] > 0.0), default=1.0)
    return [
        tuple(
            rise + TIE_BREAK * scale * (1.0 - rung / max(rungs[-1], 1)) ** 2
            for rung, rise in zip(rungs, problem.rises[group], strict=True)
        )
        for group, rungs in problem.rungs.items()
    ]


def _levels(problem: Problem, widths: Widths) -> list[int]:
    return [rungs.index(widths[group]) for group, rungs in problem.rungs.items()]


def _total(losses: Sequence[Sequence[float]], levels: Sequence[int]) -> float:
    return math.fsum(loss[level] for loss, level in zip(losses, levels, strict=True))


def _cost(problem: Problem, levels: Sequence[int]) -> float:
    return problem.load(_widths(problem, levels))


def _fits(problem: Problem, levels: Sequence[int]) -> bool:
    return problem.fits(_widths(problem, levels))


def _spares(problem: Problem, levels: Sequence[int]) -> bool:
    return not problem.floors or problem.spares(_widths(problem, levels))


def _widths(problem: Problem, levels: Sequence[int]) -> dict[str, int]:
    return {
        group: rungs[level]
        for (group, rungs), level in zip(problem.rungs.items(), levels, strict=True)
    }


def _without_blocks(
    problem: Problem, losses: Sequence[Sequence[float]], best: int = 2
) -> list[list[int]]:
    """Greedy allocations that begin without the first 1, 2, ... blocks in the order of loss for saving;
    the `best` of them.
    """
    names = list(problem.rungs)
    full = _levels(problem, problem.full)
    dense = problem.load(problem.full)
    prices = []
    for block in problem.blocks:
        saved = dense - problem.load(problem.full | {block: 0})
        rise = losses[names.index(block)][0]
        prices.append((rise / saved if saved > 0 else math.inf, names.index(block)))
    starts = []
    levels = [*full]
    for _, index in sorted(prices):
        levels[index] = 0
        found = _greedy(problem, losses, levels) if _spares(problem, levels) else None
        starts += [found] if found is not None else []
    return sorted(starts, key=lambda start: _total(losses, start))[:best]


def _greedy(
    problem: Problem, losses: Sequence[Sequence[float]], start: Sequence[int]
) -> list[int] | None:
    """From `start`, the cheapest cut for its saving until the limit is met (it can be: see allocate); None
    where every cut that is left falls below a floor.
    """
    rungs = list(problem.rungs.values())
    below = [_hull_below(widths, loss) for widths, loss in zip(rungs, losses, strict=True)]
    levels = [*start]
    cost = _cost(problem, levels)
    while not _fits(problem, levels):
        steps = []
        if not any(levels):
            raise CompressionError(
                "the narrowest widths exceed a limit that others meet, and this allocator takes it that "
                "narrower is never dearer",
                where="params.yaml (plan.allocator)",
                fix="set plan.allocator to latency",
            )
        for index, level in enumerate(levels):
            if level == 0:
                continue
            trial = _cut(problem, levels, index, (below[index][level], level - 1))
            if trial is None:
                continue
            after = _cost(problem, trial)
            rise = losses[index][trial[index]] - losses[index][level]
            price = rise / (cost - after) if after < cost else math.inf
            steps.append((price, index, after, trial))
        if not steps:
            return None
        _, _, cost, levels = min(steps, key=lambda step: step[:2])
    return levels


def _cut(
    problem: Problem, levels: Sequence[int], index: int, targets: Sequence[int]
) -> list[int] | None:
    """`levels` with `index` at the first of `targets` that keeps every floor; None for none."""
    for target in targets:
        trial = [*levels]
        trial[index] = target
        if _spares(problem, trial):
            return trial
    return None


def _below_floors(problem: Problem) -> CompressionError:
    named = ", ".join(f"{floor.name} ({floor.most:.4g})" for floor in problem.floors)
    budgets = ", ".join(limit.name for limit in problem.limits)
    return CompressionError(
        f"no cut that the floors of {named} allow leads to the budget of {budgets}",
        where="params.yaml (plan.floors)",
        fix="raise a floor or plan.fraction; plan.yaml shows what each member gives up without floors",
    )


def _hull_below(widths: Sequence[int], loss: Sequence[float]) -> list[int]:
    """For each level the next lower vertex of the lower convex hull of (width, loss)."""
    hull: list[int] = []
    for level in range(len(widths)):
        while len(hull) >= 2 and _bulges(widths, loss, hull[-2], hull[-1], level):
            hull.pop()
        hull.append(level)
    return [
        max((vertex for vertex in hull if vertex < level), default=0)
        for level in range(len(widths))
    ]


def _bulges(
    widths: Sequence[int], loss: Sequence[float], left: int, middle: int, right: int
) -> bool:
    """Whether `middle` lies above the chord from `left` to `right`."""
    return (loss[middle] - loss[left]) * (widths[right] - widths[left]) > (
        loss[right] - loss[left]
    ) * (widths[middle] - widths[left])


def _improve(
    problem: Problem, losses: Sequence[Sequence[float]], levels: Sequence[int]
) -> list[int]:
    """No single widening and no exchange of one widening for one cut lowers the sum afterwards.

    Widenings are tried by 1, 2, 4, ... rungs and to the full width; the cut that pays for one is the
    smallest that makes it fit. Every accepted move lowers the sum, so this ends.
    """
    best = [*levels]
    improved = True
    while improved:
        improved = False
        for index in range(len(best)):
            for target in _above(best[index], len(losses[index]) - 1):
                trial = _widened(problem, losses, best, index, target)
                # Summed exactly, or rounding could let two allocations swap for ever.
                if trial is not None and _total(losses, trial) < _total(losses, best):
                    best, improved = trial, True
                    break
    return best


def _above(level: int, top: int) -> list[int]:
    """The levels 1, 2, 4, ... rungs above `level`, and the top, highest first."""
    jumps = {level + 2**power for power in range(top.bit_length() + 1)} | {top}
    return sorted((target for target in jumps if level < target <= top), reverse=True)


def _widened(
    problem: Problem,
    losses: Sequence[Sequence[float]],
    levels: Sequence[int],
    index: int,
    target: int,
) -> list[int] | None:
    """`levels` with `index` at `target`, if need be with one other group cut; None if that is no gain."""
    trial = [*levels]
    trial[index] = target
    gain = losses[index][levels[index]] - losses[index][target]
    if gain <= 0.0:
        return None
    if _fits(problem, trial):
        return trial
    best: tuple[float, list[int]] | None = None
    for other in range(len(levels)):
        if other == index:
            continue
        paid = _largest_fitting(problem, trial, other)
        if paid is None or not _spares(problem, paid):
            continue
        net = gain - (losses[other][paid[other]] - losses[other][levels[other]])
        if net > 0.0 and (best is None or net > best[0]):
            best = (net, paid)
    return best[1] if best else None


def _largest_fitting(problem: Problem, levels: Sequence[int], other: int) -> list[int] | None:
    """`levels` with `other` cut by as little as makes it fit; None if cutting it away does not."""
    low, high = 0, levels[other]
    trial = [*levels]
    trial[other] = low
    if high == 0 or not _fits(problem, trial):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        trial[other] = middle
        if _fits(problem, trial):
            low = middle
        else:
            high = middle
    trial[other] = low
    return trial
