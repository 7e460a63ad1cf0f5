"""Guards: each on trouble put into evidence that would pass without it."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.artifacts import GuardResult, Judgement
from reprune.judge.evidence import CONTROL, BatchUnits, Evidence, Unit
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_units, with_conditions

RATIOS = {"dense": 0.6, "champion": 1.0}
THROUGHPUT = {"vs_parent": {"min_ratio": 1.2}}


def of_units(units: tuple[Unit, ...], **policy: Any) -> Judgement:
    return judge(edit(make_evidence(units=1), "targets.0.units", units), make_policy(**policy))


def guard(found: Judgement, name: str) -> GuardResult:
    assert isinstance(found.guards, tuple)
    return next(one for one in found.guards if one.guard == name)


def outcomes(found: Judgement, prefix: str = "latency") -> set[str]:
    return {rule.outcome for rule in found.rules if rule.rule.startswith(prefix)}


def assert_tripped(found: Judgement, name: str, words: str) -> None:
    """The guard and no other one tripped, it says why, and what would have passed is undecided."""
    assert isinstance(found.guards, tuple)
    assert [one.guard for one in found.guards if one.outcome == "tripped"] == [name]
    assert words in guard(found, name).words
    assert outcomes(found) == {"inconclusive"}
    assert outcomes(found, "accuracy") == {"pass"}
    assert found.outcome == "inconclusive"
    undecided = [rule for rule in found.rules if rule.outcome == "inconclusive"]
    assert all(guard(found, name).words in rule.decide for rule in undecided)
    assert all(f"cannot be trusted: {name}" in rule.words for rule in undecided)


def device(**changes: Any) -> dict[str, Any]:
    quiet = {
        "clock_mhz": 1500,
        "memory_clock_mhz": 2600,
        "power_limit_w": 350.0,
        "throttle": ("gpu_idle",),
        "other_processes": 0,
    }
    return {"device": {**quiet, **changes}}


def test_a_quiet_machine_trips_nothing() -> None:
    """Every guard is ok, with what was seen, what is allowed, and where."""
    found = of_units(with_conditions(make_units(8, RATIOS)))
    assert found.outcome == "pass"
    assert isinstance(found.guards, tuple)
    assert [(one.guard, one.outcome) for one in found.guards] == [
        (name, "ok") for name in ("control", "waiting", "stolen", "clock", "interval", "units")
    ]
    assert all(one.words.startswith("On cpu, ") and one.target == "cpu" for one in found.guards)
    # The tightest rule allows 1.05: half of that is how far the control may be off.
    assert guard(found, "control").limit == pytest.approx(1.05**0.5)
    assert guard(found, "units").value == 8


def test_what_was_not_recorded_is_said_and_trips_nothing() -> None:
    """Without conditions, or on a machine that does not tell, the guards are unknown."""
    for units in (
        make_units(8, RATIOS),
        with_conditions(make_units(8, RATIOS), lambda *_: {"waited_ns": None, "stolen": None}),
    ):
        found = of_units(units)
        assert found.outcome == "pass"
        assert {guard(found, name).outcome for name in ("waiting", "stolen")} == {"unknown"}
        assert guard(found, "waiting").value is None
        assert "does not tell" in guard(found, "stolen").words


def test_a_control_that_differs_from_itself_trips() -> None:
    """Two sessions of one model 6 % apart: nothing that differs by as much is believed."""
    found = of_units(make_units(15, RATIOS, control=1.06))
    assert_tripped(found, "control", "certainly more than 2.47 %")
    assert guard(found, "control").value == pytest.approx(1.06, abs=0.02)
    assert "but the measurement cannot be trusted (control)" in found.headline
    assert_tripped(of_units(make_units(15, RATIOS, control=0.94)), "control", "differ by")


def test_a_control_may_be_off_by_half_the_margin() -> None:
    """1.5 % is half of what a rule of at most 3 % leaves; a far limit allows 5 % and no more."""
    close, far = {"vs_champion": {"max_ratio": 1.03}}, {"vs_parent": {"max_ratio": 0.75}}
    cases = [(close, 1.01, "pass"), (close, 1.02, "inconclusive")]
    cases += [(far, 1.04, "pass"), (far, 1.06, "inconclusive"), (far, 0.94, "inconclusive")]
    for latency, control, outcome in cases:
        units = make_units(8, RATIOS, control=control, noise=0.001, calls=101)
        assert outcomes(of_units(units, latency=latency)) == {outcome}


def test_a_later_attempt_or_a_small_alpha_clears_no_control() -> None:
    """Their levels are lower; that of guards is the same, or trying again would end the doubt."""
    units = make_units(30, {"dense": 0.6, "champion": 1.0}, control=1.11, noise=0.03)
    for attempt, alpha in ((1, 0.05), (5, 0.05), (8, 0.05), (1, 0.005)):
        evidence = edit(make_evidence(attempt=attempt), "targets.0.units", units)
        policy = make_policy(latency={"vs_parent": {"max_ratio": 0.8}}, alpha=alpha)
        assert guard(judge(evidence, policy), "control").outcome == "tripped"


def test_a_missing_control_trips_where_the_policy_demands_one() -> None:
    """In all units or in one; a policy may do without, and then that is said."""
    without = make_units(8, RATIOS, control=None)
    assert_tripped(of_units(without), "control", "no second session of the dense model")
    some = edit(make_units(8, RATIOS), "5.arms", lambda a: {k: a[k] for k in a if k != CONTROL})
    assert_tripped(of_units(some), "control", "no second session of the dense model")
    found = of_units(without, guards={"control": False})
    assert (found.outcome, guard(found, "control").outcome) == ("pass", "off")


@pytest.mark.parametrize(
    ("name", "reading", "words"),
    [
        ("waiting", {"waited_ns": 3_000_000}, "waited for a core"),
        ("stolen", {"stolen": 0.3}, "lost time to other guests"),
    ],
)
def test_a_foreign_process_on_the_core_trips(
    name: str, reading: dict[str, Any], words: str
) -> None:
    """One block above the share in more than half of the units; in half of them it is allowed."""
    units = make_units(8, RATIOS)

    def in_units(most: int) -> tuple[Unit, ...]:
        return with_conditions(
            units,
            lambda u, arm, block: reading if u.index < most and arm == "dense" and block else {},
        )

    assert_tripped(of_units(in_units(5)), name, f"5 of 8 units {words}")
    assert of_units(in_units(4)).outcome == "pass"
    free = of_units(in_units(5), guards={"max_waiting": None})
    assert (free.outcome, guard(free, name).outcome) == ("pass", "off")


@pytest.mark.parametrize(
    ("name", "reading"), [("waiting", {"waited_ns": 1_000_000}), ("stolen", {"stolen": 0.1})]
)
def test_waiting_of_one_arm_alone_trips_at_any_level(name: str, reading: dict[str, Any]) -> None:
    """The dense model loses a tenth of its time, the candidate nothing: the ratio is not the model's."""
    units = make_units(8, RATIOS)
    uneven = with_conditions(units, lambda _u, arm, _b: reading if arm == "dense" else {})
    assert_tripped(of_units(uneven), name, "less than the dense model")
    even = with_conditions(units, lambda *_: reading)
    assert of_units(even).outcome == "pass"


def test_a_clock_that_changes_trips() -> None:
    """One process ran at less than half the speed of the other."""
    units = make_units(8, RATIOS)
    slow = with_conditions(units, lambda u, *_: {"pulse_ns": 210_000} if u.process else {})
    assert_tripped(of_units(slow), "clock", "2.1 times as slow")
    assert of_units(slow, guards={"max_clock_change": 3.0}).outcome == "pass"
    off = of_units(slow, guards={"max_clock_change": None})
    assert (off.outcome, guard(off, "clock").outcome) == ("pass", "off")


def test_a_clock_that_favours_an_arm_trips() -> None:
    """The candidate's blocks ran on a core 5 % faster, in every unit."""
    units = make_units(8, RATIOS)
    fast = with_conditions(
        units, lambda _u, a, _b: {"pulse_ns": 95_000} if a == "candidate" else {}
    )
    assert_tripped(of_units(fast), "clock", "not the same for all arms")
    often = with_conditions(
        units, lambda u, a, _b: {"pulse_ns": 95_000} if a == "candidate" and u.index % 2 else {}
    )
    assert of_units(often).outcome == "pass"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"throttle": ("hw_thermal_slowdown",)}, "slowed down (hw_thermal_slowdown)"),
        ({"power_limit_w": 300.0}, "power limit changed"),
        ({"other_processes": 2}, "2 other processes used it"),
    ],
)
def test_an_accelerator_in_trouble_trips(changes: dict[str, Any], words: str) -> None:
    """One block in which it throttled, was shared, or had another power limit is enough."""
    units = make_units(8, RATIOS)

    def once(unit: Unit, arm: str, block: int) -> dict[str, Any]:
        struck = (unit.index, arm, block) == (3, "candidate", 1)
        return device(**changes) if struck else device()

    assert_tripped(of_units(with_conditions(units, once)), "device", words)
    quiet = of_units(with_conditions(units, lambda *_: device()))
    assert (quiet.outcome, guard(quiet, "device").outcome) == ("pass", "ok")


def test_an_accelerator_whose_clock_favours_an_arm_trips() -> None:
    """The candidate ran at a higher clock; a driver that falls silent trips too."""
    units = make_units(8, RATIOS)
    for name in ("clock_mhz", "memory_clock_mhz"):
        uneven = with_conditions(
            units,
            lambda _u, arm, _b, name=name: device(**({name: 2800} if arm == "candidate" else {})),
        )
        assert_tripped(of_units(uneven), "device", "was not the same for all arms")
    silent = with_conditions(units, lambda u, *_: {} if u.index == 2 else device())
    assert_tripped(of_units(silent), "device", "did not answer in 8 blocks")


def test_an_accelerator_that_tells_nothing_is_said_to() -> None:
    """Its sessions timed themselves, and no driver told of it: the reader must know; nothing trips."""
    units = with_conditions(make_units(8, RATIOS))
    on_device = tuple(msgspec.structs.replace(unit, clock="CUDA events") for unit in units)
    found = of_units(on_device)
    assert (found.outcome, guard(found, "device").outcome) == ("pass", "unknown")
    assert "does not tell the state of the accelerator" in guard(found, "device").words


def test_units_by_different_clocks_are_an_error() -> None:
    """A graph that was captured in some units only: what calls cost then is not one quantity."""
    units = with_conditions(make_units(8, RATIOS))
    mixed = (msgspec.structs.replace(units[0], clock="CUDA events"), *units[1:])
    found = of_units(mixed)
    assert found.outcome == "error"
    assert "different clocks (CUDA events; host, each call)" in found.headline


def test_too_wide_an_interval_waits_and_then_trips() -> None:
    """A noisy pass is looked at again; what is still too wide at the last look is undecided."""
    noisy = make_units(120, RATIOS, noise=0.3)
    strict = {"looks": [8, 15, 30], "latency": {"vs_parent": {"max_ratio": 0.9}}}
    loose = of_units(noisy, **strict, guards={"max_interval": None})
    assert (outcomes(loose), guard(loose, "interval").outcome) == ({"pass"}, "off")
    wide = of_units(noisy, **strict, guards={"max_interval": 1.05})
    assert guard(wide, "interval").outcome == "tripped"
    assert outcomes(wide) == {"inconclusive"}
    assert "latency.vs_parent" in guard(wide, "interval").words
    later = of_units(noisy, latency=strict["latency"], guards={"max_interval": 1.3})
    assert outcomes(later) == {"pass"}
    assert (
        guard(later, "units").value
        > of_units(noisy, latency=strict["latency"], guards={"max_interval": None}).rules[3].samples
    )


def test_one_process_or_tiny_blocks_trip() -> None:
    """Processes differ from each other, and a block of two calls has no typical one."""
    units = make_units(8, RATIOS)
    alone = tuple(edit(unit, "process", 0) for unit in units)
    assert_tripped(of_units(alone), "units", "all from one process")
    tiny = edit(units, "4.arms.champion.blocks_ns.1", (400_000, 400_000))
    assert_tripped(of_units(tiny), "units", "blocks of only 2 calls")


def test_too_few_units_say_that_they_are_too_few() -> None:
    """Seven units: no look, no pass, and a guard that says so."""
    found = of_units(make_units(7, RATIOS))
    assert guard(found, "units").outcome == "tripped"
    assert guard(found, "control").outcome == "unknown"
    assert outcomes(found) == {"inconclusive"}


def test_units_at_other_batch_sizes_are_guarded_too() -> None:
    """Trouble at batch 8 undoes the passes of the whole target, and is said to be there."""
    quiet = with_conditions(make_units(8, RATIOS))
    bad = with_conditions(quiet, lambda *_: {"waited_ns": 9_000_000})
    evidence = edit(make_evidence(units=1), "targets.0.units", quiet)
    policy = make_policy(throughput=THROUGHPUT)
    for units, outcome in ((quiet, "pass"), (bad, "inconclusive")):
        batches = (BatchUnits(batch_size=8, units=units),)
        found = judge(edit(evidence, "targets.0.throughput", batches), policy)
        assert outcomes(found) == outcomes(found, "throughput") == {outcome}
    assert guard(found, "waiting").words.startswith("On cpu at batch 8, ")
    none = judge(edit(evidence, "targets.0.throughput", batches), make_policy())
    assert outcomes(none) == {"pass"}


def test_only_units_that_a_rule_looked_at_are_guarded() -> None:
    """What happened after the look that decided is not held against it."""
    units = with_conditions(
        make_units(40, RATIOS), lambda u, *_: {"waited_ns": 9_000_000} if u.index >= 8 else {}
    )
    assert of_units(units).outcome == "pass"


def test_a_target_without_rules_about_time_has_no_guards() -> None:
    """Quality alone needs no quiet machine."""
    found = of_units(make_units(8, RATIOS, control=None), latency=None)
    assert (found.outcome, found.guards) == ("pass", ())


def test_guards_of_one_target_leave_the_others_alone() -> None:
    """An advisory target in trouble does not undo what a required one showed."""
    evidence = make_evidence(targets={"cpu": 0.6, "npu": 0.6})
    broken = edit(evidence, "targets.1.units", make_units(15, RATIOS, control=1.3))
    found = judge(broken, make_policy(targets={"cpu": "required", "npu": "advisory"}))
    assert found.outcome == "pass"
    tripped = {one.target for one in found.guards or () if one.outcome == "tripped"}
    assert tripped == {"npu"}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), trouble=st.sampled_from(["control", "waiting", "clock", "units"])
)
def test_trouble_never_touches_a_block_and_never_passes(seed: int, trouble: str) -> None:
    """With a guard tripped no rule about time passes, and every block stays what it was."""
    rng = random.Random(seed)
    ratios = {"dense": rng.choice([0.6, 0.79, 1.0]), "champion": rng.choice([1.0, 1.04, 1.3])}
    units = with_conditions(make_units(15, ratios, seed=seed))
    bad = {
        "control": lambda: make_units(15, ratios, seed=seed, control=1.5),
        "waiting": lambda: with_conditions(units, lambda *_: {"waited_ns": 5_000_000}),
        "clock": lambda: with_conditions(
            units, lambda u, *_: {"pulse_ns": 100_000 * (1 + 2 * (u.index % 10 < 5))}
        ),
        "units": lambda: tuple(edit(unit, "process", 0) for unit in units),
    }[trouble]()
    before, after = of_units(units), of_units(bad)
    assert guard(after, trouble).outcome == "tripped"
    for one, two in zip(before.rules, after.rules, strict=True):
        if one.rule.startswith("latency"):
            expected = "block" if one.outcome == "block" else "inconclusive"
            assert two.outcome == expected
        else:
            assert two.outcome == one.outcome


FAULTS = [
    ("a block without conditions", lambda c: c[:1], "not one a block"),
    ("an arm without conditions", lambda _: (), "of some blocks are missing"),
    ("no time", lambda c: edit(c, "0.wall_ns", 0), "cannot be"),
    ("no pulse", lambda c: edit(c, "0.pulse_ns", 0), "cannot be"),
    ("a negative wait", lambda c: edit(c, "1.waited_ns", -1), "cannot be"),
    ("more stolen than there is", lambda c: edit(c, "1.stolen", 1.5), "cannot be"),
    ("stolen that is no number", lambda c: edit(c, "1.stolen", float("nan")), "cannot be"),
]


@pytest.mark.parametrize(("change", "words"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_conditions_that_cannot_be_are_an_error(change: Any, words: str) -> None:
    """A guard is not passed by leaving out what it would have read."""
    units = with_conditions(make_units(8, RATIOS))
    broken = edit(units, "3.arms.dense.conditions", change)
    found = of_units(broken)
    assert found.outcome == "error"
    assert words in found.headline


def test_the_evidence_of_a_stranger_is_an_error() -> None:
    """An arm that is not judged has no place in a unit; the control has."""
    units = edit(make_units(8, RATIOS), "2.arms", lambda arms: {**arms, "x": arms["dense"]})
    evidence: Evidence = edit(make_evidence(units=1), "targets.0.units", units)
    assert "times of 'x'" in judge(evidence, make_policy()).headline
