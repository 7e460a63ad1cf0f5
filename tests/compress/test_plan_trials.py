"""The plan step with joint cuts to measure: through the store, resumed, and said in words."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
import yaml

from reprune.core import store
from reprune.core.artifacts import Plan
from reprune.core.errors import MissingExtra
from tests.compress.test_steps_plan import PARAMS, ground, make_plan  # noqa: F401  a fixture


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    torch.set_num_threads(1)


def params_of(**plan) -> str:
    document = yaml.safe_load(PARAMS)
    document["plan"] |= plan
    return yaml.safe_dump(document)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "amc", "evolutionary", "netadapt"])
def test_the_plan_says_what_it_tried(ground, tmp_path, name):  # noqa: F811  the fixture
    """The budget is met; what was measured is counted, within what was allowed, and told to people."""
    params = params_of(allocator=name, evaluations=6, evaluation_examples=100)
    made = make_plan(ground, tmp_path, params)
    plan = made.manifest
    tried = plan.predicted.tried
    assert plan.predicted.macs <= 0.5 * plan.before.macs
    assert 1 <= tried.evaluations <= 6 == tried.most
    assert tried.allocator == plan.allocator == name
    assert tried.examples >= 100 * (tried.evaluations + 1)
    words = yaml.safe_load((made.path / "plan.yaml").read_text())["predicted"]
    assert f"chosen by {name}" in words["measured"]
    assert words["measured_loss_increase"] == pytest.approx(tried.loss_increase, rel=1e-3)


@pytest.mark.slow
def test_equal_inputs_give_equal_plans(ground, tmp_path):  # noqa: F811  the fixture
    """The second run finds the first one's evaluations, the third one none: the same digest."""
    params = params_of(allocator="evolutionary", evaluations=5, evaluation_examples=100)
    digests = []
    for number in range(2):
        digests.append(make_plan(ground, tmp_path / str(number), params).digest)
    shutil.rmtree(tmp_path / "work")
    digests.append(make_plan(ground, tmp_path / "again", params).digest)
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_sums_are_checked_where_evaluations_are_allowed(ground, tmp_path):  # noqa: F811
    """8 joint cuts at least, and one of three things said of them; "search" takes over where sums fail."""
    params = params_of(allocator="sensitivity", evaluations=24, evaluation_examples=100)
    made = make_plan(ground, tmp_path, params)
    predicted = made.manifest.predicted
    found = predicted.additivity
    assert found.plans >= 8
    assert predicted.tried.evaluations <= 24
    sure = found.outcome != "not-additive"
    assert predicted.tried.allocator == ("sensitivity" if sure else "search")
    assert (found.before >= 0.8) == (found.outcome == "additive")
    text = (made.path / "plan.yaml").read_text()
    assert "joint cuts near the budget" in text
    assert ("not additive here" in text) == (not sure)


def test_nothing_is_measured_unasked(ground, tmp_path):  # noqa: F811  the fixture
    plan = make_plan(ground, tmp_path, PARAMS).manifest
    assert not plan.predicted.tried
    assert not plan.predicted.additivity


def test_global_needs_no_evaluation(ground, tmp_path):  # noqa: F811  the fixture
    plan = make_plan(ground, tmp_path, params_of(allocator="global")).manifest
    assert plan.predicted.macs <= 0.5 * plan.before.macs
    assert not plan.predicted.tried


def test_a_missing_optuna_is_said_before_anything_is_measured(ground, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match="optuna"):
        make_plan(ground, tmp_path, params_of(allocator="search"))


def test_a_plan_with_trials_is_read_back(ground, tmp_path):  # noqa: F811  the fixture
    params = params_of(allocator="netadapt", evaluations=4, evaluation_examples=100)
    made = make_plan(ground, tmp_path, params)
    assert store.read(made.path, Plan).manifest == made.manifest


def test_too_few_evaluations_check_nothing(ground, tmp_path):  # noqa: F811  the fixture
    """The plan is made by sums, its loss is measured, and nothing is said about sums."""
    params = params_of(allocator="sensitivity", evaluations=3, evaluation_examples=100)
    predicted = make_plan(ground, tmp_path, params).manifest.predicted
    assert not predicted.additivity
    assert (predicted.tried.evaluations, predicted.tried.allocator) == (1, "sensitivity")


def answering(monkeypatch, outcome: str) -> list:
    """Sums are said to be so, and nothing is measured for it; the problems that were asked about."""
    from reprune.compress.planning import quality

    asked = []

    def checked(problem, **_):
        asked.append(problem)
        return quality.Quality(plans=8, before=0.5, after=None, outcome=outcome, weights={})

    monkeypatch.setattr(quality, "checked", checked)
    return asked


def test_optuna_is_asked_for_when_sums_failed_and_not_before(ground, tmp_path, monkeypatch):  # noqa: F811
    """Where they add up, nobody needs it."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    params = params_of(allocator="sensitivity", evaluations=10, evaluation_examples=100)
    answering(monkeypatch, "additive")
    assert make_plan(ground, tmp_path / "a", params).manifest.predicted.tried.evaluations == 1
    answering(monkeypatch, "not-additive")
    with pytest.raises(MissingExtra, match="optuna"):
        make_plan(ground, tmp_path / "b", params)


@pytest.mark.slow
def test_sums_are_checked_near_the_limits_of_the_plan(ground, tmp_path, monkeypatch):  # noqa: F811
    """A latency is the tables'; where nothing predicts it, MACs stand for the budget."""
    from tests.compress.test_plan_by_hand import profile_with_tables

    asked = answering(monkeypatch, "additive")
    knobs = {
        "allocator": "latency",
        "evaluations": 8,
        "evaluation_examples": 50,
        "budget": "latency",
        "latency_target": "cpu",
        "fraction": 0.7,
        "limits": {"params": 0.9},
    }
    tables = [profile_with_tables(ground, tmp_path / "profile", "Babbage 1")]
    made = make_plan(ground, tmp_path, params_of(**knobs), profiles=tables).manifest
    limits = {"macs": 0.8, "latency@cpu": 0.7}
    limited = {"allocator": "sensitivity", "budget": "params", "limits": limits}
    make_plan(ground, tmp_path / "l", params_of(**{**knobs, **limited}), profiles=tables)
    budget, limit = asked
    assert [one.name for one in budget.limits] == ["latency@cpu", "params"]
    assert budget.limit == pytest.approx(0.7 * budget.dense)
    assert made.predicted.latencies["cpu"].forecast <= 0.7 * (1 + 1e-12)
    assert limit.unit == "params"
    assert {one.name for one in limit.others} == {"macs", "latency@cpu"}


def test_sums_that_failed_with_nothing_left_to_search_with_are_said(ground, tmp_path, monkeypatch):  # noqa: F811
    """The plan is by sums all the same; it said nothing, and read like one that search had made."""
    from reprune.compress.planning import quality

    def checked(problem, **_):
        problem.evaluate(problem.full)
        return quality.Quality(plans=8, before=0.5, after=None, outcome="not-additive", weights={})

    monkeypatch.setattr(quality, "checked", checked)
    params = params_of(allocator="sensitivity", evaluations=1, evaluation_examples=100)
    said = []
    plan = make_plan(ground, tmp_path, params, say=said.append).manifest
    assert plan.allocator == "sensitivity"
    assert any("no evaluation is left for 'search'" in line for line in said)
