"""Metrics as pure functions of integer records; third parties add theirs as entry points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from reprune.core.errors import UnknownName
from reprune.core.plugins import lookup

Form: TypeAlias = Literal["binary", "ratio"]

METRICS: dict[str, str] = {
    "accuracy": "reprune.judge.metrics:ACCURACY",
    "dice": "reprune.judge.metrics:SHARE",
    "iou": "reprune.judge.metrics:SHARE",
    "f1": "reprune.judge.metrics:SHARE",
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric reads, and how its examples combine. Its values lie between 0 and 1.

    `binary`: one column of 0 and 1, the value is its mean. `ratio`: two columns, numerator and
    denominator with 0 <= numerator <= denominator, the value is sum / sum (so that large examples
    weigh more: for Dice a record is 2 |A and B| and |A| + |B|, for F1 it is 2 TP and 2 TP + FP + FN).
    """

    columns: tuple[str, ...]
    form: Form
    higher_is_better: bool = True

    def value(self, columns: Mapping[str, Sequence[int]]) -> float:
        """The metric over all examples. Raises ZeroDivisionError where nothing can be divided by."""
        first = columns[self.columns[0]]
        whole = len(first) if self.form == "binary" else sum(columns[self.columns[1]])
        return sum(first) / whole


ACCURACY = Metric(columns=("correct",), form="binary")
SHARE = Metric(columns=("numerator", "denominator"), form="ratio")


def get_metric(name: str) -> Metric:
    """The metric called `name`. Raises UnknownName, naming the nearest, if there is none."""
    found = lookup("metrics", name, METRICS)
    if not isinstance(found, Metric):
        raise UnknownName(f"what is registered as the metric '{name}' is no Metric")
    return found
