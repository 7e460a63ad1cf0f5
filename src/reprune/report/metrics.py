"""`metrics.json` for `dvc metrics show` and `dvc metrics diff`: a flat object of numbers and words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import UNSET

from reprune.core.artifacts import RuleResult
from reprune.judge.numeric import rounded
from reprune.report import words
from reprune.report.cost import MILLION, requests_per_year, target_costs
from reprune.report.facts import ReportFacts
from reprune.report.guards import tripped

Value: TypeAlias = str | float | int

# What is compared as a ratio, and what the value itself is called.
_RATIOS: dict[words.Family, str] = {
    "latency": "latency_ms",
    "tail": "tail_ms",
    "throughput": "examples_per_second",
    "memory": "peak_memory_bytes",
    "size": "",
}


def render_metrics(facts: ReportFacts) -> str:
    """The numbers that people compare from commit to commit, as JSON.

    `latency_ratio.<target>` is candidate over dense parent, as are `tail_`, `size_`, `memory_` and
    `throughput_ratio.<target>` (with `.b<batch>` at another batch size);
    `quality_drop.<metric>.<target>` is what the metric lost against the dense parent as trained,
    `quality.<metric>.<target>` what it is; `..._vs_champion` are the same against the champion.
    `cost_per_million.<target>` is in the currency of params.yaml, `cost_per_year.<target>` as well;
    `..._dense` and `..._champion` are what it was. What was not measured is left out, never written as 0.
    """
    values: dict[str, Value] = {
        "outcome": facts.judgement.outcome,
        "attempt": facts.judgement.attempt,
        "rules_not_passed": sum(
            one.required and one.outcome != "pass" for one in facts.judgement.rules
        ),
        "slices_harmed": sum(one.outcome == "harm" for one in facts.judgement.slices),
    }
    if facts.judgement.guards is not UNSET:
        values["guards_tripped"] = len(tripped(facts))
    for name, value in (
        *_from_rules(facts),
        *_from_engines(facts),
        *_from_costs(facts),
    ):
        # What the candidate is stands in several rules; they agree.
        values.setdefault(name, value)
    if facts.costs is not None:
        dense, mine = facts.costs
        values |= {"macs": mine.macs, "params": mine.params, "bytes": mine.bytes}
        values |= {"dense_macs": dense.macs, "dense_params": dense.params}
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _from_rules(facts: ReportFacts) -> Iterator[tuple[str, Value]]:
    for one in facts.judgement.rules:
        kind = words.family(one)
        end = {"dense": "", "champion": "_vs_champion", "anchor": "_vs_anchor"}.get(one.baseline)
        if end is None or one.change is None:
            continue
        if kind in _RATIOS:
            batch = words.batch(one)
            where = f"{one.target}.b{batch}" if batch else one.target
            yield f"{kind}_ratio{end}.{where}", one.change
            if one.candidate_value is not None and kind != "size":
                yield f"{_RATIOS[kind]}.{where}", one.candidate_value
        if kind == "quality":
            name = words.metric(one)
            yield f"quality_drop{end}.{name}.{one.target}", drop(one)
            if one.candidate_value is not None:
                yield f"quality.{name}.{one.target}", one.candidate_value


def drop(result: RuleResult) -> float:
    """What a metric lost, positive where it got worse, whichever way it counts."""
    change = result.change or 0.0
    # Adding 0.0 turns -0.0 into 0.0, which would be a change in every diff.
    return (change if result.direction == "at most" else -change) + 0.0


def _from_engines(facts: ReportFacts) -> Iterator[tuple[str, Value]]:
    for engines in facts.engines:
        for one in engines.engines:
            if one.arm == "candidate":
                yield f"engine_bytes.{one.target}", one.bytes


def _from_costs(facts: ReportFacts) -> Iterator[tuple[str, Value]]:
    year = requests_per_year(facts) / MILLION
    for one in target_costs(facts):
        for saving in one.savings:
            named = ((f"_{saving.baseline}", saving.before), ("", saving.mine))
            for end, value in named:
                yield f"cost_per_million{end}.{one.target}", rounded(value)
                if year:
                    yield f"cost_per_year{end}.{one.target}", rounded(value * year)
