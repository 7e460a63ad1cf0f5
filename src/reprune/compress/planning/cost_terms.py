"""The counted cost (MACs, parameters, bytes) as a sum of small tables, equal to the cost model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from reprune.compress.planning.costs import CostModel
from reprune.compress.planning.terms import Rungs, Term, Terms, merged
from reprune.core.artifacts import block_key

if TYPE_CHECKING:
    from reprune.compress.planning.costs import Integers

# What a part of an axis has left, by the widths of the groups that decide it.
Part: TypeAlias = "tuple[tuple[str, ...], dict[tuple[int, ...], int]]"

Unit = Literal["macs", "params", "bytes"]
ROWS = {"params": 0, "macs": 1, "bytes": 2}


def cost_terms(cost: CostModel, rungs: Rungs, unit: Unit) -> Terms:
    """`cost` in `unit` over the groups and block keys of `rungs`, exact at every combination of rungs
    (below 2^53); groups and blocks of the model that are not in `rungs` stay whole.

    A layer's cost is a product of two axes. Where groups lie side by side on an axis, what is left of
    it is a sum, and the product falls into tables over two groups; where they cross, one table holds
    all that cross there.
    """
    row = ROWS[unit]
    axes = [_parts(cost, axis, rungs) for axis in range(len(cost.lengths))]
    home = {
        int(term): name
        for name, (_, lie) in cost.blocks.items()
        if block_key(name) in rungs
        for term in lie
    }
    fixed = float(cost.fixed[row])
    terms = [
        Term(options=(block_key(name),), values={(0,): -float(own[row]), (1,): 0.0})
        for name, (own, _) in cost.blocks.items()
        if block_key(name) in rungs
    ]
    for number, (first, second) in enumerate(cost.terms):
        coefficient = int(cost.coefficients[row, number])
        if coefficient == 0:
            continue
        block = home.get(number)
        for part in _product(axes[first], axes[second], rungs):
            names, values = part if block is None else _inside(part, block_key(block))
            terms.append(
                Term(
                    options=names,
                    values={key: float(coefficient * value) for key, value in values.items()},
                )
            )
    return merged(fixed, terms, rungs)


def _parts(cost: CostModel, axis: int, rungs: Rungs) -> list[Part]:
    """What is left of an axis as a sum of parts, each over as few groups as decide it."""
    length = int(cost.lengths[axis])
    lost: dict[str, list[Integers]] = {}
    for name, tables in zip(cost.groups, cost.lost, strict=True):
        for at, table in tables:
            if at == axis and name in rungs:
                lost.setdefault(name, []).append(table)
    if not cost.crossing & lost.keys():
        alone: list[Part] = [
            (
                (name,),
                {(width,): -sum(int(table[width]) for table in tables) for width in rungs[name]},
            )
            for name, tables in lost.items()
        ]
        return [((), {(): length}), *alone]
    names = tuple(lost)
    left = {}
    for key in product(*(rungs[name] for name in names)):
        beside = across = length
        for name, width in zip(names, key, strict=True):
            gone = sum(int(table[width]) for table in lost[name])
            if name in cost.crossing:
                across -= gone
            else:
                beside -= gone
        left[key] = beside * across // length
    return [(names, left)]


def _product(first: list[Part], second: list[Part], rungs: Rungs) -> Iterator[Part]:
    """The parts of the product of two sums; a group that is in both factors stays one option."""
    for names, values in first:
        for others, more in second:
            union = tuple(dict.fromkeys((*names, *others)))
            table = {}
            for key in product(*(rungs[name] for name in union)):
                at = dict(zip(union, key, strict=True))
                table[key] = (
                    values[tuple(at[name] for name in names)]
                    * more[tuple(at[name] for name in others)]
                )
            if np.any(list(table.values())):
                yield union, table


def _inside(part: Part, block: str) -> Part:
    """The part where the block is there, 0 where it is gone."""
    names, values = part
    return (
        (*names, block),
        {(*key, kept): value * kept for key, value in values.items() for kept in (0, 1)},
    )
