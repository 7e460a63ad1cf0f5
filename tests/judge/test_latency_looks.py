"""Latency: one ratio a unit, decided once, at the first look that decides."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reprune.core.artifacts import Judgement, RuleResult
from reprune.judge.decided import decided, decided_throughput, stops
from reprune.judge.evidence import ArmTimes, BatchUnits, Unit
from reprune.judge.family import family_size
from reprune.judge.latency import Look, Sequential, follow, unit_problems, unit_ratio
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_units

LATENCY = {"vs_parent": {"max_ratio": 0.8}, "vs_champion": {"max_ratio": 1.05}}
PLAN = Sequential(looks=(8, 15, 30), alpha=0.05, rules=2)


def only_latency(**rules: float) -> dict[str, object]:
    return {
        "latency": {name: {"max_ratio": limit} for name, limit in rules.items()},
        "quality": {},
        "size": None,
    }


def rule(units: tuple[Unit, ...], name: str = "latency.vs_parent", **rules: float) -> RuleResult:
    evidence = edit(make_evidence(units=1), "targets.0.units", units)
    found = judge(evidence, make_policy(**only_latency(**(rules or {"vs_parent": 0.8}))))
    return next(result for result in found.rules if result.rule == name)


def test_a_unit_is_one_log_ratio_of_block_medians() -> None:
    """The mean over blocks of the log of each block's median call, candidate less baseline."""
    arms = {
        "candidate": ArmTimes(
            order=0, blocks_ns=((100, 900, 110), (130, 120, 125)), warmup_calls=1
        ),
        "dense": ArmTimes(order=1, blocks_ns=((200, 210), (250, 260)), warmup_calls=1),
    }
    unit = Unit(index=0, process=0, seed=0, started_s=0.0, load=0.0, arms=arms)
    assert unit_ratio(unit, "dense") == pytest.approx(
        math.sqrt(110 * 125) / math.sqrt(205 * 255), rel=1e-8
    )


def test_the_first_look_that_passes_ends_the_rule() -> None:
    """Eight units below the limit pass; what comes later is not looked at."""
    assert follow([0.7] * 8, 0.8, PLAN).passes
    later = follow([0.7] * 8 + [2.0] * 22, 0.8, PLAN)
    assert (later.units, later.passes, later.blocks) == (8, True, False)


def test_the_first_look_that_blocks_ends_the_rule() -> None:
    """Units above the limit block once that would survive every other rule, and stay blocked."""
    blocked = follow([0.9] * 8 + [0.1] * 22, 0.8, PLAN)
    assert (blocked.units, blocked.blocks, blocked.passes) == (8, True, False)
    crowded = Sequential(looks=(8, 15, 30), alpha=0.05, rules=10)
    assert not follow([0.9] * 8, 0.8, crowded).blocks
    assert follow([0.9] * 15, 0.8, crowded).units == 15


def test_evidence_exactly_at_the_level_blocks() -> None:
    """A p-value equal to the level is enough: one in 256 at a level of two in 256 for two rules."""
    plan = Sequential(looks=(8,), alpha=2 / 256, rules=2)
    assert follow([0.9] * 8, 0.8, plan).blocks
    assert not follow([0.9] * 8, 0.8, Sequential(looks=(8,), alpha=2 / 256, rules=3)).blocks


def test_units_beyond_the_last_completed_look_are_ignored() -> None:
    """Fourteen units are judged as eight, and seven as none."""
    mixed = [0.7, 0.9] * 4
    assert follow([*mixed, *[0.7] * 6], 0.8, PLAN) == follow(mixed, 0.8, PLAN)
    assert follow([0.7] * 7, 0.8, PLAN) == Look()


def test_a_limit_that_is_met_exactly_is_met() -> None:
    """A ratio equal to the limit counts as within it: it passes and never blocks."""
    at = follow([1.05] * 30, 1.05, PLAN)
    assert at.passes
    assert at.p_harm == 1.0
    assert follow([1.0] * 8, 1.0, PLAN).passes


def test_looks_share_the_error_evenly() -> None:
    """With three looks at 5 % the interval at 15 units is the one of a tail of 1.67 %."""
    ratios = [round(0.8 + 0.01 * place, 2) for place in range(15)]  # three of them at most .82
    state = follow(ratios, 0.82, PLAN)
    assert (state.low, state.high) == (0.82, 0.92)
    assert state.p_harm == pytest.approx(3 * 576 / 2**15)


def test_the_estimate_is_the_median_ratio() -> None:
    """The middle unit, or the geometric mean of the two in the middle."""
    assert follow([0.5, 2.0] * 4, 0.9, PLAN).ratio == 1.0


@pytest.mark.parametrize(
    ("true", "outcome"), [(0.6, "pass"), (0.79, "inconclusive"), (0.95, "block")]
)
def test_a_target_is_judged_by_its_interval(true: float, outcome: str) -> None:
    """Well below the demanded ratio passes, well above blocks, near it is inconclusive."""
    result = rule(make_units(30, {"dense": true, "champion": 1.0}, noise=0.05))
    assert result.outcome == outcome
    assert result.limit == 0.8
    assert result.direction == "at most"
    assert result.baseline == "dense"
    assert result.low is not None
    assert result.high is not None
    assert result.low <= (result.change or 0) <= result.high


def test_speed_is_told_in_words() -> None:
    """A ratio of .62 reads 1.61x faster; limits, units and the demand are in the sentence."""
    result = rule(make_units(8, {"dense": 0.62, "champion": 1.0}, noise=0.0))
    assert "1.6" in result.words
    assert "x faster than the dense model" in result.words
    assert "8 units" in result.words
    assert "at least 1.25x faster" in result.words
    assert "a ratio of times of 0.6" in result.words
    assert "(limits 0.6" in result.words
    assert result.words.endswith("the rule holds.")
    slower = rule(make_units(30, {"dense": 1.3, "champion": 1.0}, noise=0.0))
    assert "x slower than the dense model" in slower.words
    assert slower.words.endswith("the rule is broken.")


def test_times_are_told_in_milliseconds() -> None:
    """The typical call of both arms, over the units that were used."""
    result = rule(make_units(8, {"dense": 0.5, "champion": 1.0}, noise=0.0))
    assert result.candidate_value == pytest.approx(0.4, rel=0.05)
    assert result.baseline_value == pytest.approx(0.8, rel=0.05)
    assert result.samples == 8


@pytest.mark.parametrize(
    ("taken", "wanted"), [(0, "8 more"), (5, "3 more"), (8, "7 more"), (10, "5 more")]
)
def test_an_undecided_rule_says_how_many_units_are_missing(taken: int, wanted: str) -> None:
    """It names the next look and how far off it is."""
    result = rule(make_units(taken, {"dense": 0.8, "champion": 1.0}, noise=0.05))
    assert result.outcome == "inconclusive"
    assert result.decide.startswith(wanted)


def test_after_the_last_look_only_other_conditions_decide() -> None:
    """No look is left: more units of the same kind are not asked for."""
    result = rule(make_units(120, {"dense": 0.8, "champion": 1.0}, noise=0.05))
    assert result.outcome == "inconclusive"
    assert result.samples == 120
    assert "No look is left" in result.decide


def test_later_attempts_need_more_units() -> None:
    """What eight units show at the first attempt takes more at the second."""
    units = make_units(15, {"dense": 0.6, "champion": 1.0})
    first = edit(make_evidence(units=1), "targets.0.units", units)
    results = [
        judge(edit(first, "attempt", i), make_policy(**only_latency(vs_parent=0.8))).rules[0]
        for i in (1, 2)
    ]
    assert [result.samples for result in results] == [8, 15]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("0.arms.dense.blocks_ns", ((0, 5), (5, 5)), "no time"),
        ("0.arms.dense.blocks_ns", ((-1,), (5,)), "no time"),
        ("3.arms.dense.blocks_ns", (), "no calls"),
        ("3.arms.dense.blocks_ns", ((5,), ()), "no calls"),
        ("3.arms", lambda arms: {k: v for k, v in arms.items() if k != "dense"}, "no times of"),
        ("3.index", 2, "out of order"),
        ("3.index", 9, "out of order"),
    ],
)
def test_unusable_units_are_named(path: str, value: object, words: str) -> None:
    """Durations that cannot be, missing arms and missing units are told apart."""
    units = make_units(8, {"dense": 0.6, "champion": 1.0})
    broken = edit(units, path, value)
    assert unit_problems(units, ("candidate", "dense", "champion")) == []
    assert words in " ".join(unit_problems(broken, ("candidate", "dense", "champion")))
    assert decided(broken, make_policy(), arms=("candidate", "dense", "champion"), attempt=1)


ARMS = ("candidate", "dense", "champion")


def test_stopping_waits_for_every_rule() -> None:
    """A benchmark goes on while any rule is open, and ends with the last look."""
    policy = make_policy(latency=LATENCY)
    clear = make_units(120, {"dense": 0.6, "champion": 1.0}, noise=0.005)
    assert not decided(clear[:7], policy, arms=ARMS, attempt=1)
    assert decided(clear[:8], policy, arms=ARMS, attempt=1)
    open_ = make_units(120, {"dense": 0.6, "champion": 1.05}, noise=0.05)
    assert not decided(open_[:60], policy, arms=ARMS, attempt=1)
    assert not decided(open_[:119], policy, arms=ARMS, attempt=1)
    assert decided(open_, policy, arms=ARMS, attempt=1)
    assert not decided(clear[:8], policy, arms=ARMS, attempt=2)
    assert decided(clear[:15], policy, arms=ARMS, attempt=2)


def test_stopping_without_rules_is_at_once() -> None:
    """No latency rule, no baseline for the only one, or an impossible attempt: nothing to wait for."""
    assert decided((), make_policy(latency=None), arms=ARMS, attempt=1)
    champion_only = make_policy(latency={"vs_champion": {}})
    assert decided((), champion_only, arms=("candidate", "dense"), attempt=1)
    assert not decided((), champion_only, arms=ARMS, attempt=1)
    assert decided((), champion_only, arms=ARMS, attempt=0)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parent=st.sampled_from([0.6, 0.78, 0.8, 0.85, 1.0]),
    champion=st.sampled_from([0.9, 1.0, 1.04, 1.06, 1.2]),
    noise=st.sampled_from([0.003, 0.02, 0.08]),
)
def test_judging_everything_agrees_with_stopping_early(
    seed: int, parent: float, champion: float, noise: float
) -> None:
    """The judgement of all 120 units is that of the units up to the moment `decided` said stop."""
    units = make_units(120, {"dense": parent, "champion": champion}, seed=seed, noise=noise)
    policy = make_policy(**{**only_latency(), "latency": LATENCY})
    stop = next(
        (n for n in policy.looks if decided(units[:n], policy, arms=ARMS, attempt=1)), len(units)
    )
    evidence = make_evidence(units=1)
    early = judge(edit(evidence, "targets.0.units", units[:stop]), policy)
    late = judge(edit(evidence, "targets.0.units", units), policy)
    assert early == late
    settled = {result.outcome for result in early.rules if result.rule.startswith("latency")}
    assert stop == 120 or settled <= {"pass", "block"}


ALL_RULES: dict[str, Any] = {
    "latency": {
        **LATENCY,
        "tail": {"percentile": 90, "units": 20, "vs_parent": {"max_ratio": 0.8}, "vs_champion": {}},
        "objective": {"max_ms": 0.45, "percentile": 95, "units": 30},
    },
    "throughput": {"vs_parent": {"min_ratio": 1.2}},
}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parent=st.sampled_from([0.6, 0.79, 0.85]),
    champion=st.sampled_from([1.0, 1.04, 1.2]),
    noise=st.sampled_from([0.003, 0.03, 0.1]),
    widest=st.sampled_from([None, 1.1, 1.5]),
    control=st.sampled_from([1.0, 1.04]),
    attempt=st.sampled_from([1, 2]),
)
def test_all_rules_about_time_agree_with_stopping_early(
    seed: int,
    parent: float,
    champion: float,
    noise: float,
    widest: float | None,
    control: float,
    attempt: int,
) -> None:
    """Tails, objective, throughput, guards and notes: of all units as of those up to the stop."""
    ratios = {"dense": parent, "champion": champion}
    units = make_units(120, ratios, seed=seed, noise=noise, control=control)
    batch = make_units(120, ratios, seed=seed + 1, noise=noise, control=control)
    policy = make_policy(**{**only_latency(), **ALL_RULES}, guards={"max_interval": widest})
    stop = next(
        (
            n
            for n in stops(policy, ARMS)
            if decided(units[:n], policy, arms=ARMS, attempt=attempt, batches=1)
        ),
        120,
    )
    late = next(
        (
            n
            for n in policy.looks
            if decided_throughput(batch[:n], policy, arms=ARMS, attempt=attempt, batches=1)
        ),
        120,
    )
    assert stop >= 30
    evidence = edit(make_evidence(units=1, attempt=attempt), "targets.0.throughput", ())

    def judged(own: int, other: int) -> Judgement:
        whole = edit(evidence, "targets.0.units", units[:own])
        batches = (BatchUnits(batch_size=8, units=batch[:other]),)
        return judge(edit(whole, "targets.0.throughput", batches), policy)

    assert judged(stop, late) == judged(120, 120)


def test_stopping_waits_for_tail_and_objective() -> None:
    """The median is settled at eight units, the tail at 20 and the objective at 30 of them."""
    policy = make_policy(**ALL_RULES)
    units = make_units(40, {"dense": 0.6, "champion": 1.0})
    assert stops(policy, ARMS) == (8, 15, 20, 30, 60, 120)
    taken = [n for n in range(41) if decided(units[:n], policy, arms=ARMS, attempt=1, batches=0)]
    assert taken[0] == 30
    alone = make_policy(latency={"tail": ALL_RULES["latency"]["tail"]})
    assert stops(alone, ARMS) == (20,)
    assert [n for n in (0, 19, 20) if decided(units[:n], alone, arms=ARMS, attempt=1)] == [20]
    far = make_policy(latency={**LATENCY, "objective": {"max_ms": 1.0, "units": 200}})
    assert stops(far, ARMS)[-1] == 200
    assert not decided(make_units(120, {"dense": 0.6, "champion": 1.0}), far, arms=ARMS, attempt=1)
    assert stops(make_policy(latency=None), ARMS) == ()


def test_stopping_waits_for_throughput() -> None:
    """At the own batch size and at others; without such a rule there is nothing to wait for."""
    policy = make_policy(latency=None, throughput={"vs_parent": {"min_ratio": 1.25}})
    clear = make_units(15, {"dense": 0.6, "champion": 1.0})
    close = make_units(15, {"dense": 0.8, "champion": 1.0}, noise=0.05)
    assert stops(policy, ARMS) == policy.looks
    for units, settled in ((clear, True), (close, False), (clear[:7], False)):
        assert decided(units, policy, arms=ARMS, attempt=1, batches=1) == settled
        assert decided_throughput(units, policy, arms=ARMS, attempt=1, batches=1) == settled
    assert decided_throughput((), make_policy(), arms=ARMS, attempt=1, batches=1)
    assert decided_throughput(close[1:], policy, arms=ARMS, attempt=1, batches=1)


def test_more_batch_sizes_make_a_block_harder() -> None:
    """What blocks one rule of one takes more units beside another batch size, for judge and benchmark."""
    policy = make_policy(
        **{**only_latency(), "latency": None}, throughput={"vs_parent": {"min_ratio": 1.25}}
    )
    slow = make_units(15, {"dense": 1.0, "champion": 1.0})
    fast = make_units(15, {"dense": 0.6, "champion": 1.0})
    for batches, needed in ((0, 8), (1, 15)):
        for ask in (decided, decided_throughput):
            found = [
                n for n in (8, 15) if ask(slow[:n], policy, arms=ARMS, attempt=1, batches=batches)
            ]
            assert found[0] == needed
        more = tuple(BatchUnits(batch_size=9, units=fast) for _ in range(batches))
        evidence = edit(make_evidence(units=1), "targets.0.units", slow)
        first = judge(edit(evidence, "targets.0.throughput", more), policy).rules[0]
        assert (first.outcome, first.samples) == ("block", needed)


def test_family_size_counts_rules_about_time_a_batch_size() -> None:
    """Two medians, two tails, one objective, one throughput, each target; and one a batch size more."""
    policy = make_policy(quality={}, **ALL_RULES)
    assert family_size(policy, ARMS) == 6
    assert family_size(policy, ARMS, 3) == 9
    two = make_policy(quality={}, targets={"a": "required", "b": "advisory"}, **ALL_RULES)
    assert family_size(two, ARMS, 3) == 9
    both = make_policy(quality={}, targets={"a": "required", "b": "required"}, **ALL_RULES)
    assert family_size(both, ARMS, 3) == 15
    assert family_size(policy, ("candidate", "dense"), 3) == 4 + 3


def test_family_size_counts_what_chance_could_break() -> None:
    """Latency, margins, floors and slice rules over required targets; size and parity are certain."""
    policy = make_policy(
        targets={"cpu": "required", "gpu": "required", "npu": "advisory"},
        quality={
            "accuracy": {"vs_parent": {}, "vs_champion": {}, "floor": 0.5, "slices": {}},
            "f1": {"slices": {}},
        },
    )
    # 2 latency + 2 margins + 1 floor + 2 slice rules + 1 slice rule against the parent = 8.
    assert family_size(policy, ARMS) == 16
    assert family_size(policy, ("candidate", "dense")) == 10
    assert family_size(make_policy(latency=None, quality={}), ARMS) == 1
    floors = {"accuracy": {"floor": 0.5}, "f1": {"floor": 0.5}, "dice": {"vs_parent": {}}}
    assert family_size(make_policy(latency=None, quality=floors), ARMS) == 3


def test_false_passes_at_the_margin_are_rarer_than_alpha() -> None:
    """With the true median ratio at the limit, at most 2.5 % pass and 2.5 % block over all looks."""
    rng = random.Random(4)
    plan = Sequential(looks=(8, 15, 30), alpha=0.05, rules=1)
    runs = 2000
    states = [
        follow([1.05 * rng.lognormvariate(0, 0.02) for _ in range(30)], 1.05, plan)
        for _ in range(runs)
    ]
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert 0 < sum(state.passes for state in states) / runs <= allowed
    assert 0 < sum(state.blocks for state in states) / runs <= allowed


def test_power_at_a_champion_that_is_equal() -> None:
    """A candidate as fast as the champion passes the default limit well before the last look."""
    rng = random.Random(5)
    plan = Sequential(looks=(8, 15, 30, 60, 120), alpha=0.025, rules=6)
    ends = [
        follow([rng.lognormvariate(0, 0.02) for _ in range(120)], 1.05, plan) for _ in range(300)
    ]
    assert sum(state.passes for state in ends) / 300 >= 0.99
    assert sorted(state.units for state in ends)[150] <= 15


def test_units_of_another_number_are_refused_by_the_judge() -> None:
    """A doubled unit makes the whole verdict an error."""
    evidence = make_evidence()
    units = evidence.targets[0].units
    doubled = edit(evidence, "targets.0.units", (*units, replace(units[0])))
    assert judge(doubled, make_policy()).outcome == "error"
