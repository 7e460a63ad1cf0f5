"""Numbers about time and trends, by hand: sessions, medians, looks, objectives, trends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import pytest
from scipy import stats

from reprune.judge.builds import build_notes, build_problems, builds_of, over_builds, turn_problems
from reprune.judge.distributions import critical
from reprune.judge.evidence import CONTROL, ArmTimes, BatchUnits, Unit
from reprune.judge.latency import (
    Look,
    Sequential,
    follow,
    latency_plan,
    log_time,
    too_wide,
)
from reprune.judge.median import median_interval, median_rank, sign_test
from reprune.judge.objective import Exceedance, crowding, exceedance
from reprune.judge.sessions import session_effect
from reprune.judge.throughput import log_mean_time, typical_rate
from reprune.judge.trend import ALPHA, EXACT, LEAST, Trend, trend
from tests.building import edit, make_evidence, make_policy

# --- sessions ------------------------------------------------------------------------------------


def times(*blocks: Sequence[int], order: int = 0) -> ArmTimes:
    return ArmTimes(order=order, blocks_ns=tuple(tuple(b) for b in blocks), warmup_calls=0)


def unit(index: int, **arms: ArmTimes) -> Unit:
    return Unit(index=index, process=0, seed=0, started_s=1.0, load=0.0, arms=arms)


def paired(index: int, first: float, second: float) -> Unit:
    """The control's typical call over the dense model's is e^first, then e^second, to 1e-9."""
    dense = 10**10 * (index + 1)
    calls = [round(dense * math.exp(each)) for each in (first, second)]
    return unit(
        index,
        dense=times((dense,) * 3, (dense,) * 3),
        control=times(*((1, call, 9**15) for call in calls)),
    )


def test_the_components_of_variance_of_sessions() -> None:
    """Differences of sessions of +-0.1 over units, of blocks of +-0.04: by the formulas of the docstring."""
    whole = [0.4, 0.2] * 4
    within = [0.24, 0.24, 0.16, 0.16] * 2
    units = [
        paired(i, w + d / 2, w - d / 2) for i, (w, d) in enumerate(zip(whole, within, strict=True))
    ]
    found = session_effect(units)
    assert found is not None
    block = (8 * 0.04**2 / 7) / 4
    session = (8 * 0.1**2 / 7 - block) / 2
    assert found.block == pytest.approx(math.sqrt(block), rel=1e-7)
    assert found.session == pytest.approx(math.sqrt(session), rel=1e-7)
    assert found.pair == pytest.approx(math.sqrt(2 * session), rel=1e-7)
    assert found.units == 8
    shown = [found.block, found.session, found.pair]
    assert shown == [float(f"{number:.9g}") for number in shown]


def test_noise_of_blocks_alone_is_no_difference_of_sessions() -> None:
    units = [paired(i, 0.1 * (-1) ** i, -0.1 * (-1) ** i) for i in range(9)]
    found = session_effect(units)
    assert found is not None
    assert (found.session, found.pair, found.units) == (0.0, 0.0, 9)


def test_sessions_need_eight_units_and_two_blocks_of_both() -> None:
    units = [paired(i, 0.1, 0.2) for i in range(8)]
    assert session_effect(units) is not None
    assert session_effect(units[:7]) is None
    alone = edit(units[0], "arms", {"dense": units[0].arms["dense"]})
    assert session_effect([*units, alone]) is None
    for arm in (CONTROL, "dense"):
        three = edit(units[0], f"arms.{arm}.blocks_ns", lambda old: (*old, (1,)))
        assert session_effect([*units, three]) is None


# --- medians -------------------------------------------------------------------------------------


def test_the_sign_test_counts_coins() -> None:
    assert sign_test(-1, 4) == 0.0
    assert sign_test(0, 4) == 1 / 16
    assert sign_test(1, 4) == 5 / 16
    assert sign_test(4, 4) == 1.0


@pytest.mark.parametrize(
    ("count", "level", "rank"),
    [
        (0, 0.1, -1),
        (4, 1 / 16, 0),
        (4, 1 / 16 - 1e-6, None),
        (4, 1 / 16 - 1e-13, 0),
        (4, 5 / 16 - 1e-6, 0),
        (4, 5 / 16, 1),
        (3, 1.0, 2),
        (8, 0.1, 1),
        (16, 0.0020904541, 2),  # 137 / 65536 is 0.0020904541015625
    ],
)
def test_which_order_statistics_bound_the_median(
    count: int, level: float, rank: int | None
) -> None:
    """The largest rank that is surprising enough, to nine digits."""
    assert median_rank(count, level) == rank


def test_the_interval_of_a_median() -> None:
    values = [3.0, 1.0, 4.0, 2.0]
    assert median_interval(values, 1 / 16) == (1.0, 4.0)
    assert median_interval(values, 5 / 16) == (2.0, 3.0)
    assert median_interval(values, 0.01) is None


# --- looks ---------------------------------------------------------------------------------------

PLAN = Sequential(looks=(4, 6), alpha=0.5, rules=2)


def test_what_a_look_is_made_of() -> None:
    """Two looks: each at a level of 0.25, p-values doubled, a block at 0.5 over 2 rules."""
    assert PLAN.tail == 0.25
    found = follow([1.0, 2.0, 4.0, 8.0], 2.0, PLAN)
    assert found == Look(
        units=4, ratio=2.82842712, low=1.0, high=8.0, p_harm=1.0, passes=False, blocks=False
    )
    assert not found.settled
    assert follow([1.0, 2.0, 4.0], 2.0, PLAN) == Look()
    assert Look() == Look(
        units=0, ratio=None, low=None, high=None, p_harm=1.0, passes=False, blocks=False
    )


def test_a_rule_is_settled_at_the_first_look_that_does() -> None:
    good, bad = [1.0] * 6, [3.0] * 6
    assert follow(good, 1.0, PLAN) == Look(
        units=4, ratio=1.0, low=1.0, high=1.0, p_harm=1.0, passes=True
    )
    assert follow(bad, 2.0, PLAN) == Look(
        units=4, ratio=3.0, low=3.0, high=3.0, p_harm=0.125, blocks=True
    )
    assert follow(bad, 2.0, PLAN).settled
    assert follow(good, 1.0, PLAN).settled
    open_ = follow([1.0, 1.0, 3.0, 3.0, 3.0, 3.0], 2.0, PLAN)
    assert open_.units == 6
    strict = Sequential(looks=(4, 6), alpha=0.5, rules=5)
    assert follow(bad, 2.0, strict).units == 6
    at = Sequential(looks=(4, 6), alpha=0.25, rules=2)
    assert follow(bad, 2.0, at).blocks
    below = Sequential(looks=(4, 6), alpha=0.25 - 1e-13, rules=2)
    assert follow(bad, 2.0, below).units == 4


def test_limits_of_looks_have_nine_digits() -> None:
    assert follow([1.0] * 4, 1.0 - 1e-12, PLAN).passes
    assert not follow([1.0] * 4, 1.0 - 1e-6, PLAN).passes


def test_p_values_of_looks_have_nine_digits() -> None:
    """Two of sixteen at or below the limit, at two looks: 2 * 137 / 65536."""
    plan = Sequential(looks=(16, 20), alpha=0.5, rules=2)
    assert follow([1.0] * 2 + [3.0] * 14, 2.0, plan).p_harm == 0.0041809082


def test_a_look_over_builds_is_that_of_the_builds() -> None:
    """Three looks: p-values count three times, never above 1; a block at alpha over the rules."""
    ratios = [math.exp(x) for x in (0.0, 0.1, 0.25)] * 2
    builds = [0, 1, 2] * 2
    plan = Sequential(looks=(6, 9, 12), alpha=0.06, rules=2)
    for limit in (0.9, 1.1, 1.2):
        known = over_builds(ratios, builds, limit, 0.02)
        p_harm = float(f"{min(1.0, 3 * known.p_harm):.9g}")
        assert follow(ratios, limit, plan, builds) == Look(
            units=6, ratio=known.ratio, low=known.low, high=known.high, p_harm=p_harm
        )
    thrice = 3 * over_builds(ratios, builds, 0.9, 0.02).p_harm
    p_harm = float(f"{thrice:.9g}")
    assert p_harm != thrice
    assert follow(ratios, 1.2, plan, builds).p_harm == 1.0
    for alpha, blocks in (
        (p_harm * 2, True),
        (p_harm * 2 * (1 - 1e-12), True),
        (p_harm * 1.9, False),
    ):
        held = Sequential(looks=(6, 9, 12), alpha=alpha, rules=2)
        assert follow(ratios, 0.9, held, builds).blocks is blocks
    two = follow([2.0] * 6, 3.0, plan, [0, 1] * 3)
    assert (two.high, two.passes) == (None, False)
    assert follow([2.0] * 6, 2.0 - 1e-12, plan, builds).passes
    assert not follow([2.0] * 6, 2.0 - 1e-6, plan, builds).passes


def test_too_wide_an_interval_waits() -> None:
    plan = Sequential(looks=(4, 6), alpha=0.5, rules=2, widest=2.0)
    wide = [1.0, 1.0, 1.0, 2.1, 1.0, 1.0]
    assert follow(wide, 3.0, PLAN).units == 4
    later = follow(wide, 3.0, plan)
    assert (later.units, later.passes) == (6, True)
    builds = [0, 1, 2, 0, 1, 2]
    spread = [1.0, 1.0, 1.5, 1.0, 1.0, 1.5]
    loose = Sequential(looks=(6,), alpha=0.4, rules=2)
    tight = Sequential(looks=(6,), alpha=0.4, rules=2, widest=1.01)
    assert follow(spread, 3.0, loose, builds).passes
    assert not follow(spread, 3.0, tight, builds).passes


@pytest.mark.parametrize(
    ("low", "high", "widest", "wide"),
    [
        (1.0, 9.0, None, False),
        (1.0, 2.0, 2.0, False),
        (1.0, 2.001, 2.0, True),
        (1.0, 2.0, 2.0 - 1e-12, False),
        (3.0, 4.0, 1.33333333, False),
        (None, 2.0, 2.0, True),
        (1.0, None, 2.0, True),
        (0.0, 2.0, 2.0, True),
        (-1.0, 2.0, 2.0, True),
        (1e-3, 1e-3, 2.0, False),
    ],
)
def test_how_wide_an_interval_is(
    low: float | None, high: float | None, widest: float | None, wide: bool
) -> None:
    assert too_wide(low, high, widest) is wide


def test_a_plan_is_the_policys() -> None:
    policy = make_policy(
        looks=(5, 9), targets={"a": "required", "b": "required"}, quality={}, size=None
    )
    arms = ("candidate", "dense")
    assert latency_plan(policy, arms, 0.02) == Sequential(
        looks=(5, 9), alpha=0.02, rules=2, widest=1.5
    )
    rates = make_policy(throughput={"vs_parent": {"min_ratio": 1.0}}, quality={}, latency=None)
    assert latency_plan(rates, arms, 0.02).rules == 1
    assert latency_plan(rates, arms, 0.02, 3).rules == 4


def test_times_and_rates_of_an_arm() -> None:
    """Blocks count alike: the geometric mean of their typical, or mean, calls."""
    one = times((1, 4, 100), (9, 9, 9))
    assert math.exp(log_time(one)) == pytest.approx(6.0)
    assert math.exp(log_mean_time(one)) == pytest.approx(math.sqrt(35 * 9))
    units = [unit(i, dense=times((ns,))) for i, ns in enumerate((2_000_000, 4_000_000, 5_000_000))]
    assert typical_rate(units, "dense", 8) == 2000.0
    assert typical_rate([], "dense", 8) is None


# --- builds --------------------------------------------------------------------------------------


def test_builds_are_the_sample() -> None:
    """Three builds with medians e^0, e^0.1 and e^0.2: Student's interval with 2 degrees of freedom."""
    ratios = [math.exp(x) for x in (0.0, 0.1, 0.2, 0.0, 0.1, 0.2, 5.0, 0.1, 0.2)]
    builds = [0, 1, 2] * 3
    found = over_builds(ratios, builds, math.exp(0.1), 0.025)
    reach = 4.30265273 * 0.1 / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(0.1))
    assert found.low == pytest.approx(math.exp(0.1 - reach), rel=1e-8)
    assert found.high == pytest.approx(math.exp(0.1 + reach), rel=1e-8)
    assert found.p_harm == 0.5
    two = over_builds(ratios[:2], [0, 1], 1.0, 0.025)
    assert (two.ratio, two.low, two.high, two.p_harm) == (1.05127110, None, None, 1.0)


@pytest.mark.parametrize(("limit", "p_harm"), [(1.0, 0.0), (2.0, 1.0), (4.0, 1.0)])
def test_builds_that_are_alike_leave_no_doubt(limit: float, p_harm: float) -> None:
    found = over_builds([2.0] * 3, [0, 1, 2], limit, 0.025)
    assert (found.ratio, found.low, found.high, found.p_harm) == (2.0, 2.0, 2.0, p_harm)


def test_builds_that_differ_in_the_last_bits_alone_are_alike() -> None:
    """A limit or a build that is another one in the twelfth digit decides nothing; in the eighth it does."""
    barely = [2.0, 2.0 * (1 + 1e-14), 2.0 * (1 + 2e-14)]
    assert over_builds(barely, [0, 1, 2], 2.0, 0.025).p_harm == 1.0
    assert over_builds([2.0] * 3, [0, 1, 2], 2.0 * (1 - 1e-12), 0.025).p_harm == 1.0
    differing = [2.0, 2.0 * (1 + 1e-7), 2.0 * (1 + 2e-7)]
    assert 0.05 < over_builds(differing, [0, 1, 2], 2.0, 0.025).p_harm < 0.15


def built(*builds: int | None) -> list[Unit]:
    made = []
    for index, build in enumerate(builds):
        arm = times((1,))
        arm = arm if build is None else edit(arm, "build", build)
        made.append(unit(index, candidate=arm, dense=arm))
    return made


def test_which_build_a_unit_ran() -> None:
    """One that is not numbered is the first; one build alone is none to tell apart."""
    assert builds_of(built(None, 1, 2, None)) == (0, 1, 2, 0)
    assert builds_of(built(0, 1)) == (0, 1)
    assert builds_of(built(None, None)) == builds_of(built(0, 0)) == builds_of([]) == ()


def test_builds_are_run_in_turn() -> None:
    assert list(turn_problems([])) == []
    assert list(turn_problems(built(None, None))) == []
    assert list(turn_problems(built(0, 1, 2, 0))) == []
    turn = ["the builds were not run in turn"]
    assert list(turn_problems(built(0, 0, 1))) == turn
    assert list(turn_problems(built(1, 0))) == turn
    assert list(turn_problems(built(-1, -1))) == turn
    mixed = edit(built(0, 1), "1.arms.dense.build", 0)
    assert list(turn_problems(mixed)) == ["the arms of a unit ran different builds"]


def test_what_builds_show_has_nine_digits() -> None:
    found = over_builds([1.0, 1.1, 1.3], [0, 1, 2], 1.05, 0.025)
    numbers = [found.ratio, found.low, found.high, found.p_harm]
    assert all(number == float(f"{number:.9g}") for number in numbers if number is not None)
    assert None not in numbers


def problems_of(
    copies: dict[str, int], builds: Sequence[int | None], other: Sequence[int | None] = ()
) -> list[str]:
    """Of a target that has so many copies of each arm's engine, and ran these builds."""
    evidence = make_evidence(
        targets={"b": 0.5, "a": 0.5}, examples=20, errors=5, units=0, arms=("candidate", "dense")
    )
    places = [i for i, one in enumerate(evidence.engines) if one.target == "a"]
    for place in places:
        number = copies[evidence.engines[place].arm]
        if number:
            evidence = edit(evidence, f"engines.{place}.copies", ("x",) * number)
    target = edit(evidence.targets[1], "units", tuple(built(*builds)))
    batch = BatchUnits(batch_size=2, units=tuple(built(*other)))
    return list(build_problems(edit(target, "throughput", (batch,)), evidence))


def test_builds_that_were_made_are_timed() -> None:
    """As many of each arm, three at least, and all of them in turn at each batch size."""

    def both(copies: int) -> dict[str, int]:
        return {"candidate": copies, "dense": copies}

    assert problems_of(both(0), []) == []
    assert problems_of(both(0), [None, 0, None]) == []
    assert problems_of(both(2), [None, 1, 2, 0, 1, 2], [0, 1, 2]) == []
    assert problems_of(both(2), [0, 1]) == []
    assert problems_of(both(2), [0, 1, 0]) == ["On a, 2 builds ran, and 3 were made."]
    assert problems_of(both(2), [0, 1, 2], [0, 0, 0]) == ["On a, 1 build ran, and 3 were made."]
    assert problems_of(both(0), [0, 1]) == ["On a, 2 builds ran, and 1 were made."]
    assert problems_of(both(1), [0, 1]) == [
        "a was built 2 times; fewer than 3 builds do not show how much builds differ."
    ]
    assert problems_of({"candidate": 2, "dense": 3}, [0, 1, 2]) == [
        "Of a there are not as many builds of each arm: 3 of the candidate, 4 of the dense model."
    ]


def test_builds_of_other_targets_are_theirs() -> None:
    """One target's engines were built three times; the other's once, and it is complete."""
    evidence = make_evidence(
        targets={"b": 0.5, "a": 0.5}, examples=20, errors=5, units=0, arms=("candidate", "dense")
    )
    for place, one in enumerate(evidence.engines):
        if one.target == "a":
            evidence = edit(evidence, f"engines.{place}.copies", ("x", "y"))
    assert list(build_problems(evidence.targets[0], evidence)) == []
    timed = edit(evidence.targets[0], "units", tuple(built(0, 0, 0)))
    assert list(build_problems(timed, evidence)) == []


def test_a_reader_is_told_of_several_builds() -> None:
    """Of the targets that build their own engines alone."""
    evidence = make_evidence(targets={"a": 0.5, "b": 0.5}, examples=20, errors=5, units=1)
    assert list(build_notes(evidence)) == []
    several = edit(evidence, "targets.1.units", tuple(built(0, 1, 2, 0)))
    (note,) = build_notes(several)
    assert note.startswith("b builds its own engines, so 3 builds of each arm were timed")


def test_builds_of_a_target_without_engines_are_none() -> None:
    evidence = make_evidence(targets={"a": 0.5}, examples=20, errors=5, units=0)
    bare = edit(evidence, "engines", ())
    target = edit(bare.targets[0], "units", tuple(built(0, 0)))
    assert list(build_problems(target, bare)) == []
    more = edit(bare.targets[0], "units", tuple(built(0, 1)))
    assert list(build_problems(more, bare)) == ["On a, 2 builds ran, and 1 were made."]
    swapped = edit(evidence, "engines", lambda old: tuple(reversed(old)))
    uneven = edit(swapped, "engines.0.copies", ("x",))
    assert list(build_problems(evidence.targets[0], uneven)) == [
        "Of a there are not as many builds of each arm: 1 of the candidate, 2 of the champion, 1 of "
        "the dense model."
    ]


# --- objectives ----------------------------------------------------------------------------------


def test_crowds_of_slow_calls() -> None:
    """Four units of ten calls; all four slow calls in one unit, which counts twice."""
    share = 4 / 40
    squares = [(4 - 1) ** 2, 1, 1, 1]
    between = (sum(squares) + 9) * 4 / 3
    expected = between / (40 * share * (1 - share))
    assert crowding([10] * 4, [4, 0, 0, 0]) == pytest.approx(expected)
    assert crowding([10] * 4, [1, 1, 1, 1]) == 1.0
    assert crowding([10] * 4, [0] * 4) == crowding([10] * 4, [10] * 4) == 1.0
    assert crowding([10], [4]) == 1.0
    assert crowding([10, 10], [4, 0]) == pytest.approx((4 + 4 + 4) * 2 / (20 * 0.2 * 0.8))


def test_an_objective_counts_calls_beyond_the_bound() -> None:
    """100 calls of 1 to 100 ms, ten a unit in turn: ten last longer than 90 ms; the p95 is 95 ms."""
    units = [
        unit(i, candidate=times([(k * 10 + i + 1) * 10**6 for k in range(10)])) for i in range(10)
    ]
    found = exceedance(units, 90.0, 95, 0.025)
    assert (found.calls, found.beyond, found.share, found.typical_ms) == (100, 10, 0.1, 95.0)
    assert found.low < 0.1 < found.high
    assert exceedance(units, 100.0, 95, 0.025).beyond == 0
    assert exceedance(units, 100.0, 95, 0.025).p_harm == 1.0
    assert exceedance(units, 99.5, 95, 0.025).beyond == 1
    assert exceedance(units, 90.0, 50, 0.025).typical_ms == 50.0
    assert (
        exceedance(units, 90.0, 99, 0.025).p_harm < 0.01 < exceedance(units, 90.0, 90, 0.025).p_harm
    )


def test_what_crowded_calls_are_worth() -> None:
    """Six slow calls, all in one of four units: as many as their effect and Student's quantiles leave.

    Beyond a bound that no call exceeds nothing is crowded, but beyond the candidate's own median it is.
    """
    slow, fast = times([9_000_000] * 6 + [1_000_000] * 4), times([1_000_000] * 10)
    units = [unit(i, candidate=slow if i == 0 else fast) for i in range(4)]
    effect = crowding([10] * 4, [6, 0, 0, 0])
    known = critical(0.025, 39) / critical(0.025, 3)
    worth = 40 / effect * known**2
    assert 1.0 < worth < 10.0
    for bound in (20.0, 5.0):
        assert exceedance(units, bound, 50, 0.025).worth == pytest.approx(worth, rel=1e-8)
    at_most = exceedance(units, 20.0, 90, 0.025)
    assert at_most.typical_ms == 9.0
    assert at_most.worth == pytest.approx(40 * known**2, rel=1e-8)
    many = [unit(i, candidate=times([k * 20 + i + 1 for k in range(10)])) for i in range(20)]
    assert exceedance(many, 1.0, 95, 0.025).typical_ms == 190 / 1e6
    third = Exceedance(calls=3, beyond=1, worth=3, low=0, high=1, p_harm=1, typical_ms=1)
    assert third.share == 0.333333333


def test_the_limits_of_a_share_are_those_of_independent_calls() -> None:
    """Clopper and Pearson's, and the binomial tail, of as many calls as they are worth."""
    units = [
        unit(i, candidate=times([1_234_567_891 * (k * 10 + i + 1) for k in range(10)]))
        for i in range(10)
    ]
    bound = 1_234.567891 * 90.5
    found = exceedance(units, bound, 95, 0.025)
    known = critical(0.025, 99) / critical(0.025, 9)
    worth = 100 * known**2
    seen = 0.1 * worth
    assert (found.beyond, found.worth) == (10, pytest.approx(worth, rel=1e-8))
    assert found.low == pytest.approx(
        float(stats.beta.ppf(0.025, seen, worth - seen + 1)), rel=1e-7
    )
    high = float(stats.beta.ppf(0.975, seen + 1, worth - seen))
    assert found.high == pytest.approx(high, rel=1e-7)
    p_harm = float(stats.beta.cdf(0.05, seen, worth - seen + 1))
    assert found.p_harm == pytest.approx(p_harm, rel=1e-7)
    shown = [found.low, found.high, found.p_harm, found.typical_ms, found.worth]
    assert shown == [float(f"{number:.9g}") for number in shown]
    one = exceedance(units, 1_234.567891 * 99.5, 95, 0.025)
    few = 0.01 * worth
    assert 0.0 < few < 1.0
    assert one.p_harm == 1.0


# --- trends --------------------------------------------------------------------------------------


def test_a_trend_in_full() -> None:
    """1, 2, 4, 4.5, 7: slopes between pairs have the median 1.4375; 1 in 120 orders rises like that."""
    found = trend([1.0, 2.0, 4.0, 4.5, 7.0])
    assert found is not None
    slopes = sorted(
        (b - a) / (j - i)
        for i, a in enumerate([1.0, 2.0, 4.0, 4.5, 7.0])
        for j, b in enumerate([1.0, 2.0, 4.0, 4.5, 7.0])
        if i < j
    )
    slope = (slopes[4] + slopes[5]) / 2
    assert found.slope == pytest.approx(slope)
    assert found.p_value == pytest.approx(1 / 120)
    rest = sorted(v - slope * i for i, v in enumerate([1.0, 2.0, 4.0, 4.5, 7.0]))[2]
    assert found.level == pytest.approx(rest + 4 * slope)
    assert found.of == 5
    assert (LEAST, ALPHA, EXACT) == (5, 0.05, 40)


@pytest.mark.parametrize(
    ("slope", "p_value", "rises"),
    [(0.1, 0.05, True), (0.1, 0.0501, False), (0.0, 0.01, False), (-0.1, 0.01, False)],
)
def test_when_numbers_rise(slope: float, p_value: float, rises: bool) -> None:
    assert Trend(slope=slope, p_value=p_value, level=1.0, of=5).rises is rises


@pytest.mark.parametrize(
    ("limit", "generations"), [(1.5, 2), (1.51, 3), (1.4999, 2), (1.0, 0), (0.5, 0), (1.01, 1)]
)
def test_when_a_limit_is_passed(limit: float, generations: int) -> None:
    found = Trend(slope=0.25, p_value=0.01, level=1.0, of=5)
    assert found.generations_to(limit) == generations
    assert Trend(slope=0.25, p_value=0.06, level=1.0, of=5).generations_to(limit) is None


def test_ties_are_judged_by_the_normal_approximation() -> None:
    """Kendall (1975): 1, 1, 2, 3, 4 has S = 9, and, with one pair, 18 variances are 5 * 4 * 15 - 18."""
    found = trend([1.0, 1.0, 2.0, 3.0, 4.0])
    assert found is not None
    variance = (5 * 4 * 15 - 2 * 1 * 9) / 18
    assert found.p_value == pytest.approx(1 - NormalDist().cdf((9 - 1) / math.sqrt(variance)))
    flat = trend([1.0] * 5)
    assert flat is not None
    assert flat.p_value == 1.0


def test_many_numbers_are_counted_exactly_up_to_forty() -> None:
    """At forty every order counts; at forty-one the normal distribution stands in."""

    def p_value(count: int) -> float:
        values: list[Any] = [float(i) for i in range(count)]
        values[0], values[1] = values[1], values[0]
        found = trend(values)
        assert found is not None
        return found.p_value

    # One inversion or none: 1 + 39 of 40! orders.
    assert p_value(40) == pytest.approx(40 / math.factorial(40), rel=1e-12, abs=0.0)
    score = 41 * 40 // 2 - 2
    variance = 41 * 40 * 87 / 18
    expected = 1 - NormalDist().cdf((score - 1) / math.sqrt(variance))
    assert p_value(41) == pytest.approx(expected, abs=1e-15)
    assert p_value(41) > 1e-30 or p_value(41) == 0.0
