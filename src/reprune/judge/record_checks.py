"""What makes one metric's records unusable, before anything is computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from reprune.judge.bootstrap import EXACT, Integers
from reprune.judge.evidence import QualityEvidence
from reprune.judge.metrics import Columns, Metric
from reprune.judge.weighted import MOST_WEIGHT, of_everything


def metric_problems(
    name: str, metric: Metric, keys: Sequence[str], quality: QualityEvidence
) -> Iterator[str]:
    """Sentences about the records of the arm keys; columns must be as long as there are examples, and
    there must be some.
    """
    tables: dict[str, Columns] = {}
    for key in keys:
        records = quality.arms.get(key)
        if records is None:
            yield f"There are no records of {key}."
        elif missing := metric.missing(records.columns):
            yield f"{name} needs the column {', '.join(missing)}, which {key} has not recorded."
        else:
            tables[key] = metric.read(records.columns)
    yield from _unequal_truths(name, metric, tables)
    for key, columns in tables.items():
        words = metric.problem(columns) if metric.problem is not None else ""
        words = words or _form_problem(metric, columns, tables, quality.sources)
        if words:
            yield f"The records of {key} for {name} {words}."


def _unequal_truths(name: str, metric: Metric, tables: Mapping[str, Columns]) -> Iterator[str]:
    """What is true of an example cannot depend on the model that looked at it."""
    first, *others = tables or [""]
    for column in metric.truths:
        for key in others:
            if not np.array_equal(tables[first][column], tables[key][column]):
                yield (
                    f"The column {column} of {name} tells the examples, not the model, and yet it "
                    f"differs between {first} and {key}."
                )


def _form_problem(
    metric: Metric,
    columns: Columns,
    tables: Mapping[str, Columns],
    sources: Sequence[str] | None,
) -> str:
    """Why these columns are not what the form promises; empty where they are."""
    if metric.statistic is not None:
        examples = next(iter(columns.values())).shape[-1]
        if _largest_sum(np.ones(examples, dtype=np.int64), sources) > MOST_WEIGHT:
            return "are too many to be summed exactly"
        undefined = math.isnan(of_everything(metric.statistic, columns))
        return "leave it undefined on these examples" if undefined else ""
    if metric.against_dense and "dense" not in tables:
        return "cannot be compared with the dense model's"
    return _parts_problem(metric, metric.parts(columns, tables.get("dense", {})), sources)


def _parts_problem(metric: Metric, parts: Integers, sources: Sequence[str] | None) -> str:
    """As `_form_problem`, of the row of a binary metric or the two rows of a ratio."""
    if metric.form == "binary":
        good = ((parts == 0) | (parts == 1)).all()
        return "" if good else "hold other numbers than 0 and 1"
    numerator, denominator = parts
    if ((numerator < 0) | (numerator > denominator)).any():
        return "hold a numerator below 0 or above its denominator"
    if not (denominator > 0).any():
        return "have no denominator above 0"
    if _largest_sum(denominator, sources) >= EXACT:
        return "are too large to be summed exactly"
    return ""


def _largest_sum(amounts: Integers, sources: Sequence[str] | None) -> int:
    """The largest sum that a resample of the units, of which there are some, can have: one of them, drawn
    every time.
    """
    if sources is None:
        return len(amounts) * int(amounts.max())
    whole: dict[str, int] = {}
    for source, amount in zip(sources, amounts.tolist(), strict=True):
        whole[source] = whole.get(source, 0) + amount
    return len(whole) * max(whole.values())
