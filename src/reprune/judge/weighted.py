"""Statistics of weighted examples, for a whole matrix of weights at once, exact and the same everywhere.

A Statistic is prepared once with the records and `rows`, the row of the weight matrix that belongs to
each example (its source's, or its own). What comes back takes weights (rows, resamples), whole numbers
of 0 or more, and gives one value for each resample; NaN where it is not defined. A weight of 2 means that
the example is there twice. Sums are of whole numbers, so that their order does not matter; what is left
are single operations on doubles, which IEEE 754 rounds in one way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reprune.judge.bootstrap import Floats, Integers

Weighted: TypeAlias = Callable[[Floats], Floats]
Statistic: TypeAlias = Callable[[Mapping[str, Integers], Integers], Weighted]

MOST_WEIGHT = (
    2**26
)  # examples in a resample, up to which every sum of the built-in statistics is exact
_LIMB = 24


def of_everything(statistic: Statistic, columns: Mapping[str, Integers]) -> float:
    """The statistic of all examples, each weighing one."""
    count = next(iter(columns.values())).shape[-1]
    one = np.ones((1, 1), dtype=np.float64)
    return float(statistic(columns, np.zeros(count, dtype=np.int64))(one)[0])


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Weighted sums of integer columns: exact below 2**53, above it rounded in one way everywhere.

    Columns are added up over each row of the weights first, then split into limbs of 24 bits: products
    of those with weights stay whole numbers that a double holds.
    """

    rows: Integers
    limbs: tuple[Floats, ...]

    def __call__(self, weights: Floats) -> Floats:
        """(columns, resamples)."""
        mine = weights[self.rows]
        total = self.limbs[-1] @ mine
        for limb in self.limbs[-2::-1]:
            total = total * 2**_LIMB + limb @ mine
        return total


def sums(columns: Integers, rows: Integers) -> Sums:
    """`columns` is (columns, examples), each of them below 2**63 in sum."""
    used, places = np.unique(rows, return_inverse=True)
    table = np.zeros((columns.shape[0], len(used)), dtype=np.int64)
    for column, line in zip(columns, table, strict=True):
        np.add.at(line, places, column)
    limbs = []
    while ((table >> _LIMB != 0) & (table >> _LIMB != -1)).any():
        limbs.append(table & (2**_LIMB - 1))
        table >>= _LIMB
    return Sums(rows=used, limbs=tuple(limb.astype(np.float64) for limb in [*limbs, table]))


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Examples sorted by a number, equal ones as one level. `ends` are the places after each level."""

    order: Integers
    ends: Integers
    level: Integers


def levels(numbers: Integers) -> Levels:
    """Ascending. `level` numbers the level of each example, in the sorted order."""
    order = np.argsort(numbers, kind="stable").astype(np.int64)
    ranked = numbers[order]
    new = np.flatnonzero(np.diff(ranked)) + 1
    ends = np.append(new, len(ranked)).astype(np.int64)
    level = np.zeros(len(ranked), dtype=np.int64)
    level[new] = 1
    return Levels(order=order, ends=ends, level=np.cumsum(level))


def divided(numerator: Floats | Integers, denominator: Floats | Integers) -> Floats:
    """The quotient; NaN where the denominator is 0."""
    some = denominator != 0
    quotient: Floats = np.where(some, numerator / np.where(some, denominator, 1), np.nan)
    return quotient


def cumulated(rows: Floats, along: np.ufunc = np.add) -> Floats:
    """Sums (or, with np.maximum, maxima) down to each row, of numbers of 0 or more.

    In blocks, since numpy's own accumulation goes column by column; of whole numbers the sums are exact
    in any order.
    """
    count, width = rows.shape
    side = max(1, math.isqrt(count))
    padded = np.zeros((-(-count // side) * side, width), dtype=np.float64)
    padded[:count] = rows
    blocks = padded.reshape(-1, side, width)
    for place in range(1, side):
        along(blocks[:, place - 1], blocks[:, place], out=blocks[:, place])
    carried = along.accumulate(blocks[:-1, -1], axis=0)
    along(blocks[1:], carried[:, None], out=blocks[1:])
    return padded[:count]


def dot(*factors: Floats) -> Floats:
    """Column by column the sum of products of whole numbers; exact while below 2**53."""
    total: Floats = np.einsum(",".join(["ij"] * len(factors)) + "->j", *factors)
    return total
