"""How near predicted numbers are to the true ones: mean errors, and two correlations.

Records: `target`, where the true value lies in the task's declared range, in millionths (0 is its lower
end, core.records.SCALE its upper one), and `predicted` in the same grain, at most one range beyond an end.
"""

from __future__ import annotations

import math

import numpy as np

from reprune.core.records import SCALE
from reprune.judge.bootstrap import Floats, Integers
from reprune.judge.metrics import Columns, Metric, out_of_range
from reprune.judge.weighted import Levels, Weighted, cumulated, divided, dot, levels, sums

_SQUARE_GRAIN = 1000  # squared errors are kept in 1e-9 of the squared range


def _misses(columns: Columns) -> Integers:
    """By how much each prediction misses; at most the whole range."""
    misses: Integers = np.minimum(np.abs(columns["predicted"] - columns["target"]), SCALE)
    return misses


def _absolute(columns: Columns, dense: Columns) -> Integers:  # noqa: ARG001  every `derive` takes it
    misses = _misses(columns)
    return np.stack([misses, np.full_like(misses, SCALE)])


def _squared(columns: Columns, dense: Columns) -> Integers:  # noqa: ARG001  every `derive` takes it
    squares = (_misses(columns) ** 2 + _SQUARE_GRAIN // 2) // _SQUARE_GRAIN
    return np.stack([squares, np.full_like(squares, SCALE**2 // _SQUARE_GRAIN)])


def _nearer(columns: Columns) -> Integers:
    nearness: Integers = -np.abs(columns["predicted"] - columns["target"])
    return nearness


def _pearson(columns: Columns, rows: Integers) -> Weighted:
    """The product-moment correlation of prediction and truth."""
    x, y = columns["predicted"], columns["target"]
    # About the middle of all examples: the sums below then hardly cancel.
    x, y = x - int(x.sum()) // len(x), y - int(y.sum()) // len(y)
    moments = sums(np.stack([np.ones_like(x), x, y, x * y, x * x, y * y]), rows)

    def value(weights: Floats) -> Floats:
        n, sum_x, sum_y, xy, xx, yy = moments(weights)
        return _correlation(n * xy - sum_x * sum_y, n * xx - sum_x**2, n * yy - sum_y**2)

    return value


def _spearman(columns: Columns, rows: Integers) -> Weighted:
    """The product-moment correlation of the ranks, equal values sharing their mean rank (Kendall 1945,
    Biometrika 33, 239-251). Ranks are those of the resample.
    """
    by_x = levels(columns["predicted"])
    rows = rows[by_x.order]
    by_y = levels(columns["target"][by_x.order])
    largest = (int(rows.max()) + 1) * int(np.bincount(rows).max())
    # Products of three numbers up to `largest` must stay below 2**53.
    grain = 2.0 ** max(0, math.ceil((3 * math.log2(largest) - 52) / 2))

    def value(weights: Floats) -> Floats:
        mine = weights[rows]
        x = _twice_centred_ranks(by_x, mine)
        y = np.empty_like(mine)
        y[by_y.order] = _twice_centred_ranks(by_y, mine[by_y.order])
        if grain > 1.0:
            x, y = np.floor(x / grain), np.floor(y / grain)
        n, sum_x, sum_y = mine.sum(axis=0), dot(mine, x), dot(mine, y)
        xx, yy = dot(mine, x, x), dot(mine, y, y)
        x *= mine
        return _correlation(
            n * dot(x, y) - sum_x * sum_y, n * xx - sum_x * sum_x, n * yy - sum_y * sum_y
        )

    return value


def _twice_centred_ranks(by: Levels, weights: Floats) -> Floats:
    """Twice the mean rank of each example less the middle rank, examples and ranks in ascending order.

    They are whole numbers, and weigh out to 0.
    """
    upto = cumulated(weights)
    everything = upto[-1].copy()
    if len(by.ends) == len(by.level):
        twice = upto
        twice *= 2
        twice -= weights
        twice -= everything
        return twice
    upto = upto[by.ends - 1]
    twice = upto - everything
    twice[1:] += upto[:-1]
    ranks: Floats = twice[by.level]
    return ranks


def _correlation(xy: Floats, xx: Floats, yy: Floats) -> Floats:
    """NaN where either does not vary."""
    spread = np.sqrt(np.maximum(xx, 0.0)) * np.sqrt(np.maximum(yy, 0.0))
    found: Floats = np.clip(divided(xy, spread), -1.0, 1.0)
    return found


def _varying(columns: Columns) -> str:
    still = [name for name in ("target", "predicted") if np.ptp(columns[name]) == 0]
    return out_of_range(columns) or (f"hold the same {still[0]} for every example" if still else "")


_COLUMNS, _TRUTHS = ("predicted", "target"), ("target",)

MAE = Metric(
    columns=_COLUMNS,
    form="ratio",
    higher_is_better=False,
    truths=_TRUTHS,
    derive=_absolute,
    problem=out_of_range,
)
MSE = Metric(
    columns=_COLUMNS,
    form="ratio",
    higher_is_better=False,
    truths=_TRUTHS,
    derive=_squared,
    problem=out_of_range,
)
PEARSON = Metric(
    columns=_COLUMNS,
    form="statistic",
    bounds=(-1.0, 1.0),
    truths=_TRUTHS,
    statistic=_pearson,
    problem=_varying,
    marks=_nearer,
)
SPEARMAN = Metric(
    columns=_COLUMNS,
    form="statistic",
    bounds=(-1.0, 1.0),
    truths=_TRUTHS,
    statistic=_spearman,
    problem=_varying,
    marks=_nearer,
)
