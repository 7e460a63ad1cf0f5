"""Whether a model is as often right as it says: the expected calibration error.

A binned error is an absolute value: noise makes it larger, most where a model is well calibrated. So the
interval of a loss is widened by what noise can account for, and a margin below that cannot be shown.

Records: `confidence`, in millionths (core.records.SCALE), and `correct`, 0 or 1.
"""

from __future__ import annotations

import math

import numpy as np

from reprune.core.records import SCALE
from reprune.judge.bootstrap import Floats, Integers
from reprune.judge.metrics import Columns, Metric, out_of_range
from reprune.judge.weighted import Weighted, divided, sums

BINS = 15


def _ece(columns: Columns, rows: Integers) -> Weighted:
    """The mean, over examples, of |accuracy - confidence| of the bin they fall in; BINS bins of equal
    width, closed above (Guo et al. 2017, ICML, arXiv:1706.04599, section 2).
    """
    confidence, correct = columns["confidence"], columns["correct"]
    place = np.maximum(confidence * BINS - 1, 0) // SCALE
    excess = (np.arange(BINS)[:, None] == place) * (confidence - SCALE * correct)
    binned = sums(excess, rows)
    everybody = sums(np.ones((1, len(correct)), dtype=np.int64), rows)

    def value(weights: Floats) -> Floats:
        return divided(np.abs(binned(weights)).sum(axis=0), SCALE * everybody(weights)[0])

    return value


def _noise(columns: Columns, rows: Integers) -> float:
    """How much larger the error comes out than it is, if every bin is as good as calibrated.

    That is the mean of |Z| times the standard error of each bin's gap, and the most there can be: the
    surplus of |gap + noise| over |gap| falls with |gap|. Half an example of each bin is taken to differ.
    """
    confidence, correct = columns["confidence"], columns["correct"]
    place = np.maximum(confidence * BINS - 1, 0) // SCALE
    gap = confidence - SCALE * correct
    errors = []
    for one in range(BINS):
        inside = place == one
        count = int(np.count_nonzero(inside))
        if count:
            off = gap[inside] - int(gap[inside].sum()) / count
            _, unit = np.unique(rows[inside], return_inverse=True)
            totals = np.zeros(int(unit.max()) + 1)
            np.add.at(totals, unit, off)
            errors.append(math.sqrt(math.fsum((totals * totals).tolist()) + SCALE**2 / 4))
    return math.sqrt(2 / math.pi) * math.fsum(errors) / (SCALE * len(correct))


ECE = Metric(
    columns=("confidence", "correct"),
    form="statistic",
    higher_is_better=False,
    statistic=_ece,
    problem=out_of_range,
    noise=_noise,
)
