"""What a spot check asks of the champion's table is what the plan will ask, whatever the budgets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.compress.planning.allocate import Problem
from reprune.core import store
from reprune.core.artifacts import GroupPlan, Plan, Sensitivity, TableReuse
from reprune.core.params import PlanParams
from reprune.steps.spot_question import budgets
from tests.steps.test_inheriting import (  # noqa: F401  the fixtures
    KNOBS,
    WARM,
    _one_work_folder,
    fetched,
    ground,
    made,
    second,
    warm_table,
)

pytestmark = pytest.mark.slow

WIDTHS = {"conv1": 16, "conv2": 24}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The question whose flips were looked at, the plan that it had, and what came of the check."""

    problem: Problem
    widths: dict[str, int]
    reuse: TableReuse


@pytest.fixture
def asked(ground, tmp_path, monkeypatch):  # noqa: F811
    """Checks the first generation's table for a plan of these params, after a champion's plan changed like
    this.
    """
    from reprune.compress.sensitivity import reuse

    seen: list[tuple[Problem, dict[str, int]]] = []
    nearest = reuse.nearest
    monkeypatch.setattr(
        reuse,
        "nearest",
        lambda problem, widths: seen.append((problem, dict(widths))) or nearest(problem, widths),
    )

    def ask(plan: dict[str, Any], targets: dict[str, Any] | None = None, **champion: Any) -> Asked:
        knobs = WARM | {"plan": plan} | ({"targets": targets} if targets else {})
        found = warm_table(ground, tmp_path, knobs, plan=champion)
        assert found.reuse
        (problem, widths) = seen[0]
        return Asked(problem=problem, widths=widths, reuse=found.reuse)

    return ask


def planned(ground: Path, out: str, knobs: dict[str, Any]) -> Plan:  # noqa: F811
    """The first generation's plan under other params."""
    return made(ground / "first", "plan", out, KNOBS | knobs).manifest


def answer(plan: Plan) -> dict[str, Any]:
    """All of a plan that another one may be given."""
    names = ("allocator", "budget", "fraction", "limits", "groups", "predicted", "round_to")
    return {name: getattr(plan, name) for name in names if hasattr(plan, name)}


def groups_of(*widths: int) -> tuple[GroupPlan, ...]:
    return tuple(
        GroupPlan(group=name, width=whole, keep=keep)
        for (name, whole), keep in zip(WIDTHS.items(), widths, strict=True)
    )


def as_fast(plan: Plan, share: float) -> Any:
    """A prediction of so many of the MACs."""
    return msgspec.structs.replace(plan.predicted, macs=round(share * plan.before.macs))


def test_limits_alone_are_asked_too(asked, ground):  # noqa: F811
    """`fraction: 1.0` asks nothing of the first budget: the cut is not compared with the whole model."""
    limited = {"fraction": 1.0, "round_to": 4, "limits": {"params": 0.5}}
    found = asked(limited, **answer(planned(ground, "limited", {"plan": limited})))
    assert [limit.name for limit in found.problem.limits] == ["macs", "params"]
    assert found.problem.fits(found.widths)
    assert found.widths != WIDTHS
    assert found.reuse.how == "reused"
    assert found.reuse.trial is None or found.reuse.trial.fresh != WIDTHS


@pytest.mark.parametrize(
    "question",
    [
        {"budget": "latency", "fraction": 0.6},
        {"budget": "macs", "fraction": 1.0, "limits": {"latency@cpu": 0.6}},
    ],
    ids=["budget", "limit"],
)
def test_a_plan_by_latency_is_not_held_against_one_by_macs(asked, ground, question):  # noqa: F811
    """Both tables are planned at the MACs that the champion came to; its own widths are no answer to that."""
    first = store.read(ground / "first/plan", Plan).manifest
    target = {"latency_target": "cpu"} if question["budget"] == "latency" else {}
    found = asked(
        {**question, **target, "round_to": 4},
        **question,
        groups=groups_of(4, 24),
        predicted=as_fast(first, 0.45),
    )
    assert found.problem.fits(found.widths)
    macs = next(limit for limit in found.problem.limits if limit.name == "macs")
    assert macs.most == pytest.approx(0.45 * first.before.macs, rel=1e-4)
    assert found.reuse.how == "reused"
    assert found.reuse.trial is None or found.reuse.trial.known != {"conv1": 4, "conv2": 24}


def test_another_latency_than_the_champions_is_asked_as_macs(asked, ground):  # noqa: F811
    """What it came to says nothing of another budget."""
    first = store.read(ground / "first/plan", Plan).manifest
    found = asked(
        {"budget": "latency", "fraction": 0.4, "latency_target": "cpu", "round_to": 4},
        budget="latency",
        fraction=0.6,
        predicted=as_fast(first, 0.45),
    )
    assert found.problem.limit == pytest.approx(0.4 * first.before.macs, rel=1e-4)


def test_the_targets_alignment_is_asked_as_the_champions_plan_had_it(asked, ground):  # noqa: F811
    """int8 on ONNX Runtime packs 16 channels: nothing between is a choice."""
    knobs = {
        "plan": {"fraction": 0.8, "round_to": 0},
        "targets": {"cpu": {"batch_size": 1, "precision": "int8"}},
    }
    plan = planned(ground, "aligned", knobs)
    assert {item.keep % 16 for item in plan.groups if item.keep < item.width} == {0}
    found = asked(knobs["plan"], knobs["targets"], **answer(plan))
    assert found.problem.rungs == {"conv1": (16,), "conv2": (16, 24)}
    assert found.widths == {"conv1": 16, "conv2": 16}


def test_widths_by_hand_are_asked_as_they_were_set(asked):
    found = asked({"fraction": 0.7, "round_to": 4, "widths": {"conv1": 5}})
    assert found.problem.rungs["conv1"] == (5,)
    assert found.widths["conv1"] == 5
    assert {row.unit: row.keep for row in found.reuse.checked}["conv1"] == 4


def test_floors_are_asked(asked):
    found = asked({"fraction": 0.5, "round_to": 4, "floors": {"conv1": 0.5}})
    assert [floor.name for floor in found.problem.floors] == ["conv1"]


def test_a_champion_that_was_asked_something_else_is_no_answer(asked):
    """It was cut deeper than it need be now: that says nothing against its table."""
    found = asked({"fraction": 0.9, "round_to": 4}, fraction=0.2, groups=groups_of(4, 4))
    assert found.reuse.how == "reused"
    assert found.reuse.trial is None or found.reuse.trial.known != {"conv1": 4, "conv2": 4}


def test_a_plan_leaves_a_table_that_was_measured_under_other_budgets_usable(ground, tmp_path):  # noqa: F811
    """The budgets are no part of what two tables must share."""
    previous = fetched(ground, tmp_path / "previous")
    root = second(ground, tmp_path)
    limited = {"plan": {"fraction": 1.0, "round_to": 4, "limits": {"params": 0.5}}}
    made(root, "sensitivity", "table", KNOBS | WARM | limited, previous)
    plan = made(root, "plan", "plan", KNOBS | WARM | limited, previous).manifest
    table = store.read(root / "table", Sensitivity).manifest
    assert table.reuse
    assert table.reuse.how == "reused"
    assert plan.predicted.params <= 0.5 * plan.before.params


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"size_bytes": 250.0}, {"macs": 0.9, "bytes": 0.25}),
        ({"size_bytes": 9e9}, {"macs": 0.9, "bytes": 1.0}),
        ({"latency_ms@cpu": 3.0}, {"macs": 0.9}),
        ({"latency_ms@cpu": 3.0, "latency@npu": 0.6}, {"macs": 0.6}),
    ],
)
def test_limits_in_units_are_asked_as_shares(limits, expected):
    """Milliseconds are a share of what nothing here has timed: they bound what the champion's plan says, or
    nothing.
    """
    plan = PlanParams(fraction=0.9, limits=limits)
    assert budgets(plan, None, dense_bytes=1000) == expected


def test_milliseconds_are_asked_as_the_macs_that_they_came_to(ground):  # noqa: F811
    limits = {"latency_ms@cpu": 3.0}
    first = store.read(ground / "first/plan", Plan).manifest
    champion = msgspec.structs.replace(first, limits=limits, predicted=as_fast(first, 0.45))
    found = budgets(PlanParams(fraction=0.9, limits=limits), champion, dense_bytes=1000)
    assert found == {"macs": pytest.approx(0.45, rel=1e-4)}
