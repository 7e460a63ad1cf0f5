"""Every field of every kind of rule, from figures that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from reprune.core.artifacts import EngineFact, LayerError
from reprune.core.policy import PARITY_BY_PRECISION, LatencyObjective, Policy
from reprune.judge.drafts import Draft
from reprune.judge.engine_rules import engines_by_place, parity_drafts, size_drafts
from reprune.judge.evidence import ArmTimes, Unit
from reprune.judge.latency import Look, Sequential, unit_ratio
from reprune.judge.latency_rules import latency_drafts, sample, what_decides
from reprune.judge.memory_rules import memory_drafts
from reprune.judge.objective import exceedance
from reprune.judge.tail_rules import _objective_draft, objective_drafts, tail_drafts
from reprune.judge.throughput import mean_ratio
from reprune.judge.throughput_rules import throughput_drafts
from tests.building import edit, make_engine, make_policy

ARMS = ("candidate", "dense", "champion")
BOTH = {"a": "required", "b": "advisory"}


def policy(**sections: Any) -> Policy:
    return make_policy(
        **{"latency": None, "quality": {}, "size": None, "targets": BOTH, **sections}
    )


def told(draft: Draft) -> tuple[Any, ...]:
    """Whose rule it is, and where: what a reader looks for first."""
    return draft.rule, draft.baseline, draft.target, draft.required, draft.unit, draft.direction


def numbers(draft: Draft) -> tuple[Any, ...]:
    return (
        draft.baseline_value,
        draft.candidate_value,
        draft.change,
        draft.low,
        draft.high,
        draft.limit,
        draft.samples,
    )


def decided(draft: Draft) -> tuple[Any, ...]:
    return draft.holds, draft.p_harm, draft.sure


# --- size ----------------------------------------------------------------------------------------

SIZES = {"vs_parent": {"max_ratio": 0.5}, "vs_champion": {"max_ratio": 1.25}, "ceiling_bytes": 500}


def sizes(mine: int, target: str = "a", arms: Sequence[str] = ARMS, **rules: Any) -> list[Draft]:
    bytes_ = {"candidate": mine, "dense": 1000, "champion": 400}
    engines = engines_by_place([make_engine(arm, target, bytes_[arm]) for arm in arms])
    return size_drafts(engines, policy(size={**SIZES, **rules}), target, arms)


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_sizes_in_full(target: str, required: bool) -> None:
    found = sizes(500, target)
    assert [told(draft) for draft in found] == [
        ("size.vs_parent", "dense", target, required, "ratio", "at most"),
        ("size.vs_champion", "champion", target, required, "ratio", "at most"),
        ("size.ceiling", "absolute", target, required, "bytes", "at most"),
    ]
    assert [numbers(draft) for draft in found] == [
        (1000.0, 500.0, 0.5, 0.5, 0.5, 0.5, 1),
        (400.0, 500.0, 1.25, 1.25, 1.25, 1.25, 1),
        (None, 500.0, None, 500.0, 500.0, 500.0, 1),
    ]
    assert [decided(draft) for draft in found] == [(False, None, "pass")] * 3


def test_sizes_one_byte_above() -> None:
    assert [draft.sure for draft in sizes(501)] == ["block"] * 3


def test_sizes_without_a_baseline_or_a_rule() -> None:
    """An arm that does not exist and a rule that is not made give no draft."""
    assert [d.rule for d in sizes(500, arms=ARMS[:2])] == ["size.vs_parent", "size.ceiling"]
    assert [d.rule for d in sizes(500, vs_parent=None)] == ["size.vs_champion", "size.ceiling"]
    assert [d.rule for d in sizes(500, ceiling_bytes=None)] == [
        "size.vs_parent",
        "size.vs_champion",
    ]
    assert size_drafts({}, policy(), "a", ARMS) == []


def test_sizes_are_compared_to_nine_digits() -> None:
    """One third of the parent's size meets a limit that is written as 0.333333333."""
    thirds = policy(size={"vs_parent": {"max_ratio": 0.333333333}})
    engines = engines_by_place([make_engine("candidate", "a", 1), make_engine("dense", "a", 3)])
    (found,) = size_drafts(engines, thirds, "a", ARMS[:2])
    assert (found.change, found.sure) == (0.333333333, "pass")
    near = policy(size={"vs_parent": {"max_ratio": 0.333333332999}})
    (found,) = size_drafts(engines, near, "a", ARMS[:2])
    assert (found.limit, found.sure) == (0.333333333, "pass")


# --- parity --------------------------------------------------------------------------------------


def engine(arm: str = "candidate", target: str = "a", **parity: float) -> EngineFact:
    made = make_engine(arm, target, 1)
    given = {"examples": 64, "max_abs": 0.0005, "cosine": 0.99995, "agreement": 0.995, **parity}
    return msgspec.structs.replace(made, parity=msgspec.convert(given, type(made.parity)))


def parity(one: EngineFact, **bounds: Any) -> Draft:
    rules = policy(parity=bounds)
    (found,) = parity_drafts(engines_by_place([one]), rules, one.target, [one.arm])
    return found


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
@pytest.mark.parametrize("arm", ARMS)
def test_parity_in_full(arm: str, target: str, required: bool) -> None:
    """The distance is shown where one is bounded, else the cosine."""
    found = parity(engine(arm, target))
    assert told(found) == ("parity", arm, target, required, "max_abs", "at most")
    assert numbers(found) == (None, 0.0005, None, None, 0.0005, 0.001, 64)
    assert decided(found) == (False, None, "pass")
    free = parity(engine(arm, target), max_abs=None)
    assert told(free) == ("parity", arm, target, required, "cosine", "at least")
    assert numbers(free) == (None, 0.99995, None, 0.99995, None, 0.9999, 64)
    assert decided(free) == (False, None, "pass")


@pytest.mark.parametrize(
    ("bound", "good", "bad"),
    [
        ("max_abs", 0.001, 0.001001),
        ("cosine", 0.9999, 0.99989),
        ("agreement", 0.99, 0.98999),
    ],
)
@pytest.mark.parametrize(
    ("arm", "worst"), [("candidate", "block"), ("dense", "error"), ("champion", "error")]
)
def test_each_bound_of_parity_binds(
    bound: str, good: float, bad: float, arm: str, worst: str
) -> None:
    assert parity(engine(arm, **{bound: good})).sure == "pass"
    assert parity(engine(arm, **{bound: bad})).sure == worst


def test_bounds_that_are_not_written_are_usual_for_the_precision() -> None:
    """One bound of int8 leaves the others of int8; null is written, and is any distance."""
    written = {"int8": {"min_agreement": 0.9}, "fp16": {"max_abs": None}, "fp32": {"max_abs": 0.5}}
    parity = policy(parity={"min_cosine": 0.5, "by_precision": written}).parity
    usual = PARITY_BY_PRECISION["int8"]
    assert (usual.max_abs, usual.min_cosine, usual.min_agreement) == (None, 0.98, 0.95)
    assert parity.bounds("int8") == msgspec.structs.replace(usual, min_agreement=0.9)
    half = msgspec.structs.replace(PARITY_BY_PRECISION["fp16"], max_abs=None)
    assert parity.bounds("fp16") == half
    whole = parity.bounds("fp32")
    assert (whole.max_abs, whole.min_cosine, whole.min_agreement) == (0.5, 0.5, 0.99)
    assert parity.bounds("bf16") == PARITY_BY_PRECISION["bf16"]


def test_parity_is_rounded() -> None:
    assert parity(engine(max_abs=0.001 / 3)).high == 0.000333333333
    assert parity(engine(max_abs=0.001 / 3)).candidate_value == 0.000333333333
    assert parity(engine(), max_abs=0.002 / 3).limit == 0.000666666667
    free = parity(engine(cosine=1 - 0.0001 / 3), max_abs=None, min_cosine=1 - 0.0002 / 3)
    assert (free.low, free.limit) == (0.999966667, 0.999933333)


def test_parity_of_the_arms_that_exist_in_one_order() -> None:
    engines = engines_by_place([engine(arm) for arm in reversed(ARMS)])
    found = parity_drafts(engines, policy(), "a", ("champion", "candidate", "dense"))
    assert [draft.baseline for draft in found] == ["candidate", "dense", "champion"]
    assert parity_drafts(engines, policy(), "a", ("dense",))[0].baseline == "dense"


def test_the_layers_that_differ_most_are_named_where_an_engine_left_its_bundle() -> None:
    worst = (LayerError(layer="conv1", relative=0.25),)
    good = msgspec.structs.replace(engine(), worst_layers=worst)
    bad = msgspec.structs.replace(engine(max_abs=0.5), worst_layers=worst)
    assert "conv1 (0.25)" not in parity(good).facts
    assert "conv1 (0.25)" in parity(bad).facts
    assert "layers" not in parity(engine(max_abs=0.5)).facts


def test_what_parity_says() -> None:
    """What is broken, else how far it is; and only the bounds that there are."""
    good, broken = parity(engine()), parity(engine(max_abs=0.5, cosine=0.5, agreement=0.5))
    bounds = "the policy allows 0.001, a cosine of 0.9999 and 99 % agreement"
    who = "On a, the engine of the candidate was compared with its own bundle: "
    assert good.facts == f"{who}outputs differ by at most 0.0005, and {bounds}"
    assert broken.facts == (
        f"{who}outputs differ by up to 0.5; the cosine falls to 0.5; outcomes agree on 50 %, and {bounds}"
    )
    free = parity(engine(), max_abs=None)
    assert free.allowed == "the policy allows a cosine of 0.9999 and 99 % agreement"


# --- memory --------------------------------------------------------------------------------------

PEAKS = {"candidate": (90, 100, 130), "dense": (180, 200, 500), "champion": (80, 80, 80)}
MEMORY = {"vs_parent": {"max_ratio": 0.5}, "vs_champion": {"max_ratio": 1.25}, "ceiling_bytes": 130}


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_memory_in_full(target: str, required: bool) -> None:
    """Medians are compared; the ceiling holds for the largest process."""
    found = memory_drafts(PEAKS, target, policy(memory=MEMORY), ARMS)
    assert [told(draft) for draft in found] == [
        ("memory.vs_parent", "dense", target, required, "ratio", "at most"),
        ("memory.vs_champion", "champion", target, required, "ratio", "at most"),
        ("memory.ceiling", "absolute", target, required, "bytes", "at most"),
    ]
    assert [numbers(draft) for draft in found] == [
        (200.0, 100.0, 0.5, 0.5, 0.5, 0.5, 3),
        (80.0, 100.0, 1.25, 1.25, 1.25, 1.25, 3),
        (None, 130.0, None, 130.0, 130.0, 130.0, 3),
    ]
    assert [decided(draft) for draft in found] == [(False, None, "pass")] * 3


def test_memory_one_byte_above() -> None:
    more = {**PEAKS, "candidate": (101, 101, 131)}
    found = memory_drafts(more, "a", policy(memory=MEMORY), ARMS)
    assert [draft.sure for draft in found] == ["block"] * 3
    assert memory_drafts(PEAKS, "a", policy(), ARMS) == []
    only = policy(memory={"vs_parent": {"max_ratio": 0.5}})
    assert [draft.rule for draft in memory_drafts(PEAKS, "a", only, ARMS)] == ["memory.vs_parent"]


def test_memory_is_compared_to_nine_digits() -> None:
    rules = policy(memory={"vs_parent": {"max_ratio": 0.333333332999}})
    (found,) = memory_drafts({"candidate": (1,), "dense": (3,)}, "a", rules, ARMS)
    assert (found.change, found.limit, found.sure) == (0.333333333, 0.333333333, "pass")
    assert "the median of 1 process)" in found.facts
    assert "of 3 processes" in memory_drafts(PEAKS, "a", policy(memory=MEMORY), ARMS)[0].facts


# --- time ----------------------------------------------------------------------------------------


def unit(index: int, ns: dict[str, int], build: int | None = None) -> Unit:
    """Every arm's typical call takes what `ns` says, and every sixth call ten times as long."""
    arms = {
        arm: ArmTimes(
            order=order,
            blocks_ns=((each, each, each, each, each, 10 * each),) * 2,
            warmup_calls=1,
            build=msgspec.UNSET if build is None else build,
        )
        for order, (arm, each) in enumerate(ns.items())
    }
    return Unit(index=index, process=index, seed=0, started_s=1e9, load=0.0, arms=arms)


NS = {"candidate": 2_000_000, "dense": 4_000_000, "champion": 2_000_000}
TEN = [unit(index, NS) for index in range(10)]
PLAN = Sequential(looks=(8, 15), alpha=0.1, rules=3)


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_latency_in_full(target: str, required: bool) -> None:
    """Ten units show the look at eight; times are milliseconds of the typical call."""
    rules = policy(latency={"vs_parent": {"max_ratio": 0.8}, "vs_champion": {"max_ratio": 1.05}})
    found = latency_drafts(TEN, target, rules, ARMS, PLAN)
    assert [told(draft) for draft in found] == [
        ("latency.vs_parent", "dense", target, required, "ratio", "at most"),
        ("latency.vs_champion", "champion", target, required, "ratio", "at most"),
    ]
    assert [numbers(draft) for draft in found] == [
        (4.0, 2.0, 0.5, 0.5, 0.5, 0.8, 8),
        (2.0, 2.0, 1.0, 1.0, 1.0, 1.05, 8),
    ]
    assert [decided(draft) for draft in found] == [(True, 1.0, None)] * 2
    assert latency_drafts(TEN, target, policy(), ARMS, PLAN) == []


def test_latency_before_the_first_look_and_where_it_is_broken() -> None:
    rules = policy(latency={"vs_parent": {"max_ratio": 1 / 3}})
    (early,) = latency_drafts(TEN[:5], "a", rules, ARMS, PLAN)
    assert numbers(early) == (None, None, None, None, None, 0.333333333, 0)
    assert decided(early) == (False, 1.0, None)
    (broken,) = latency_drafts(TEN, "a", rules, ARMS, PLAN)
    # Two looks, and eight of eight above: 2 / 2^8.
    assert decided(broken) == (False, 2 / 256, None)
    assert early.facts == (
        "On a, the candidate's time was compared with the dense model's in only 5 units; the policy "
        "demands at least 3x faster (a ratio of at most 0.3333)"
    )
    assert broken.facts == (
        "On a, the candidate is 2x faster than the dense model: a ratio of times of 0.5 (limits 0.5 to "
        "0.5, 8 units), and the policy demands at least 3x faster (a ratio of at most 0.3333)"
    )
    strict = Sequential(looks=(2, 15), alpha=0.01, rules=3)
    (open_,) = latency_drafts(TEN, "a", rules, ARMS, strict)
    assert (open_.low, open_.high) == (None, None)
    assert "(no interval can be given, 2 units)" in open_.facts
    assert "hardly measured" in early.short
    assert broken.short == "2x faster than the dense model"


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_throughput_in_full(target: str, required: bool) -> None:
    """Slow calls count: a mean call is 2.5 typical ones, so 4 examples take 5 ms."""
    rules = policy(throughput={"vs_parent": {"min_ratio": 1.5}, "vs_champion": {"min_ratio": 0.95}})
    found = throughput_drafts(TEN, (target, 4, True), rules, ARMS, PLAN)
    assert [told(draft) for draft in found] == [
        ("throughput.vs_parent", "dense", target, required, "ratio", "at least"),
        ("throughput.vs_champion", "champion", target, required, "ratio", "at least"),
    ]
    assert [numbers(draft) for draft in found] == [
        (400.0, 800.0, 2.0, 2.0, 2.0, 1.5, 8),
        (800.0, 800.0, 1.0, 1.0, 1.0, 0.95, 8),
    ]
    assert [decided(draft) for draft in found] == [(True, 1.0, None)] * 2
    (other, _) = throughput_drafts(TEN, (target, 8, False), rules, ARMS, PLAN)
    assert (other.rule, other.candidate_value) == ("throughput.b8.vs_parent", 1600.0)


def test_throughput_before_the_first_look_and_where_it_is_broken() -> None:
    rules = policy(throughput={"vs_parent": {"min_ratio": 10 / 3}})
    (early,) = throughput_drafts(TEN[:5], ("a", 1, True), rules, ARMS, PLAN)
    assert numbers(early) == (None, None, None, None, None, 3.33333333, 0)
    assert "in only 5 units" in early.facts
    strict = Sequential(looks=(2, 15), alpha=0.01, rules=3)
    (open_,) = throughput_drafts(TEN, ("a", 1, True), rules, ARMS, strict)
    assert (open_.low, open_.high) == (None, None)
    assert "(no interval can be given, 2 units)" in open_.facts
    (broken,) = throughput_drafts(TEN, ("a", 1, True), rules, ARMS, PLAN)
    assert decided(broken) == (False, 2 / 256, None)
    assert "hardly measured" in early.short
    assert broken.short == "2 times the examples a second of the dense model at batch 1"


def test_an_interval_of_rates_is_that_of_times_upside_down() -> None:
    """The slowest unit gives the lower end of the rate's interval and the upper one of the time's."""
    uneven = [unit(i, {**NS, "dense": 4_000_000 + 100_000 * i}) for i in range(8)]
    rules = policy(throughput={"vs_parent": {"min_ratio": 1.5}})
    (found,) = throughput_drafts(uneven, ("a", 1, True), rules, ARMS, PLAN)
    assert found.low is not None
    assert found.high is not None
    assert (found.low, found.high) == (2.05, 2.3)
    assert "limits 2.05 to 2.3, 8 units" in found.facts


def test_what_a_look_rests_on() -> None:
    """Before the first look all units; after it those that it used; builds are counted."""
    assert sample(Look(units=8), TEN) == "8 units"
    assert sample(Look(), TEN) == "10 units"
    assert sample(Look(), TEN[:1]) == "1 unit"
    built = [unit(index, NS, build=index % 3) for index in range(10)]
    assert sample(Look(units=8), built) == "8 units of 3 builds"


def test_what_would_decide_an_open_look() -> None:
    """The next look, by how many units it lacks; after the last one, what it lacked."""
    assert what_decides(Look(units=8), 10, PLAN).startswith("5 more units")
    assert what_decides(Look(units=8), 15, PLAN).startswith("1 more unit ")
    assert what_decides(Look(), 0, PLAN).startswith("8 more units")
    last = Look(units=15, low=0.5, high=1.0)
    assert what_decides(last, 15, PLAN).startswith("No look is left: the ratio is too close to the")
    narrow = replace(PLAN, widest=1.5)
    assert "wider than the policy trusts" in what_decides(last, 15, narrow)
    assert "More builds" in what_decides(last, 15, narrow, several=True)
    assert "More builds" not in what_decides(last, 15, PLAN)


def test_looks_that_no_number_of_units_decides_say_so() -> None:
    """At a late attempt even the last look gives no interval of the median: 2^-15 is above the level."""
    late = replace(PLAN, alpha=len(PLAN.looks) * 0.5**16)
    for look in (Look(units=15), Look(units=8), Look()):
        words = what_decides(look, 15, late)
        assert words.startswith(
            "No look of the policy gives an interval at the level of this attempt"
        )
        assert "a look at 16 units or more" in words
    at = replace(PLAN, alpha=len(PLAN.looks) * 0.5**15)
    assert what_decides(Look(units=8), 15, at).startswith("1 more unit ")
    assert "More builds" in what_decides(Look(units=15), 15, late, several=True)


def test_several_builds_say_that_more_of_them_would_decide() -> None:
    built = [unit(index, NS, build=index % 3) for index in range(15)]
    rules = policy(
        latency={"vs_parent": {"max_ratio": 0.5}}, throughput={"vs_parent": {"min_ratio": 1.0}}
    )
    noisy = [
        edit(one, "arms.dense.blocks_ns", ((4_000_000 + 900_000 * (i % 3),) * 6,) * 2)
        for i, one in enumerate(built)
    ]
    (time,) = latency_drafts(noisy, "a", rules, ARMS, PLAN)
    (rate,) = throughput_drafts(noisy, ("a", 1, True), rules, ARMS, PLAN)
    assert "More builds" in time.decide
    assert "More builds" in rate.decide


def test_ratios_of_units_have_nine_digits() -> None:
    """Where times are thirds of each other, too."""
    one = unit(0, {"candidate": 1, "dense": 3})
    assert unit_ratio(one, "dense") == 0.333333333
    assert mean_ratio(one, "dense") == 0.333333333
    assert mean_ratio(one, "candidate", "dense") == 3.0


# --- slow calls ----------------------------------------------------------------------------------

TWENTY = [
    unit(index, NS) for index in range(20)
]  # 240 calls an arm, a sixth of them ten times as long
TAIL = {"percentile": 90, "units": 20, "vs_parent": {"max_ratio": 0.6}, "vs_champion": {}}


def tails(units: Sequence[Unit], target: str = "a", **rules: Any) -> list[Draft]:
    given = policy(latency={"tail": {**TAIL, **rules}})
    return tail_drafts(units, target, given, ARMS, 0.025, "seed")


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_tails_in_full(target: str, required: bool) -> None:
    """The p90 in milliseconds, in units that are all alike: no width at all."""
    found = tails(TWENTY, target)
    assert [told(draft) for draft in found] == [
        ("latency.tail.vs_parent", "dense", target, required, "ratio", "at most"),
        ("latency.tail.vs_champion", "champion", target, required, "ratio", "at most"),
    ]
    assert [numbers(draft) for draft in found] == [
        (40.0, 20.0, 0.5, 0.5, 0.5, 0.6, 20),
        (20.0, 20.0, 1.0, 1.0, 1.0, 1.05, 20),
    ]
    assert [decided(draft) for draft in found] == [(True, 1.0, None)] * 2
    assert "(limits 0.5 to 0.5, 20 units)" in found[0].facts
    assert [draft.rule for draft in tails(TWENTY, vs_parent=None)] == ["latency.tail.vs_champion"]
    none = policy(latency={"tail": {"vs_anchor": {}}})
    assert tail_drafts(TWENTY, "a", none, ARMS, 0.025, "seed") == []
    assert tail_drafts(TWENTY, "a", policy(), ARMS, 0.025, "seed") == []
    assert tail_drafts(TWENTY, "a", policy(latency={}), ARMS, 0.025, "seed") == []


def test_tails_at_the_limit_and_above() -> None:
    assert tails(TWENTY, vs_parent={"max_ratio": 0.5})[0].holds
    assert tails(TWENTY, vs_parent={"max_ratio": 0.5 - 1e-12})[0].holds
    above = tails(TWENTY, vs_parent={"max_ratio": 0.49})[0]
    assert not above.holds
    assert above.p_harm is not None
    assert above.p_harm < 0.002
    assert tails(TWENTY, vs_parent={"max_ratio": 1 / 3})[0].limit == 0.333333333


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_tails_with_too_little(target: str, required: bool) -> None:
    """Too few units, or too few calls in them: not looked at, and it says what is missing."""
    found = tails(TWENTY[:19], target)
    assert [told(draft) for draft in found] == [
        ("latency.tail.vs_parent", "dense", target, required, "ratio", "at most"),
        ("latency.tail.vs_champion", "champion", target, required, "ratio", "at most"),
    ]
    assert [numbers(d) for d in found] == [(*[None] * 5, 0.6, 0), (*[None] * 5, 1.05, 0)]
    assert [decided(draft) for draft in found] == [(False, 1.0, "inconclusive")] * 2
    assert found[0].decide == "1 more unit on this machine."
    assert tails(TWENTY[:18])[0].decide == "2 more units on this machine."
    assert tails(TWENTY[:19], vs_parent={"max_ratio": 1 / 3})[0].limit == 0.333333333


def thinned(arm: str, calls: int) -> list[Unit]:
    """Twenty units in which the arm has so many calls in all."""
    kept = [edit(one, f"arms.{arm}.blocks_ns", ((1,),)) for one in TWENTY]
    return [edit(kept[0], f"arms.{arm}.blocks_ns", ((1,) * (calls - 19),)), *kept[1:]]


@pytest.mark.parametrize("arm", ARMS)
def test_a_percentile_takes_enough_calls_of_each_arm(arm: str) -> None:
    """64 for the p90; those of later units do not count, nor those of arms that no rule names."""
    assert tails(thinned(arm, 64))[0].sure is None
    few = tails([*thinned(arm, 63), unit(20, NS)])
    assert few[0].sure == "inconclusive"
    assert few[0].decide.startswith("At least 64 calls of each arm (there are 63)")
    assert tails(thinned("champion", 63), vs_champion=None)[0].sure is None


def test_later_units_do_not_count_for_tails() -> None:
    slow = [unit(20 + index, {**NS, "candidate": 9_000_000}) for index in range(20)]
    assert tails([*TWENTY, *slow])[0].change == 0.5
    given = policy(latency={"objective": {"max_ms": 5.0, "units": 20, "percentile": 50}})
    (found,) = objective_drafts([*TWENTY, *slow], "a", given, 0.025)
    assert found.change == 0.166666667


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_an_objective_in_full(target: str, required: bool) -> None:
    """A sixth of the calls lasts 20 ms, the others 2 ms; half of them may last longer than 5 ms."""
    given = policy(latency={"objective": {"max_ms": 5.0, "units": 20, "percentile": 50}})
    (found,) = objective_drafts(TWENTY, target, given, 0.025)
    assert told(found) == ("latency.objective", "absolute", target, required, "share", "at most")
    known = exceedance(TWENTY, 5.0, 50, 0.025)
    assert numbers(found) == (None, 2.0, 0.166666667, known.low, known.high, 0.5, 20)
    assert decided(found) == (True, known.p_harm, None)
    tight = policy(latency={"objective": {"max_ms": 5.0, "units": 20, "percentile": 90}})
    (broken,) = objective_drafts(TWENTY, target, tight, 0.025)
    assert (broken.holds, broken.limit) == (False, 0.1)
    assert broken.p_harm is not None
    assert broken.p_harm < 0.025
    assert broken.decide.startswith("It was decided once")
    (early,) = objective_drafts(TWENTY[:18], target, given, 0.025)
    assert told(early) == told(found)
    assert numbers(early) == (*[None] * 5, 0.5, 0)
    assert decided(early) == (False, 1.0, "inconclusive")
    assert early.decide == "2 more units on this machine."
    assert objective_drafts(TWENTY, target, policy(), 0.025) == []
    assert objective_drafts(TWENTY, target, policy(latency={}), 0.025) == []


def test_slow_calls_in_words() -> None:
    """What was seen, and what there was too little for."""
    given = policy(latency={"objective": {"max_ms": 5.0, "units": 20, "percentile": 50}})
    (found,) = objective_drafts(TWENTY, "a", given, 0.025)
    (early,) = objective_drafts(TWENTY[:18], "a", given, 0.025)
    assert found.short == "16.67 % of the calls last longer than 5 ms"
    assert early.short == "how many calls last too long was not judged yet"
    assert "40 of 240 calls of the candidate in 20 units lasted longer than 5 ms" in found.facts
    assert "calls longer than 5 ms are counted once, at 20 units" in early.facts
    thin, full = tails(TWENTY[:19])[0], tails(TWENTY)[0]
    assert (
        "there is too little for it; the policy demands a p90 that is at least 1.67x" in thin.facts
    )
    assert "90 of 100 calls of the candidate end within 20 ms" in full.facts
    two = tail_drafts(TWENTY, "a", policy(latency={"tail": TAIL}), ARMS, 1e-9, "seed")[0]
    assert (two.low, two.high, two.holds) == (None, None, False)
    assert "(no interval can be given, 20 units)" in two.facts


def test_what_is_drawn_follows_from_seed_and_target() -> None:
    """The same for the same; other units for another seed, and for another target."""
    uneven = [unit(i, {**NS, "candidate": 2_000_000 + 70_001 * (i * i % 13)}) for i in range(20)]
    given = policy(latency={"tail": TAIL})

    def interval(target: str, seed: str) -> tuple[float | None, float | None]:
        found = tail_drafts(uneven, target, given, ARMS, 0.025, seed)[0]
        return found.low, found.high

    def p_harm(target: str, seed: str) -> float | None:
        tight = policy(latency={"tail": {**TAIL, "vs_parent": {"max_ratio": 0.66}}})
        return tail_drafts(uneven, target, tight, ARMS, 0.025, seed)[0].p_harm

    assert interval("a", "x") == interval("a", "x")
    drawn = [p_harm("a", "x"), p_harm("a", "y"), p_harm("b", "x")]
    assert drawn == [p_harm("a", "x"), p_harm("a", "y"), p_harm("b", "x")]
    assert len(set(drawn)) == 3


def test_slow_calls_are_told_in_nine_digits() -> None:
    odd = [unit(i, {**NS, "candidate": 1_234_567_891}) for i in range(20)]
    assert tails(odd)[0].candidate_value == 12345.6789


def test_an_objective_that_is_met_exactly_is_met() -> None:
    rule = LatencyObjective(max_ms=5.0, percentile=90, units=20)
    for high, holds in ((0.1, True), (0.100000001, False)):
        met = replace(exceedance(TWENTY, 5.0, 90, 0.025), high=high)
        assert _objective_draft(rule, met, ("a", True), 0.025, 0).holds is holds
