"""How many channels each group keeps under a budget: allocators, by name.

The core is pure: it knows widths, what each width costs in loss, and a cost function of all widths
together. The cost need not be a sum over groups (a layer between two groups costs their product);
it only must not fall when a group is widened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

from reprune.core.errors import CompressionError
from reprune.core.plugins import lookup

Widths: TypeAlias = Mapping[str, int]
Allocator: TypeAlias = "Callable[[Problem], dict[str, int]]"

ALLOCATORS: Mapping[str, str] = {
    "uniform": "reprune.compress.allocate:uniform",
    "sensitivity": "reprune.compress.allocate:by_sensitivity",
}

# Where measured increases tie (often at zero: the cut cost nothing that could be seen), the more
# even of two allocations is the safer one. This share of the most robust group's increase, times the
# squared share that is cut, decides; it is far below what a plan predicts.
TIE_BREAK = 1e-3


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`rungs` are the widths that a group may have, rising, the last one its full width; `rises` is
    the predicted loss increase at each rung (falling to 0). `cost` must not exceed `limit`.
    """

    rungs: Mapping[str, tuple[int, ...]]
    rises: Mapping[str, tuple[float, ...]]
    cost: Callable[[Widths], float]
    limit: float

    @property
    def full(self) -> dict[str, int]:
        return {group: rungs[-1] for group, rungs in self.rungs.items()}

    @property
    def least(self) -> dict[str, int]:
        return {group: rungs[0] for group, rungs in self.rungs.items()}

    def fits(self, widths: Widths) -> bool:
        return self.cost(widths) <= self.limit


def ladder(width: int, *, round_to: int, min_keep: float) -> tuple[int, ...]:
    """The widths a group may have: multiples of `round_to`, at least one of it and at least
    `min_keep` of the group, and the full width (aligned or not), which is never exceeded.

    A group no wider than `round_to` has only its full width: it cannot be cut.
    """
    floor = max(round_to, math.ceil(Fraction(str(min_keep)) * width))
    first = -(-floor // round_to) * round_to
    return (*range(first, width, round_to), width)


def allocate(name: str, problem: Problem) -> dict[str, int]:
    """The widths that the allocator `name` chooses: each one a rung, together within the limit.

    Raises UnknownName; CompressionError with the smallest reachable fraction where no widths meet
    the limit, or where the allocator (a third party's) did not keep to its problem.
    """
    allocator: Allocator = lookup("allocators", name, ALLOCATORS)
    if not problem.fits(problem.least):
        reachable = problem.cost(problem.least) / problem.cost(problem.full)
        raise CompressionError(
            f"no allowed widths meet the budget: the smallest reachable fraction is {reachable:.4f}",
            where="params.yaml (plan)",
            fix=f"set plan.fraction to at least {_round_up(reachable)}, or allow narrower layers "
            "with a smaller plan.min_keep or plan.round_to",
        )
    widths = allocator(problem)
    for group, rungs in problem.rungs.items():
        if widths.get(group) not in rungs:
            raise CompressionError(
                f"the allocator '{name}' gave {group} {widths.get(group)} channels; allowed: "
                f"{', '.join(map(str, rungs))}",
                fix="correct the allocator, or use another one",
            )
    if not problem.fits(widths):
        raise CompressionError(
            f"the allocator '{name}' exceeded its budget",
            fix="correct the allocator, or use another one",
        )
    return {group: widths[group] for group in problem.rungs}


def uniform(problem: Problem) -> dict[str, int]:
    """One share for all groups, each rounded to its nearest rung (up if half-way): the largest share
    that fits. Widths change only at half-way points, so a binary search over those is exact.
    """
    steps = sorted(
        {
            Fraction(low + high, 2 * rungs[-1])
            for rungs in problem.rungs.values()
            for low, high in pairwise(rungs)
        }
    )
    shares = [Fraction(0), *steps]
    fitting, too_large = 0, len(shares)
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if problem.fits(_at_share(problem, shares[middle])):
            fitting = middle
        else:
            too_large = middle
    return _at_share(problem, shares[fitting])


def by_sensitivity(problem: Problem) -> dict[str, int]:
    """The widths with the least sum of predicted increases that fit, as far as local search finds.

    Two starts: from the dense widths, always the cut with the least increase for its saving (to the
    next vertex of the convex hull of the group's curve, so that a flat shoulder behind a bump is
    seen); and the uniform allocation. Each is improved until no single group can be widened, and no
    pair exchanged, for a lower sum; the better one is returned, so it never predicts more loss than
    uniform. Deterministic. The problem is a knapsack with products of widths: an exact solver needs
    a variable for each pair of rungs, and the curves are known less exactly than this search finds.
    """
    names = list(problem.rungs)
    losses = _with_tie_break(problem)
    starts = (_greedy(problem, losses), _levels(problem, uniform(problem)))
    best = min(
        (_improve(problem, losses, start) for start in starts),
        key=lambda levels: _total(losses, levels),
    )
    return {name: problem.rungs[name][level] for name, level in zip(names, best, strict=True)}


def _at_share(problem: Problem, share: Fraction) -> dict[str, int]:
    return {
        group: rungs[
            sum(Fraction(low + high, 2 * rungs[-1]) <= share for low, high in pairwise(rungs))
        ]
        for group, rungs in problem.rungs.items()
    }


def _with_tie_break(problem: Problem) -> list[tuple[float, ...]]:
    scale = min((rises[0] for rises in problem.rises.values() if rises[0] > 0.0), default=1.0)
    return [
        tuple(
            rise + TIE_BREAK * scale * (1.0 - rung / rungs[-1]) ** 2
            for rung, rise in zip(rungs, problem.rises[group], strict=True)
        )
        for group, rungs in problem.rungs.items()
    ]


def _levels(problem: Problem, widths: Widths) -> list[int]:
    return [rungs.index(widths[group]) for group, rungs in problem.rungs.items()]


def _total(losses: Sequence[Sequence[float]], levels: Sequence[int]) -> float:
    return math.fsum(loss[level] for loss, level in zip(losses, levels, strict=True))


def _cost(problem: Problem, levels: Sequence[int]) -> float:
    return problem.cost(
        {
            group: rungs[level]
            for (group, rungs), level in zip(problem.rungs.items(), levels, strict=True)
        }
    )


def _greedy(problem: Problem, losses: Sequence[Sequence[float]]) -> list[int]:
    """From dense, the cheapest cut for its saving until the limit is met (it can be: see allocate)."""
    rungs = list(problem.rungs.values())
    below = [_hull_below(widths, loss) for widths, loss in zip(rungs, losses, strict=True)]
    levels = [len(widths) - 1 for widths in rungs]
    cost = _cost(problem, levels)
    while cost > problem.limit:
        steps = []
        for index, level in enumerate(levels):
            if level == 0:
                continue
            trial = [*levels]
            trial[index] = below[index][level]
            after = _cost(problem, trial)
            rise = losses[index][trial[index]] - losses[index][level]
            price = rise / (cost - after) if after < cost else math.inf
            steps.append((price, index, after, trial))
        _, _, cost, levels = min(steps, key=lambda step: step[:2])
    return levels


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
    if _cost(problem, trial) <= problem.limit:
        return trial
    best: tuple[float, list[int]] | None = None
    for other in range(len(levels)):
        if other == index:
            continue
        paid = _largest_fitting(problem, trial, other)
        if paid is None:
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
    if high == 0 or _cost(problem, trial) > problem.limit:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        trial[other] = middle
        if _cost(problem, trial) <= problem.limit:
            low = middle
        else:
            high = middle
    trial[other] = low
    return trial


def _round_up(fraction: float) -> float:
    return math.ceil(fraction * 1000) / 1000
