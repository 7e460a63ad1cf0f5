"""Metrics of answers: F1 by class and their mean, and agreement with the dense model.

Records: `answer`, the class that the model says, and `actual`, the one that is right.
"""

from __future__ import annotations

import numpy as np

from reprune.judge.bootstrap import Floats, Integers
from reprune.judge.metrics import Columns, Metric, out_of_range
from reprune.judge.weighted import Weighted, divided


def _counts(kinds: Integers, classes: Integers, rows: Integers) -> Weighted:
    """How much weighs each of `classes` among examples of these kinds: (classes, resamples)."""
    known = np.flatnonzero(np.isin(kinds, classes))
    order = known[np.argsort(kinds[known], kind="stable")]
    found, starts = np.unique(kinds[order], return_index=True)
    places, sorted_rows = np.searchsorted(classes, found), rows[order]

    def value(weights: Floats) -> Floats:
        counted = np.zeros((len(classes), weights.shape[1]), dtype=np.float64)
        if len(order):
            counted[places] = np.add.reduceat(weights[sorted_rows], starts, axis=0)
        return counted

    return value


def _macro_f1(columns: Columns, rows: Integers) -> Weighted:
    """The mean of 2 TP / (2 TP + FP + FN) over the classes that occur among the right answers
    (Opitz and Burst 2019, arXiv:1911.03347, the mean of F1 scores).
    """
    answer, actual = columns["answer"], columns["actual"]
    classes = np.unique(actual)
    right = answer == actual
    hits = _counts(actual[right], classes, rows[right])
    said, there = _counts(answer, classes, rows), _counts(actual, classes, rows)

    def value(weights: Floats) -> Floats:
        occurs = there(weights)
        each = 2 * hits(weights) / np.maximum(said(weights) + occurs, 1.0)
        total = np.zeros(weights.shape[1], dtype=np.float64)
        for one, times in zip(each, occurs, strict=True):
            total += np.where(times > 0, one, 0.0)
        return divided(total, (occurs > 0).sum(axis=0))

    return value


def _right(columns: Columns) -> Integers:
    right: Integers = (columns["answer"] == columns["actual"]).astype(np.int64)
    return right


def _agreement(columns: Columns, dense: Columns) -> Integers:
    """1 where the answer is the dense model's."""
    same: Integers = (columns["answer"] == dense["answer"]).astype(np.int64)[None]
    return same


MACRO_F1 = Metric(
    columns=("answer", "actual"),
    form="statistic",
    truths=("actual",),
    statistic=_macro_f1,
    problem=out_of_range,
    marks=_right,
)

# The dense model agrees with itself: there are no errors of which a ratio could be allowed.
AGREEMENT = Metric(
    columns=("answer",),
    form="binary",
    derive=_agreement,
    against_dense=True,
    relative=False,
    problem=out_of_range,
)


def f1_of_class(kind: int) -> Metric:
    """The F1 of one class against all others, `f1[kind]`."""

    def parts(columns: Columns, dense: Columns) -> Integers:  # noqa: ARG001  every `derive` takes it
        said, there = columns["answer"] == kind, columns["actual"] == kind
        both = said & there
        return np.stack([2 * both.astype(np.int64), said.astype(np.int64) + there])

    def problem(columns: Columns) -> str:
        none = not (columns["actual"] == kind).any()
        return out_of_range(columns) or (f"hold no example of class {kind}" if none else "")

    return Metric(
        columns=("answer", "actual"),
        form="ratio",
        truths=("actual",),
        derive=parts,
        problem=problem,
    )
