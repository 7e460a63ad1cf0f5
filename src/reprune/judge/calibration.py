"""Whether a model is as often right as it says: the expected calibration error.

Records: `confidence`, in millionths (core.records.SCALE), and `correct`, 0 or 1.
"""

from __future__ import annotations

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


ECE = Metric(
    columns=("confidence", "correct"),
    form="statistic",
    higher_is_better=False,
    statistic=_ece,
    problem=out_of_range,
)
