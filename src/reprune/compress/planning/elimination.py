"""Sums of tables over few options each, as a tree in which options are eliminated one by one.

Pure numbers: an option is an index, a level is the index of its rung. An option is eliminated together
with those it shares a table with, so that a chain needs tables over two options, and a width shared by
many layers is enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Beyond this the tables are too wide to be faster than integer programming.
MOST_ENTRIES = 20_000


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
        whole = whole + spread(table, options, scope)
    return whole


def spread(table: Floats, options: Sequence[int], scope: Sequence[int]) -> Floats:
    """`table` over `options` with an axis for each option of `scope`, of length 1 where it has none."""
    order = sorted(range(len(options)), key=lambda axis: scope.index(options[axis]))
    turned = np.transpose(table, order)
    shape = iter(turned.shape)
    return turned.reshape([next(shape) if option in options else 1 for option in scope])


def minimiser(tree: Tree, rise: float, cost: float) -> list[int]:
    """The levels with the least rise x their rise + cost x their cost."""
    inner = inward(tree, rise, cost)
    levels = [0] * (len(tree) - 1)
    for number in range(len(tree) - 2, -1, -1):
        bucket = tree[number]
        at = tuple(levels[option] for option in bucket.separator)
        whole = within(tree, number, rise, cost, inner)
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


def within(tree: Tree, number: int, rise: float, cost: float, inner: Sequence[Floats]) -> Floats:
    """The weighted sum of a bucket and of all below it, over its scope."""
    bucket = tree[number]
    whole = rise * bucket.rise + cost * bucket.cost
    for child in bucket.children:
        whole = whole + spread(inner[child], tree[child].separator, bucket.scope)
    return whole


def inward(tree: Tree, rise: float, cost: float) -> list[Floats]:
    """For each bucket the least weighted sum of it and all below, over its separator."""
    inner: list[Floats] = []
    for number in range(len(tree) - 1):
        inner.append(within(tree, number, rise, cost, inner).min(axis=0))
    return inner


def outward(tree: Tree, rise: float, cost: float, inner: Sequence[Floats]) -> list[Floats]:
    """For each bucket the least weighted sum of everything that is not below it, over its separator."""
    outer: list[Floats] = [np.zeros(())] * len(tree)
    for number in range(len(tree) - 1, -1, -1):
        bucket = tree[number]
        beyond = outer[number]
        own = rise * bucket.rise + cost * bucket.cost + (beyond[np.newaxis] if bucket.scope else 0)
        tables = [spread(inner[c], tree[c].separator, bucket.scope) for c in bucket.children]
        for index, child in enumerate(bucket.children):
            whole = own
            for other, table in enumerate(tables):
                if other != index:
                    whole = whole + table
            kept = tree[child].separator
            gone = tuple(axis for axis, o in enumerate(bucket.scope) if o not in kept)
            left = [option for option in bucket.scope if option in kept]
            least = whole.min(axis=gone) if gone else whole
            outer[child] = np.transpose(least, [left.index(option) for option in kept])
    return outer
