"""Which rules a policy makes, how many of them share the error, and when a benchmark may stop."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from reprune.core.policy import Policy, QualityRules
from reprune.judge.decided import decided, decided_throughput, stops
from reprune.judge.evidence import BatchUnits
from reprune.judge.family import (
    absent_rules,
    family_size,
    latency_limits,
    margins,
    memory_limits,
    slice_baselines,
    tail_limits,
    throughput_limits,
)
from reprune.judge.series import extra_batches, speed_margin, speed_series
from tests.building import edit, make_evidence, make_policy, make_units

EVERYBODY = ("candidate", "dense", "champion", "anchor")
RATIOS = {
    "vs_parent": {"max_ratio": 0.5},
    "vs_champion": {"max_ratio": 1.1},
    "vs_anchor": {"max_ratio": 1.2},
}
RATES = {
    "vs_parent": {"min_ratio": 2.0},
    "vs_champion": {"min_ratio": 0.9},
    "vs_anchor": {"min_ratio": 0.8},
}
TAIL = {**RATIOS, "units": 40}
MARGINS = {name: {"max_drop": 0.02} for name in RATIOS}


def policy(**sections: Any) -> Policy:
    return make_policy(**{"latency": None, "quality": {}, "size": None, **sections})


FULL = policy(
    latency={**RATIOS, "tail": TAIL, "objective": {"max_ms": 5.0, "units": 30}},
    quality={"accuracy": {**MARGINS, "floor": 0.5, "slices": {}}},
    throughput=RATES,
    memory=RATIOS,
    size={"vs_parent": {"max_ratio": 0.5}, "vs_champion": {"max_ratio": 1.1}},
)


def named(limits: Any) -> list[tuple[str, str, float]]:
    return [(baseline.name, baseline.arm, limit) for baseline, limit in limits]


def test_limits_of_the_baselines_that_exist() -> None:
    times = [
        ("vs_parent", "dense", 0.5),
        ("vs_champion", "champion", 1.1),
        ("vs_anchor", "anchor", 1.2),
    ]
    rates = [
        (name, arm, limit) for (name, arm, _), limit in zip(times, (2.0, 0.9, 0.8), strict=True)
    ]
    for limits, all_of_them in (
        (latency_limits, times),
        (tail_limits, times),
        (memory_limits, times),
        (throughput_limits, rates),
    ):
        assert named(limits(FULL, EVERYBODY)) == all_of_them
        assert named(limits(FULL, EVERYBODY[:3])) == all_of_them[:2]
        assert named(limits(FULL, ("anchor",))) == all_of_them[2:]
        assert limits(policy(), EVERYBODY) == []


def test_margins_and_whom_slices_are_judged_against() -> None:
    """Everybody whom a margin names and who exists; the parent where there is nobody."""
    rules = FULL.quality["accuracy"]
    assert [b.arm for b, _ in margins(rules, EVERYBODY)] == ["dense", "champion", "anchor"]
    assert [b.arm for b, _ in margins(rules, EVERYBODY[:2])] == ["dense"]
    assert margins(rules, EVERYBODY)[0][1].max_drop == 0.02
    assert [b.arm for b in slice_baselines(rules, EVERYBODY[:3])] == ["dense", "champion"]
    floor_only = policy(quality={"accuracy": {"floor": 0.5, "slices": {}}}).quality["accuracy"]
    assert [b.name for b in slice_baselines(floor_only, EVERYBODY)] == ["vs_parent"]
    assert slice_baselines(QualityRules(floor=0.5), EVERYBODY) == []


def test_how_many_rules_share_the_error() -> None:
    """Those that chance could break: not size, not memory, not parity; per required target."""
    times, tails, rates, quality = 3, 3, 3, 3 + 3 + 1
    each = times + tails + 1 + rates + quality
    assert family_size(FULL, EVERYBODY) == each
    assert family_size(FULL, EVERYBODY, 2) == each + 2 * rates
    two = edit(FULL, "targets", {"a": "required", "b": "required", "c": "advisory"})
    assert family_size(two, EVERYBODY) == 2 * each
    assert family_size(two, EVERYBODY, 1) == 2 * each + rates
    assert family_size(policy(memory=RATIOS, size={"ceiling_bytes": 5}), EVERYBODY) == 1
    assert family_size(policy(latency={"vs_parent": {"max_ratio": 1.0}}), EVERYBODY) == 1
    floor_only = policy(quality={"accuracy": {"floor": 0.5}})
    assert family_size(edit(floor_only, "targets", {"a": "required", "b": "required"}), ()) == 2
    objective = policy(latency={"objective": {"max_ms": 1.0}}, throughput=RATES)
    assert family_size(objective, ("dense",)) == 2


def test_rules_without_their_baseline_are_named() -> None:
    assert absent_rules(FULL, EVERYBODY) == {}
    assert absent_rules(FULL, EVERYBODY[:3]) == {
        "anchor": [
            "latency.vs_anchor",
            "latency.tail.vs_anchor",
            "throughput.vs_anchor",
            "accuracy.vs_anchor",
            "memory.vs_anchor",
        ]
    }
    assert absent_rules(FULL, EVERYBODY[:2])["champion"] == [
        "latency.vs_champion",
        "latency.tail.vs_champion",
        "throughput.vs_champion",
        "accuracy.vs_champion",
        "size.vs_champion",
        "memory.vs_champion",
    ]
    assert absent_rules(policy(), ()) == {}


# --- when to stop --------------------------------------------------------------------------------

PARENT = {"vs_parent": {"max_ratio": 0.8}}
ARMS = ("candidate", "dense")


def test_after_how_many_units_a_benchmark_asks() -> None:
    """At each look of a rule that is looked at, and where tails and objectives are decided."""
    looks = {"looks": (8, 20)}
    assert stops(policy(**looks), ARMS) == ()
    assert stops(policy(latency=PARENT, **looks), ARMS) == (8, 20)
    assert stops(policy(latency=PARENT, **looks), ("candidate",)) == ()
    assert stops(policy(throughput=RATES, **looks), ARMS) == (8, 20)
    tail = {"tail": {"units": 30, **PARENT}, "objective": {"max_ms": 5.0, "units": 25}}
    assert stops(policy(latency=tail, **looks), ARMS) == (25, 30)
    assert stops(policy(latency={**PARENT, **tail}, **looks), ARMS) == (8, 20, 25, 30)
    unasked = {"tail": {"units": 30, "vs_anchor": {}}}
    assert stops(policy(latency=unasked, **looks), ARMS) == ()


def units(count: int, ratio: float = 0.5) -> Any:
    return make_units(count, {"dense": ratio}, control=None)


def asked(count: int, given: Policy, ratio: float = 0.5, **more: Any) -> bool:
    return decided(units(count, ratio), given, arms=ARMS, **{"attempt": 1, **more})


def test_a_benchmark_stops_where_every_rule_is_settled() -> None:
    """Clear passes and clear blocks at a look; not before one; never without a reason."""
    rules = policy(latency=PARENT)
    assert not asked(7, rules)
    assert asked(8, rules)
    assert asked(8, rules, ratio=1.5)
    assert not asked(8, rules, ratio=0.8)
    assert not asked(119, rules, ratio=0.8)
    assert asked(120, rules, ratio=0.8)
    assert asked(0, policy())
    assert asked(0, policy(latency={"vs_champion": {}}))


def test_a_benchmark_waits_for_the_units_of_tails_and_objectives() -> None:
    tail = policy(latency={**PARENT, "tail": {"units": 21, **PARENT}})
    assert asked(20, tail) is False
    assert asked(21, tail)
    objective = policy(latency={**PARENT, "objective": {"max_ms": 5.0, "units": 22}})
    assert not asked(21, objective)
    assert asked(22, objective)
    both = {"tail": {"units": 21, **PARENT}, "objective": {"max_ms": 5.0, "units": 25}}
    assert not asked(24, policy(latency={**PARENT, **both}))
    assert asked(25, policy(latency={**PARENT, **both}))
    late = policy(latency={**PARENT, "tail": {"units": 125, **PARENT}})
    assert not asked(124, late, ratio=0.8)
    assert asked(125, late, ratio=0.8)


def test_a_benchmark_stops_where_units_are_unusable() -> None:
    """The judge will call them an error, and more would not help."""
    rules = policy(latency=PARENT)
    assert asked(7, rules, attempt=0)
    assert not asked(7, rules, attempt=1)
    assert decided(units(3)[1:], rules, arms=ARMS, attempt=1)
    rates = policy(throughput=RATES)
    assert decided_throughput(units(3)[1:], rates, arms=ARMS, attempt=1, batches=1)


def test_rates_are_waited_for_as_well() -> None:
    rules = policy(latency=PARENT, throughput={"vs_parent": {"min_ratio": 2.0}})
    assert not asked(8, rules, ratio=0.5)
    assert asked(8, rules, ratio=0.4)
    rates = policy(throughput={"vs_parent": {"min_ratio": 2.0}})
    assert not asked(8, rates, ratio=0.5)
    assert asked(8, rates, ratio=0.4)


def test_other_batch_sizes_stop_by_rates_alone() -> None:
    rules = policy(latency=PARENT, throughput={"vs_parent": {"min_ratio": 2.0}})

    def stop(count: int, ratio: float, attempt: int = 1) -> bool:
        taken = units(count, ratio)
        return decided_throughput(taken, rules, arms=ARMS, attempt=attempt, batches=1)

    assert not stop(7, 0.4)
    assert stop(8, 0.4)
    assert not stop(8, 0.5)
    assert not stop(119, 0.5)
    assert stop(120, 0.5)
    assert stop(7, 0.5, attempt=0)


def blocks_at(wanted: int, given: Policy, **more: Any) -> bool:
    """Whether that many units, every one of them too slow, settle the rule as broken."""
    return asked(wanted, given, ratio=0.9, **more)


def test_more_rules_and_attempts_make_a_block_later() -> None:
    """Five looks: 8 units too slow give 5 / 2^8 = 0.0195, and 15 give 0.00015.

    One rule at alpha 0.05 / 2 blocks at once. Twice as many rules, or a second attempt, do not.
    """
    one = policy(latency=PARENT)
    assert blocks_at(8, one)
    assert not blocks_at(8, one, attempt=2)
    assert blocks_at(15, one, attempt=2)
    two = edit(one, "targets", {"cpu": "required", "gpu": "required"})
    assert not blocks_at(8, two)
    assert blocks_at(15, two)
    rates = policy(latency=PARENT, throughput={"vs_parent": {"min_ratio": 0.1}})
    many = 10_000
    assert not blocks_at(15, rates, batches=many)
    assert blocks_at(30, rates, batches=many)


def test_batch_sizes_count_for_rates_as_well() -> None:
    rates = policy(throughput={"vs_parent": {"min_ratio": 1.25}})

    def stop(count: int, batches: int, attempt: int = 1) -> bool:
        taken = units(count, 0.9)
        return decided_throughput(taken, rates, arms=ARMS, attempt=attempt, batches=batches)

    assert stop(8, 0)
    assert asked(8, rates, ratio=0.9)
    assert not stop(8, 1)
    assert not stop(8, 0, attempt=2)
    assert stop(15, 1)


# --- series --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "margin"),
    [
        ({}, 1.10),
        ({"latency": {"vs_parent": {"max_ratio": 1.05}}}, 1.05),
        ({"latency": {"vs_parent": {"max_ratio": 1 / 1.05}}}, 1.05),
        ({"latency": {"vs_parent": {"max_ratio": 1.0}}}, 1.02),
        ({"latency": {"vs_parent": {"max_ratio": 0.5}}}, 1.10),
        ({"latency": {"tail": {"vs_parent": {"max_ratio": 1.04}}}}, 1.04),
        ({"throughput": {"vs_parent": {"min_ratio": 1.03}}}, 1.03),
        (
            {
                "latency": {"vs_parent": {"max_ratio": 0.5}, "vs_champion": {"max_ratio": 1.08}},
                "throughput": {"vs_parent": {"min_ratio": 2.0}},
            },
            1.08,
        ),
    ],
)
def test_the_tightest_rule_sets_the_margin(sections: dict[str, Any], margin: float) -> None:
    """Between 2 % and 10 %, whichever way a limit points."""
    found = speed_margin(policy(**sections), EVERYBODY)
    assert found == pytest.approx(math.log(margin))


def test_other_batch_sizes_of_required_targets_are_counted() -> None:
    """Those that throughput is measured at besides a target's own."""
    evidence = make_evidence(targets={"a": 0.5, "b": 0.5, "c": 0.5}, units=8, examples=20, errors=5)
    for place in (0, 1):
        other = [{"batch_size": size, "units": ()} for size in (4, 8)[: place + 1]]
        evidence = edit(
            evidence, f"targets.{place}.throughput", tuple(msgspec.convert(other, list[BatchUnits]))
        )
    roles = {"a": "required", "b": "required", "c": "required"}
    assert extra_batches(evidence, policy(targets=roles)) == 3
    assert extra_batches(evidence, policy(targets={**roles, "b": "advisory"})) == 1
    assert extra_batches(evidence, policy(targets={"b": "required"})) == 2


def test_a_series_a_batch_size() -> None:
    """The target's own first, with all rules about time; others with rates alone; none without rules."""
    evidence = make_evidence(targets={"a": 0.5}, units=20, examples=20, errors=5)
    other = BatchUnits(batch_size=4, units=evidence.targets[0].units[:10])
    target = msgspec.structs.replace(evidence.targets[0], throughput=(other,))
    rules = policy(
        targets={"a": "required"},
        latency={
            **RATIOS,
            "tail": {**RATIOS, "units": 20, "percentile": 90},
            "objective": {"max_ms": 5.0, "units": 20, "percentile": 50},
        },
        throughput=RATES,
        looks=(8, 15),
    )
    own, four = speed_series(target, rules, evidence, 0.1)
    assert [draft.rule for draft in own.drafts] == [
        "latency.vs_parent",
        "latency.vs_champion",
        "latency.tail.vs_parent",
        "latency.tail.vs_champion",
        "latency.objective",
        "throughput.vs_parent",
        "throughput.vs_champion",
    ]
    assert [draft.rule for draft in four.drafts] == [
        "throughput.b4.vs_parent",
        "throughput.b4.vs_champion",
    ]
    assert (own.target, own.batch_size, own.own, own.place) == ("a", 1, True, "On a")
    assert (four.target, four.batch_size, four.own) == ("a", 4, False)
    assert four.place == "On a at batch 4"
    assert own.baselines == four.baselines == ("dense", "champion")
    assert (len(own.units), len(four.units)) == (20, 8)
    # Of guards, over two looks; not of the attempt.
    assert own.tail == four.tail == pytest.approx(0.025 / 2)
    half = speed_margin(rules, evidence.arms) / 2
    assert own.half_margin == four.half_margin == pytest.approx(half)
    times_only = policy(targets={"a": "required"}, latency=RATIOS)
    assert [one.batch_size for one in speed_series(target, times_only, evidence, 0.1)] == [1]
    assert speed_series(target, policy(targets={"a": "required"}), evidence, 0.1) == []
