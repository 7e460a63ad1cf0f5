"""Metrics as pure functions of integer records; third parties add theirs as entry points.

docs/metrics.md says of each what it reads, its direction, its range and what a margin of it means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from reprune.core.errors import UnknownName
from reprune.core.plugins import lookup
from reprune.core.records import range_of
from reprune.judge.bootstrap import Integers
from reprune.judge.weighted import Statistic, of_everything

Form: TypeAlias = Literal["binary", "ratio", "statistic"]
# Column name to one integer an example; a name that ends in '*' to a row for each column of the kind.
Columns: TypeAlias = Mapping[str, Integers]

METRICS: dict[str, str] = {
    "accuracy": "reprune.judge.metrics:ACCURACY",
    "agreement": "reprune.judge.answers:AGREEMENT",
    "auc": "reprune.judge.ranking:AUC",
    "average_precision": "reprune.judge.ranking:AVERAGE_PRECISION",
    "dice": "reprune.judge.metrics:SHARE",
    "ece": "reprune.judge.calibration:ECE",
    "f1": "reprune.judge.metrics:SHARE",
    "iou": "reprune.judge.metrics:IOU",
    "macro_f1": "reprune.judge.answers:MACRO_F1",
    "mae": "reprune.judge.association:MAE",
    "map": "reprune.judge.detections:MEAN_AP",
    "mse": "reprune.judge.association:MSE",
    "pearson": "reprune.judge.association:PEARSON",
    "spearman": "reprune.judge.association:SPEARMAN",
}

# Metrics of one class alone, called `f1[3]`: functions of the class to a Metric.
PER_CLASS: dict[str, str] = {
    "f1": "reprune.judge.answers:f1_of_class",
    "ap": "reprune.judge.detections:ap_of_class",
}
_OF_CLASS = re.compile(r"(\w+)\[(0|[1-9][0-9]{0,5})\]")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric reads, and how its examples combine.

    `binary`: one column of 0 and 1, the value is its mean. `ratio`: two columns, numerator and
    denominator with 0 <= numerator <= denominator, the value is sum / sum (so that large examples
    weigh more: for Dice a record is 2 |A and B| and |A| + |B|, for F1 it is 2 TP and 2 TP + FP + FN; for
    IoU |A and B| and |A or B|, as intersection and union).
    `statistic`: any function of the records and of whole-number weights (see judge.weighted), for
    what is no mean of examples; NaN where it is not defined.

    A column that ends in '*' stands for all columns that begin so. `derive` makes a binary or ratio
    metric's columns out of the recorded ones (an arm's, then the dense model's, which are only given
    where `against_dense`). `truths` are columns that tell the example, not the model: they must be the
    same for every arm. `problem` says in words what is wrong with the columns, as the end of a sentence
    that begins with 'The records'; empty where nothing is. `marks` gives each example a mark, of which
    more is better, by which it can get better or worse; None where there is no such notion.
    `noise` bounds by how much noise alone makes a statistic look worse than it is, on average, given the
    columns and the unit of each example; None where it does not.
    `bounds` are the smallest and largest value. Where `relative` is false, a ratio of errors makes no
    sense and max_error_ratio is not applied. `member` is whose records of a set it reads: there each
    column is called `<member>.<column>`, and everything here still speaks of `<column>`.
    """

    columns: tuple[str, ...]
    form: Form
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    truths: tuple[str, ...] = ()
    derive: Callable[[Columns, Columns], Integers] | None = None
    against_dense: bool = False
    relative: bool = True
    statistic: Statistic | None = None
    problem: Callable[[Columns], str] | None = None
    marks: Callable[[Columns], Integers] | None = None
    noise: Callable[[Columns, Integers], float] | None = None
    member: str = ""

    @property
    def reach(self) -> float:
        """The largest loss there can be."""
        return self.bounds[1] - self.bounds[0]

    def missing(self, names: Collection[str]) -> list[str]:
        """The columns that are not among `names`."""
        wanted = (self._recorded(column) for column in self.columns)
        return [column for column in wanted if not _matching(column, names)]

    def read(self, records: Mapping[str, Sequence[int]]) -> dict[str, Integers]:
        """The metric's own columns as arrays. They must be there."""
        read = {}
        for column in self.columns:
            rows = [
                np.asarray(records[name], dtype=np.int64)
                for name in _matching(self._recorded(column), records)
            ]
            read[column] = np.stack(rows) if column.endswith("*") else rows[0]
        return read

    def _recorded(self, column: str) -> str:
        return f"{self.member}.{column}" if self.member else column

    def parts(self, columns: Columns, dense: Columns) -> Integers:
        """The one row of a binary metric, or the two of a ratio: (1 or 2, examples)."""
        if self.derive is not None:
            return self.derive(columns, dense)
        return np.stack([columns[name] for name in self.columns])

    def value(
        self,
        records: Mapping[str, Sequence[int]],
        dense: Mapping[str, Sequence[int]] | None = None,
    ) -> float:
        """The metric over all examples. `dense` holds the dense model's records where it needs them.

        Raises ZeroDivisionError where nothing can be divided by.
        """
        columns = self.read(records)
        if self.statistic is not None:
            return of_everything(self.statistic, columns)
        rows = self.parts(columns, self.read(dense or {}) if self.against_dense else {})
        first = int(rows[0].sum())
        return first / (rows.shape[1] if self.form == "binary" else int(rows[1].sum()))


def _matching(column: str, names: Collection[str]) -> list[str]:
    if not column.endswith("*"):
        return [column] if column in names else []
    return sorted(name for name in names if name.startswith(column[:-1]))


def out_of_range(columns: Columns) -> str:
    """What is wrong with columns that hold numbers which they must not (core.records.range_of)."""
    for column, values in columns.items():
        low, high = range_of(column) or (values.min(initial=0), values.max(initial=0))
        if ((values < low) | (values > high)).any():
            if (low, high) == (0, 1):
                return f"hold other numbers than 0 and 1 as {column}"
            if low == 0 and high > 2**60:
                return f"hold a {column} below 0"
            return f"hold a {column.rstrip('_*')} outside {low}..{high}"
    return ""


def get_metric(name: str) -> Metric:
    """The metric called `name`, such as 'accuracy', or 'f1[3]' for the F1 of class 3 alone; of a member of
    a set 'detector.f1'.

    Raises UnknownName, naming the nearest, if there is none.
    """
    member, dot, kind = name.rpartition(".")
    try:
        # A package may give its metric a name with a dot in it.
        return _get_metric(name)
    except UnknownName:
        if not dot:
            raise
    return replace(_get_metric(kind), member=member)


def _get_metric(name: str) -> Metric:
    of_class = _OF_CLASS.fullmatch(name)
    if of_class is not None and of_class[1] in PER_CLASS:
        found = lookup("metrics", of_class[1], PER_CLASS)(int(of_class[2]))
    else:
        found = lookup("metrics", name, METRICS)
    if not isinstance(found, Metric) or (found.form == "statistic") != (
        found.statistic is not None
    ):
        raise UnknownName(f"what is registered as the metric '{name}' is no Metric")
    return found


ACCURACY = Metric(columns=("correct",), form="binary", problem=out_of_range)
SHARE = Metric(columns=("numerator", "denominator"), form="ratio")
# Columns of its own: those of a Dice coefficient are told apart from an IoU's by nothing.
IOU = Metric(columns=("intersection", "union"), form="ratio")
