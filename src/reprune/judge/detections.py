"""Average precision of detections, and its mean over classes.

Records: `detection_000`, `detection_001`, ..., each a detection packed into one number (see
core.records.pack_detection: class, score, and whether it met a box at the task's IoU), and `box_000`,
`box_001`, ..., the class of each box that there is. NOTHING where an example has fewer.

The definition is that of the PASCAL VOC challenge from 2010 on: precision at each recall is the best one
at that recall or above, and all recalls count (Everingham et al. 2015, International Journal of Computer
Vision 111, 98-136, section 4). Detections of equal score are taken at once.
"""

from __future__ import annotations

import numpy as np

from reprune.core.records import BOXES, DETECTIONS, NOTHING, SCALE
from reprune.judge.bootstrap import Floats, Integers
from reprune.judge.metrics import Columns, Metric, out_of_range
from reprune.judge.ranking import average_precision
from reprune.judge.weighted import Weighted, divided

_DETECTIONS, _BOXES = f"{DETECTIONS}*", f"{BOXES}*"


def _of_class(columns: Columns, rows: Integers, kind: int) -> Weighted:
    """The AP of one class; NaN in a resample without a box of it."""
    packed = columns[_DETECTIONS]
    places = np.nonzero((packed >= 0) & (packed // 2 // (SCALE + 1) == kind))
    mine = packed[places]
    found = average_precision(mine // 2 % (SCALE + 1), mine % 2, rows[places[1]], envelope=True)
    box_rows = rows[np.nonzero(columns[_BOXES] == kind)[1]]

    def value(weights: Floats) -> Floats:
        there = weights[box_rows].sum(axis=0)
        return divided(found(weights) if len(mine) else np.zeros_like(there), there)

    return value


def _mean(columns: Columns, rows: Integers) -> Weighted:
    """The mean over the classes of which the resample has a box."""
    kinds = [int(kind) for kind in np.unique(columns[_BOXES]) if kind != NOTHING]
    each = [_of_class(columns, rows, kind) for kind in kinds]

    def value(weights: Floats) -> Floats:
        total = np.zeros(weights.shape[1], dtype=np.float64)
        classes = np.zeros(weights.shape[1], dtype=np.float64)
        for of_class in each:
            found = of_class(weights)
            total += np.where(np.isnan(found), 0.0, found)
            classes += ~np.isnan(found)
        return divided(total, classes)

    return value


def _problem(columns: Columns) -> str:
    packed, boxes = columns[_DETECTIONS], columns[_BOXES]
    wrong = out_of_range(columns)
    if wrong:
        return wrong
    if (boxes == NOTHING).all():
        return "hold no box that could be found"
    matched, there = _by_class(packed, boxes)
    if (matched > there).any():
        return "match more detections of a class than an example has boxes of it"
    return ""


def _by_class(packed: Integers, boxes: Integers) -> tuple[Integers, Integers]:
    """How many detections matched, and how many boxes there are, for each example and class seen."""
    kinds = packed // 2 // (SCALE + 1)
    hits = (packed >= 0) & (packed % 2 == 1)
    seen = np.unique(np.concatenate([kinds[hits], boxes[boxes >= 0]]))
    matched = np.zeros((len(seen), packed.shape[1]), dtype=np.int64)
    there = np.zeros_like(matched)
    row, example = np.nonzero(hits)
    np.add.at(matched, (np.searchsorted(seen, kinds[row, example]), example), 1)
    row, example = np.nonzero(boxes >= 0)
    np.add.at(there, (np.searchsorted(seen, boxes[row, example]), example), 1)
    return matched, there


MEAN_AP = Metric(
    columns=(_DETECTIONS, _BOXES),
    form="statistic",
    truths=(_BOXES,),
    statistic=_mean,
    problem=_problem,
)


def ap_of_class(kind: int) -> Metric:
    """The average precision of one class, `ap[kind]`."""

    def statistic(columns: Columns, rows: Integers) -> Weighted:
        return _of_class(columns, rows, kind)

    def problem(columns: Columns) -> str:
        none = not (columns[_BOXES] == kind).any()
        return _problem(columns) or (f"hold no box of class {kind}" if none else "")

    return Metric(
        columns=(_DETECTIONS, _BOXES),
        form="statistic",
        truths=(_BOXES,),
        statistic=statistic,
        problem=problem,
    )
