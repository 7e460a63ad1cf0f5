"""Every so many generations nothing of the champion's counts: not its widths, and nothing of its recovery."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from reprune.compress.sensitivity.spot import Spot
from reprune.core import store
from reprune.core.artifacts import JointTrial, KnownRecovery, ModelBundle, Plan
from reprune.task.trained_on import TRAINED_ON
from tests.steps.test_inheriting import (  # noqa: F401  the fixtures
    KNOBS,
    MARKS,
    STARTED,
    WARM,
    _one_work_folder,
    fetched,
    ground,
    made,
    second,
)

COLD_AT_3 = {
    "generations": {
        "examples": 300,
        "champion_start": True,
        "champion_weight": 0.5,
        "cold_every": 3,
    }
}


def champions(ground, age: int | Any) -> dict[str, Any]:  # noqa: F811
    """Changes to what fetch brings: other widths than fresh ones, so many generations after a cold one."""
    recovery = store.read(ground / "first/candidate", ModelBundle).manifest.recovery
    groups = store.read(ground / "first/plan", Plan).manifest.groups
    known = KnownRecovery(champion="c", asked=4, epochs=2, needed=2, age=age)
    return {
        "champion": {"recovery": msgspec.structs.replace(recovery, known=known)},
        "plan": {
            "groups": tuple(msgspec.structs.replace(one, keep=8) for one in groups),
            "age": age,
        },
    }


def compressed(ground, tmp_path, age: int | Any) -> tuple[Plan, Any, list[str]]:  # noqa: F811
    """The second generation's plan and candidate, and what was said."""
    root, told, knobs = second(ground, tmp_path), [], KNOBS | STARTED | COLD_AT_3
    previous = fetched(ground, tmp_path / "previous", **champions(ground, age))
    for step, out in (("sensitivity", "table"), ("plan", "plan"), ("prune", "pruned")):
        made(root, step, out, knobs, previous, told.append)
    candidate = made(root, "distill", "candidate", knobs, previous, told.append)
    return store.read(root / "plan", Plan).manifest, candidate, told


@pytest.mark.slow
def test_at_cold_every_neither_widths_nor_recovery_know_the_champion(ground, tmp_path):  # noqa: F811
    """All epochs, from the cut model, with the dense teacher alone, fresh widths; and it is said."""
    plan, candidate, told = compressed(ground, tmp_path, 2)
    recovery = candidate.manifest.recovery
    assert recovery.known is UNSET
    assert len(recovery.epochs) == KNOBS["distill"]["epochs"]
    assert candidate.file(TRAINED_ON).read_bytes() == MARKS["second"]
    assert (plan.tried, plan.age) == (UNSET, UNSET)
    cold = [line for line in told if "3 generations ago (generations.cold_every)" in line]
    assert [line.partition(":")[0] for line in cold] == ["plan", "recovery"]
    assert not any("begins with the" in line for line in told)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "age"), [(1, 2), (UNSET, 1)], ids=["counted", "older"])
def test_until_then_the_age_is_counted(ground, tmp_path, before, age):  # noqa: F811
    """An artefact from before it was counted is as if a cold one had gone before."""
    plan, candidate, _ = compressed(ground, tmp_path, before)
    known = candidate.manifest.recovery.known
    assert (known.age, plan.age) == (age, age)
    assert plan.tried
    assert known.second


def test_nothing_is_counted_where_nothing_is_taken_over(ground, tmp_path):  # noqa: F811
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous")
    made(root, "sensitivity", "table", KNOBS, previous)
    assert made(root, "plan", "plan", KNOBS, previous).manifest.age is UNSET


@pytest.mark.slow
def test_no_age_is_counted_of_a_champion_of_another_budget(ground, tmp_path):  # noqa: F811
    root = second(ground, tmp_path)
    other = champions(ground, 1)["plan"] | {"fraction": 0.9}
    previous = fetched(ground, tmp_path / "previous", plan=other)
    made(root, "sensitivity", "table", KNOBS, previous)
    plan = made(root, "plan", "plan", KNOBS | WARM, previous).manifest
    assert (plan.tried, plan.age) == (UNSET, UNSET)


@pytest.mark.slow
def test_widths_that_were_compared_before_a_kill_are_not_cut_again(ground, tmp_path, monkeypatch):  # noqa: F811
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous", plan=champions(ground, 1)["plan"])
    made(root, "sensitivity", "table", KNOBS, previous)
    first = made(root, "plan", "plan", KNOBS | WARM, previous)
    assert first.manifest.tried

    def killed(*_: Any) -> JointTrial:
        raise AssertionError("compared again")

    monkeypatch.setattr(Spot, "compare", killed)
    again = made(root, "plan", "again", KNOBS | WARM, previous)
    assert again.manifest == first.manifest
