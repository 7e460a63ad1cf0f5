"""Quality rules: margins, error ratios, floors and slices, as a reviewer reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from reprune.core.artifacts import Judgement, RuleResult, SliceResult
from reprune.judge.comparisons import margin_test
from reprune.judge.distributions import critical, tail
from reprune.judge.evidence import Evidence
from reprune.judge.grouping import TOGETHER
from reprune.judge.metrics import Metric
from reprune.judge.numeric import rounded
from reprune.judge.paired import tango_z
from reprune.judge.verdict import judge
from tests.building import edit, flipped, make_evidence, make_policy, make_quality

LESS_IS_BETTER = Metric(columns=("wrong",), form="binary", higher_is_better=False)
MISSES = Metric(columns=("missed", "asked"), form="ratio", higher_is_better=False)


def accuracy(**rules: Any) -> dict[str, Any]:
    return {"quality": {"accuracy": rules}, "latency": None, "size": None}


def margin(max_drop: float, max_error_ratio: float | None = None) -> dict[str, float | None]:
    return {"max_drop": max_drop, "max_error_ratio": max_error_ratio}


def result(judgement: Judgement, rule: str) -> RuleResult:
    return next(one for one in judgement.rules if one.rule == rule)


def judged(evidence: Evidence, **rules: Any) -> Judgement:
    return judge(evidence, make_policy(**accuracy(**rules)))


def parent(evidence: Evidence, max_drop: float, ratio: float | None = None) -> RuleResult:
    return result(judged(evidence, vs_parent=margin(max_drop, ratio)), "accuracy.vs_parent")


@pytest.mark.parametrize(("lost", "outcome"), [(5, "pass"), (25, "inconclusive"), (60, "block")])
def test_a_margin_is_judged_by_the_interval(lost: int, outcome: str) -> None:
    """A loss that is surely within 2 points passes, one that is surely beyond blocks."""
    found = parent(make_evidence(lost=lost, gained=5), 0.02)
    assert found.outcome == outcome
    assert found.change == pytest.approx((5 - lost) / 1000)
    assert found.limit == -0.02
    assert found.direction == "at least"
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.change <= found.high
    assert (found.low >= found.limit) == (outcome == "pass")
    assert (found.high < found.limit) == (outcome == "block")
    assert (found.baseline_value, found.candidate_value) == (
        0.96,
        pytest.approx(0.965 - lost / 1000),
    )


def test_a_loss_is_told_in_points_with_its_flips() -> None:
    """The sentence has both values, the limits, the flips both ways and what is allowed."""
    found = parent(make_evidence(lost=100, gained=4), 0.03)
    for part in (
        "fell by 9.6 points",
        "96 % to 86.4 %",
        "100 of 1000",
        "4 got better",
        "3.0 points",
    ):
        assert part in found.words
    assert found.words.endswith("the rule is broken.")
    gained = parent(make_evidence(lost=0, gained=10), 0.03)
    assert "accuracy rose by 1.0 points against the dense model as trained" in gained.words


def test_the_stricter_of_drop_and_error_ratio_counts() -> None:
    """On 4 % errors, 25 % more errors is one point: stricter than 3 points, looser than half a point."""
    evidence = make_evidence(lost=8, gained=4)
    assert parent(evidence, 0.03).outcome == "pass"
    strict = parent(evidence, 0.03, 1.25)
    assert strict.outcome == "inconclusive"
    assert strict.limit == -0.01
    assert "the policy allows 25 % more errors, here a loss of 1.0 points" in strict.words
    assert parent(evidence, 0.005, 1.25).limit == -0.005
    assert parent(make_evidence(lost=40, gained=0), 0.2, 1.25).outcome == "block"


def test_a_drop_that_holds_does_not_excuse_the_error_ratio() -> None:
    """Both have to hold, whichever has less room."""
    many = make_evidence(examples=4000, errors=20, lost=8, gained=2)
    assert parent(many, 0.01).outcome == "pass"
    assert parent(many, 0.01, 1.25).outcome != "pass"


@pytest.mark.slow
def test_two_tests_of_one_margin_share_the_error() -> None:
    """A drop that just blocks alone does not block beside an error ratio that is far from it."""
    for lost in range(30, 60):
        evidence = make_evidence(examples=1000, errors=400, lost=lost, gained=5)
        alone, both = parent(evidence, 0.02), parent(evidence, 0.02, 100.0)
        assert both.outcome in (alone.outcome, "inconclusive")
        if alone.outcome != both.outcome:
            return
    pytest.fail("the correction was never seen")


@pytest.mark.parametrize("lost", [22, 30])
def test_an_undecided_margin_says_how_many_examples_would_do(lost: int) -> None:
    """About (1.96 + .84)^2 psi / distance^2 examples in all, whichever answer it would be."""
    found = parent(make_evidence(lost=lost, gained=5), 0.02)
    assert found.outcome == "inconclusive"
    psi, loss = (lost + 5) / 1000, (lost - 5) / 1000
    needed = 7.849 * (psi - loss**2) / (0.02 - loss) ** 2 - 1000
    words = found.decide.split()
    assert words[0] == "About"
    assert needed <= int(words[1]) <= 1.06 * needed


def test_a_loss_on_the_limit_cannot_be_decided() -> None:
    """Where the loss is the margin itself, no number of examples is promised."""
    found = parent(make_evidence(lost=25, gained=5), 0.02)
    assert "no number of examples" in found.decide


def test_a_perfect_baseline_says_what_to_do_about_the_ratio() -> None:
    """A share of no errors is nothing: inconclusive, with the way out."""
    found = parent(make_evidence(errors=0, lost=0, gained=0), 0.03, 1.25)
    assert found.outcome == "inconclusive"
    assert "max_error_ratio" in found.decide


@pytest.mark.parametrize(
    ("floor", "outcome"), [(0.9, "pass"), (0.95, "inconclusive"), (0.99, "block")]
)
def test_a_floor_is_judged_on_its_limit(floor: float, outcome: str) -> None:
    """96 % of 1,000 surely reaches 90 %, not surely 95 %, and surely not 99 %."""
    found = result(judged(make_evidence(), floor=floor), "accuracy.floor")
    assert found.outcome == outcome
    assert (found.limit, found.direction, found.baseline) == (floor, "at least", "absolute")
    assert found.low is not None
    assert found.low < 0.96
    assert ("About" in found.decide) == (outcome == "inconclusive")
    assert "96 %" in found.words


def test_sources_make_examples_count_for_less() -> None:
    """The same flips pass with every example on its own, and not in 25 sources; 19 decide nothing."""
    evidence = make_evidence(lost=8, gained=4)
    assert parent(evidence, 0.02).outcome == "pass"
    few = edit(evidence, "quality.sources", tuple(f"s{place // 40}" for place in range(1000)))
    assert parent(few, 0.02).outcome == "inconclusive"
    none = edit(evidence, "quality.sources", tuple(f"s{place % 19}" for place in range(1000)))
    found = parent(none, 0.5)
    assert found.outcome == "inconclusive"
    assert found.decide.startswith("At least 20")
    assert "19" in found.decide
    floor = result(judged(none, floor=0.5), "accuracy.floor")
    assert floor.outcome == "inconclusive"
    assert floor.decide.startswith("At least 20")


# --- ratio metrics and metrics of which less is better -------------------------------------------


def with_records(evidence: Evidence, arms: dict[str, dict[str, Sequence[int]]]) -> Evidence:
    return edit(evidence, "quality", make_quality(arms, slices=evidence.quality.slices))


def dice_evidence(loss: float, examples: int = 200) -> Evidence:
    whole = [100 + place % 7 for place in range(examples)]
    base = [round(w * (0.9 + 0.002 * (place % 11))) for place, w in enumerate(whole)]
    mine = [
        round(b - loss * w) + (place % 3 - 1)
        for place, (b, w) in enumerate(zip(base, whole, strict=True))
    ]
    dense = {"numerator": base, "denominator": whole}
    candidate = {"numerator": mine, "denominator": whole}
    evidence = make_evidence(examples=examples, errors=9)
    return with_records(
        evidence, {"dense": dense, "candidate@cpu": candidate, "champion@cpu": dense}
    )


@pytest.mark.parametrize(
    ("loss", "outcome"), [(0.0, "pass"), (0.02, "inconclusive"), (0.05, "block")]
)
def test_a_ratio_metric_is_judged_by_the_bootstrap(loss: float, outcome: str) -> None:
    """Dice with a margin of 2 points: kept, on the limit, and broken; its floor as well."""
    policy = make_policy(
        latency=None, size=None, quality={"dice": {"vs_parent": margin(0.02), "floor": 0.8}}
    )
    found = judge(dice_evidence(loss), policy)
    assert result(found, "dice.vs_parent").outcome == outcome
    assert result(found, "dice.floor").outcome == "pass"
    assert found.outcome == outcome


def test_a_ratio_metric_needs_twenty_examples() -> None:
    """Nineteen images cannot be resampled into a verdict."""
    policy = make_policy(latency=None, size=None, quality={"dice": {"vs_parent": margin(0.5)}})
    assert judge(dice_evidence(0.0, 19), policy).outcome == "inconclusive"
    assert judge(dice_evidence(0.0, 20), policy).outcome == "pass"


def test_identical_ratios_on_few_examples_are_not_proof() -> None:
    """A Dice that did not change at all on 200 images may still lose a point elsewhere."""
    policy = make_policy(latency=None, size=None, quality={"dice": {"vs_parent": margin(0.01)}})
    evidence = dice_evidence(0.0)
    own = evidence.quality.arms["dense"]
    same = edit(evidence, "quality.arms.candidate@cpu", own)
    assert judge(same, policy).outcome == "inconclusive"
    assert judge(evidence, policy).outcome == "pass"
    sources = tuple(f"s{place // 8}" for place in range(200))
    column = own.columns["numerator"]
    for changed, outcome in ((150, "inconclusive"), (160, "pass")):
        mine = tuple(v + 1 if place < changed else v for place, v in enumerate(column))
        some = edit(same, "quality.arms.candidate@cpu.columns.numerator", mine)
        some = edit(some, "quality.sources", sources)
        loose = make_policy(latency=None, size=None, quality={"dice": {"vs_parent": margin(0.02)}})
        assert judge(some, loose).outcome == outcome


def test_an_arm_that_no_rule_names_may_have_recorded_less() -> None:
    """A champion with half the columns is no trouble where nothing is judged against it."""
    policy = make_policy(latency=None, size=None, quality={"dice": {"vs_parent": margin(0.05)}})
    path = "quality.arms.champion@cpu.columns"
    less = edit(dice_evidence(0.0), path, lambda old: {"numerator": old["numerator"]})
    assert judge(less, policy).outcome == "pass"


def test_ratio_metrics_share_one_set_of_resamples() -> None:
    """Dice and F1 of the same records get the same interval: one weight matrix."""
    policy = make_policy(
        latency=None,
        size=None,
        quality={"dice": {"vs_parent": margin(0.03)}, "f1": {"vs_parent": margin(0.03)}},
    )
    one, two = (
        result(judge(dice_evidence(0.01), policy), f"{m}.vs_parent") for m in ("dice", "f1")
    )
    assert (one.low, one.high) == (two.low, two.high)


@pytest.fixture
def _less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    from reprune.judge import metrics

    monkeypatch.setitem(metrics.METRICS, "error", "tests.judge.test_quality_rules:LESS_IS_BETTER")
    monkeypatch.setitem(metrics.METRICS, "miss", "tests.judge.test_quality_rules:MISSES")
    monkeypatch.setattr(
        metrics,
        "lookup",
        lambda group, name, table: {"error": LESS_IS_BETTER, "miss": MISSES}[name],
    )


@pytest.mark.usefixtures("_less_is_better")
def test_a_metric_of_which_less_is_better_turns_the_sign() -> None:
    """An error rate that rises by 6 points is blocked; the limit is 'at most'."""
    base = tuple(int(place < 40) for place in range(1000))
    worse = tuple(1 - v for v in flipped(tuple(1 - v for v in base), 60, 0))
    policy = make_policy(
        latency=None,
        size=None,
        quality={"error": {"vs_parent": margin(0.02), "slices": {"max_drop": 0.02}}},
    )
    arms = {"dense": {"wrong": base}, "candidate@cpu": {"wrong": worse}}
    found = judge(with_records(make_evidence(), arms), policy)
    one = result(found, "error.vs_parent")
    assert (one.outcome, one.direction, one.limit) == ("block", "at most", 0.02)
    assert one.change == pytest.approx(0.06)
    assert one.low is not None
    assert one.high is not None
    assert 0.02 < one.low < 0.06 < one.high
    assert "error rose by 6.0 points against the dense model as trained (4 % to 10 %; " in one.words
    assert (one.baseline_value, one.candidate_value) == (0.04, 0.1)
    worst = result(found, "error.slices.vs_parent")
    assert worst.baseline_value is not None
    assert worst.candidate_value is not None
    assert worst.candidate_value > worst.baseline_value
    assert result(found, "error.slices.vs_parent").outcome == "block"
    better = {"dense": {"wrong": worse}, "candidate@cpu": {"wrong": base}}
    assert judge(with_records(make_evidence(), better), policy).outcome == "pass"


@pytest.mark.usefixtures("_less_is_better")
def test_a_floor_below_which_is_better_is_refused() -> None:
    """A floor on an error rate would demand errors."""
    policy = make_policy(latency=None, size=None, quality={"error": {"floor": 0.5}})
    found = judge(make_evidence(), policy)
    assert found.outcome == "error"
    assert "floor" in found.headline


@pytest.mark.usefixtures("_less_is_better")
def test_a_ratio_of_which_less_is_better() -> None:
    """A miss rate that rises is a loss."""
    asked = [10] * 100
    dense, worse = [place % 2 for place in range(100)], [place % 2 + 2 for place in range(100)]
    policy = make_policy(latency=None, size=None, quality={"miss": {"vs_parent": margin(0.05)}})

    def outcome(base: list[int], mine: list[int]) -> str:
        arms = {
            "dense": {"missed": base, "asked": asked},
            "candidate@cpu": {"missed": mine, "asked": asked},
        }
        return judge(with_records(make_evidence(examples=100), arms), policy).outcome

    assert outcome(dense, worse) == "block"
    assert outcome(worse, dense) == "pass"


# --- slices --------------------------------------------------------------------------------------


def sliced(harmed: int, *, size: int = 300, examples: int = 1500) -> Evidence:
    """The first `size` examples are the slice 'night'; `harmed` of them are lost there alone."""
    evidence = make_evidence(examples=examples, errors=0, lost=0, gained=0)
    mine = tuple(int(place >= harmed) for place in range(examples))
    light = tuple("night" if place < size else "day" for place in range(examples))
    evidence = edit(evidence, "quality.arms.candidate@cpu.columns.correct", mine)
    return edit(evidence, "quality.slices", {"light": light})


def slices_of(
    judgement: Judgement, rule: str = "accuracy.slices.vs_parent"
) -> dict[str, SliceResult]:
    return {one.slice: one for one in judgement.slices if one.rule == rule}


def slice_rules(max_drop: float = 0.05, **more: Any) -> dict[str, Any]:
    return {"vs_parent": margin(0.5), "slices": {"max_drop": max_drop, **more}}


@pytest.mark.parametrize(("harmed", "outcome", "state"), [(3, "pass", "ok"), (45, "block", "harm")])
def test_harm_on_one_slice_blocks(harmed: int, outcome: str, state: str) -> None:
    """A slice that surely lost more than 5 points blocks, however well all others do."""
    found = judged(sliced(harmed), **slice_rules())
    assert found.outcome == outcome
    night = slices_of(found)["light=night"]
    assert night.outcome == state
    assert (night.examples, night.right_to_wrong, night.wrong_to_right) == (300, harmed, 0)
    assert night.change == pytest.approx(-harmed / 300)
    assert night.low <= night.change <= night.high
    assert (night.target, night.rule) == ("cpu", "accuracy.slices.vs_parent")
    assert slices_of(found)["light=day"].outcome == "ok"
    worst = result(found, "accuracy.slices.vs_parent")
    assert "light=night" in worst.words
    assert worst.change == night.change
    assert (worst.low, worst.high, worst.limit) == (night.low, night.high, -0.05)


def test_a_later_attempt_clears_no_slice() -> None:
    """Harm that blocks at first is harder to show at each attempt, and that it is not shown is no pass."""
    found = [judged(edit(sliced(28), "attempt", attempt), **slice_rules()) for attempt in (1, 9)]
    nights = [slices_of(each)["light=night"] for each in found]
    assert [one.outcome for one in nights] == ["harm", "undecided"]
    assert [each.outcome for each in found] == ["block", "inconclusive"]
    words = result(found[1], "accuracy.slices.vs_parent")
    assert words.decide.startswith("About ")
    assert "but that is not certain yet" in found[1].headline


def test_slices_are_adjusted_for_their_number() -> None:
    """A loss that is harm among 2 slices is none among 40."""
    evidence = sliced(25, size=300, examples=3000)
    assert slices_of(judged(evidence, **slice_rules()))["light=night"].outcome == "harm"
    many = tuple("night" if place < 300 else str(place % 40) for place in range(3000))
    crowded = edit(evidence, "quality.slices", {"light": many})
    found = judged(crowded, **slice_rules())
    assert slices_of(found)["light=night"].outcome == "ok"
    assert len(slices_of(found)) == 41


def test_small_slices_are_judged_together() -> None:
    """Below min_examples a slice says nothing alone; all of those together may be harmed."""
    evidence = sliced(0, examples=1000)
    values = tuple(f"v{place // 20}" if place < 100 else "rest" for place in range(1000))
    evidence = edit(evidence, "quality.slices", {"kind": values})
    mine = tuple(int(place >= 25) for place in range(1000))
    harmed = edit(evidence, "quality.arms.candidate@cpu.columns.correct", mine)
    found = judged(harmed, **slice_rules(min_examples=30))
    slices = slices_of(found)
    assert found.outcome == "block"
    assert slices["kind=v0"].outcome == "not judged"
    assert (slices["kind=v0"].low, slices["kind=v0"].high) == (-1.0, 1.0)
    assert slices["kind=v0"].right_to_wrong == 20
    assert slices[TOGETHER].outcome == "harm"
    assert slices[TOGETHER].examples == 100
    assert slices["kind=rest"].outcome == "ok"
    assert "5 slices too small" in result(found, "accuracy.slices.vs_parent").words
    whole = judged(harmed, **slice_rules(min_examples=20))
    assert TOGETHER not in slices_of(whole)


def test_slices_that_are_small_even_together_are_not_judged() -> None:
    """Nothing large enough: the rule is inconclusive, never a pass."""
    evidence = sliced(0, examples=100)
    found = judged(evidence, **slice_rules(min_examples=200))
    assert found.outcome == "inconclusive"
    assert {one.outcome for one in found.slices} == {"not judged"}
    assert result(found, "accuracy.slices.vs_parent").change is None


def test_a_slice_of_few_sources_is_small() -> None:
    """Twenty sources over all are not twenty in each slice."""
    evidence = edit(sliced(0), "quality.sources", tuple(f"s{place // 30}" for place in range(1500)))
    slices = slices_of(judged(evidence, **slice_rules()))
    assert slices["light=night"].outcome == "not judged"
    assert slices["light=day"].outcome == "ok"


def test_required_slices_must_be_there_and_large_enough() -> None:
    """A required slice that is absent is an error, one that is too small is inconclusive."""
    there = judged(sliced(0), **slice_rules(required=("light=night",)))
    assert there.outcome == "pass"
    assert slices_of(there)["light=night"].required
    assert not slices_of(there)["light=day"].required
    absent = judged(sliced(0), **slice_rules(required=("light=dusk",)))
    assert absent.outcome == "error"
    assert "light=dusk" in absent.headline
    small = judged(sliced(0, size=29), **slice_rules(required=("light=night",)))
    assert small.outcome == "inconclusive"
    assert "light=night" in result(small, "accuracy.slices.vs_parent").decide


def test_harm_elsewhere_blocks_beside_a_required_slice_that_is_too_small() -> None:
    """Too little of one slice does not hide that another was harmed."""
    evidence = sliced(200, size=1471)
    found = judged(evidence, **slice_rules(required=("light=day",)))
    assert found.outcome == "block"


def test_slices_are_judged_against_every_baseline_of_the_metric() -> None:
    """A slice that is fine against the parent may be harmed against the champion."""
    evidence = sliced(45)
    mine = evidence.quality.arms["candidate@cpu"].columns["correct"]
    evidence = edit(evidence, "quality.arms.dense.columns.correct", mine)
    rules = {"vs_parent": margin(0.5), "vs_champion": margin(0.5), "slices": {"max_drop": 0.05}}
    found = judged(evidence, **rules)
    assert result(found, "accuracy.slices.vs_parent").outcome == "pass"
    assert result(found, "accuracy.slices.vs_champion").outcome == "block"
    alone = judged(evidence, slices={"max_drop": 0.05})
    assert [one.rule for one in alone.rules if "slices" in one.rule] == [
        "accuracy.slices.vs_parent"
    ]


def test_what_a_slice_could_have_shown_shrinks_with_its_size() -> None:
    """200 examples of 20 slices detect a harm of about 12 points at a margin of 3 (facts: 10 are
    found half the time); more examples detect less, fewer slices too.
    """
    evidence = make_evidence(examples=4000, errors=100, lost=60, gained=60)
    values = tuple(str(place % 20) for place in range(4000))
    evidence = edit(evidence, "quality.slices", {"kind": values})
    twenty = slices_of(judged(evidence, **slice_rules(max_drop=0.03)))["kind=7"]
    reach = (critical(0.025 / 20, None) + 0.8416212) * math.sqrt(1 / 200)
    own = twenty.detectable * (1 - twenty.detectable)
    assert twenty.detectable == pytest.approx(0.03 + reach * math.sqrt(own), rel=1e-6)
    assert 0.10 < twenty.detectable < 0.14
    two = edit(evidence, "quality.slices", {"kind": tuple(str(p % 2) for p in range(4000))})
    assert slices_of(judged(two, **slice_rules(max_drop=0.03)))["kind=1"].detectable < 0.06
    noisy = make_evidence(examples=400, errors=200, lost=190, gained=190)
    noisy = edit(noisy, "quality.slices", {"kind": tuple(str(p % 2) for p in range(400))})
    assert slices_of(judged(noisy, **slice_rules(max_drop=0.03)))["kind=1"].detectable > 0.2


def test_slices_of_a_ratio_metric_use_the_same_resamples() -> None:
    """A Dice that lost only on the first half blocks there."""
    evidence = dice_evidence(0.0)
    halves = tuple("first" if place < 100 else "second" for place in range(200))
    column = evidence.quality.arms["candidate@cpu"].columns["numerator"]
    mine = tuple(value - 10 if place < 100 else value for place, value in enumerate(column))
    evidence = edit(evidence, "quality.slices", {"half": halves})
    evidence = edit(evidence, "quality.arms.candidate@cpu.columns.numerator", mine)
    rules = {"vs_parent": margin(0.5), "slices": {"max_drop": 0.05}}
    found = judge(evidence, make_policy(latency=None, size=None, quality={"dice": rules}))
    slices = slices_of(found, "dice.slices.vs_parent")
    assert found.outcome == "block"
    assert (slices["half=first"].outcome, slices["half=second"].outcome) == ("harm", "ok")
    assert slices["half=first"].right_to_wrong == 100
    assert slices["half=first"].detectable < 0.06


@pytest.mark.parametrize(
    ("slices", "attempt", "outcome"), [(6, 1, "harm"), (6, 6, "not judged"), (20, 3, "not judged")]
)
def test_a_slice_that_lost_everything_is_never_ok(slices: int, attempt: int, outcome: str) -> None:
    """4,000 resamples show no p-value below 1 in 4,001: times the slices, it may be above the level."""
    evidence = edit(dice_evidence(0.0, slices * 40), "attempt", attempt)
    sites = tuple(str(place % slices) for place in range(slices * 40))
    evidence = edit(evidence, "quality.slices", {"site": sites})
    mine = [0 if site == "0" else 90 for site in sites]
    evidence = edit(evidence, "quality.arms.candidate@cpu.columns.numerator", tuple(mine))
    rules = {"vs_parent": margin(0.5), "slices": {"max_drop": 0.2}}
    found = judge(evidence, make_policy(latency=None, size=None, quality={"dice": rules}))
    lost = slices_of(found, "dice.slices.vs_parent")["site=0"]
    assert lost.outcome == outcome
    if outcome == "not judged":
        assert result(found, "dice.slices.vs_parent").outcome == "inconclusive"
        assert "could have been shown to be harm" in found.headline
        assert (lost.low, lost.high, lost.detectable) == (-1.0, 1.0, 1.0)
    else:
        assert found.outcome == "block"


def test_a_slice_without_a_denominator_is_small() -> None:
    """Where there is nothing to divide by there is nothing to judge."""
    evidence = dice_evidence(0.0)
    halves = tuple("empty" if place < 100 else "full" for place in range(200))
    evidence = edit(evidence, "quality.slices", {"half": halves})
    for key in ("dense", "candidate@cpu", "champion@cpu"):
        for column in ("numerator", "denominator"):
            evidence = edit(
                evidence, f"quality.arms.{key}.columns.{column}", lambda old: (0,) * 100 + old[100:]
            )
    rules = {"vs_parent": margin(0.5), "slices": {"max_drop": 0.05}}
    found = judge(evidence, make_policy(latency=None, size=None, quality={"dice": rules}))
    states = {name: one.outcome for name, one in slices_of(found, "dice.slices.vs_parent").items()}
    assert states == {"half=empty": "not judged", "half=full": "ok"}


def test_fewer_than_twenty_examples_of_a_ratio_metric_block_nothing() -> None:
    """A bootstrap of so few is not trusted, on a slice as overall, whatever min_examples says."""
    evidence = dice_evidence(0.0)
    for rare, state in ((19, "not judged"), (20, "harm")):
        sites = tuple("rare" if place < rare else "rest" for place in range(200))
        given = edit(evidence, "quality.slices", {"site": sites})
        path = "quality.arms.candidate@cpu.columns.numerator"
        given = edit(given, path, lambda old, n=rare: (0,) * n + old[n:])
        rules = {"vs_parent": margin(0.5), "slices": {"max_drop": 0.05, "min_examples": 10}}
        found = judge(given, make_policy(latency=None, size=None, quality={"dice": rules}))
        assert slices_of(found, "dice.slices.vs_parent")["site=rare"].outcome == state


def test_a_candidate_without_a_denominator_is_the_worst() -> None:
    """The baseline has one there: that the candidate answers nothing is no way out of the slice."""
    evidence = dice_evidence(0.0)
    halves = tuple("empty" if place < 100 else "full" for place in range(200))
    evidence = edit(evidence, "quality.slices", {"half": halves})
    for column in ("numerator", "denominator"):
        path = f"quality.arms.candidate@cpu.columns.{column}"
        evidence = edit(evidence, path, lambda old: (0,) * 100 + old[100:])
    rules = {"vs_parent": margin(0.5), "slices": {"max_drop": 0.05}}
    found = judge(evidence, make_policy(latency=None, size=None, quality={"dice": rules}))
    empty = slices_of(found, "dice.slices.vs_parent")["half=empty"]
    assert (found.outcome, empty.outcome) == ("block", "harm")
    assert empty.change == pytest.approx(-0.91, abs=0.01)


def test_margin_tests_stay_within_what_a_share_can_lose() -> None:
    """Intervals are cut at 1 and -1, p-values at 1; no upper limit, no room."""
    test = margin_test("errors", (-3.0, 2.0), 0.1, 1.2)
    assert (test.low, test.high, test.p_harm) == (-1.0, 1.0, 1.0)
    unknown = margin_test("drop", (None, None), 0.1, 0.5)
    assert not unknown.holds
    assert unknown.room == -1.0
    assert margin_test("drop", (0.0, 0.2), 0.3, 0.5).room == pytest.approx(0.1)


# --- the sentences themselves, and the borders ---------------------------------------------------


def test_sentences_of_quality_rules() -> None:
    """What a reviewer reads of a margin, a floor and the worst slice, word for word."""
    rules = {"vs_parent": margin(0.03), "floor": 0.9, "slices": {"max_drop": 0.05}}
    found = judged(sliced(9), **rules)
    assert [one.words for one in found.rules if one.rule != "parity"] == [
        "On cpu, accuracy fell by 0.6 points against the dense model as trained (100 % to 99.4 %; "
        "97.5 % limits -1.14 and -0.32 points), 9 of 1500 examples got worse and 0 got better, and "
        "the policy allows a loss of 3.0 points: the rule holds.",
        "On cpu, accuracy is 99.4 % on 1500 examples (97.5 % sure to be at least 98.86 % and at most "
        "99.73 %), and the policy demands 90 % at that limit: the rule holds.",
        "On cpu, the worst of 2 slices against the dense model is light=night: accuracy fell by 3.0 "
        "points (98.75 % limits -6.10 and -1.30 points), 9 of 300 examples got worse and 0 got "
        "better, and the policy allows a loss of 5.0 points on any slice: the rule holds.",
    ]


def test_a_level_beyond_the_resamples_decides_nothing_and_says_so() -> None:
    """At the fortieth attempt 4,000 resamples show no limit: inconclusive, and no invented number."""
    halves = tuple("first" if place < 100 else "second" for place in range(200))
    evidence = edit(edit(dice_evidence(0.0), "attempt", 40), "quality.slices", {"half": halves})
    rules = {"vs_parent": margin(0.05), "floor": 0.5, "slices": {"max_drop": 0.05}}
    found = judge(evidence, make_policy(latency=None, size=None, quality={"dice": rules}))
    assert found.outcome == "inconclusive"
    one, floor = result(found, "dice.vs_parent"), result(found, "dice.floor")
    assert (one.low, one.high, floor.low, floor.high) == (None,) * 4
    assert "no interval can be given" in one.words
    for each in (one, floor):
        assert each.decide.startswith(
            "4000 resamples give no limit at so small a level, however many"
        )
    assert "no limit can be given)" in floor.words
    first = slices_of(found, "dice.slices.vs_parent")["half=first"]
    assert (first.low, first.high) == (-1.0, 1.0)


def test_a_floor_that_is_met_exactly_is_met() -> None:
    """The lower limit itself, set as the floor, is reached; on the value nothing would decide."""
    low = result(judged(make_evidence(), floor=0.9), "accuracy.floor").low
    assert result(judged(make_evidence(), floor=low), "accuracy.floor").outcome == "pass"
    on_it = result(judged(make_evidence(), floor=0.96), "accuracy.floor")
    assert "no number of examples" in on_it.decide
    near = result(judged(make_evidence(), floor=0.95), "accuracy.floor")
    needed = 0.95 * 0.05 * (2.8016 / 0.01) ** 2 - 1000
    assert needed <= int(near.decide.split()[1]) <= 1.06 * needed


def test_an_undecided_error_ratio_asks_for_examples() -> None:
    """A baseline that errs can be compared with: more examples help."""
    found = parent(make_evidence(lost=8, gained=4), 0.03, 1.25)
    assert found.outcome == "inconclusive"
    assert found.decide.startswith("About")


def test_a_slice_is_harmed_at_exactly_its_level() -> None:
    """A p-value equal to the level is harm, and keeps the rule from holding."""
    evidence = edit(sliced(90), "quality.slices", {"all": ("x",) * 1500})
    p_harm = tail(tango_z(90, 0, 1500, 0.05), None)
    rules = slice_rules()
    policy = make_policy(**accuracy(**rules), alpha=rounded(p_harm) * 2)
    found = judge(evidence, policy)
    assert found.alpha == rounded(p_harm)
    assert slices_of(found)["all=x"].outcome == "harm"
    slices = result(found, "accuracy.slices.vs_parent")
    assert (slices.outcome, slices.direction) == ("inconclusive", "at least")
    above = judge(evidence, make_policy(**accuracy(**rules), alpha=rounded(p_harm) * 1.99))
    assert slices_of(above)["all=x"].outcome == "undecided"


def test_a_slice_of_exactly_twenty_sources_is_judged() -> None:
    """Twenty are enough, in a slice as overall; a small slice keeps its required mark."""
    sources = tuple(f"s{place // 15}" for place in range(1500))
    evidence = edit(sliced(0), "quality.sources", sources)
    assert slices_of(judged(evidence, **slice_rules()))["light=night"].outcome == "ok"
    small = judged(sliced(0, size=29), **slice_rules(required=("light=night",)))
    assert slices_of(small)["light=night"].required
    assert not slices_of(small)["light=day"].required
