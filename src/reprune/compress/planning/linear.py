"""The least rise under several limits as an integer programme (HiGHS), with the gap that is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from reprune.compress.planning.elimination import Floats

SECONDS = 60.0
# The solver's absolute gap is 1e-6 and cannot be set: the objective is scaled to about this.
OBJECTIVE = 1e4
# In units of its limit a coefficient may be this large; beyond it the solver calls the possible impossible.
LARGEST = 1e6
# Answers that fit only within the solver's tolerance are excluded one by one, so many of them.
MOST_EXCLUDED = 20


@dataclass(frozen=True, kw_only=True)
class Programme:
    """`losses` are by option and level; each of `limits` is (constant, tables over options, most)."""

    losses: Sequence[Sequence[float]]
    limits: Sequence[tuple[float, Sequence[tuple[tuple[int, ...], Floats]], float]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The best levels found, None where none were; no levels that fit rise by less than `bound`.

    `impossible` says that it is proven that none fit.
    """

    levels: list[int] | None
    bound: float
    impossible: bool = False


def programmed(
    programme: Programme, fits: Callable[[list[int]], bool], *, seconds: float = SECONDS
) -> Answer:
    """The best answer within so many seconds.

    A level is a 0/1 variable, and an entry of a table over several options one between 0 and 1, whose
    sums over the other options are the levels' own variables: where those are whole, so are these.
    What fits only within the solver's tolerance, and not by `fits`, is excluded and solved again.
    """
    columns = _Columns(programme)
    cuts: list[list[int]] = []
    bound = -np.inf
    for _ in range(MOST_EXCLUDED):
        result = columns.solve(cuts, seconds)
        # What is excluded does not fit, so the bound over the rest is one over all that fit.
        dual = getattr(result, "mip_dual_bound", None)
        bound = -np.inf if dual is None else float(dual) / columns.scale
        if result.x is None:
            return Answer(levels=None, bound=bound, impossible=result.status == 2)
        levels = columns.levels(result.x)
        if fits(levels):
            return Answer(levels=levels, bound=bound)
        cuts.append(levels)
    return Answer(levels=None, bound=bound)


class _Columns:
    """The variables: first every option's levels, then the entries of each set of options."""

    def __init__(self, programme: Programme) -> None:
        self.losses = programme.losses
        self.starts = np.cumsum([0, *(len(loss) for loss in programme.losses)])
        self.objective = np.concatenate([np.asarray(loss, float) for loss in programme.losses])
        top = float(self.objective.max(initial=0.0))
        self.scale = OBJECTIVE / top if top > 0.0 else 1.0
        self.entries: dict[tuple[int, ...], int] = {}
        self.count = int(self.starts[-1])
        self.rows: list[tuple[dict[int, float], float, float]] = []
        for option in range(len(self.losses)):
            self.rows.append((dict.fromkeys(self._of(option), 1.0), 1.0, 1.0))
        for constant, tables, most in programme.limits:
            self._limit(constant, tables, most)

    def solve(self, cuts: Sequence[Sequence[int]], seconds: float):  # type: ignore[no-untyped-def]  # scipy's result has no type
        excluded = [
            (
                {int(self.starts[o]) + level: 1.0 for o, level in enumerate(levels)},
                -np.inf,
                len(levels) - 1.0,
            )
            for levels in cuts
        ]
        rows = [*self.rows, *excluded]
        where = [(row, col, v) for row, (terms, *_) in enumerate(rows) for col, v in terms.items()]
        places = np.array([entry[:2] for entry in where], dtype=np.int64).reshape(-1, 2).T
        matrix = coo_array(
            (np.array([entry[2] for entry in where]), (places[0], places[1])),
            shape=(len(rows), self.count),
        ).tocsr()
        whole = np.zeros(self.count, dtype=np.int64)
        whole[: self.starts[-1]] = 1
        cost = np.zeros(self.count)
        cost[: self.starts[-1]] = self.objective * self.scale
        return milp(
            cost,
            integrality=whole,
            bounds=Bounds(0.0, 1.0),
            constraints=LinearConstraint(
                matrix, [row[1] for row in rows], [row[2] for row in rows]
            ),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )

    def levels(self, values: Floats) -> list[int]:
        return [int(np.argmax(values[self._of(option)])) for option in range(len(self.losses))]

    def _of(self, option: int) -> range:
        return range(int(self.starts[option]), int(self.starts[option + 1]))

    def _limit(
        self, constant: float, tables: Sequence[tuple[tuple[int, ...], Floats]], most: float
    ) -> None:
        """One row in units of the limit, so that the solver's tolerance is a share of it; but no coefficient
        is larger than LARGEST, which the solver could not compute with.
        """
        top = max((float(np.abs(table).max(initial=0.0)) for _, table in tables), default=0.0)
        unit = max(abs(most), top / LARGEST) or 1.0
        row: dict[int, float] = {}
        for options, table in tables:
            first = self._entry(options)
            for index, value in enumerate(table.ravel()):
                row[first + index] = row.get(first + index, 0.0) + float(value) / unit
        self.rows.append((row, -np.inf, (most - constant) / unit))

    def _entry(self, options: tuple[int, ...]) -> int:
        """The first column of a table over these options; made, and tied to their levels, once."""
        if len(options) == 1:
            return int(self.starts[options[0]])
        if options not in self.entries:
            self.entries[options] = first = self.count
            sizes = [len(self.losses[option]) for option in options]
            keys = list(product(*(range(size) for size in sizes)))
            self.count += len(keys)
            for axis, option in enumerate(options):
                for level, column in enumerate(self._of(option)):
                    terms = {
                        first + index: 1.0 for index, key in enumerate(keys) if key[axis] == level
                    }
                    self.rows.append((terms | {column: -1.0}, 0.0, 0.0))
        return self.entries[options]
