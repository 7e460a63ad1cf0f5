"""Numbers taken from the evidence, and how they read."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from reprune.core.artifacts import (
    Cost,
    CutPoint,
    GroupPlan,
    GroupSensitivity,
    LayerProfile,
    OperatorTime,
    Plan,
    Prediction,
    Profile,
    TargetProfile,
)
from reprune.core.artifacts import Sensitivity as Table
from reprune.judge.evidence import ArmTimes, TargetEvidence, Unit
from reprune.report import svg, words
from reprune.report.diff import _flips
from reprune.report.measured import (
    call_times,
    expected_losses,
    flips,
    macs_share,
    time_share,
    unit_ratios,
)
from tests.report.scenes import BLOCKED
from tests.report.verdicts import MACHINE, facts


def evidence(*units: dict[str, tuple[tuple[int, ...], ...]]) -> TargetEvidence:
    return TargetEvidence(
        target="t",
        machine=MACHINE,
        batch_size=1,
        units=tuple(
            Unit(
                index=index,
                process=0,
                seed=0,
                started_s=0.0,
                load=0.0,
                arms={
                    arm: ArmTimes(order=0, blocks_ns=blocks, warmup_calls=0)
                    for arm, blocks in unit.items()
                },
            )
            for index, unit in enumerate(units)
        ),
    )


def test_a_unit_is_the_mean_log_median_of_its_blocks() -> None:
    """Blocks of 100 and 400 against 400 and 400 give the ratio 1/2; one slow call changes nothing."""
    given = evidence({"candidate": ((100, 100, 9000), (400,)), "dense": ((400,), (400,))})
    assert [one.ratio for one in unit_ratios(given, "dense")] == [pytest.approx(0.5)]


def test_a_unit_without_the_baseline_is_left_out() -> None:
    """A ratio is drawn only where both arms were measured."""
    given = evidence({"candidate": ((100,),)}, {"candidate": ((100,),), "champion": ((50,),)})
    assert [one.index for one in unit_ratios(given, "champion")] == [1]
    assert unit_ratios(given, "dense") == ()


def test_call_times_are_in_milliseconds() -> None:
    """Quantiles are of single calls of all units together."""
    given = evidence({"candidate": (tuple(range(1_000_000, 102_000_000, 1_000_000)),)})
    (times,) = call_times(given)
    assert times.calls == 101
    assert times.quantiles_ms == (6.0, 26.0, 51.0, 76.0, 96.0)


def test_flips_count_both_ways(tmp_path: Path) -> None:
    """What became wrong and what became right add up to the net change."""
    known = facts(BLOCKED, tmp_path)
    assert known.evidence is not None
    dense, champion = flips(known.evidence)
    assert (dense.baseline, champion.baseline) == ("dense", "champion")
    assert dense.became_right - dense.became_wrong == 414 - 441
    assert dense.examples == 450


def test_flips_of_a_set_are_told_by_member(tmp_path: Path) -> None:
    """Each member's own, under its name; two of the same verdict compared are told so too."""
    known = facts(BLOCKED, tmp_path)
    assert known.evidence is not None
    arms = {
        key: structs.replace(
            records, columns={f"car.{name}": values for name, values in records.columns.items()}
        )
        for key, records in known.evidence.quality.arms.items()
    }
    quality = structs.replace(known.evidence.quality, arms=arms)
    evidence = structs.replace(known.evidence, quality=quality)
    alone = flips(known.evidence)
    assert [one.where for one in flips(evidence)] == [f"car, {one.target}" for one in alone]
    assert [one.wrong_at for one in flips(evidence)] == [one.wrong_at for one in alone]
    told = _flips(evidence, evidence)
    assert [(one.member, one.only_before, one.only_after) for one in told] == [("car", 0, 0)]


def test_the_share_of_time_is_told_where_names_tell() -> None:
    """Only whole names count: `conv1` is in `conv1+relu` and not in `conv11` or `my_conv1`."""
    names = {
        "conv1+relu": 0.4,
        "/conv1/Conv": 0.1,
        "conv11": 0.2,
        "my_conv1": 0.2,
        "block.conv1": 0.1,
    }
    operators = tuple(
        OperatorTime(operator=name, type="Conv", median_us=share, share=share)
        for name, share in names.items()
    )
    target = TargetProfile(
        target="t", runtime="r", batch_size=1, latency_us=1.0, operators=operators
    )
    layer = LayerProfile(layer="conv1", type="Conv2d", params=1, macs=30, output_shape=(1,))
    profile = Profile(
        cost=Cost(params=1, macs=120, bytes=1),
        layers=(layer,),
        uncounted=(),
        machine=MACHINE,
        targets=(target,),
    )
    assert time_share("conv1", (profile,)) == pytest.approx(0.5)
    assert time_share("block.conv1", (profile,)) == pytest.approx(0.1)
    assert time_share("conv", (profile,)) is None
    assert time_share("conv1", ()) is None
    away = msgspec.structs.replace(target, target="a", operators=())
    both = msgspec.structs.replace(profile, targets=(away, target))
    assert time_share("conv1", (both,)) == pytest.approx(0.5)
    assert macs_share("conv1", (profile,)) == 0.25
    assert macs_share("other", (profile,)) is None


def test_the_expected_loss_lies_between_measured_cuts() -> None:
    """Half-way between two cuts, half the rise; at full width none; below the deepest, as there."""
    cost = Cost(params=1, macs=1, bytes=1)
    cuts = tuple(
        CutPoint(keep=keep, loss_increase=loss, standard_error=0.0, macs=1, params=1)
        for keep, loss in ((8, 0.1), (4, 0.3))
    )
    table = Table(
        criterion="l1",
        base_loss=0.0,
        examples=1,
        groups=(GroupSensitivity(group="a", width=16, cuts=cuts),),
    )
    keeps = (16, 12, 8, 6, 4, 2)
    plan = Plan(
        allocator="uniform",
        budget="macs",
        fraction=0.5,
        before=cost,
        groups=(
            *(GroupPlan(group="a", width=16, keep=keep) for keep in keeps),
            GroupPlan(group="unknown", width=4, keep=2),
        ),
        predicted=Prediction(params=1, macs=1, loss_increase=None, latency_ratio=None),
    )
    losses = [one.loss for one in expected_losses(plan, table, None)]
    assert losses[:-1] == [pytest.approx(loss) for loss in (0.0, 0.05, 0.1, 0.2, 0.3, 0.3)]
    assert losses[-1] is None


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (words.number(0.0), "0"),
        (words.number(1234.5), "1,234".replace(",", words.NBSP)),
        (words.number(-0.000012), "\u22121.20e\u22125"),
        (words.number(math.inf), "unbounded"),
        (words.points(-0.0158), f"\u22121.58{words.NBSP}pt"),
        (words.points(0.000001), f"0.00{words.NBSP}pt"),
        (words.points(0.02), f"+2.00{words.NBSP}pt"),
        (words.percent(0.9206), f"92.06{words.NBSP}%"),
        (words.size(44_700_000), f"44.7{words.NBSP}MB"),
        (words.milliseconds(0.05), f"50.0{words.NBSP}µs"),
        (words.ratio(1.00934), f"{words.TIMES}1.009"),
        (words.milliseconds(8.41), f"8.41{words.NBSP}ms"),
        (words.version("3"), "v3"),
        (words.version("night-3"), "night-3"),
        (words.plural(1, "epoch"), "1 epoch"),
    ],
)
def test_how_numbers_read(shown: str, text: str) -> None:
    """Units, signs and digits are the same in every rendering."""
    assert shown == text


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    """An axis has between one and a dozen ticks, all within its ends but for rounding."""
    low, high = sorted((low / 1e10, high / 1e10))
    found = svg.ticks(low, high)
    assert 1 <= len(found) <= 12
    slack = 1e-6 * (high - low) if math.isfinite(high - low) else 0.0
    assert all(low - slack <= value <= high + slack for value in found)
