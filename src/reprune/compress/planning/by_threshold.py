"""One importance threshold for all groups: the allocator that other tools call global."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from reprune.compress.planning.allocate import at_share
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reprune.compress.planning.allocate import Problem


def by_threshold(problem: Problem) -> dict[str, int]:
    """Channels that score above one threshold stay, in all groups alike: the lowest threshold that fits.

    Scores are comparable between groups as `tries.importance` gives them (each group's over its mean,
    unless prune.normalizer says otherwise). Each group gets the rung nearest to the number of its
    channels above the threshold, up if half-way; what is left of the budget then widens the group whose
    next channels score highest, again and again. No block is removed, and no loss is looked at.

    Raises CompressionError where the budget cannot be met without removing blocks.
    """
    scores = problem.tries.importance if problem.tries is not None else {}
    missing = [name for name in problem.rungs if name not in problem.blocks and name not in scores]
    if missing:
        raise CompressionError(
            f"no importance is known for {', '.join(missing)}",
            fix="give the problem `tries.importance` for every group",
        )
    if not problem.fits(at_share(problem, Fraction(0))):
        raise CompressionError(
            "the global allocator removes no blocks, and no widths alone meet the budget",
            where="params.yaml (plan.allocator)",
            fix="set plan.allocator to sensitivity, or raise plan.fraction",
        )
    rising = {name: sorted(values) for name, values in scores.items() if name in problem.rungs}
    thresholds = sorted({score for values in rising.values() for score in values})
    # Below the lowest score everything stays; at the highest every group is at its least.
    low, high = -1, len(thresholds) - 1
    if problem.fits(problem.full):
        high = low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if problem.fits(_above(problem, rising, thresholds[middle]))
            else (middle, high)
        )
    if high < 0:
        return problem.full
    return _corrected(problem, rising, _above(problem, rising, thresholds[high]))


def _above(problem: Problem, rising: Mapping[str, list[float]], threshold: float) -> dict[str, int]:
    """Every group at the rung nearest to how many of its channels score above `threshold`."""
    found = {}
    for name, rungs in problem.rungs.items():
        if name in problem.blocks:
            found[name] = rungs[-1]
            continue
        count = len(rising[name]) - bisect_right(rising[name], threshold)
        found[name] = rungs[sum(low + high <= 2 * count for low, high in pairwise(rungs))]
    return found


def _corrected(
    problem: Problem, rising: Mapping[str, list[float]], widths: dict[str, int]
) -> dict[str, int]:
    """Widened, the best channels first, until no group can be a rung wider."""
    found = dict(widths)
    while True:
        gains = []
        for number, (name, rungs) in enumerate(problem.rungs.items()):
            level = rungs.index(found[name]) + 1
            if name in problem.blocks or level == len(rungs):
                continue
            if problem.fits(found | {name: rungs[level]}):
                falling = rising[name][::-1][found[name] : rungs[level]]
                gains.append((-sum(falling) / len(falling), number, name, rungs[level]))
        if not gains:
            return found
        _, _, name, width = min(gains)
        found[name] = width
