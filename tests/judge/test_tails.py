"""Rules on single slow calls: percentiles by a bootstrap over units, and the absolute objective.

Deep: half of the cells that calibrate each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reprune.core.artifacts import Judgement, RuleResult
from reprune.judge.bootstrap import RESAMPLES, unit_weights
from reprune.judge.evidence import ArmTimes, Unit
from reprune.judge.objective import crowding, exceedance
from reprune.judge.percentiles import (
    least_calls,
    percentile_of,
    pooled,
    resampled_percentiles,
    tail_ratios,
)
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_units

RATIOS = {"dense": 0.6, "champion": 1.0}
TAIL = {"percentile": 95, "units": 20, "vs_parent": {"max_ratio": 0.8}}
ONLY: dict[str, Any] = {"quality": {}, "size": None}


def units_of(**arms: Any) -> tuple[Unit, ...]:
    """Units out of one array (units, calls) of ns for each arm, split into two blocks."""
    count = len(next(iter(arms.values())))
    return tuple(
        Unit(
            index=i,
            process=i // 2,
            seed=i,
            started_s=1e9 + i,
            load=0.0,
            arms={
                arm: ArmTimes(
                    order=order,
                    blocks_ns=tuple(
                        tuple(int(c) for c in half) for half in np.array_split(a[i], 2)
                    ),
                    warmup_calls=1,
                )
                for order, (arm, a) in enumerate(arms.items())
            },
        )
        for i in range(count)
    )


def heavy(rng: np.random.Generator, units: int, calls: int, burst: float = 0.1) -> Any:
    """Times in ns: sessions differ by 0.6 %, and in a share `burst` of the blocks slow calls crowd."""
    logs = rng.normal(0, 0.006, (units, 1)) + rng.normal(0, 0.05, (units, calls))
    crowded = np.repeat(rng.random((units, 2)) < burst, -(-calls // 2), axis=1)[:, :calls]
    logs += ((rng.random((units, calls)) < 0.25) & crowded) * rng.exponential(0.6, (units, calls))
    return np.rint(400_000 * np.exp(logs)).astype(np.int64)


def judged(units: tuple[Unit, ...], latency: dict[str, Any], **policy: Any) -> Judgement:
    evidence = edit(make_evidence(units=1), "targets.0.units", units)
    return judge(evidence, make_policy(**{**ONLY, "latency": latency, **policy}))


def rule(found: Judgement, name: str) -> RuleResult:
    return next(one for one in found.rules if one.rule == name)


@pytest.mark.parametrize(("percentile", "least"), [(90, 64), (95, 130), (99, 662)])
def test_the_fewest_calls_are_those_of_loadgen(percentile: int, least: int) -> None:
    """64 and 662 are MLPerf's floors for p90 and p99; the binomial distribution gives all three."""
    assert least_calls(percentile) == least
    beyond = 1 - percentile / 100
    assert stats.binom.cdf(1, least, beyond) <= 0.01 < stats.binom.cdf(1, least - 1, beyond)


@pytest.mark.parametrize("percentile", [90, 95, 99])
@pytest.mark.parametrize(("units", "calls"), [(20, 2), (21, 37), (30, 150)])
def test_resampled_percentiles_agree_with_brute_force(
    percentile: int, units: int, calls: int
) -> None:
    """Each resample's calls written out, sorted, and counted off."""
    times = heavy(np.random.default_rng(units), units, calls) // 1000 * 1000  # with ties
    pool = pooled(units_of(candidate=times), "candidate")
    weights = unit_weights("sha256:seed", units)
    assert weights.shape == (RESAMPLES, units)
    assert (weights.sum(axis=1) == units).all()
    found = resampled_percentiles(pool, percentile, weights)
    for row in range(0, RESAMPLES, 100):
        drawn = np.sort(np.repeat(times, weights[row].astype(int), axis=0).ravel())
        assert found[row] == drawn[-(-percentile * len(drawn) // 100) - 1]
    everything = np.sort(times.ravel())
    assert (
        percentile_of(pool, percentile) == everything[-(-percentile * len(everything) // 100) - 1]
    )


def test_units_with_unequal_numbers_of_calls_are_pooled() -> None:
    """A percentile is of calls, not of units: a long block counts for more."""
    units = edit(
        units_of(candidate=np.full((20, 10), 100)), "4.arms.candidate.blocks_ns.0", (900,) * 30
    )
    assert percentile_of(pooled(units, "candidate"), 90) == 900
    assert percentile_of(pooled(units, "candidate"), 90 - 5) == 100


def test_a_tail_rule_is_judged_on_its_interval() -> None:
    """Well below the ratio passes, well above blocks, near it is undecided; told in words."""
    rng = np.random.default_rng(1)
    base, mine = heavy(rng, 20, 40), heavy(rng, 20, 40)
    outcomes = {}
    for true in (0.5, 0.8, 1.2):
        units = units_of(
            candidate=(mine * true).astype(int), dense=base, champion=base, control=base
        )
        found = rule(judged(units, {"tail": TAIL}), "latency.tail.vs_parent")
        outcomes[true] = found.outcome
        assert found.samples == 20
        assert (found.low or 9) <= (found.change or 0) <= (found.high or 0)
        assert "95 of 100 calls of the candidate end within 0." in found.words
    assert outcomes == {0.5: "pass", 0.8: "inconclusive", 1.2: "block"}


def test_the_interval_is_of_the_drawn_percentiles() -> None:
    """At 2.5 % of 4,000 resamples of 20 units: the 74th from either end, as Student's t has it."""
    rng = np.random.default_rng(2)
    mine, base = heavy(rng, 20, 40), heavy(rng, 20, 40)
    units = units_of(candidate=mine, dense=base)
    found = tail_ratios(units, 95, [("dense", 1.0)], 0.025, "seed")[0]
    weights = unit_weights("seed", 20)
    drawn = np.sort(
        [
            np.divide(
                *(
                    np.sort(np.repeat(a, row.astype(int), axis=0).ravel())[760 - 1]
                    for a in (mine, base)
                )
            )
            for row in weights
        ]
    )
    level = stats.norm.sf(np.sqrt(20 / 19) * stats.t.isf(0.025, 19))
    rank = int(level * (RESAMPLES + 1))
    assert found.low == pytest.approx(drawn[rank - 1], rel=1e-8)
    assert found.high == pytest.approx(drawn[-rank], rel=1e-8)
    share = (1 + (drawn <= 1.0).sum()) / (RESAMPLES + 1)
    p = stats.t.sf(stats.norm.isf(share) * np.sqrt(19 / 20), 19)
    assert found.p_harm == pytest.approx(p, rel=1e-6)


def test_a_tail_rule_is_decided_once() -> None:
    """Later units are ignored, fewer are not looked at, and the words say how many are missing."""
    later = {**make_policy_latency(), "tail": TAIL}
    units = make_units(60, RATIOS, calls=10)
    spoilt = tuple(
        edit(u, "arms.candidate.blocks_ns", lambda b: tuple(tuple(9 * c for c in x) for x in b))
        if u.index >= 20
        else u
        for u in units
    )
    assert judged(units[:20], later) == judged(units, later)
    found = [rule(judged(u, {"tail": TAIL}), "latency.tail.vs_parent") for u in (units, spoilt)]
    assert found[0] == found[1]
    few = rule(judged(units[:13], later), "latency.tail.vs_parent")
    assert (few.outcome, few.samples, few.change) == ("inconclusive", 0, None)
    assert few.decide == "7 more units on this machine."


def make_policy_latency() -> dict[str, Any]:
    return {"vs_parent": {"max_ratio": 0.8}}


def test_a_percentile_takes_enough_calls() -> None:
    """p99 of 660 calls an arm is undecided and 662 are asked for; the smallest arm counts."""
    tail = {**TAIL, "percentile": 99, "units": 33}
    for calls, outcome in ((10, "inconclusive"), (11, "pass")):
        units = make_units(33, RATIOS, calls=calls)
        found = rule(judged(units, {"tail": tail}), "latency.tail.vs_parent")
        assert found.outcome == outcome
        assert ("At least 662 calls of each arm (there are 660)" in found.decide) == (calls == 10)
    lacking = make_units(33, RATIOS, calls=11)
    for place in range(4):
        lacking = edit(lacking, f"{place}.arms.dense.blocks_ns.1", (400_000,))
    found = rule(judged(lacking, {"tail": tail}), "latency.tail.vs_parent")
    assert "(there are 686)" not in found.decide
    lacking = edit(lacking, "9.arms.dense.blocks_ns", lambda old: (old[0][:1],) * 2)
    assert sum(len(b) for u in lacking for b in u.arms["dense"].blocks_ns) == 666


def test_every_baseline_has_its_tail_rule() -> None:
    """Champion and anchor too where they exist; a note where they do not."""
    both = {**TAIL, "vs_champion": {"max_ratio": 1.2}, "vs_anchor": {}}
    found = judged(make_units(20, RATIOS, calls=10), {"tail": both})
    assert [r.rule for r in found.rules if "tail" in r.rule] == [
        "latency.tail.vs_parent",
        "latency.tail.vs_champion",
    ]
    assert any("latency.tail.vs_anchor could not be judged" in note for note in found.notes)
    assert found.outcome == "pass"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), percentile=st.sampled_from([90, 95]))
def test_swapping_the_arms_mirrors_the_interval(seed: int, percentile: int) -> None:
    """One over the ratio, and one over the limits the other way round."""
    rng = np.random.default_rng(seed)
    first, second = heavy(rng, 20, 14), heavy(rng, 20, 14)
    there, back = (
        tail_ratios(units_of(candidate=a, dense=b), percentile, [("dense", 1.0)], 0.025, "s")[0]
        for a, b in ((first, second), (second, first))
    )
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.low == pytest.approx(1 / (back.high or 0))
    assert there.high == pytest.approx(1 / (back.low or 0))
    assert there.values == back.values[::-1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_model_against_itself_passes_its_own_tail(seed: int) -> None:
    """The same times in every arm: no evidence of harm at all, whatever the noise."""
    times = heavy(np.random.default_rng(seed), 20, 14, burst=0.5)
    units = units_of(candidate=times, dense=times, champion=times, control=times)
    latency = {"tail": {**TAIL, "vs_parent": {"max_ratio": 1.0}}}
    found = judged(units, latency, guards={"max_interval": None})
    assert found.outcome == "pass"


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slower=st.floats(1.001, 3.0),
    limit=st.sampled_from([0.7, 1.0]),
)
def test_a_slower_candidate_is_never_judged_better(seed: int, slower: float, limit: float) -> None:
    """All calls longer: a tail, an objective or a throughput rule never turns from block to pass."""
    rng = np.random.default_rng(seed)
    base = heavy(rng, 20, 14)
    mine = (heavy(rng, 20, 14) * rng.choice([0.6, 0.7, 1.0, 1.2])).astype(int)
    order = ["pass", "inconclusive", "block"]
    results = []
    for times in (mine, np.ceil(mine * slower).astype(int)):
        found = judged(
            units_of(candidate=times, dense=base, champion=base, control=base),
            {
                "tail": {**TAIL, "vs_parent": {"max_ratio": limit}},
                "objective": {"max_ms": 0.4, "percentile": 90, "units": 20},
            },
            throughput={"vs_parent": {"min_ratio": 1 / limit}},
            guards={"max_interval": None},
        )
        results.append([order.index(one.outcome) for one in found.rules if one.rule != "parity"])
    (tail, objective, rate), after = results
    assert tail <= after[0]
    assert rate <= after[2]
    assert (objective, after[1]) != (order.index("block"), order.index("pass"))


# --- the objective -------------------------------------------------------------------------------


def spread(over: int, units: int, calls: int, most: int) -> Any:
    """Times of which `over` are 2 ms, at most `most` in a unit, and all others from .5 to .9 ms."""
    times = 500_000 + np.arange(units * calls).reshape(units, calls) * 7919 % 400_000
    for place in range(over):
        times[place // most, place % most] = 2_000_000
    return times


def test_independent_calls_are_counted_as_the_binomial_has_it() -> None:
    """One slow call in each of six units of 60: Clopper-Pearson's limits, by scipy."""
    found = exceedance(units_of(candidate=spread(6, 60, 40, 1)), 1.0, 99, 0.025)
    assert (found.calls, found.beyond, found.share) == (2400, 6, 0.0025)
    known = (stats.t.isf(0.025, 2399) / stats.t.isf(0.025, 59)) ** 2
    assert found.worth == pytest.approx(2400 * known, rel=0.2)
    seen = 6 * found.worth / 2400
    assert found.low == pytest.approx(stats.beta.ppf(0.025, seen, found.worth - seen + 1), rel=1e-6)
    assert found.high == pytest.approx(
        stats.beta.ppf(0.975, seen + 1, found.worth - seen), rel=1e-6
    )
    assert found.p_harm == pytest.approx(
        stats.beta.cdf(0.01, seen, found.worth - seen + 1), rel=1e-6
    )


def test_crowds_of_slow_calls_are_worth_fewer_calls() -> None:
    """The same six calls in one unit prove less than six in six units."""
    apart, together = (
        exceedance(units_of(candidate=spread(6, 60, 40, most)), 1.0, 99, 0.025) for most in (1, 6)
    )
    assert together.share == apart.share
    assert together.worth < apart.worth / 3
    assert together.high > apart.high


def test_no_slow_call_at_all_does_not_prove_that_they_come_alone() -> None:
    """With nothing above the bound, how the slowest calls crowd tells what 2,400 calls are worth."""
    alone = spread(24, 60, 40, 1)
    crowd = spread(24, 60, 40, 12)
    found = [exceedance(units_of(candidate=t), 3.0, 99, 0.025) for t in (alone, crowd)]
    assert [one.beyond for one in found] == [0, 0]
    assert found[0].high <= 0.01 < found[1].high
    assert found[0].p_harm == found[1].p_harm == 1.0


def test_the_design_effect_against_its_definition() -> None:
    """Variance over units by that of independent calls, the worst unit counted twice."""
    sizes, totals = [10, 20, 10, 20], [0, 8, 1, 3]
    share = 12 / 60
    squares = [(t - share * n) ** 2 for n, t in zip(sizes, totals, strict=True)]
    expected = (sum(squares) + max(squares)) * 4 / 3 / (60 * share * (1 - share))
    assert crowding(sizes, totals) == pytest.approx(expected)
    assert crowding([10] * 4, [2] * 4) == 1.0
    assert crowding([10] * 4, [0] * 4) == crowding([10], [3]) == 1.0


OBJECTIVE = {"max_ms": 1.0, "percentile": 95, "units": 20}


@pytest.mark.parametrize(
    ("over", "outcome"), [(0, "pass"), (4, "pass"), (40, "inconclusive"), (200, "block")]
)
def test_an_objective_is_judged_on_its_limit(over: int, outcome: str) -> None:
    """Of 800 calls 5 % may be slow: none and four are certainly fewer, 200 certainly more."""
    times = spread(over, 20, 40, 10)
    if over < 20:
        times = spread(over, 20, 40, 1)
    units = units_of(candidate=times, dense=times, champion=times, control=times)
    found = rule(judged(units, {"objective": OBJECTIVE}), "latency.objective")
    assert found.outcome == outcome
    assert (found.limit, found.baseline, found.samples) == (0.05, "absolute", 20)
    assert found.change == over / 800
    assert f"{over} of 800 calls of the candidate in 20 units" in found.words


def test_an_objective_is_decided_once() -> None:
    """Later units are ignored; with fewer it says how many are missing."""
    quick = spread(0, 40, 40, 1)
    quick[20:] = 5_000_000
    units = units_of(candidate=quick, dense=quick, champion=quick, control=quick)
    late, early = (judged(u, {"objective": OBJECTIVE}) for u in (units, units[:20]))
    assert late == early
    assert late.outcome == "pass"
    few = rule(judged(units[:5], {"objective": OBJECTIVE}), "latency.objective")
    assert (few.outcome, few.decide) == ("inconclusive", "15 more units on this machine.")


# --- calibration ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "calls", "percentile", "burst"),
    [
        (20, 20, 95, 0.1),
        (60, 12, 99, 0.02),
        pytest.param(60, 40, 90, 0.3, marks=pytest.mark.deep),
        pytest.param(60, 40, 95, 0.1, marks=pytest.mark.deep),
    ],
)
def test_tail_intervals_miss_as_rarely_as_they_say(
    units: int, calls: int, percentile: int, burst: float
) -> None:
    """Two equal arms, nominal 2.5 % on either side; 400 runs a cell, three standard errors allowed."""
    rng = np.random.default_rng(3)
    above = below = 0
    runs = 400
    for run in range(runs):
        evidence = units_of(
            candidate=heavy(rng, units, calls, burst), dense=heavy(rng, units, calls, burst)
        )
        found = tail_ratios(evidence, percentile, [("dense", 1.0)], 0.025, f"seed {run}")[0]
        above += (found.low or 0) > 1.0
        below += (found.high or 9) < 1.0
    allowed = 0.025 + 3 * (0.025 * 0.975 / runs) ** 0.5
    assert above / runs <= allowed
    assert below / runs <= allowed
    assert above + below > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "calls", "percentile", "burst"),
    [
        (60, 40, 99, 0.1),
        (60, 40, 99, 0.0),
        pytest.param(60, 40, 95, 0.1, marks=pytest.mark.deep),
        pytest.param(60, 200, 99, 0.03, marks=pytest.mark.deep),
    ],
)
def test_objectives_at_their_bound_pass_as_rarely_as_they_say(
    units: int, calls: int, percentile: int, burst: float
) -> None:
    """With exactly the allowed share above the bound, at most 2.5 % pass, and as few block."""
    rng = np.random.default_rng(4)
    bound = float(np.quantile(heavy(rng, 20_000, calls, burst), percentile / 100)) / 1e6
    runs, passed, blocked = 500, 0, 0
    for _ in range(runs):
        evidence = units_of(candidate=heavy(rng, units, calls, burst))
        found = exceedance(evidence, bound, percentile, 0.025)
        passed += found.high <= 1 - percentile / 100
        blocked += found.p_harm <= 0.025
    allowed = 0.025 + 3 * (0.025 * 0.975 / runs) ** 0.5
    assert passed / runs <= allowed
    assert blocked / runs <= allowed


def test_the_same_seed_draws_the_same_units() -> None:
    """Another seed gives other limits, the same seed the same, whatever the order of the rules."""
    rng = np.random.default_rng(9)
    times = {arm: heavy(rng, 20, 40) for arm in ("candidate", "dense", "champion")}
    units = units_of(**times)
    limits = [("dense", 1.0), ("champion", 1.0)]
    one, two = (tail_ratios(units, 95, asked, 0.025, "a") for asked in (limits, limits[::-1]))
    assert one == two[::-1]
    assert tail_ratios(units, 95, limits, 0.025, "b") != one
