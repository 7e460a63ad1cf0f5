"""The least rise under one limit, exactly: labels over a tree of tables, bounded by a Lagrange multiplier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reprune.compress.planning.elimination import (
    Bucket,
    Floats,
    Integers,
    Tree,
    inward,
    minimiser,
    outward,
    totals,
)

# Beyond so many integer programming is faster.
MOST_LABELS = 2_000_000


def least_rise(tree: Tree, limit: float) -> list[int] | None:
    """The levels with the least rise of all whose cost is at most `limit`.

    A label is a rise and a cost that some levels of the options eliminated so far come to; one that is
    dominated is dropped, and one that cannot lead below the best known rise, by the bound of the best
    Lagrange multiplier. None where no levels fit, or more than MOST_LABELS would be kept.
    """
    if totals(tree, minimiser(tree, 0.0, 1.0))[1] > limit:
        return None
    found, multiplier = _relaxed(tree, limit)
    best = totals(tree, found)[0]
    if multiplier == 0.0:
        return found
    labels = _Labels(tree, limit, best, multiplier)
    if not labels.collect():
        return None
    better = labels.best()
    return found if better is None else better


def _relaxed(tree: Tree, limit: float) -> tuple[list[int], float]:
    """Fitting levels and the multiplier that bounds the rise best (0: the levels are the best there are).

    The line through a fitting and an unfitting point gives the next multiplier, until none lies below.
    """
    unfit = minimiser(tree, 1.0, 0.0)
    if totals(tree, unfit)[1] <= limit:
        return unfit, 0.0
    fit = minimiser(tree, 0.0, 1.0)
    best, multiplier = fit, 0.0
    for _ in range(100):
        (low, dear), (high, cheap) = totals(tree, unfit), totals(tree, fit)
        multiplier = max(high - low, 0.0) / (dear - cheap)
        between = minimiser(tree, 1.0, multiplier)
        rise, cost = totals(tree, between)
        if rise + multiplier * cost >= (high + multiplier * cheap) * (1.0 - 1e-12):
            break
        if cost <= limit:
            fit = between
            best = min(best, fit, key=lambda levels: totals(tree, levels)[0])
        else:
            unfit = between
    return _filled(tree, best, limit), max(multiplier, math.ulp(0.0))


def _filled(tree: Tree, levels: list[int], limit: float) -> list[int]:
    """`levels` with single options changed while that lowers the rise and fits."""
    sizes = {bucket.scope[0]: bucket.rise.shape[0] for bucket in tree[:-1]}
    best, rise = [*levels], totals(tree, levels)[0]
    improved = True
    while improved:
        improved = False
        for option, size in sizes.items():
            for level in range(size):
                trial = [*best]
                trial[option] = level
                after, cost = totals(tree, trial)
                if cost <= limit and after < rise:
                    best, rise, improved = trial, after, True
    return best


@dataclass(frozen=True)
class _Kept:
    """The labels of a bucket at one setting of its separator: `level` of its option, and which label of
    each child they were made of.
    """

    rise: Floats
    cost: Floats
    level: Integers
    parts: Integers


class _Labels:
    """The labels of every bucket, kept so that the best one can be followed back to its levels."""

    def __init__(self, tree: Tree, limit: float, best: float, multiplier: float) -> None:
        self.tree, self.limit, self.best_rise, self.multiplier = tree, limit, best, multiplier
        self.inner = inward(tree, 1.0, multiplier)
        self.outer = outward(tree, 1.0, multiplier, self.inner)
        self.cheapest = inward(tree, 0.0, 1.0)
        self.cheapest_beyond = outward(tree, 0.0, 1.0, self.cheapest)
        self.kept: list[dict[tuple[int, ...], _Kept]] = []
        self.count = 0

    def collect(self) -> bool:
        """Whether all labels could be made."""
        for number, bucket in enumerate(self.tree):
            shape = bucket.rise.shape[1:]
            made: dict[tuple[int, ...], _Kept] = {}
            for at in np.ndindex(*shape):
                kept = self._at(number, at)
                if kept is None:
                    return False
                made[at] = kept
                self.count += len(kept.rise)
            self.kept.append(made)
            if self.count > MOST_LABELS:
                return False
        return True

    def best(self) -> list[int] | None:
        """The levels of the best label of all; None where none is better than what was known."""
        whole = self.kept[-1][()]
        if not len(whole.rise):
            return None
        levels = [0] * (len(self.tree) - 1)
        todo = [(len(self.tree) - 1, int(np.argmin(whole.rise)))]
        while todo:
            number, label = todo.pop()
            bucket = self.tree[number]
            kept = self.kept[number][tuple(levels[option] for option in bucket.separator)]
            if bucket.scope:
                levels[bucket.scope[0]] = int(kept.level[label])
            todo += zip(bucket.children, (int(part) for part in kept.parts[label]), strict=True)
        return levels

    def _at(self, number: int, at: tuple[int, ...]) -> _Kept | None:
        bucket = self.tree[number]
        found = []
        for level in range(bucket.rise.shape[0]) if bucket.scope else (0,):
            key = (level, *at) if bucket.scope else ()
            made = self._combined(number, key, at)
            if made is None:
                return None
            rise, cost, parts = made
            found.append(_Kept(rise, cost, np.full(len(rise), level), parts))
        rise = np.concatenate([part.rise for part in found])
        cost = np.concatenate([part.cost for part in found])
        chosen = _undominated(rise, cost)
        return _Kept(
            rise[chosen],
            cost[chosen],
            np.concatenate([part.level for part in found])[chosen],
            np.concatenate([part.parts for part in found])[chosen],
        )

    def _combined(
        self, number: int, key: tuple[int, ...], at: tuple[int, ...]
    ) -> tuple[Floats, Floats, Integers] | None:
        """The sums of this entry with one label of each child."""
        bucket = self.tree[number]
        rise = np.array([bucket.rise[key]])
        cost = np.array([bucket.cost[key]])
        parts = np.zeros((1, 0), dtype=np.int64)
        places = list(self._places(bucket, key))
        bounds = [float(self.inner[child][place]) for child, place in places]
        cheapest = [float(self.cheapest[child][place]) for child, place in places]
        beyond = (float(self.outer[number][at]), float(self.cheapest_beyond[number][at]))
        for index in range(len(places) + 1):
            bound = beyond[0] + math.fsum(bounds[index:]) - self.multiplier * self.limit
            room = self.limit - beyond[1] - math.fsum(cheapest[index:])
            # The room is a sum of floats: a label that fits exactly must not be lost by its rounding.
            roomy = cost <= room + 1e-9 * max(abs(self.limit), abs(room))
            chosen = roomy & (rise + self.multiplier * cost + bound < self.best_rise)
            if index == len(places) and not bucket.scope:
                chosen &= (cost <= self.limit) & (rise < self.best_rise)
            rise, cost, parts = rise[chosen], cost[chosen], parts[chosen]
            if index == len(places):
                break
            child, place = places[index]
            labels = self.kept[child][place]
            if len(rise) * len(labels.rise) > MOST_LABELS:
                return None
            mine = np.repeat(np.arange(len(rise)), len(labels.rise))
            theirs = np.tile(np.arange(len(labels.rise)), len(rise))
            rise, cost = rise[mine] + labels.rise[theirs], cost[mine] + labels.cost[theirs]
            best = _undominated(rise, cost)
            rise, cost = rise[best], cost[best]
            parts = np.column_stack([parts[mine[best]], theirs[best]])
        return rise, cost, parts

    def _places(
        self, bucket: Bucket, key: tuple[int, ...]
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        at = dict(zip(bucket.scope, key, strict=True))
        for child in bucket.children:
            yield child, tuple(at[option] for option in self.tree[child].separator)


def _undominated(rise: Floats, cost: Floats) -> Integers:
    """The labels of which no other is both no dearer and no worse; of equal ones the first."""
    order = np.lexsort((rise, cost))
    least = np.minimum.accumulate(np.concatenate([[np.inf], rise[order]]))[:-1]
    chosen: Integers = order[rise[order] < least]
    return chosen
