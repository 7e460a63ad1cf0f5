"""The verdict: how rules combine, what the headline says, and the laws that hold for every evidence."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.artifacts import Judgement, Parity, PowerFact, RuleResult
from reprune.core.policy import Policy
from reprune.judge.drafts import Draft, decide
from reprune.judge.evidence import Evidence
from reprune.judge.verdict import PROCEDURE, judge
from reprune.judge.words import moved, percent, points, roughly, speed, speed_demand
from tests.building import (
    edit,
    flipped,
    make_evidence,
    make_policy,
    make_quality,
    make_units,
    notes_of,
)

SEVERITY = ("pass", "inconclusive", "block", "error")
NO_RATIO = {"max_drop": 0.03, "max_error_ratio": None}


def of(judgement: Judgement, rule: str, target: str = "cpu") -> RuleResult:
    return next(one for one in judgement.rules if one.rule == rule and one.target == target)


def test_a_good_candidate_passes() -> None:
    """All rules hold: the headline names the speed-up and the change of quality."""
    found = judge(make_evidence(), make_policy())
    assert found.outcome == "pass"
    assert found.procedure == PROCEDURE == "3"
    assert found.headline.startswith("Passed: 1.67x faster than the dense model; accuracy did not")
    assert found.headline.endswith("all 9 required rules hold.")
    assert found.reasons == tuple(rule.words for rule in found.rules)
    assert (found.attempt, found.alpha) == (1, 0.025)
    assert found.notes[0].startswith("On cpu, two sessions of one model differ by 1 %")
    assert len(found.notes) == 1
    assert [rule.rule for rule in found.rules] == [
        "accuracy.vs_parent",
        "accuracy.vs_champion",
        "accuracy.floor",
        "latency.vs_parent",
        "latency.vs_champion",
        "size.vs_parent",
        *["parity"] * 3,
    ]
    assert all(rule.decide == "" for rule in found.rules)
    assert "outputs differ by at most 1e-05, and the policy allows 0.001" in found.rules[-1].words


def test_a_champion_that_was_better_blocks() -> None:
    """A retrain that went wrong: equal to its parent, far below the champion."""
    evidence = make_evidence(lost=0, gained=0)
    worse = flipped(evidence.quality.arms["dense"].columns["correct"], 100, 4)
    for key in ("dense", "candidate@cpu"):
        evidence = edit(evidence, f"quality.arms.{key}.columns.correct", worse)
    found = judge(evidence, make_policy())
    assert found.outcome == "block"
    assert found.headline == (
        "Blocked: accuracy fell by 9.6 points against the champion; "
        "the policy allows a loss of 3.0 points."
    )
    assert found.reasons == (of(found, "accuracy.vs_champion").words,)
    assert of(found, "accuracy.vs_parent").outcome == "pass"


def test_what_is_at_issue_is_named_before_slices_and_floors() -> None:
    """The headline of a pass names a margin's change, not a slice's or a floor's."""
    quality = {"accuracy": {"floor": 0.5, "slices": {}, "vs_champion": NO_RATIO}}
    found = judge(make_evidence(), make_policy(quality=quality, latency=None))
    assert found.headline.startswith("Passed: accuracy did not change against the champion; all")
    alone = judge(
        make_evidence(),
        make_policy(quality={"accuracy": {"floor": 0.5, "slices": {}}}, latency=None),
    )
    assert alone.headline.startswith("Passed: all 6 required rules hold")


def test_one_undecided_rule_makes_the_verdict_inconclusive() -> None:
    """Nothing is broken, something is not shown: it never promotes."""
    found = judge(make_evidence(lost=30, gained=5), make_policy())
    assert found.outcome == "inconclusive"
    assert found.headline.startswith("Inconclusive: accuracy fell by 2.5 points")
    assert "not certain yet" in found.headline
    assert found.headline.endswith("(1 more rule).")


def test_error_over_block_over_inconclusive() -> None:
    """The severest outcome of any required rule is the verdict's."""
    harmed = make_evidence(lost=100, gained=0, units=3)
    found = judge(harmed, make_policy())
    assert {"block", "inconclusive", "pass"} <= {rule.outcome for rule in found.rules}
    assert found.outcome == "block"
    off = edit(harmed, "engines.1.parity", lambda p: msgspec.structs.replace(p, max_abs=0.1))
    found = judge(off, make_policy())
    assert found.outcome == "error"
    assert found.headline.startswith("Error: the engine of the dense model differs from its bundle")


def test_advisory_targets_never_decide() -> None:
    """A slow second target is reported in full and changes nothing."""
    evidence = make_evidence(targets={"cpu": 0.6, "npu": 1.4}, units=30)
    targets = {"cpu": "required", "npu": "advisory"}
    found = judge(evidence, make_policy(targets=targets))
    assert found.outcome == "pass"
    slow = of(found, "latency.vs_parent", "npu")
    assert (slow.outcome, slow.required) == ("block", False)
    assert of(found, "latency.vs_parent").required
    assert any(
        note.startswith("Target npu is advisory") and "slower" in note for note in found.notes
    )
    assert all("npu" not in reason for reason in found.reasons)
    required = judge(evidence, make_policy(targets=dict.fromkeys(targets, "required")))
    assert required.outcome == "block"
    assert " on npu;" in required.headline
    fine = judge(make_evidence(targets={"cpu": 0.6, "npu": 0.6}), make_policy(targets=targets))
    assert any("all its rules hold" in note for note in fine.notes)


def test_blocking_rules_share_the_error() -> None:
    """Evidence that blocks as the only rule is not enough beside eight targets' rules."""
    names = ["cpu", *(f"t{place}" for place in range(8))]
    for lost in range(45, 70):
        quality = {"accuracy": {"vs_parent": NO_RATIO}}
        alone = judge(
            make_evidence(lost=lost, gained=5),
            make_policy(quality=quality, latency=None, size=None),
        )
        evidence = make_evidence(targets=dict.fromkeys(names, 0.6), lost=lost, gained=5, units=0)
        for name in names[1:]:
            same = evidence.quality.arms["dense"].columns["correct"]
            evidence = edit(evidence, f"quality.arms.candidate@{name}.columns.correct", same)
        targets = dict.fromkeys(names, "required")
        crowded = judge(
            evidence, make_policy(targets=targets, quality=quality, latency=None, size=None)
        )
        if alone.outcome == "block" and crowded.outcome == "inconclusive":
            advisory = targets | dict.fromkeys(names[1:], "advisory")
            policy = make_policy(targets=advisory, quality=quality, latency=None, size=None)
            assert judge(evidence, policy).outcome == "block"
            return
    pytest.fail("the correction was never seen")


def test_the_first_generation_is_judged_against_its_parent_alone() -> None:
    """Rules against a champion are absent, with a note that names them."""
    found = judge(make_evidence(arms=("candidate", "dense")), make_policy())
    assert found.outcome == "pass"
    assert not any(rule.rule.endswith("vs_champion") for rule in found.rules)
    assert notes_of(found) == (
        "First generation: there is no champion yet, so latency.vs_champion, accuracy.vs_champion "
        "could not be judged.",
    )


def test_an_anchor_is_judged_where_there_is_one() -> None:
    """vs_anchor is a rule with an anchor, and a note without."""
    quality = {"accuracy": {"vs_anchor": NO_RATIO}}
    policy = make_policy(quality=quality, latency={"vs_anchor": {}})
    without = judge(make_evidence(), policy)
    assert without.notes == (
        "There is no anchor (`reprune anchor` sets one), so latency.vs_anchor, accuracy.vs_anchor "
        "could not be judged.",
    )
    anchored = judge(make_evidence(arms=("candidate", "dense", "champion", "anchor")), policy)
    assert {"accuracy.vs_anchor", "latency.vs_anchor"} <= {rule.rule for rule in anchored.rules}
    assert of(anchored, "latency.vs_anchor").baseline == "anchor"
    assert anchored.outcome == "pass"


def test_a_policy_whose_baselines_do_not_exist_passes_nothing() -> None:
    """Only parity would be left, which every engine meets."""
    policy = make_policy(quality={}, size=None, latency={"vs_champion": {}})
    found = judge(make_evidence(arms=("candidate", "dense")), policy)
    assert found.outcome == "inconclusive"
    assert "No rule of the policy could be judged" in found.headline
    off = edit(
        make_evidence(arms=("candidate", "dense")),
        "engines.0.parity",
        lambda p: msgspec.structs.replace(p, max_abs=0.1),
    )
    assert judge(off, policy).outcome == "block"


def test_attempts_are_tested_more_strictly_and_noted() -> None:
    """The second attempt's limits are wider, at alpha / 6."""
    first, second = (judge(make_evidence(attempt=i), make_policy()) for i in (1, 2))
    assert second.alpha == pytest.approx(0.05 / 6)
    assert "attempt 2 for dense version 2" in second.notes[0]
    one, two = of(first, "accuracy.vs_parent"), of(second, "accuracy.vs_parent")
    assert (two.low or 0) < (one.low or 0)


def test_low_power_is_noted() -> None:
    """A policy that cannot be expected to pass a good candidate says so in the verdict."""
    fact = PowerFact(
        rule="accuracy.vs_parent",
        examples=450,
        flips=0.03,
        alpha=0.025,
        pass_if_equal=0.31,
        pass_if_third_lost=0.1,
    )
    fine = msgspec.structs.replace(fact, rule="accuracy.vs_champion", pass_if_equal=0.5)
    found = judge(edit(make_evidence(), "power", (fact, fine)), make_policy())
    assert notes_of(found) == (
        "accuracy.vs_parent passes a candidate that lost nothing with a chance of only 31 % "
        "(450 examples, 3 % flips).",
    )


def test_a_rule_is_broken_at_exactly_its_level() -> None:
    """An adjusted p-value equal to alpha blocks; a rule that holds passes whatever its p-value."""
    draft = Draft(
        rule="accuracy.vs_parent",
        baseline="dense",
        target="cpu",
        required=True,
        unit="share",
        baseline_value=0.9,
        candidate_value=0.8,
        change=-0.1,
        low=-0.2,
        high=-0.05,
        limit=-0.01,
        direction="at least",
        samples=100,
        facts="Facts",
        short="short",
        allowed="allowed",
        decide="More.",
        p_harm=0.01,
    )
    assert decide(draft, 0.025, 0.025).outcome == "block"
    undecided = decide(draft, 0.0251, 0.025)
    assert (undecided.outcome, undecided.decide) == ("inconclusive", "More.")
    assert undecided.words == "Facts: this is not decided."
    assert decide(replace(draft, holds=True), 0.0, 0.025).outcome == "pass"
    sure = decide(replace(draft, holds=True, sure="error"), 0.0, 0.025)
    assert (sure.outcome, sure.decide) == ("error", "")


# --- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "limits", "outcomes"),
    [
        (900, {"vs_parent": 0.9, "vs_champion": 2.0, "ceiling": 900}, ["pass"] * 3),
        (901, {"vs_parent": 0.9, "vs_champion": 2.0, "ceiling": 900}, ["block", "pass", "block"]),
        (540, {"vs_parent": 0.9, "vs_champion": 1.05, "ceiling": 900}, ["pass", "block", "pass"]),
    ],
)
def test_sizes_are_certain(size: int, limits: dict[str, float], outcomes: list[str]) -> None:
    """Bytes at the limit pass, one above blocks; against parent, champion and ceiling."""
    rules = {
        "vs_parent": {"max_ratio": limits["vs_parent"]},
        "vs_champion": {"max_ratio": limits["vs_champion"]},
        "ceiling_bytes": limits["ceiling"],
    }
    evidence = edit(make_evidence(units=0), "engines.0.bytes", size)
    found = judge(evidence, make_policy(size=rules, latency=None, quality={}))
    sizes = [rule for rule in found.rules if rule.rule.startswith("size.")]
    assert [rule.outcome for rule in sizes] == outcomes
    assert [rule.rule for rule in sizes] == ["size.vs_parent", "size.vs_champion", "size.ceiling"]
    assert found.outcome == ("block" if "block" in outcomes else "pass")
    assert sizes[0].change == pytest.approx(size / 1000)
    assert (sizes[0].baseline_value, sizes[0].candidate_value) == (1000.0, size)
    assert sizes[2].limit == 900


@pytest.mark.parametrize(
    ("parity", "within"),
    [
        ({"max_abs": 0.001}, True),
        ({"max_abs": 0.00101}, False),
        ({"cosine": 0.9999}, True),
        ({"cosine": 0.99989}, False),
        ({"agreement": 0.99}, True),
        ({"agreement": 0.9899}, False),
    ],
)
@pytest.mark.parametrize(("engine", "outcome"), [(0, "block"), (1, "error"), (2, "error")])
def test_parity_bounds(parity: dict[str, float], within: bool, engine: int, outcome: str) -> None:
    """A candidate that left its bundle is blocked; a baseline that did is an error."""
    evidence = edit(
        make_evidence(),
        f"engines.{engine}.parity",
        lambda old: msgspec.structs.replace(old, **parity),
    )
    found = judge(evidence, make_policy())
    assert found.outcome == ("pass" if within else outcome)
    bad = [rule for rule in found.rules if rule.rule == "parity" and rule.outcome != "pass"]
    assert [rule.baseline for rule in bad] == (
        [] if within else [("candidate", "dense", "champion")[engine]]
    )


def test_an_engine_that_left_its_bundle_says_by_how_much() -> None:
    """All that is out of bounds is named, with the bounds."""
    parity = Parity(examples=64, max_abs=0.5, cosine=0.9, agreement=0.75)
    found = judge(edit(make_evidence(), "engines.0.parity", parity), make_policy())
    assert found.reasons == (
        "On cpu, the engine of the candidate was compared with its own bundle: outputs differ by up "
        "to 0.5; the cosine falls to 0.9; outcomes agree on 75 %, and the policy allows 0.001, a "
        "cosine of 0.9999 and 99 % agreement: the rule is broken.",
    )


# --- laws ----------------------------------------------------------------------------------------


def random_case(seed: int) -> tuple[Evidence, Policy]:
    rng = random.Random(seed)
    evidence = make_evidence(
        targets={"cpu": rng.choice([0.6, 0.78, 0.9])},
        examples=rng.choice([120, 400]),
        errors=rng.choice([8, 30]),
        lost=rng.randint(0, 20),
        gained=rng.randint(0, 8),
        units=rng.choice([8, 20, 60]),
    )
    quality = {
        "accuracy": {
            "vs_parent": {"max_drop": rng.choice([0.01, 0.03, 0.06]), "max_error_ratio": None},
            "vs_champion": {"max_drop": 0.05, "max_error_ratio": rng.choice([None, 1.5, 3.0])},
            "floor": rng.choice([0.7, 0.9]),
            "slices": {"max_drop": 0.08},
        }
    }
    return evidence, make_policy(quality=quality, alpha=rng.choice([0.05, 0.2]))


def severity(result: RuleResult) -> int:
    return SEVERITY.index(result.outcome)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000), place=st.integers(0, 119))
def test_improving_the_metric_never_hurts(seed: int, place: int) -> None:
    """One example more that the candidate gets right makes no rule worse, let alone blocks a pass."""
    evidence, policy = random_case(seed)
    path = "quality.arms.candidate@cpu.columns.correct"
    before = judge(evidence, policy)
    after = judge(edit(evidence, path, lambda old: (*old[:place], 1, *old[place + 1 :])), policy)
    assert not (before.outcome == "pass" and after.outcome == "block")
    for one, two in zip(before.rules, after.rules, strict=True):
        if one.rule in ("accuracy.vs_parent", "accuracy.floor"):
            assert severity(two) <= severity(one)
        assert not (one.outcome == "pass" and two.outcome == "block")


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000), faster=st.floats(0.5, 0.999))
def test_a_faster_candidate_never_turns_pass_into_block(seed: int, faster: float) -> None:
    """All calls shorter: no latency rule that passed is broken."""
    evidence, policy = random_case(seed)

    def sped(units: Any) -> Any:
        return tuple(
            edit(
                u,
                "arms.candidate.blocks_ns",
                lambda blocks: tuple(
                    tuple(max(1, int(call * faster)) for call in block) for block in blocks
                ),
            )
            for u in units
        )

    before, after = judge(evidence, policy), judge(edit(evidence, "targets.0.units", sped), policy)
    for one, two in zip(before.rules, after.rules, strict=True):
        assert severity(two) <= severity(one)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_a_model_against_itself_is_never_blocked(seed: int) -> None:
    """The same records, times and engine as every baseline, and margins that admit equality."""
    evidence, policy = random_case(seed)
    own = evidence.quality.arms["candidate@cpu"]
    for key in ("dense", "champion@cpu"):
        evidence = edit(evidence, f"quality.arms.{key}", own)
    for place in range(len(evidence.targets[0].units)):
        times = evidence.targets[0].units[place].arms["candidate"]
        for arm in ("dense", "champion", "control"):
            evidence = edit(evidence, f"targets.0.units.{place}.arms.{arm}", times)
    size = evidence.engines[0].bytes
    for place in range(3):
        evidence = edit(evidence, f"engines.{place}.bytes", size)
    one = {"max_ratio": 1.0}
    policy = edit(policy, "quality.accuracy.floor", None)
    again = {**msgspec.to_builtins(policy), "latency": {"vs_parent": one, "vs_champion": one}}
    found = judge(evidence, msgspec.convert({**again, "size": {"vs_parent": one}}, Policy))
    assert found.outcome in ("pass", "inconclusive")
    assert all(rule.outcome == "pass" for rule in found.rules if rule.rule.startswith("latency"))
    assert all(one.outcome != "harm" for one in found.slices)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000), clustered=st.booleans())
def test_the_order_of_examples_is_irrelevant(seed: int, clustered: bool) -> None:
    """Recorded in another order, the judgement has the same bytes; ratio metrics too."""
    rng = random.Random(seed)
    evidence, policy = random_case(seed)
    count = len(evidence.quality.ids)
    sources = tuple(f"s{rng.randrange(30)}" for _ in range(count)) if clustered else None
    evidence = edit(evidence, "quality.sources", sources)
    for key, records in evidence.quality.arms.items():
        right = records.columns["correct"]
        more = {"numerator": tuple(7 * v for v in right), "denominator": (9,) * count}
        evidence = edit(evidence, f"quality.arms.{key}.columns", {"correct": right, **more})
    rules = {"vs_parent": NO_RATIO, "slices": {}}
    policy = edit(
        policy, "quality", make_policy(quality={"accuracy": rules, "dice": rules}).quality
    )
    order = list(range(count))
    rng.shuffle(order)

    def shuffled(values: Any) -> Any:
        return tuple(values[place] for place in order)

    quality = evidence.quality
    other = make_quality(
        {key: {n: shuffled(c) for n, c in r.columns.items()} for key, r in quality.arms.items()},
        slices={family: shuffled(values) for family, values in quality.slices.items()},
        sources=None if sources is None else shuffled(sources),
    )
    turned = edit(edit(evidence, "quality", other), "quality.ids", shuffled(quality.ids))
    one, two = (msgspec.json.encode(judge(e, policy)) for e in (evidence, turned))
    assert one == two


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000), looser=st.floats(1.0, 3.0))
def test_a_looser_limit_never_hurts(seed: int, looser: float) -> None:
    """Every limit loosened: no rule gets a worse outcome."""
    evidence, policy = random_case(seed)
    loose = msgspec.to_builtins(policy)
    for rule in loose["latency"].values():
        if rule:
            rule["max_ratio"] *= looser
    rules = loose["quality"]["accuracy"]
    for name in ("vs_parent", "vs_champion"):
        rules[name]["max_drop"] *= looser
    rules["floor"] /= looser
    rules["slices"]["max_drop"] *= looser
    before, after = judge(evidence, policy), judge(evidence, msgspec.convert(loose, Policy))
    for one, two in zip(before.rules, after.rules, strict=True):
        assert severity(two) <= severity(one)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_swapping_candidate_and_baseline_mirrors_the_intervals(seed: int) -> None:
    """Dense for candidate and candidate for dense: every loss interval is the other way round."""
    evidence, policy = random_case(seed)
    policy = edit(policy, "quality.accuracy.vs_champion", None)
    dense = evidence.quality.arms["dense"]
    mirrored = edit(evidence, "quality.arms.dense", evidence.quality.arms["candidate@cpu"])
    mirrored = edit(mirrored, "quality.arms.candidate@cpu", dense)
    one, two = (of(judge(e, policy), "accuracy.vs_parent") for e in (evidence, mirrored))
    assert (one.low, one.high) == (-(two.high or 0), -(two.low or 0))
    assert (one.change or 0) == -(two.change or 0)


def test_judging_twice_gives_the_same_bytes() -> None:
    """A judgement is a value: equal evidence, equal bytes, and every number is finite."""
    evidence, policy = random_case(1)
    one, two = (msgspec.json.encode(judge(evidence, policy)) for _ in range(2))
    assert one == two
    decoded = msgspec.json.decode(one, type=Judgement)
    assert decoded == judge(evidence, policy)
    for rule in decoded.rules:
        assert math.isfinite(rule.limit)


@pytest.mark.slow
def test_false_passes_at_the_margin_are_rare() -> None:
    """Candidates exactly 3 points worse than both baselines pass together at most 2.5 % of the time."""
    rng = random.Random(8)
    policy = make_policy(latency=None, size=None, quality={"accuracy": {"vs_parent": NO_RATIO}})
    evidence = make_evidence(examples=450, units=0)
    runs, passed = 300, 0
    for _ in range(runs):
        draws = [rng.random() for _ in range(450)]
        base = tuple(int(not 0.04 <= d < 0.06) for d in draws)
        mine = tuple(int(d >= 0.05) for d in draws)
        arms = {"dense": {"correct": base}, "candidate@cpu": {"correct": mine}}
        passed += judge(edit(evidence, "quality", make_quality(arms)), policy).outcome == "pass"
    assert passed / runs <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)


@pytest.mark.slow
def test_a_large_verdict_judges_every_slice_of_every_target() -> None:
    """10,000 examples, 20 slices, 3 targets and 120 units, Dice included, in one judgement."""
    names = {"a": 0.6, "b": 0.7, "c": 0.5}
    evidence = make_evidence(
        targets=names, examples=10_000, errors=300, lost=80, gained=80, units=1
    )
    units = make_units(120, {"dense": 0.79, "champion": 1.0}, noise=0.05)
    for place in range(3):
        evidence = edit(evidence, f"targets.{place}.units", units)
    for key, records in evidence.quality.arms.items():
        right = records.columns["correct"]
        more = {"numerator": tuple(70 * v for v in right), "denominator": (90,) * 10_000}
        evidence = edit(evidence, f"quality.arms.{key}.columns", {"correct": right, **more})
    slices = {"kind": tuple(str(place % 20) for place in range(10_000))}
    evidence = edit(evidence, "quality.slices", slices)
    rules = {"vs_parent": NO_RATIO, "vs_champion": NO_RATIO, "floor": 0.5, "slices": {}}
    targets = dict.fromkeys(names, "required")
    policy = make_policy(targets=targets, quality={"accuracy": rules, "dice": rules})
    found = judge(evidence, policy)
    assert len(found.slices) == 3 * 2 * 2 * 20


# --- words ---------------------------------------------------------------------------------------


def test_numbers_in_words() -> None:
    """Speeds, points and estimates as a person says them."""
    assert speed(0.62) == "1.61x faster than"
    assert speed(1.12) == "1.12x slower than"
    assert speed(1.004) == speed(0.996) == "about as fast as"
    assert speed(1.005) == "1x slower than" or speed(1.0051).endswith("slower than")
    assert speed_demand(0.8) == "at least 1.25x faster"
    assert speed_demand(1.0) == "no slower"
    assert speed_demand(1.05) == "at most 1.05x slower"
    assert points(0.03) == "3.0"
    assert points(0.0277777) == "2.78"
    assert points(-0.000001) == "0.0"
    assert percent(0.8635) == "86.35 %"
    assert moved("accuracy", -0.096) == "accuracy fell by 9.6 points"
    assert moved("accuracy", 0.0125) == "accuracy rose by 1.25 points"
    assert moved("accuracy", 0.0) == "accuracy did not change"
    assert moved("accuracy", -0.00001) == "accuracy hardly changed"
    assert [roughly(x) for x in (0.2, 7.1, 99, 100.5, 1234)] == [1, 8, 99, 110, 1300]


def test_examples_left_out_are_said() -> None:
    """And a champion that does not tell what it was made with."""
    told = edit(make_evidence(), "quality.dropped", {"champion": 3, "anchor": None})
    words = " ".join(judge(told, make_policy()).notes)
    assert "3 eval examples were left out, because the champion had been made with them" in words
    assert "Nothing tells which examples the anchor was made with" in words
