"""How well a score ranks positives above negatives: the area under the ROC curve, and average precision.

Records: `score`, any whole number of which more means 'rather positive' (only its order counts), and
`label`, 1 for a positive and 0 for a negative example.
"""

from __future__ import annotations

import numpy as np

from reprune.judge.bootstrap import Floats, Integers
from reprune.judge.metrics import Columns, Metric, out_of_range
from reprune.judge.weighted import Weighted, cumulated, divided, dot, levels

# Precisions are rounded to this grain before they are weighted and summed: sums of whole numbers.
GRAIN = 2**26


def _auc(columns: Columns, rows: Integers) -> Weighted:
    """P(score of a positive > score of a negative) + P(equal) / 2: the Mann-Whitney form of the area
    under the ROC curve (Hanley and McNeil 1982, Radiology 143, 29-36).
    """
    positive = columns["label"] == 1
    order = np.argsort(columns["score"][~positive], kind="stable")
    negatives = columns["score"][~positive][order]
    asked = columns["score"][positive]
    below = np.searchsorted(negatives, asked, side="left")
    not_above = np.searchsorted(negatives, asked, side="right")
    negative_rows, positive_rows = rows[~positive][order], rows[positive]

    def value(weights: Floats) -> Floats:
        mine = weights[positive_rows]
        nobody = np.zeros((1, weights.shape[1]), dtype=np.float64)
        passed = cumulated(np.concatenate([nobody, weights[negative_rows]]))
        twice = dot(mine, passed[below]) + dot(mine, passed[not_above])
        return divided(twice, 2 * mine.sum(axis=0) * passed[-1])

    return value


def average_precision(
    scores: Integers, hits: Integers, rows: Integers, *, envelope: bool
) -> Weighted:
    """The weighted sum over hits of the precision at their score, equal scores taken at once.

    It is to be divided by how many there are to be found. With `envelope` the precision at a score is
    the best one at that recall or above.
    """
    ranked = levels(-scores)
    hit = hits[ranked.order] == 1
    # Precision only falls between levels that hold a hit: all others can be left out.
    with_hits = np.unique(ranked.level[hit])
    last = ranked.ends[with_hits] - 1
    last_hit = np.searchsorted(ranked.level[hit], with_hits, side="right") - 1
    sorted_rows = rows[ranked.order]
    hit_rows = sorted_rows[hit]

    def value(weights: Floats) -> Floats:
        found = cumulated(weights[hit_rows])[last_hit]
        precision = found / np.maximum(cumulated(weights[sorted_rows])[last], 1.0)
        if envelope:
            precision = cumulated(precision[::-1], np.maximum)[::-1]
        gained = found.copy()
        gained[1:] -= found[:-1]
        return dot(gained, np.rint(precision * GRAIN)) / GRAIN

    return value


def _average_precision(columns: Columns, rows: Integers) -> Weighted:
    """The sum over thresholds of (R_k - R_(k-1)) P_k, not interpolated (Manning, Raghavan and Schuetze
    2008, Introduction to Information Retrieval, section 8.4).
    """
    found = average_precision(columns["score"], columns["label"], rows, envelope=False)
    positive_rows = rows[columns["label"] == 1]

    def value(weights: Floats) -> Floats:
        return divided(found(weights), weights[positive_rows].sum(axis=0))

    return value


def _problem(columns: Columns) -> str:
    wrong = out_of_range(columns)
    if wrong:
        return wrong
    count = int(columns["label"].sum())
    if count == 0:
        return "hold no positive example"
    return "hold no negative example" if count == len(columns["label"]) else ""


AUC = Metric(
    columns=("score", "label"),
    form="statistic",
    truths=("label",),
    statistic=_auc,
    problem=_problem,
)
AVERAGE_PRECISION = Metric(
    columns=("score", "label"),
    form="statistic",
    truths=("label",),
    statistic=_average_precision,
    problem=_problem,
)
