"""How a version was made, as `reprune history` tells it: each from the manifest that knows."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from reprune.core.artifacts import (
    ChampionStart,
    Cost,
    GroupPlan,
    JointTrial,
    KnownRecovery,
    ModelBundle,
    Plan,
    Prediction,
    RateChoice,
    Recovery,
    RecoveryEpoch,
    Sensitivity,
    TableReuse,
    TaskFact,
)
from reprune.registry.generations import Made
from reprune.registry.making import made_of

COST = Cost(params=1, macs=1, bytes=1)
TABLE = Sensitivity(criterion="taylor", base_loss=1.0, examples=9, groups=(), cost=90)
PLAN = Plan(
    allocator="uniform",
    budget="macs",
    fraction=0.5,
    before=COST,
    groups=(GroupPlan(group="conv", width=16, keep=8),),
    predicted=Prediction(params=1, macs=1, loss_increase=0.25, latency_ratio=None),
)
EPOCH = RecoveryEpoch(epoch=1, train_loss=0.1, tune_loss=0.1, learning_rate=0.1)
RATE = RateChoice(learning_rate=0.01, how="champion", optimizer="sgd", age=3)
START = ChampionStart(taken=True, champion_loss=0.1, cut_loss=0.5, cost=100)
KNOWN = KnownRecovery(champion="c", asked=4, epochs=1, needed=1, second="c", weight=0.25)
TASK = TaskFact(entry="a:B", digest="sha256:" + "0" * 64, data_version="1")
BUNDLE = ModelBundle(name="m", dense_version="1", task=TASK)


def made(plan: Plan = PLAN, **recovered: Any) -> Made:
    recovery = Recovery(epochs=(EPOCH,), best_epoch=1, examples=1_100, teacher="t", **recovered)
    bundle = ModelBundle(name="m", dense_version="1", task=TASK, recovery=recovery)
    return made_of(TABLE, plan, bundle, ())


def test_recovery_says_what_was_the_champions() -> None:
    found = made(known=replace(KNOWN, start=START), rate=RATE)
    assert (found.epochs, found.asked, found.recovery_saved) == (1, 4, 2_900)
    assert (found.start, found.taught) == ("champion", 0.25)
    assert (found.rate, found.rate_how, found.rate_age) == (0.01, "champion", 3)
    other = made(known=replace(KNOWN, start=replace(START, taken=False)))
    assert (other.start, other.rate, other.rate_how) == ("cut", None, "")
    assert made(known=KNOWN).start == ""
    nothing = made()
    assert (nothing.epochs, nothing.recovery_saved, nothing.taught) == (None, 0, 0.0)


@pytest.mark.parametrize(("known", "widths"), [({"conv": 8}, "kept"), ({"conv": 12}, "fresh")])
def test_widths_say_whose_they_are_where_both_were_tried(
    known: dict[str, int], widths: str
) -> None:
    trial = JointTrial(
        known=known, fresh={"conv": 8}, unit="share", worse=0.0, standard_error=0.0, allowed=0.0,
        examples=1, cost=1,
    )  # fmt: skip
    assert made(replace(PLAN, tried=trial)).widths == widths
    unsure = replace(trial, worse=0.001, worse_low=-0.017, allowed=0.002)
    doubt = "cannot tell: may be up to 1.9 points worse" if widths == "kept" else ""
    assert made(replace(PLAN, tried=unsure)).widths_doubt == doubt
    reuse = TableReuse(how="reused", why="", trial=unsure)
    told = made_of(replace(TABLE, reuse=reuse), PLAN, BUNDLE, ())
    assert told.table_doubt == "cannot tell: may be up to 1.9 points worse"
    assert made(replace(PLAN, tried=trial)).widths_doubt == ""
    assert made().widths == ""
    whole = (GroupPlan(group="conv", width=16, keep=8), GroupPlan(group="b.conv", width=8, keep=8))
    assert made(replace(PLAN, groups=whole, blocks=("b",))).kept == {
        "conv": 0.5,
        "b.conv": 0.0,
        "block b": 0.0,
    }
    assert (made().kept, made().rise) == ({"conv": 0.5}, 0.25)
