"""Each guard by itself, on series of units whose figures can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from reprune.core.policy import GuardRules
from reprune.judge.condition_guards import (
    GUARDS,
    clock_guard,
    device_guard,
    stolen_guard,
    target_guards,
    waiting_guard,
)
from reprune.judge.conditions import (
    condition_problems,
    differences,
    disturbed_units,
    mean_interval,
    mean_reading,
    process_change,
    stolen_share,
    waited_share,
)
from reprune.judge.drafts import Draft
from reprune.judge.evidence import ArmTimes, Conditions, DeviceConditions, Unit
from reprune.judge.guards import (
    Finding,
    control_guard,
    doubted,
    interval_guard,
    judge_guards,
    units_guard,
)
from reprune.judge.series import Series

TYPICAL = 1_000_000
QUIET = Conditions(wall_ns=10_000, waited_ns=0, stolen=0.0, pulse_ns=100)
DEVICE = DeviceConditions(
    clock_mhz=1500,
    memory_clock_mhz=2600,
    power_limit_w=350.0,
    throttle=("gpu_idle",),
    other_processes=0,
)
RULES = GuardRules()
ARMS = ("candidate", "dense", "control")


def draft(**changes: Any) -> Draft:
    given = {
        "rule": "latency.vs_parent",
        "baseline": "dense",
        "target": "a",
        "required": True,
        "unit": "ratio",
        "baseline_value": 2.0,
        "candidate_value": 1.0,
        "change": 0.5,
        "low": 0.45,
        "high": 0.55,
        "limit": 0.8,
        "direction": "at most",
        "samples": 8,
        "facts": "Facts",
        "short": "short",
        "allowed": "allowed",
        "holds": True,
        "p_harm": 1.0,
        **changes,
    }
    return Draft(**given)


def unit(
    index: int,
    ns: Mapping[str, int] | None = None,
    told: Mapping[str, Sequence[Conditions]] | None = None,
    calls: int = 5,
) -> Unit:
    times = dict.fromkeys(ARMS, TYPICAL) | dict(ns or {})
    arms = {
        arm: ArmTimes(
            order=order,
            blocks_ns=((each,) * calls,) * 2,
            warmup_calls=1,
            conditions=tuple((told or {}).get(arm, ())),
        )
        for order, (arm, each) in enumerate(times.items())
        if each
    }
    return Unit(index=index, process=index // 4, seed=0, started_s=1e9, load=0.0, arms=arms)


def series(units: Sequence[Unit], **changes: Any) -> Series:
    """Eight units' intervals leave out one at either end: 9 of 256 orders at a level of 0.1."""
    given = {
        "target": "a",
        "batch_size": 1,
        "own": True,
        "units": tuple(units),
        "drafts": (draft(),),
        "tail": 0.1,
        "half_margin": math.log(1.025),
        **changes,
    }
    return Series(**given)


def state(found: Finding) -> tuple[str, float | None, float | None]:
    value, limit = found.value, found.limit
    return (
        found.state,
        None if value is None else round(value, 9),
        None if limit is None else round(limit, 9),
    )


# --- together ------------------------------------------------------------------------------------


def test_the_worst_of_the_series_counts() -> None:
    """Tripped, then unknown, then ok, then off; among equals the larger value."""
    findings = {
        1: Finding(state="off", words="off"),
        2: Finding(state="ok", words="ok", value=3.0, limit=4.0),
        3: Finding(state="unknown", words="unknown"),
        4: Finding(state="tripped", words="tripped", value=1 / 3, limit=1 / 7),
        5: Finding(state="ok", words="more", value=5.0),
        6: Finding(state="ok", words="nothing"),
        7: Finding(state="ok", words="little", value=0.5),
    }

    def worst(*batches: int) -> Any:
        all_of_them = [series([], batch_size=batch) for batch in batches]
        (found,) = judge_guards(
            all_of_them, RULES, {"x": lambda one, _rules: findings[one.batch_size]}
        )
        return found

    assert [worst(1, 2, 3, 4).outcome, worst(1, 2, 3).outcome, worst(2, 1).outcome] == [
        "tripped",
        "unknown",
        "ok",
    ]
    assert worst(1).outcome == "off"
    assert worst(2, 5).words == worst(5, 2).words == "more"
    assert worst(6, 7).words == worst(7, 6).words == "little"
    tripped = worst(4)
    assert (tripped.value, tripped.limit) == (0.333333333, 0.142857143)
    assert (tripped.guard, tripped.target, tripped.words) == ("x", "a", "tripped")
    assert (worst(3).value, worst(3).limit) == (None, None)
    assert judge_guards([], RULES, dict(GUARDS)) == []


def test_a_guard_that_tripped_undoes_passes_alone() -> None:
    """What would have passed is undecided and says why; a block and what is open stay what they are."""
    (tripped, fine) = judge_guards(
        [series([])],
        RULES,
        {
            "x": lambda *_: Finding(state="tripped", words="It tripped."),
            "y": lambda *_: Finding(state="ok", words="Fine."),
        },
    )
    passing, open_ = draft(), draft(holds=False)
    assert doubted([passing, open_], [fine]) == [passing, open_]
    undone, untouched = doubted([passing, open_], [tripped, fine])
    assert untouched == open_
    assert (undone.sure, undone.decide) == ("inconclusive", "It tripped.")
    assert undone.facts == ("Facts (it would hold, but the measurement cannot be trusted: x)")
    assert undone.doubt == "the measurement cannot be trusted (x)"
    twice = doubted([passing], [tripped, tripped])[0]
    assert twice.decide == "It tripped. It tripped."
    assert "(x, x)" in twice.doubt


def test_the_guard_on_accelerators_is_asked_where_one_was_recorded() -> None:
    plain = series([unit(0, told={"candidate": [QUIET]})])
    one_block = {"dense": [msgspec.structs.replace(QUIET, device=DEVICE)], "candidate": [QUIET]}
    with_one = series([unit(0, told={"dense": [QUIET]}), unit(1, told=one_block)])
    names = ["control", "waiting", "stolen", "clock", "device", "interval", "units"]
    without = [name for name in names if name != "device"]
    assert [one.guard for one in target_guards([plain], RULES)] == without
    assert [one.guard for one in target_guards([plain, with_one], RULES)] == names
    assert target_guards([], RULES) == []
    alone = series([unit(0), msgspec.structs.replace(unit(1), clock="its own")])
    assert [one.guard for one in target_guards([plain, alone], RULES)] == names


# --- control -------------------------------------------------------------------------------------


def controls(*ns: int) -> list[Unit]:
    return [unit(index, {"control": each}) for index, each in enumerate(ns)]


def test_two_sessions_of_one_model_must_be_alike() -> None:
    """Only an interval that lies outside of half the margin (2.5 %) on either side trips."""
    limit = 1.025
    alike = control_guard(series(controls(*[TYPICAL] * 8)), RULES)
    assert state(alike) == ("ok", 1.0, limit)
    for times, value in ((1.03, 1.03), (0.97, 0.97)):
        off = control_guard(series(controls(*[round(times * TYPICAL)] * 8)), RULES)
        assert state(off) == ("tripped", value, limit)
        assert "differ by 3 %" in off.words
    within = control_guard(series(controls(*[1_025_000] * 8)), RULES)
    assert state(within) == ("ok", 1.025, limit)
    below = control_guard(series(controls(*[975_610] * 8)), RULES)
    assert state(below)[0] == "ok"
    torn = [1_030_000] * 6 + [1_000_000] * 2
    assert state(control_guard(series(controls(*torn)), RULES))[0] == "ok"
    one_odd = [1_030_000] * 7 + [1_000_000]
    assert state(control_guard(series(controls(*one_odd)), RULES))[0] == "tripped"
    assert "(limits 1 to 1.03, 8 units)" in control_guard(series(controls(*torn)), RULES).words


def thirds(dense: int, control: int, half_margin: float) -> str:
    units = [unit(i, {"dense": dense, "control": control}) for i in range(8)]
    return control_guard(series(units, half_margin=half_margin), RULES).state


def test_the_control_is_compared_to_nine_digits() -> None:
    """A limit that differs from the ratio in the twelfth digit is met."""
    assert thirds(3, 4, math.log(1.33333333)) == "ok"
    assert thirds(4, 5, math.log(1.25) - 1e-12) == "ok"
    assert thirds(4, 3, math.log(4 / 3)) == "ok"
    assert thirds(4, 3, math.log(4 / 3) - 1e-12) == "ok"
    assert thirds(4, 5, math.log(1.25) - 1e-6) == thirds(4, 3, math.log(4 / 3) - 1e-6) == "tripped"


def test_what_the_control_cannot_tell() -> None:
    off = control_guard(series(controls(TYPICAL)), GuardRules(control=False))
    assert state(off) == ("off", None, None)
    nothing = control_guard(series([]), RULES)
    assert state(nothing) == ("unknown", None, 1.025)
    assert nothing.words == "On a, no look has been taken yet."
    few = control_guard(series(controls(2 * TYPICAL, 2 * TYPICAL)), RULES)
    assert state(few) == ("unknown", 2.0, 1.025)
    missing = control_guard(series([unit(0), unit(1, {"control": 0})]), RULES)
    assert state(missing) == ("tripped", None, 1.025)


def test_the_control_of_rates_counts_slow_calls() -> None:
    """At other batch sizes means are judged, so the control is about means too."""
    slow = [
        msgspec.structs.replace(
            one,
            arms={
                **one.arms,
                "control": msgspec.structs.replace(
                    one.arms["control"], blocks_ns=((TYPICAL,) * 4 + (6 * TYPICAL,),) * 2
                ),
            },
        )
        for one in controls(*[TYPICAL] * 8)
    ]
    assert state(control_guard(series(slow), RULES)) == ("ok", 1.0, 1.025)
    assert state(control_guard(series(slow, own=False), RULES)) == ("tripped", 2.0, 1.025)


# --- interval ------------------------------------------------------------------------------------


def intervals(*drafts: Draft, most: float | None = 1.5) -> tuple[str, float | None, float | None]:
    return state(interval_guard(series([], drafts=drafts), GuardRules(max_interval=most)))


def test_no_pass_on_too_wide_an_interval() -> None:
    """Of those that would pass alone, whichever direction; the widest is told."""
    assert intervals(draft(low=0.4, high=0.6)) == ("ok", 1.5, 1.5)
    assert intervals(draft(low=0.4, high=0.61)) == ("tripped", 1.525, 1.5)
    assert intervals(draft(low=0.4, high=0.61), most=None) == ("off", None, None)
    assert intervals(draft(low=0.4, high=0.81)) == ("ok", None, 1.5)
    assert intervals(draft(low=0.4, high=0.8)) == ("tripped", 2.0, 1.5)
    rates = {"direction": "at least", "limit": 1.2}
    assert intervals(draft(low=1.2, high=2.4, **rates)) == ("tripped", 2.0, 1.5)
    assert intervals(draft(low=1.1, high=2.4, **rates)) == ("ok", None, 1.5)
    assert intervals(draft(low=0.5, high=0.55), draft(low=0.5, high=0.6)) == ("ok", 1.2, 1.5)
    assert intervals(draft(low=0.4, high=0.6), draft(low=0.5, high=0.8)) == ("tripped", 1.6, 1.5)
    assert intervals() == ("ok", None, 1.5)


def test_intervals_of_other_units_and_without_ends_are_not_widths() -> None:
    assert intervals(draft(unit="share", low=0.1, high=0.7)) == ("ok", None, 1.5)
    assert intervals(draft(low=None, high=0.7)) == ("ok", None, 1.5)
    assert intervals(draft(low=0.1, high=None)) == ("ok", None, 1.5)
    assert intervals(draft(low=0.0, high=0.7)) == ("tripped", None, 1.5)
    words = interval_guard(
        series([], drafts=(draft(low=0.1, high=0.7), draft(rule="latency.vs_anchor"))), RULES
    ).words
    assert "the interval of latency.vs_parent is wider" in words
    ok = interval_guard(series([], drafts=()), RULES).words
    assert ok == "On a, no rule passes; 1.5 is allowed."
    seen = interval_guard(series([], drafts=(draft(low=0.4, high=0.5),)), RULES).words
    assert seen == "On a, the widest passing interval spans 1.25; 1.5 is allowed."


# --- units ---------------------------------------------------------------------------------------


def test_units_must_be_of_two_processes_and_hold_five_calls() -> None:
    many = [unit(index) for index in range(8)]
    assert state(units_guard(series(many), RULES)) == ("ok", 8.0, None)
    assert state(units_guard(series(many[3:5]), RULES)) == ("ok", 2.0, None)
    assert state(units_guard(series(many[:4]), RULES)) == ("tripped", 4.0, None)
    assert "all from one process" in units_guard(series(many[:4]), RULES).words
    short = [*many[:7], unit(7, calls=4)]
    assert state(units_guard(series(short), RULES)) == ("tripped", 8.0, None)
    assert "blocks of only 4 calls" in units_guard(series(short), RULES).words
    assert "no block with fewer than 5 calls" in units_guard(series(many), RULES).words
    nothing = units_guard(series([]), RULES)
    assert state(nothing) == ("tripped", 0.0, None)
    assert "too few units were taken for a first look" in nothing.words


# --- waiting and stolen time ---------------------------------------------------------------------


def conditions(**changes: Any) -> list[Conditions]:
    return [QUIET, msgspec.structs.replace(QUIET, **changes)]


def lost(count: int, **changes: Any) -> list[Unit]:
    """Eight units; in the first `count` of them one block of every arm has these conditions."""
    return [
        unit(
            index,
            told={arm: conditions(**(changes if index < count else {})) for arm in ARMS},
        )
        for index in range(8)
    ]


LOST = [
    (waiting_guard, {"waited_ns": 2_001}, {"waited_ns": 2_000}, {"waited_ns": None}),
    (stolen_guard, {"stolen": 0.2001}, {"stolen": 0.2}, {"stolen": None}),
]


@pytest.mark.parametrize(("guard", "above", "at", "untold"), LOST)
def test_lost_time_trips_in_more_than_half_of_the_units(
    guard: Any, above: Any, at: Any, untold: Any
) -> None:
    """A fifth of a block may be lost, and more in half of the units."""
    assert state(guard(series(lost(8, **at)), RULES)) == ("ok", 0.0, 0.5)
    assert state(guard(series(lost(4, **above)), RULES)) == ("ok", 0.5, 0.5)
    assert state(guard(series(lost(5, **above)), RULES)) == ("tripped", 0.625, 0.5)
    loose = GuardRules(max_disturbed=0.7)
    assert state(guard(series(lost(5, **above)), loose)) == ("ok", 0.625, 0.7)
    stricter = GuardRules(max_waiting=0.1)
    assert state(guard(series(lost(5, **at)), stricter)) == ("tripped", 0.625, 0.5)
    assert state(guard(series(lost(8, **above)), GuardRules(max_waiting=None)))[0] == "off"
    assert state(guard(series([]), RULES)) == ("unknown", None, 0.5)
    nobody = [
        unit(i, told={arm: [msgspec.structs.replace(QUIET, **untold)] for arm in ARMS})
        for i in range(8)
    ]
    assert state(guard(series(nobody), RULES)) == ("unknown", None, 0.5)


def stolen_from(arm: str, stolen: float, half_margin: float) -> str:
    told = {one: [msgspec.structs.replace(QUIET, stolen=stolen * (one == arm))] for one in ARMS}
    units = [unit(i, told=told) for i in range(8)]
    return stolen_guard(series(units, half_margin=half_margin), RULES).state


@pytest.mark.parametrize("arm", ["candidate", "dense"])
def test_shares_are_compared_to_nine_digits(arm: str) -> None:
    assert stolen_from(arm, 0.125, 0.125) == "ok"
    assert stolen_from(arm, 0.125, 0.125 - 1e-12) == "ok"
    assert stolen_from(arm, 0.125 + 1e-12, 0.125) == "ok"
    assert stolen_from(arm, 0.125 + 1e-6, 0.125) == "tripped"
    some = [
        unit(i, told={one: [msgspec.structs.replace(QUIET, stolen=0.5 * (i < 2))] for one in ARMS})
        for i in range(6)
    ]
    for limit, outcome in ((0.333333333, "ok"), (1 / 3 - 1e-6, "tripped")):
        assert stolen_guard(series(some), GuardRules(max_disturbed=limit)).state == outcome
    five = GuardRules(max_disturbed=0.625 - 1e-12)
    assert stolen_guard(series(lost(5, stolen=0.5)), five).state == "ok"


@pytest.mark.parametrize(
    ("guard", "field"), [(waiting_guard, "waited_ns"), (stolen_guard, "stolen")]
)
@pytest.mark.parametrize("arm", ["candidate", "dense"])
def test_one_arm_that_lost_more_trips_at_any_level(guard: Any, field: str, arm: str) -> None:
    """Half the margin is 0.0247: an arm may lose that much more than another, certainly not more."""
    for share, outcome in ((0.0246, "ok"), (0.0248, "tripped")):
        more = {field: round(share * 10_000) if field == "waited_ns" else share}
        units = [
            unit(
                i,
                told={
                    one: [msgspec.structs.replace(QUIET, **more)] if one == arm else [QUIET]
                    for one in ARMS
                },
            )
            for i in range(8)
        ]
        found = guard(series(units), RULES)
        assert state(found) == (outcome, 0.0, 0.5)
        if outcome == "tripped":
            than = "more" if arm == "candidate" else "less"
            assert f"the candidate 2.48 % of its time {than} than the dense model" in found.words


# --- clock ---------------------------------------------------------------------------------------


def pulses(*each: Mapping[str, int]) -> list[Unit]:
    return [
        unit(
            i,
            told={
                arm: [msgspec.structs.replace(QUIET, pulse_ns=ns.get(arm, ns["all"]))]
                for arm in ARMS
            },
        )
        for i, ns in enumerate(each)
    ]


def test_the_clock_may_change_between_processes_up_to_a_limit() -> None:
    steady, twice = [{"all": 100}] * 4, [{"all": 200}] * 4
    assert state(clock_guard(series(pulses(*steady, *steady)), RULES)) == ("ok", 1.0, 2.0)
    assert state(clock_guard(series(pulses(*steady, *twice)), RULES)) == ("ok", 2.0, 2.0)
    slower = pulses(*steady, *[{"all": 201}] * 4)
    assert state(clock_guard(series(slower), RULES)) == ("tripped", 2.01, 2.0)
    assert state(clock_guard(series(slower), GuardRules(max_clock_change=None)))[0] == "off"
    assert state(clock_guard(series(slower), GuardRules(max_clock_change=3.0)))[0] == "ok"
    third = pulses(*[{"all": 300}] * 4, *[{"all": 400}] * 4)
    assert clock_guard(series(third), GuardRules(max_clock_change=1.33333333)).state == "ok"
    quarter = pulses(*[{"all": 400}] * 4, *[{"all": 500}] * 4)
    assert clock_guard(series(quarter), GuardRules(max_clock_change=1.25 - 1e-12)).state == "ok"
    assert state(clock_guard(series([]), RULES)) == ("unknown", None, 2.0)
    assert state(clock_guard(series([unit(i) for i in range(8)]), RULES)) == ("unknown", None, 2.0)


@pytest.mark.parametrize("arm", ["candidate", "dense"])
def test_the_clock_must_be_the_same_for_all_arms(arm: str) -> None:
    """Certainly off by more than half the margin (2.5 %), in the median unit."""
    assert state(clock_guard(series(pulses(*[{"all": 1000, arm: 1024}] * 8)), RULES))[0] == "ok"
    off = pulses(*[{"all": 1000, arm: 1026}] * 8)
    assert state(clock_guard(series(off), RULES)) == ("tripped", 1.0, 2.0)
    sometimes = pulses(*[{"all": 1000, arm: 1100}] * 6, *[{"all": 1000}] * 2)
    assert state(clock_guard(series(sometimes), RULES))[0] == "ok"
    ratio = 1.026 if arm == "candidate" else 1 / 1.026
    words = clock_guard(series(off), RULES).words
    assert f"candidate over the dense model, limits {ratio:.4g} to {ratio:.4g}" in words


# --- accelerators --------------------------------------------------------------------------------


def on_device(arm: str = "", silent: int = 0, **changes: Any) -> Series:
    """Eight units on an accelerator; `arm` alone, or the last block of all, differs by `changes`."""
    units = []
    for index in range(8):
        told = {}
        for one in ARMS:
            last = index == 7 and one == "control"
            differs = one == arm if arm else last
            device = msgspec.structs.replace(DEVICE, **(changes if differs else {}))
            quiet = index * 3 + ARMS.index(one) < silent
            told[one] = [msgspec.structs.replace(QUIET, device=None if quiet else device)]
        units.append(unit(index, told=told))
    return series(units)


def test_an_accelerator_that_ran_alone_is_trusted() -> None:
    found = device_guard(on_device(), RULES)
    assert state(found) == ("ok", None, None)
    assert found.words == "On a, the accelerator ran alone at 1500 to 1500 MHz."
    varied = device_guard(on_device(clock_mhz=1400), RULES)
    assert varied.words == "On a, the accelerator ran alone at 1400 to 1500 MHz."
    silent = device_guard(series([unit(0)]), RULES)
    assert state(silent) == ("unknown", None, None)
    assert "does not tell the state of the accelerator" in silent.words
    assert "no look has been taken yet" in device_guard(series([]), RULES).words
    for harmless in ("", "none", "Idle", "GPU_IDLE", "applications_clocks_setting"):
        assert state(device_guard(on_device(throttle=(harmless,)), RULES))[0] == "ok"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"throttle": (*"fxbqa", "idle", "c")}, "it was slowed down (a, b, c, f, q, x)"),
        ({"power_limit_w": 300.0}, "its power limit changed"),
        ({"other_processes": 1}, "1 other process used it"),
        ({"other_processes": 2}, "2 other processes used it"),
        ({"silent": 1}, "its driver did not answer in 1 block"),
        ({"silent": 2}, "its driver did not answer in 2 blocks"),
        ({"arm": "candidate", "clock_mhz": 1540}, "its clock was not the same for all arms"),
        ({"arm": "dense", "memory_clock_mhz": 2700}, "its memory clock was not the same for all"),
    ],
)
def test_each_trouble_of_an_accelerator_trips(changes: dict[str, Any], words: str) -> None:
    found = device_guard(on_device(**changes), RULES)
    assert state(found) == ("tripped", None, None)
    assert words in found.words
    assert ";" not in found.words


def test_every_trouble_is_told() -> None:
    found = device_guard(on_device(silent=1, other_processes=3, power_limit_w=1.0), RULES)
    assert found.words.count(";") == 2
    tiny = device_guard(on_device(power_limit_w=350.0 + 1e-9), RULES)
    assert tiny.state == "ok"


# --- readings ------------------------------------------------------------------------------------


def test_readings_of_a_block() -> None:
    block = Conditions(wall_ns=200, waited_ns=50, stolen=0.1, pulse_ns=7)
    assert (waited_share(block), stolen_share(block)) == (0.25, 0.1)
    assert waited_share(msgspec.structs.replace(block, waited_ns=None)) is None


def times(*told: float | None) -> ArmTimes:
    blocks = [msgspec.structs.replace(QUIET, stolen=each) for each in told]
    return ArmTimes(order=0, blocks_ns=((1,),) * 2, warmup_calls=0, conditions=tuple(blocks))


def test_an_arms_reading_needs_every_block() -> None:
    assert mean_reading(times(0.1, 0.3), stolen_share) == pytest.approx(0.2)
    assert mean_reading(times(0.1, None), stolen_share) is None
    assert mean_reading(times(), stolen_share) is None


def test_differences_of_the_units_that_tell_both() -> None:
    def one(mine: float | None, base: float | None) -> Unit:
        return msgspec.structs.replace(
            unit(0), arms={"candidate": times(mine), "dense": times(base)}
        )

    taken = [one(0.3, 0.1), one(None, 0.1), one(0.3, None), one(0.1, 0.4)]
    assert differences(taken, "dense", stolen_share) == pytest.approx([0.2, -0.3])


def test_disturbed_units_are_those_with_one_block_above() -> None:
    def one(*told: float | None) -> Unit:
        return msgspec.structs.replace(unit(0), arms={"dense": times(*told)})

    taken = [one(0.1, 0.3), one(0.2), one(None, None), one(), one(None, 0.9)]
    assert disturbed_units(taken, stolen_share, 0.2) == (2, 3)


def test_the_change_between_processes_is_that_of_their_medians() -> None:
    def one(process: int, *told: float | None) -> Unit:
        return msgspec.structs.replace(unit(0), process=process, arms={"dense": times(*told)})

    taken = [one(0, 0.1, 0.1), one(0, 0.9), one(1, 0.2), one(1, 0.4), one(2, None)]
    assert process_change(taken, stolen_share) == pytest.approx(0.3 / 0.1)
    assert process_change([one(0, None)], stolen_share) is None


def test_students_interval() -> None:
    """2, 4, 6: mean 4, standard error 2 / sqrt(3), and t(0.025; 2) = 4.30265."""
    found = mean_interval([2.0, 4.0, 6.0], 0.025)
    assert found == pytest.approx((4 - 4.30265 * 2 / 3**0.5, 4 + 4.30265 * 2 / 3**0.5), rel=1e-5)
    assert mean_interval([2.0], 0.025) is None
    assert mean_interval([2.0, 2.0], 0.025) == (2.0, 2.0)


def problem(block: Conditions) -> list[str]:
    held = msgspec.structs.replace(times(0.0, 0.0), conditions=(QUIET, block))
    return condition_problems([held])


@pytest.mark.parametrize(
    "changes",
    [
        {"wall_ns": 0},
        {"pulse_ns": 0},
        {"waited_ns": -1},
        {"stolen": -0.001},
        {"stolen": 1.001},
        {"stolen": math.nan},
    ],
)
def test_conditions_that_cannot_be(changes: dict[str, Any]) -> None:
    assert problem(msgspec.structs.replace(QUIET, **changes)) == ["a block's conditions cannot be"]


@pytest.mark.parametrize(
    "changes",
    [
        {"wall_ns": 1, "pulse_ns": 1, "waited_ns": 0, "stolen": 0.0},
        {"stolen": 1.0},
        {"waited_ns": None, "stolen": None},
    ],
)
def test_conditions_that_just_can_be(changes: dict[str, Any]) -> None:
    assert problem(msgspec.structs.replace(QUIET, **changes)) == []


@pytest.mark.parametrize(
    ("changes", "possible"),
    [
        ({}, True),
        ({"clock_mhz": 1, "memory_clock_mhz": 1, "power_limit_w": 0.0}, True),
        ({"clock_mhz": 0}, False),
        ({"memory_clock_mhz": 0}, False),
        ({"power_limit_w": -0.1}, False),
        ({"power_limit_w": math.inf}, False),
        ({"other_processes": -1}, False),
    ],
)
def test_states_that_an_accelerator_can_be_in(changes: dict[str, Any], possible: bool) -> None:
    device = msgspec.structs.replace(DEVICE, **changes)
    found = problem(msgspec.structs.replace(QUIET, device=device))
    assert found == ([] if possible else ["a block's conditions cannot be"])


def test_conditions_are_told_for_all_blocks_or_none() -> None:
    whole, none = times(0.0, 0.0), times()
    assert condition_problems([whole, whole]) == condition_problems([none, none]) == []
    assert condition_problems([whole, none]) == ["the conditions of some blocks are missing"]
    assert condition_problems([whole, times(0.0)]) == ["the conditions are not one a block"]
