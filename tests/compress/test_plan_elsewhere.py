"""Plans for targets that another kind of machine was profiled for: predicted by tables, never timed here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from msgspec import UNSET, structs

from reprune.core import store
from reprune.core.artifacts import ModelBundle, TargetProfile
from reprune.core.errors import CompressionError
from reprune.core.machine import this_machine
from reprune.core.params import Target
from reprune.steps.plan_latency import forecasts
from tests.compress import test_plan_by_hand as by_hand
from tests.compress import test_steps_plan as plain
from tests.compress.test_plan_by_hand import (
    ground,
    planned,
    profile_with_tables,
    timed_as_the_table_says,
    with_plan,
)

__all__ = ["ground", "timed_as_the_table_says"]
_alone = by_hand._alone

BUDGET = "budget: latency, latency_target: cpu"


def profile_elsewhere(ground: Path, out: Path) -> Path:
    """The ground's profile, which another kind of machine timed the target in; it has no tables."""
    dense = store.read(ground / "dense", ModelBundle)
    timed = TargetProfile(
        target="cpu", runtime="onnxruntime", batch_size=256, latency_us=500.0, operators=()
    )
    manifest = structs.replace(
        plain.counted_profile(dense),
        machine=structs.replace(this_machine(1), kind="Babbage 1", cpu="Babbage 1"),
        targets=(timed,),
    )
    return plain.write(out, manifest, {"dense": dense.digest}).path


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        'limits: {"latency@cpu": 0.7}',
        f"allocator: latency, {BUDGET}",
        f"allocator: sensitivity, {BUDGET}",
        f"allocator: uniform, latency_model: in-model, {BUDGET}",
    ],
)
def test_what_another_kind_of_machine_was_profiled_for_is_predicted_only(
    ground, tmp_path, timed_as_the_table_says, knobs
):
    """By its tables, whatever allocates; the limit holds as they have it; that is said and recorded."""
    profile = profile_with_tables(ground, tmp_path / "profile", "Babbage 1")
    plan, shown, said = planned(ground, tmp_path, with_plan(knobs, fraction="0.7"), [profile])
    assert not timed_as_the_table_says
    one = plan.predicted.latencies["cpu"]
    assert (one.measured, one.trials) == (None, 0)
    assert one.forecast <= 0.7 * (1 + 1e-12)
    assert plan.predicted.latency_ratio is None
    assert shown["predicted"]["latency"]["cpu"]["measured"] == "not here: predicted only"
    (told,) = [line for line in said if "not timed, only predicted" in line]
    assert "profiled on another kind of machine: Babbage 1" in told


def test_without_tables_it_can_be_neither_timed_nor_predicted(
    ground, tmp_path, timed_as_the_table_says
):
    """Whatever allocates; the fix names what makes tables, and where it would be timed."""
    profile = profile_elsewhere(ground, tmp_path / "profile")
    for allocator in ("sensitivity", "latency"):
        params = with_plan(f"allocator: {allocator}, {BUDGET}", fraction="0.7")
        with pytest.raises(CompressionError, match=r"'cpu' can be neither.*Babbage 1") as refused:
            planned(ground, tmp_path, params, [profile])
        assert "set profile.tables and run `reprune profile`" in refused.value.fix
        assert "run `reprune plan` on that kind of machine" in refused.value.fix
    assert not timed_as_the_table_says


@pytest.mark.parametrize("target", [Target(runtime="microcontroller"), Target(kit=True)])
@pytest.mark.parametrize("plan", [BUDGET, "limits: {latency@cpu: 0.5}"])
def test_no_fix_asks_for_tables_that_profile_does_not_make(target, plan):
    """Neither of a budget nor of a limit; and it is sent nowhere to be timed."""
    with pytest.raises(CompressionError) as refused:
        _forecast_without_tables(target, plan)
    assert "makes no tables of a target that it does not time" in refused.value.fix
    assert "set profile.tables" not in refused.value.fix
    assert "run `reprune plan`" not in refused.value.fix


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (Target(runtime="tensorrt"), "again on the target's kind of machine, or"),
        (Target(run="ssh board reprune {args}"), "again, or"),
        (Target(runtime="qnn", run="ssh phone reprune {args}"), "again, or"),
    ],
)
def test_the_fix_asks_for_tables_where_profile_makes_them(target, where):
    """Of a runtime that may end its process, too, and of a device that a command reaches from anywhere."""
    with pytest.raises(CompressionError) as refused:
        _forecast_without_tables(target, "limits: {latency@cpu: 0.5}")
    assert "set profile.tables and run `reprune profile` " + where in refused.value.fix


def _forecast_without_tables(target, plan):
    params = structs.replace(plain.PlanParams(), **yaml.safe_load(f"{{{plan}}}"))
    forecasts([], params, {"cpu": target}, {}, {"cpu": "it is another machine"})


@pytest.mark.slow
def test_a_profile_of_this_kind_of_machine_lets_it_be_timed(
    ground, tmp_path, timed_as_the_table_says
):
    """One of several is enough, and so is none that timed the target."""
    other = profile_elsewhere(ground, tmp_path / "other")
    mine = profile_with_tables(ground, tmp_path / "mine", "")
    knobs = with_plan(f"allocator: latency, {BUDGET}", fraction="0.7")
    plan, shown, _ = planned(ground, tmp_path / "both", knobs, [other, mine])
    assert plan.predicted.latency_ratio <= 0.7
    one = plan.predicted.latencies["cpu"]
    assert one.trials == len(timed_as_the_table_says) > 0
    assert one.most == 5
    told = shown["predicted"]["latency"]["cpu"]["plans_timed"]
    assert told == f"{one.trials} of at most 5"
    plan, _, _ = planned(ground, tmp_path / "none", with_plan(BUDGET, fraction="0.7"))
    assert plan.predicted.latencies["cpu"].measured == plan.predicted.latency_ratio <= 0.7


def test_older_plans_say_nothing_of_trials():
    """They are read, and shown as before."""
    from reprune.core.artifacts import LatencyPrediction
    from reprune.steps.plan_words import _timed_for_people

    old = LatencyPrediction(forecast=0.5, measured=0.5, correction=1.0)
    assert old.trials is UNSET
    assert _timed_for_people(old) == {}
