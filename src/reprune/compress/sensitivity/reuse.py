"""Whether an older table still holds, judged from a few of its rows that were measured again; and the
table that is then made of both. Pure: it measures nothing.

Retraining alone moves rows: all of a table by a common factor, and each row by one of its own. What is asked
is whether they moved further than that, by a chi-square on their differences, whose covariance is made of
both factors and of the standard errors; and whether the champion, the one model that is in both generations,
does worse on the new data than it did on its own. Both are asked at one error rate, by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from reprune.compress.paired import BatchLosses
from reprune.compress.planning.allocate import Problem, Widths
from reprune.compress.planning.costs import CostModel
from reprune.core.artifacts import (
    BlockSensitivity,
    CutPoint,
    GroupSensitivity,
    RowCheck,
    Sensitivity,
    block_key,
)

# Relative standard deviations of rows from one training to the next on data that did not shift: of all
# rows of a table together, and of each alone. Set above what retraining from other seeds shows on small
# networks (benchmarks/generations.py prints it), for a needless measurement costs less than a wrong table.
COMMON, OWN = 0.5, 0.5
FLOOR = 0.1
# A champion only counts as worse on new data from this rise of its loss on: less makes no table wrong.
WORSE = 0.1
# No estimate from a few rows makes a table more than so many times larger or smaller. A level that one of
# the rows is so far off, or all of them together by TOGETHER, does not hold for the others either: these
# rows will stand as measured among the scaled ones.
MOST, TOGETHER = 4.0, 2.0
TINY = 1e-15

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A group, or a block by its key, to be measured again with `keep` channels left (0: without it)."""

    name: str
    keep: int
    why: Literal["near", "random"]


def nearest(problem: Problem, widths: Widths) -> list[str]:
    """The options of the problem, the one first whose choice would flip first if the budget were another.

    At a budget every step of an option has a price, loss for cost. A good plan takes all below some price and
    none above it: how far an option's next and last steps are from that price, as a ratio, is how safe
    it is. Options without a choice are left out.
    """
    down, up = _prices(problem, widths)
    below = min(down.values(), default=0.0) or max(up.values(), default=1.0)
    above = max(up.values(), default=0.0) or below
    price = math.sqrt(max(below, TINY) * max(above, TINY))

    def safety(name: str) -> float:
        found = [max(steps[name], TINY) for steps in (down, up) if name in steps]
        return min(abs(math.log(one / price)) for one in found)

    return sorted({*down, *up}, key=lambda name: (safety(name), name))


def _prices(problem: Problem, widths: Widths) -> tuple[dict[str, float], dict[str, float]]:
    """Loss for cost of each option's next step down, and of the last one that was taken. Of several budgets
    the one that is used up furthest counts: the others ask nothing there.
    """
    cost = max(problem.limits, key=lambda limit: limit.cost(widths) / (limit.most or 1.0)).cost
    base = cost(widths)
    down: dict[str, float] = {}
    up: dict[str, float] = {}
    for name, rungs in problem.rungs.items():
        at, rises = rungs.index(widths[name]), problem.rises[name]
        for steps, other in ((down, at - 1), (up, at + 1)):
            if not 0 <= other < len(rungs):
                continue
            moved = abs(cost({**widths, name: rungs[other]}) - base)
            if moved > 0.0:
                steps[name] = abs(rises[other] - rises[at]) / moved
    return down, up


def units_to_check(
    table: Sensitivity, ranked: Sequence[str], widths: Widths, *, near: float, seed: int
) -> tuple[Unit, ...]:
    """The share `near` of the units of the table from the front of `ranked`, rounded but at least one, and as
    many at random.
    """
    known = {group.group: tuple(cut.keep for cut in group.cuts) for group in table.groups}
    known |= {block_key(block.block): (0,) for block in table.blocks or ()}
    count = max(1, math.floor(near * len(known) + 0.5))
    first = [name for name in ranked if name in known][:count]
    rest = [name for name in known if name not in first]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:count]
    chosen: list[tuple[str, Literal["near", "random"]]] = [(name, "near") for name in first]
    chosen += [(rest[i], "random") for i in sorted(drawn)]
    return tuple(
        Unit(
            name=name,
            keep=min(known[name], key=lambda keep: (abs(keep - widths.get(name, keep)), keep)),
            why=why,
        )
        for name, why in chosen
        if known[name]
    )


def row_of(table: Sensitivity, unit: Unit) -> tuple[float, float]:
    """The unit's rise in the table at its `keep`, and its standard error."""
    for block in table.blocks or ():
        if block_key(block.block) == unit.name:
            return block.loss_increase, block.standard_error
    cuts = next(group.cuts for group in table.groups if group.group == unit.name)
    cut = next(cut for cut in cuts if cut.keep == unit.keep)
    return cut.loss_increase, cut.standard_error


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far rows moved: the common factor as far as it shows (`level`), and the probability of rows that
    moved as far although nothing but the training did; `apart` where they are not what the level makes of
    them. The chi-square alone would hardly see that: as a row's scale grows with it, ten times as much is
    not three standard deviations.
    """

    level: float
    p_value: float
    apart: bool


def moved(rows: Sequence[RowCheck], base_loss: float) -> Moved:
    """From at least one row. A row's scale is the mean of its sizes, so that doubling counts as halving, and
    at least FLOOR of the dense loss: what is less is mostly what renewing the statistics does by itself.
    """
    before = np.array([row.before for row in rows])
    now = np.array([row.now for row in rows])
    scale = np.maximum((np.abs(before) + np.abs(now)) / 2.0, FLOOR * abs(base_loss))
    errors = np.array([row.before_error**2 + row.now_error**2 for row in rows])
    own = errors + (OWN * scale) ** 2 + TINY
    covariance = np.diag(own) + np.outer(scale, scale) * COMMON**2
    apart = now - before
    statistic = float(apart @ np.linalg.solve(covariance, apart))
    # The mean of the factor given the rows, under a prior of 1 +- COMMON.
    shared = float((before * apart / own).sum())
    shift = shared / (1.0 / COMMON**2 + float((before**2 / own).sum()))
    level = min(max(1.0 + shift, 1.0 / MOST), MOST)
    return Moved(
        level=level,
        p_value=float(stats.chi2.sf(statistic, len(rows))),
        apart=_apart(level * before, now, np.sqrt(errors), FLOOR * abs(base_loss)),
    )


def _apart(expected: Array, now: Array, errors: Array, floor: float) -> bool:
    """Whether a row is MOST times what is expected of it, or all are TOGETHER times that, and more than two
    standard errors off; below `floor` nothing is told apart.
    """
    # The rows, and behind them their mean.
    was, found = (np.append(rises, rises.mean()) for rises in (expected, now))
    error = np.append(errors, math.hypot(*errors) / len(errors))
    most = np.append(np.full(len(errors), MOST), TOGETHER)
    ratio = np.maximum(found, floor + TINY) / np.maximum(was, floor + TINY)
    far = np.maximum(ratio, 1.0 / ratio) > most
    return bool((far & (np.abs(found - was) > 2.0 * error)).any())


def champion_p(now: BatchLosses, before: float) -> float:
    """The probability that the champion's loss on fresh examples is at least as high as `now`, had it not
    risen by more than WORSE of `before`, its loss on as many examples of its own generation.

    Student's t over batches; the spread of the loss that it had then is taken to be that of now. A loss that
    is no number any more has risen.
    """
    if not math.isfinite(now.mean):
        return 0.0
    count = len(now.losses)
    if count < 2:
        return 1.0
    mean = now.mean
    squares = math.fsum(
        (size * (loss - mean)) ** 2 for loss, size in zip(now.losses, now.sizes, strict=True)
    )
    error = math.sqrt(2.0 * squares * count / (count - 1)) / now.examples
    gap = mean - before - WORSE * abs(before)
    return float(stats.t.sf(gap / max(error, TINY), count - 1))


def alarms(p_values: Mapping[str, float | None], rate: float) -> list[str]:
    """The names whose p-values Holm's procedure rejects at `rate` for all together; None was not tested."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    found: list[str] = []
    for place, (p, name) in enumerate(known):
        if p > rate / (len(known) - place):
            break
        found.append(name)
    return found


def spliced(
    table: Sensitivity, rows: Sequence[RowCheck], level: float, cost: CostModel
) -> tuple[tuple[GroupSensitivity, ...], tuple[BlockSensitivity, ...]]:
    """The table's groups and blocks times `level`; a unit that was measured again has that rise at its cut,
    and its other cuts are scaled as that one moved.
    """
    checked = {row.unit: row for row in rows}

    def factor(name: str) -> float:
        row = checked.get(name)
        if row is None or row.before <= 0.0 or row.now <= 0.0:
            return level
        return min(max(row.now / row.before, level / MOST), level * MOST)

    def point(group: GroupSensitivity, cut: CutPoint) -> CutPoint:
        row, by, counted = (
            checked.get(group.group),
            factor(group.group),
            cost({group.group: cut.keep}),
        )
        again = row is not None and row.keep == cut.keep
        return CutPoint(
            keep=cut.keep,
            loss_increase=row.now if row and again else cut.loss_increase * by,
            standard_error=row.now_error if row and again else cut.standard_error * by,
            macs=counted.macs,
            params=counted.params,
        )

    groups = tuple(
        GroupSensitivity(
            group=group.group,
            width=group.width,
            cuts=tuple(point(group, cut) for cut in group.cuts),
        )
        for group in table.groups
    )
    blocks = []
    for block in table.blocks or ():
        row, counted = checked.get(block_key(block.block)), cost({block_key(block.block): 0})
        blocks.append(
            BlockSensitivity(
                block=block.block,
                loss_increase=row.now if row else block.loss_increase * level,
                standard_error=row.now_error if row else block.standard_error * level,
                macs=counted.macs,
                params=counted.params,
            )
        )
    return groups, tuple(blocks)
