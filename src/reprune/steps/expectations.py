"""Runs expectations on tables with Great Expectations and says what was found in words.

Its own `success` of a whole suite counts warnings as failures, so each result is read by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reprune.core.artifacts import Expectation
from reprune.core.errors import RepruneError
from reprune.core.plugins import require

Severity = Literal["critical", "warning"]
Table = Mapping[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """One expectation on one table. `words` turns what was found into a sentence."""

    name: str
    split: str
    severity: Severity
    table: Table
    expects: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    words: Callable[[Mapping[str, Any]], str]


def check_demands(wanted: list[Demand]) -> list[Expectation]:
    """Runs them in an in-memory context that reports nothing to anybody; in the order given.

    Raises MissingExtra without Great Expectations.
    """
    # Read when the library is imported; older 1.x versions did report.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    gx = require("great_expectations", "gx")
    pandas = require("pandas", "gx")
    context = gx.get_context(mode="ephemeral")
    quiet = require("great_expectations.data_context.types.base", "gx").ProgressBarsConfig
    context.variables.progress_bars = quiet(globally=False)
    source = context.data_sources.add_pandas("splits")
    results: dict[int, Expectation] = {}
    tables = {id(demand.table): demand.table for demand in wanted}
    for key, table in tables.items():
        numbered = [(n, demand) for n, demand in enumerate(wanted) if id(demand.table) == key]
        asset = source.add_dataframe_asset(f"table {key}")
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch(
            {"dataframe": pandas.DataFrame(dict(table))}
        )
        suite = gx.ExpectationSuite(
            name=f"suite {key}", expectations=[_expectation(gx, n, d) for n, d in numbered]
        )
        by_number = {
            result.expectation_config.meta["number"]: result
            for result in batch.validate(suite, result_format="SUMMARY").results
        }
        for number, demand in numbered:
            results[number] = _finding(demand, by_number[number])
    return [results[number] for number in range(len(wanted))]


def _expectation(gx: Any, number: int, demand: Demand) -> Any:
    kind = getattr(gx.expectations, demand.expects)
    return kind(severity=demand.severity, meta={"number": number}, **demand.arguments)


def _finding(demand: Demand, result: Any) -> Expectation:
    if result.exception_info.get("raised_exception"):
        raise RepruneError(
            f"Great Expectations failed: {result.exception_info.get('exception_message')}",
            where=f"data contract ({demand.name}, {demand.split})",
        )
    return Expectation(
        name=demand.name,
        split=demand.split,
        severity=demand.severity,
        success=bool(result.success),
        observed=demand.words(result.result),
    )
