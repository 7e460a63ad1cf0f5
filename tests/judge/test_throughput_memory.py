"""Throughput at every batch size, memory of fresh processes, and how far two sessions of one model differ."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.artifacts import Judgement, RuleResult
from reprune.judge.evidence import CONTROL, ArmTimes, BatchUnits, Evidence, Unit
from reprune.judge.latency import Sequential, follow
from reprune.judge.sessions import session_effect
from reprune.judge.throughput import follow_rate, log_mean_time, mean_ratio, typical_rate
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_units

RATES = {"vs_parent": {"min_ratio": 1.25}, "vs_champion": {}}
ONLY: dict[str, Any] = {"quality": {}, "size": None, "latency": None}


def rule(found: Judgement, name: str) -> RuleResult:
    return next(one for one in found.rules if one.rule == name)


def with_batches(**ratios: float) -> Evidence:
    """Evidence at batch 1 and at each `b<size>`, the candidate's time over the dense model's."""
    batches = tuple(
        BatchUnits(
            batch_size=int(name[1:]),
            units=make_units(15, {"dense": ratio, "champion": 1.0}, seed=place + 5),
        )
        for place, (name, ratio) in enumerate(ratios.items())
    )
    return edit(make_evidence(), "targets.0.throughput", batches)


def test_a_rate_counts_all_of_the_time() -> None:
    """Batch size over mean call, blocks weighing alike; one slow call is in it, as in no median."""
    blocks = ((100, 100, 400), (200, 200))
    times = ArmTimes(order=0, blocks_ns=blocks, warmup_calls=0)
    base = ArmTimes(order=1, blocks_ns=((100,), (400,)), warmup_calls=0)
    unit = Unit(
        index=0,
        process=0,
        seed=0,
        started_s=1e9,
        load=0,
        arms={"candidate": times, "dense": base},
    )
    assert log_mean_time(times) == pytest.approx(math.log(200))
    assert mean_ratio(unit, "dense") == pytest.approx(1.0)
    assert typical_rate([unit], "candidate", 8) == pytest.approx(8e9 / 200)
    assert typical_rate([], "candidate", 8) is None


def test_every_batch_size_has_its_rules() -> None:
    """The own batch is named without a number; values are examples a second, the ratio is of rates."""
    found = judge(with_batches(b8=0.5, b32=1.0), make_policy(**ONLY, throughput=RATES))
    assert [(one.rule, one.outcome) for one in found.rules if one.rule != "parity"] == [
        ("throughput.vs_parent", "pass"),
        ("throughput.vs_champion", "pass"),
        ("throughput.b8.vs_parent", "pass"),
        ("throughput.b8.vs_champion", "pass"),
        ("throughput.b32.vs_parent", "block"),
        ("throughput.b32.vs_champion", "pass"),
    ]
    eight = rule(found, "throughput.b8.vs_parent")
    assert (eight.direction, eight.limit, eight.unit) == ("at least", 1.25, "ratio")
    assert eight.candidate_value == pytest.approx(8 / 0.0004, rel=0.06)
    assert eight.baseline_value == pytest.approx(8 / 0.0008, rel=0.06)
    assert eight.change == pytest.approx(2.0, rel=0.05)
    assert (eight.low or 9) <= (eight.change or 0) <= (eight.high or 0)
    assert "examples a second" in eight.words
    assert "at batch 8" in eight.words
    assert "at least 1.25 times the examples a second" in eight.words
    assert found.outcome == "block"


def test_a_rate_met_exactly_is_met() -> None:
    """Times at 1 / 1.25 of the baseline's are 1.25 times its rate."""
    units = make_units(8, {"dense": 1.0}, noise=0.0, control=None)
    same = tuple(edit(u, "arms.dense.blocks_ns", ((1000,) * 5,) * 2) for u in units)
    met = tuple(edit(u, "arms.candidate.blocks_ns", ((800,) * 5,) * 2) for u in same)
    plan = Sequential(looks=(8,), alpha=0.025, rules=1)
    assert follow_rate(met, "dense", 1.25, plan).passes
    missed = tuple(edit(u, "arms.candidate.blocks_ns", ((801,) * 5,) * 2) for u in same)
    state = follow_rate(missed, "dense", 1.25, plan)
    assert (state.passes, state.p_harm) == (False, pytest.approx(2**-8))


def test_throughput_units_are_checked_like_the_others() -> None:
    """Missing units, an arm without times and a batch size measured twice are errors."""
    policy = make_policy(throughput=RATES)
    evidence = with_batches(b8=0.5)
    path = "targets.0.throughput"
    broken = [
        (
            edit(evidence, f"{path}.0.units", lambda u: u[1:]),
            "at batch 8 cannot be used: units are",
        ),
        (edit(evidence, f"{path}.0.units.2.arms.dense.blocks_ns", ((0,), (1,))), "took no time"),
        (edit(evidence, f"{path}.0.batch_size", 1), "measured twice"),
        (edit(evidence, path, lambda old: old + old), "measured twice"),
        (edit(evidence, f"{path}.0.batch_size", 0), "below 1"),
    ]
    for faulty, words in broken:
        found = judge(faulty, policy)
        assert found.outcome == "error"
        assert words in " ".join(found.reasons)
    assert judge(evidence, policy).outcome == "pass"


def test_a_batch_size_without_units_is_undecided() -> None:
    """Rules for it exist and cannot be judged: never a pass."""
    found = judge(
        edit(with_batches(b8=0.5), "targets.0.throughput.0.units", ()),
        make_policy(throughput=RATES),
    )
    assert found.outcome == "inconclusive"
    one = rule(found, "throughput.b8.vs_parent")
    assert (one.outcome, one.change, one.decide[:6]) == ("inconclusive", None, "8 more")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.sampled_from([0.0, 0.02, 0.2]))
def test_swapping_arms_mirrors_a_rate(seed: int, noise: float) -> None:
    """Candidate and baseline exchanged: one over the ratio, and one over the limits, exchanged."""
    units = make_units(15, {"dense": 0.9}, seed=seed, noise=noise, control=None)
    swapped = tuple(
        edit(u, "arms", {"candidate": u.arms["dense"], "dense": u.arms["candidate"]}) for u in units
    )
    plan = Sequential(looks=(15,), alpha=0.025, rules=1)
    there, back = (follow_rate(u, "dense", 1.0, plan) for u in (units, swapped))
    assert there.ratio == pytest.approx(1 / (back.ratio or 0))
    assert there.low == pytest.approx(1 / (back.high or 0))
    assert there.high == pytest.approx(1 / (back.low or 0))


def test_a_pass_needs_an_interval_that_is_narrow_enough() -> None:
    """A wide one at the first look is no pass; the next look may be narrower."""
    first = [0.3, 0.7] * 4
    for widest, units in ((None, 8), (1.5, 30), (2.4, 8)):
        plan = Sequential(looks=(8, 30), alpha=0.05, rules=1, widest=widest)
        found = follow([*first, *[0.5] * 22], 0.8, plan)
        assert (found.passes, found.units) == (True, units)
    stuck = follow(first, 0.8, Sequential(looks=(8,), alpha=0.05, rules=1, widest=1.5))
    assert (stuck.passes, stuck.blocks) == (False, False)


# --- memory --------------------------------------------------------------------------------------

MEMORY = {"vs_parent": {"max_ratio": 0.75}, "vs_champion": {}, "ceiling_bytes": 1000}
PEAKS = {"candidate": (700, 1000, 710), "dense": (2000, 950, 960), "champion": (700, 690, 2000)}


def of_memory(peaks: dict[str, tuple[int, ...]], **memory: Any) -> Judgement:
    evidence = edit(make_evidence(), "targets.0.memory", peaks)
    return judge(evidence, make_policy(**ONLY, memory=memory or MEMORY))


def test_memory_is_compared_by_medians_and_bounded_by_the_largest() -> None:
    """710 of 960 bytes is .74; the ceiling holds for the 1,000 of one process."""
    found = of_memory(PEAKS)
    parent, champion, ceiling = (one for one in found.rules if one.rule.startswith("memory"))
    assert (parent.rule, parent.outcome, parent.change) == (
        "memory.vs_parent",
        "pass",
        pytest.approx(710 / 960),
    )
    assert (parent.candidate_value, parent.baseline_value, parent.samples) == (710, 960, 3)
    assert (champion.rule, champion.outcome) == ("memory.vs_champion", "pass")
    assert (ceiling.rule, ceiling.outcome, ceiling.high) == ("memory.ceiling", "pass", 1000)
    assert "the largest of 3 processes" in ceiling.words
    assert "the median of 3 processes" in parent.words
    assert found.outcome == "pass"


@pytest.mark.parametrize(
    ("peaks", "broken"),
    [
        ({"candidate": (721, 700, 730)}, "memory.vs_parent"),
        ({"candidate": (10, 1001, 20)}, "memory.ceiling"),
        ({"champion": (100, 100, 100)}, "memory.vs_champion"),
    ],
)
def test_too_much_memory_blocks(peaks: dict[str, tuple[int, ...]], broken: str) -> None:
    """Each limit on its own."""
    found = of_memory({**PEAKS, **peaks})
    assert found.outcome == "block"
    assert [one.rule for one in found.rules if one.outcome == "block"] == [broken]


@pytest.mark.parametrize(
    ("peaks", "words"),
    [
        ({}, "The memory of the candidate on cpu was not measured"),
        ({**PEAKS, "dense": ()}, "The memory of the dense model on cpu was not measured"),
        ({**PEAKS, "candidate": (0, 1)}, "took no memory"),
        ({**PEAKS, "champion": (-5, 700, 700)}, "took no memory"),
    ],
)
def test_memory_that_a_rule_needs_must_be_there(peaks: Any, words: str) -> None:
    """Else the evidence is unusable; without a rule about it, nobody asks."""
    found = of_memory(peaks)
    assert found.outcome == "error"
    assert words in " ".join(found.reasons)
    assert judge(edit(make_evidence(), "targets.0.memory", peaks), make_policy()).outcome == "pass"


def test_memory_of_an_arm_that_no_rule_names_is_not_needed() -> None:
    """A ceiling is about the candidate alone."""
    assert of_memory({"candidate": (5,)}, ceiling_bytes=5).outcome == "pass"


# --- two sessions of one model ---------------------------------------------------------------------


def simulated(session: float, block: float, units: int, seed: int = 1) -> list[Unit]:
    rng = random.Random(seed)
    found = []
    for index in range(units):
        arms = {}
        for order, arm in enumerate(("dense", CONTROL)):
            about = 1e6 * rng.lognormvariate(0, session)
            blocks = tuple((round(about * rng.lognormvariate(0, block)),) for _ in range(2))
            arms[arm] = ArmTimes(order=order, blocks_ns=blocks, warmup_calls=0)
        found.append(Unit(index=index, process=index, seed=0, started_s=1e9, load=0, arms=arms))
    return found


@pytest.mark.parametrize(("session", "block"), [(0.006, 0.004), (0.012, 0.03), (0.0, 0.01)])
def test_the_session_effect_is_told_apart_from_the_blocks(session: float, block: float) -> None:
    """Both components of simulated units come back; two sessions differ by sqrt(2) times one's."""
    found = session_effect(simulated(session, block, 4000))
    assert found is not None
    assert found.block == pytest.approx(block, rel=0.05)
    assert found.session == pytest.approx(session, rel=0.1, abs=0.1 * block)
    assert found.pair == pytest.approx(math.sqrt(2) * found.session)


def test_the_session_effect_against_its_formula() -> None:
    """Half of what the difference of sessions varies by, less a quarter of what that of blocks does."""
    units = simulated(0.01, 0.002, 8)
    logs = [
        [
            math.log(c[0] / d[0])
            for c, d in zip(*(u.arms[a].blocks_ns for a in (CONTROL, "dense")), strict=True)
        ]
        for u in units
    ]

    def variance(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / (len(values) - 1)

    block = variance([a - b for a, b in logs]) / 4
    session = (variance([(a + b) / 2 for a, b in logs]) - block) / 2
    found = session_effect(units)
    assert found is not None
    assert found.session == pytest.approx(math.sqrt(session))
    assert session_effect(units[:7]) is None
    assert session_effect(edit(tuple(units), "3.arms", {"dense": units[3].arms["dense"]})) is None


def test_the_session_effect_is_noted() -> None:
    """On each target with rules about time and a control; without one there is nothing to say."""
    found = judge(make_evidence(units=60), make_policy())
    assert "two sessions of one model differ by" in found.notes[-1]
    without = edit(
        make_evidence(),
        "targets.0.units",
        make_units(15, {"dense": 0.6, "champion": 1.0}, control=None),
    )
    assert judge(without, make_policy()).notes == ()
