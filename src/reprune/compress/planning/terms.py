"""A cost as a sum of small tables, each over a few options: what exact solvers and tables share.

Pure: an option is the name of a group or a block's key, a rung is a width (for a block 0 or 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

Rungs = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Term:
    """One addend: its value at every combination of the rungs of `options` (one to three as a rule), in
    their order.
    """

    options: tuple[str, ...]
    values: Mapping[tuple[int, ...], float]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """cost(widths) = `constant` + the sum of all `terms`; an option that is not in the widths is at its
    `full` width, and one that is in no term costs nothing.
    """

    constant: float
    terms: tuple[Term, ...]
    full: Mapping[str, int]

    def __call__(self, widths: Mapping[str, int]) -> float:
        """The cost at these widths; correctly rounded, so that the order of terms does not matter.
        KeyError for a width that is no rung.
        """
        return math.fsum(
            (
                self.constant,
                *(
                    term.values[tuple(widths.get(name, self.full[name]) for name in term.options)]
                    for term in self.terms
                ),
            )
        )

    def scaled(self, factor: float) -> Terms:
        """The same cost in another unit."""
        return Terms(
            constant=self.constant * factor,
            terms=tuple(
                Term(
                    options=term.options,
                    values={key: value * factor for key, value in term.values.items()},
                )
                for term in self.terms
            ),
            full=self.full,
        )


def merged(constant: float, terms: Iterable[Term], rungs: Rungs) -> Terms:
    """The sum of `terms` with one table for each set of options; an option with a single rung is taken
    out of the tables, and a table that is left without options goes into the constant.
    """
    tables: dict[tuple[str, ...], dict[tuple[int, ...], float]] = {}
    fixed = [constant]
    order = {name: number for number, name in enumerate(rungs)}
    for term in terms:
        free = sorted(
            (name for name in term.options if len(rungs[name]) > 1), key=order.__getitem__
        )
        if not free:
            fixed.append(term.values[tuple(rungs[name][-1] for name in term.options)])
            continue
        table = tables.setdefault(tuple(free), {})
        for key in product(*(rungs[name] for name in free)):
            at = dict(zip(free, key, strict=True))
            whole = tuple(at.get(name, rungs[name][-1]) for name in term.options)
            table[key] = table.get(key, 0.0) + term.values[whole]
    return Terms(
        constant=math.fsum(fixed),
        terms=tuple(Term(options=names, values=table) for names, table in tables.items()),
        full={name: widths[-1] for name, widths in rungs.items()},
    )
