"""The least rise under one limit, exactly: options are eliminated one by one over a tree of tables.

Pure numbers: an option is an index, a level is the index of its rung. An option is eliminated together
with those it shares a table with, so that a chain needs tables over two options, and a width shared by
many layers is enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Beyond these the tables are too wide, or the labels too many, to be faster than integer programming.
MOST_ENTRIES = 20_000
MOST_LABELS = 2_000_000


@dataclass(frozen=True)
class Factor:
    """What these options (rising) add to the rise and to the cost, at each of their levels."""

    options: tuple[int, ...]
    rise: Floats
    cost: Floats


@dataclass(frozen=True)
class Bucket:
    """One option with those it still touches when it is eliminated: `scope` is all of them, the option
    first. `children` are the buckets whose results are taken in here, by their index. The last bucket
    of a tree has the empty scope and takes in what is left.
    """

    scope: tuple[int, ...]
    rise: Floats
    cost: Floats
    children: tuple[int, ...]

    @property
    def separator(self) -> tuple[int, ...]:
        return self.scope[1:]


Tree = tuple[Bucket, ...]


def tree_of(sizes: Sequence[int], factors: Sequence[Factor]) -> Tree | None:
    """The buckets in the order of elimination, smallest table first; None where one would have more than
    MOST_ENTRIES entries.
    """
    near: dict[int, set[int]] = {option: set() for option in range(len(sizes))}
    for factor in factors:
        for option in factor.options:
            near[option] |= set(factor.options) - {option}
    scopes: list[tuple[int, ...]] = []
    while near:
        entries = {o: math.prod(sizes[i] for i in (o, *around)) for o, around in near.items()}
        option = min(near, key=lambda o: (entries[o], o))
        if entries[option] > MOST_ENTRIES:
            return None
        around = near.pop(option)
        scopes.append((option, *sorted(around)))
        for other in around:
            near[other] = (near[other] | around) - {option, other}
    place = {scope[0]: number for number, scope in enumerate(scopes)}
    scopes.append(())
    children: list[list[int]] = [[] for _ in scopes]
    for number, scope in enumerate(scopes[:-1]):
        parent = min((place[option] for option in scope[1:]), default=len(scopes) - 1)
        children[parent].append(number)
    homes: list[list[Factor]] = [[] for _ in scopes]
    for factor in factors:
        homes[min((place[o] for o in factor.options), default=len(scopes) - 1)].append(factor)
    return tuple(
        Bucket(
            scope=scope,
            rise=_sum(scope, sizes, [(f.options, f.rise) for f in homes[number]]),
            cost=_sum(scope, sizes, [(f.options, f.cost) for f in homes[number]]),
            children=tuple(children[number]),
        )
        for number, scope in enumerate(scopes)
    )


def _sum(
    scope: Sequence[int], sizes: Sequence[int], tables: Sequence[tuple[Sequence[int], Floats]]
) -> Floats:
    whole = np.zeros([sizes[option] for option in scope])
    for options, table in tables:
        whole = whole + _spread(table, options, scope)
    return whole


def _spread(table: Floats, options: Sequence[int], scope: Sequence[int]) -> Floats:
    """`table` over `options` with an axis for each option of `scope`, of length 1 where it has none."""
    order = sorted(range(len(options)), key=lambda axis: scope.index(options[axis]))
    turned = np.transpose(table, order)
    shape = iter(turned.shape)
    return turned.reshape([next(shape) if option in options else 1 for option in scope])


def minimiser(tree: Tree, rise: float, cost: float) -> list[int]:
    """The levels with the least rise x their rise + cost x their cost."""
    inner = _inward(tree, rise, cost)
    levels = [0] * (len(tree) - 1)
    for number in range(len(tree) - 2, -1, -1):
        bucket = tree[number]
        at = tuple(levels[option] for option in bucket.separator)
        whole = _within(tree, number, rise, cost, inner)
        levels[bucket.scope[0]] = int(
            np.argmin([whole[(level, *at)] for level in range(len(whole))])
        )
    return levels


def totals(tree: Tree, levels: Sequence[int]) -> tuple[float, float]:
    """(rise, cost) of these levels."""
    at = [(bucket, tuple(levels[option] for option in bucket.scope)) for bucket in tree]
    return (
        math.fsum(float(bucket.rise[key]) for bucket, key in at),
        math.fsum(float(bucket.cost[key]) for bucket, key in at),
    )


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


def _within(tree: Tree, number: int, rise: float, cost: float, inner: Sequence[Floats]) -> Floats:
    """The weighted sum of a bucket and of all below it, over its scope."""
    bucket = tree[number]
    whole = rise * bucket.rise + cost * bucket.cost
    for child in bucket.children:
        whole = whole + _spread(inner[child], tree[child].separator, bucket.scope)
    return whole


def _inward(tree: Tree, rise: float, cost: float) -> list[Floats]:
    """For each bucket the least weighted sum of it and all below, over its separator."""
    inner: list[Floats] = []
    for number in range(len(tree) - 1):
        inner.append(_within(tree, number, rise, cost, inner).min(axis=0))
    return inner


def _outward(tree: Tree, rise: float, cost: float, inner: Sequence[Floats]) -> list[Floats]:
    """For each bucket the least weighted sum of everything that is not below it, over its separator."""
    outer: list[Floats] = [np.zeros(())] * len(tree)
    for number in range(len(tree) - 1, -1, -1):
        bucket = tree[number]
        beyond = outer[number]
        own = rise * bucket.rise + cost * bucket.cost + (beyond[np.newaxis] if bucket.scope else 0)
        spread = [_spread(inner[c], tree[c].separator, bucket.scope) for c in bucket.children]
        for index, child in enumerate(bucket.children):
            whole = own
            for other, table in enumerate(spread):
                if other != index:
                    whole = whole + table
            kept = tree[child].separator
            gone = tuple(axis for axis, o in enumerate(bucket.scope) if o not in kept)
            left = [option for option in bucket.scope if option in kept]
            least = whole.min(axis=gone) if gone else whole
            outer[child] = np.transpose(least, [left.index(option) for option in kept])
    return outer


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
        self.inner = _inward(tree, 1.0, multiplier)
        self.outer = _outward(tree, 1.0, multiplier, self.inner)
        self.cheapest = _inward(tree, 0.0, 1.0)
        self.cheapest_beyond = _outward(tree, 0.0, 1.0, self.cheapest)
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
