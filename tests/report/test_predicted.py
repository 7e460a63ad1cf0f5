"""Predicted beside achieved in every form of the report: losses by stage, latency by target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from reprune.core.artifacts import CameOut, LatencyPrediction, Tried
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.report.predicted import latencies, predicted_section, rises

Told = Callable[[str], ReportFacts]
TRIED = Tried(
    evaluations=3, most=5, examples=9, loss_increase=0.15, standard_error=0.01, allocator="search"
)


def expecting(known: ReportFacts, **said: object) -> ReportFacts:
    assert known.plan is not None
    predicted = msgspec.structs.replace(known.plan.predicted, **said)
    return replace(known, plan=msgspec.structs.replace(known.plan, predicted=predicted))


def test_each_stage_has_its_rise_over_the_dense_model(told: Told) -> None:
    """The sum, the joint cut where it was measured, prune's own losses, and the epoch that was kept."""
    came = CameOut(sum_of_cuts=0.05, before=0.2, after=0.01)
    known = expecting(told("pass"), tried=TRIED, champion=came)
    found = [(one.what.partition(" (")[0], one.mine, one.champion) for one in rises(known)]
    assert found == [
        ("predicted, the sum of single cuts", 0.0421, 0.05),
        ("the joint cut, measured by the plan", 0.15, None),
        ("cut, not repaired", pytest.approx(0.9127 - 0.0741), None),
        ("before recovery", pytest.approx(0.2218 - 0.0741), 0.2),
        ("after recovery", pytest.approx(0.109 - 0.0812), 0.01),
    ]
    page = render_html(known)
    for text in ("Predicted and achieved", "The champion&#x27;s", "+0.0278", "+0.148"):
        assert text in page
    assert "after recovery (tune) +0.0278" in render_markdown(known)


def test_the_champions_joint_cut_stands_beside_this_one_and_not_beside_prunes_losses(
    told: Told,
) -> None:
    """Its plan measured it on tune; prune's own losses are on calibration, of another repair."""
    known = expecting(told("pass"), champion=CameOut(sum_of_cuts=0.05, before=0.2, after=0.01))
    assert known.plan is not None
    tried = msgspec.structs.replace(known.plan.predicted, tried=TRIED)
    past = replace(known, past_plan=msgspec.structs.replace(known.plan, predicted=tried))
    found = {one.what: one.champion for one in rises(past)}
    assert found["the joint cut, measured by the plan"] == 0.2
    assert found["before recovery (calibration)"] is None
    assert found["after recovery (tune)"] == 0.01


def test_each_target_has_table_trial_and_gate(told: Told) -> None:
    """A target that the plan did not time has no trial; one that the gate does not judge says so."""
    times = {
        "ort-cpu": LatencyPrediction(forecast=0.59, measured=0.6, correction=1.0),
        "phone": LatencyPrediction(forecast=0.5, measured=None, correction=1.0),
    }
    known = expecting(told("pass"), latencies=times)
    mine, other = latencies(known)
    assert mine.rule is not None
    assert (mine.table, mine.timed, mine.rule.change) == (0.59, 0.6, 0.619)
    assert (other.table, other.timed, other.rule) == (0.5, None, None)
    page = render_html(known)
    for text in ("0.590", "0.600", "0.619", "1.032", "not judged"):
        assert text in page
    lines = render_markdown(known)
    assert (
        "as the plan forecast \u00d70.590; in the plan's trial \u00d70.600; at the gate \u00d70.619"
        in lines
    )


def test_a_latency_that_was_timed_without_tables_is_of_the_plans_target(told: Told) -> None:
    known = told("pass")
    assert known.params is not None
    plan = msgspec.structs.replace(known.params.plan, latency_target="ort-cpu")
    asked = replace(known, params=msgspec.structs.replace(known.params, plan=plan))
    (one,) = latencies(expecting(asked, latency_ratio=0.6))
    assert one.rule is not None
    assert (one.target, one.table, one.timed, one.rule.change) == ("ort-cpu", None, 0.6, 0.619)


def test_on_how_much_of_tune_a_loss_is_is_said_where_it_is_not_the_same(told: Told) -> None:
    known = told("pass")
    section = predicted_section(known)
    assert section is not None
    assert "dense model's on" not in section.lead
    assert known.table is not None
    fewer = replace(known, table=msgspec.structs.replace(known.table, examples=100))
    section = predicted_section(fewer)
    assert section is not None
    assert "all 225 examples of tune, the dense model's on 100 of them" in section.lead


def test_without_a_prediction_nothing_is_said(told: Told) -> None:
    assert predicted_section(expecting(told("pass"), loss_increase=None)) is None
    assert predicted_section(replace(told("pass"), plan=None)) is None
