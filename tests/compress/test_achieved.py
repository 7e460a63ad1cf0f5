"""Predicted against achieved: the prior that a plan leaves to the next generation."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from msgspec import UNSET

from reprune.compress.planning.achieved import achieved
from reprune.core.artifacts import (
    Additivity,
    BlockCut,
    Cost,
    GroupCut,
    ModelBundle,
    Plan,
    Prediction,
    PruneStage,
    Recovery,
    RecoveryEpoch,
    Sensitivity,
    Surgery,
    TaskFact,
    Tried,
)
from reprune.core.params import GenerationsParams
from reprune.steps import plan_prior

SENSITIVITY = Sensitivity(criterion="taylor", base_loss=1.0, examples=9, groups=())
COST = Cost(params=10, macs=10, bytes=40)
PLAN = Plan(
    allocator="search",
    budget="macs",
    fraction=0.5,
    before=COST,
    groups=(),
    predicted=Prediction(params=5, macs=5, loss_increase=0.2, latency_ratio=None),
)
SURGERY = Surgery(
    criterion="taylor",
    groups=(),
    before=COST,
    after=COST,
    equality_max_abs=0.0,
    loss_dense=1.0,
    loss_cut=1.9,
    loss_compensated=1.3,
    loss_recalibrated=None,
    kept="compensated",
)
BUNDLE = ModelBundle(
    name="m",
    dense_version="1",
    task=TaskFact(entry="a:B", digest="sha256:" + "0" * 64, data_version="1"),
    surgery=SURGERY,
    recovery=Recovery(
        epochs=tuple(
            RecoveryEpoch(epoch=n, train_loss=1.0, tune_loss=loss, learning_rate=0.1)
            for n, loss in ((1, 1.2), (2, 1.05))
        ),
        best_epoch=2,
        examples=10,
        teacher="t",
    ),
)


def test_all_that_is_known_is_told():
    found = achieved(PLAN, BUNDLE, base_loss=1.0)
    assert found.sum_of_cuts == 0.2
    assert (found.cut, found.repaired) == (pytest.approx(0.9), pytest.approx(0.3))
    assert found.recovered == pytest.approx(0.05)
    assert found.measured is None
    assert found.factor == pytest.approx(1.5)


def test_what_the_plan_measured_counts_first():
    tried = Tried(
        evaluations=3,
        most=5,
        examples=9,
        loss_increase=0.5,
        standard_error=0.1,
        allocator="search",
    )
    plan = msgspec.structs.replace(
        PLAN, predicted=msgspec.structs.replace(PLAN.predicted, tried=tried)
    )
    assert achieved(plan, BUNDLE).factor == pytest.approx(2.5)


def test_a_gentler_cut_than_the_plans_tells_nothing_of_what_it_predicted():
    """The next generation would take its plan for better than it is."""
    assert not SURGERY.gentler
    for change in (
        {"groups": (GroupCut(group="a", width=8, requested=2, keep=4),)},
        {"block_cuts": (BlockCut(block="b", planned=COST, removed=COST),)},
    ):
        surgery = msgspec.structs.replace(SURGERY, **change)
        assert surgery.gentler
        found = achieved(PLAN, msgspec.structs.replace(BUNDLE, surgery=surgery), base_loss=1.0)
        assert (found.repaired, found.recovered, found.factor) == (None, None, None)
    gone = msgspec.structs.replace(surgery, blocks=("b",))
    assert not gone.gentler


STAGE = PruneStage(epoch=1.0, share=1.0, macs=5, params=5, zeros=0, loss_after=1.1)


@pytest.mark.parametrize("change", [{"stages": (STAGE,)}, {"sparse_learning": "group-norm"}])
def test_losses_that_training_had_a_part_in_tell_nothing_of_the_cut(change):
    """What came of the recovered model is known all the same."""
    surgery = msgspec.structs.replace(SURGERY, **change)
    found = achieved(PLAN, msgspec.structs.replace(BUNDLE, surgery=surgery), base_loss=1.0)
    assert (found.cut, found.repaired, found.factor) == (None, None, None)
    assert found.recovered == pytest.approx(0.05)


def test_what_is_not_known_is_none():
    dense = msgspec.structs.replace(BUNDLE, surgery=None, recovery=None)
    found = achieved(PLAN, dense, base_loss=1.0)
    assert (found.cut, found.repaired, found.recovered, found.factor) == (None, None, None, None)
    unpredicted = msgspec.structs.replace(
        PLAN, predicted=msgspec.structs.replace(PLAN.predicted, loss_increase=None)
    )
    assert achieved(unpredicted, BUNDLE).factor is None
    assert achieved(PLAN, BUNDLE).recovered is None


def test_where_no_epoch_was_better_the_start_counts():
    assert BUNDLE.recovery
    kept = msgspec.structs.replace(BUNDLE.recovery, best_epoch=0, start_loss=1.02)
    bundle = msgspec.structs.replace(BUNDLE, recovery=kept)
    assert achieved(PLAN, bundle, base_loss=1.0).recovered == pytest.approx(0.02)
    unknown = msgspec.structs.replace(kept, start_loss=msgspec.UNSET)
    bundle = msgspec.structs.replace(BUNDLE, recovery=unknown)
    assert achieved(PLAN, bundle, base_loss=1.0).recovered is None


@pytest.mark.parametrize(
    ("was", "now", "kept"),
    [
        (None, None, True),
        ("additive", None, True),
        (None, "additive", True),
        ("additive", "additive", True),
        ("refitted", "additive", False),
        (None, "refitted", False),
        ("not-additive", "not-additive", False),
    ],
)
def test_only_sums_that_were_refitted_or_not_trusted_leave_no_prior(monkeypatch, was, now, kept):
    """A check that found them to add up changes nothing about them."""

    def with_check(outcome):
        check = Additivity(plans=8, before=0.9, after=None, outcome=outcome) if outcome else UNSET
        predicted = msgspec.structs.replace(PLAN.predicted, additivity=check)
        return msgspec.structs.replace(PLAN, predicted=predicted)

    parts = {"plan": with_check(was), "champion": BUNDLE, "sensitivity": SENSITIVITY}
    monkeypatch.setattr(
        plan_prior,
        "stored_part",
        lambda previous, part, kind: SimpleNamespace(manifest=parts[part]),
    )
    found = plan_prior.with_prior(with_check(now), SimpleNamespace(), GenerationsParams())
    came = found.predicted.champion
    assert (came is not UNSET) == kept
    if kept:
        assert (came.sum_of_cuts, came.before) == (0.2, pytest.approx(0.3))
