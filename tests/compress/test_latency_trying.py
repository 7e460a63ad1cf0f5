"""Latency budgets and the allocators that try, through the whole plan step: met as timed, or said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reprune.core import store
from reprune.core.artifacts import Plan, Profile
from reprune.core.errors import CompressionError
from reprune.core.step import run
from reprune.steps import get_step
from tests.compress import test_plan_by_hand as by_hand
from tests.compress.test_plan_by_hand import (
    ground,
    planned,
    profile_with_tables,
    timed_as_the_table_says,
    with_plan,
)
from tests.compress.test_steps_plan import documents_of, quiet

__all__ = ["ground", "timed_as_the_table_says"]
_alone = by_hand._alone

TRYING = ("search", "amc", "evolutionary", "netadapt")
FEW = "evaluations: 20, evaluation_examples: 50, latency_trials: 3"
BUDGET = "budget: latency, latency_target: cpu"


@pytest.mark.slow
@pytest.mark.parametrize("allocator", TRYING)
def test_a_latency_budget_is_planned_by_the_table_timed_and_met(
    ground, tmp_path, timed_as_the_table_says, allocator
):
    """The widths that were timed are the plan's; what was tried keeps to its number in all runs together."""
    profile = profile_with_tables(ground, tmp_path / "profile", "")
    knobs = f"allocator: {allocator}, {BUDGET}, {FEW}"
    plan, shown, said = planned(ground, tmp_path, with_plan(knobs, fraction="0.7"), [profile])
    one = plan.predicted.latencies["cpu"]
    assert one.measured == plan.predicted.latency_ratio <= 0.7
    assert by_hand.keeps(plan) in timed_as_the_table_says
    assert 1 <= len(timed_as_the_table_says) <= 3
    assert 1 <= plan.predicted.tried.evaluations <= 20
    assert plan.predicted.tried.allocator == allocator
    assert shown["predicted"]["latency"]["cpu"]["measured"] == pytest.approx(one.measured, rel=1e-3)
    assert any("by the table" in line for line in said)


@pytest.mark.slow
def test_few_evaluations_are_not_cut_up_until_nothing_is_searched(
    ground, tmp_path, timed_as_the_table_says
):
    """The first run looks at one thing beside its starts, whatever trials may follow."""
    profile = profile_with_tables(ground, tmp_path / "profile", "")
    few = "evaluations: 8, evaluation_examples: 50, latency_trials: 8"
    knobs = f"allocator: evolutionary, {BUDGET}, {few}"
    _, _, said = planned(ground, tmp_path, with_plan(knobs, fraction="0.7"), [profile])
    first = next(number for number, line in enumerate(said) if "by the table" in line)
    assert sum("joint cut" in line for line in said[:first]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ["search", "netadapt"])
def test_a_latency_budget_out_of_reach_is_said(
    ground, tmp_path, timed_as_the_table_says, allocator
):
    """The narrowest widths are timed at more than is asked: an error with what was measured, no plan."""
    profile = profile_with_tables(ground, tmp_path / "profile", "")
    knobs = f"allocator: {allocator}, {BUDGET}, {FEW}"
    with pytest.raises(CompressionError, match=r"fast enough on 'cpu': .* measured is 0\.[1-9]"):
        planned(ground, tmp_path, with_plan(knobs, fraction="0.11"), [profile])
    assert timed_as_the_table_says
    assert not (tmp_path / "plan").exists()


@pytest.mark.deep
@pytest.mark.parametrize("allocator", TRYING)
def test_measured_tables_and_real_timings_end_in_a_plan_that_meets_them_or_an_error(
    ground, tmp_path, allocator
):
    """Nothing is made up here: profile builds and times, plan cuts, builds and times again."""
    knobs = f"allocator: {allocator}, {BUDGET}, {FEW}"
    params = with_plan(knobs, fraction="0.8")
    tables = {"profile": {"calls": 20, "tables": {"builds": 4, "rounds": 1, "step": 4}}}
    documents = documents_of(ground, yaml.safe_dump(yaml.safe_load(params) | tables))
    inputs = {name: ground / name for name in ("dense", "data", "previous")}
    run(get_step("profile"), inputs, documents, tmp_path / "profile", say=quiet)
    assert store.read(tmp_path / "profile", Profile).manifest.tables
    inputs = {"dense": ground / "dense", "table": ground / "table"}
    inputs |= {"profiles": [tmp_path / "profile"], "previous": ground / "previous"}
    error = met(inputs, documents, tmp_path / "plan")
    if error is not None:
        assert "fast enough on 'cpu'" in error.what
        assert not (tmp_path / "plan").exists()
        return
    plan = store.read(tmp_path / "plan", Plan).manifest
    assert plan.predicted.latency_ratio <= 0.8
    assert any(item.keep < item.width for item in plan.groups)


def met(inputs: dict, documents: object, out: Path) -> CompressionError | None:
    """None where the step made a plan, else why not."""
    try:
        run(get_step("plan"), inputs, documents, out, say=quiet)
    except CompressionError as error:
        return error
    return None
