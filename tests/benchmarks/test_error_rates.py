"""The fast paths of the error rates are the judge's own decisions, and its noise is what was recorded."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import error_rates
from benchmarks.common import committed
from benchmarks.rates import history, latency, model, naive, quality, sources, trace, whole
from benchmarks.rates.chance import limits
from benchmarks.rates.looks import BLOCK, OPEN, PASS, exact_rates, settle
from reprune.judge.binary import compare_binary
from reprune.judge.distributions import critical
from reprune.judge.evidence import ArmTimes, Unit
from reprune.judge.latency import Sequential, follow
from reprune.judge.paired import tango_z

ROOT = Path(__file__).resolve().parents[2]
LOOKS = (8, 15, 30, 60, 120)
NOISE = model.Noise(
    call_ns=3e5,
    scale=0.002,
    df=4.0,
    lag1=0.4,
    burst_enter=0.02,
    burst_leave=0.3,
    burst_mu=-2.5,
    burst_sigma=0.5,
    slow_sd=0.01,
    slow_lag1=0.5,
    drift_a_unit=0.0,
)


@pytest.mark.parametrize("rules", [1, 4, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.0083])
def test_settling_by_counts_is_following_the_looks(rules: int, alpha: float) -> None:
    """Outcome and units of 400 random runs of every length and speed, as judge.latency.follow says."""
    random = np.random.default_rng([rules, int(alpha * 1e4)])
    plan = Sequential(looks=LOOKS, alpha=alpha, rules=rules)
    seen = set()
    for count in (7, 8, 40, 120):
        true = np.exp(random.uniform(-0.06, 0.06, (100, 1)))
        ratios = np.round(1.05 * true * np.exp(random.normal(0, 0.03, (100, count))), 3)
        found = settle(ratios <= 1.05, plan)
        for row, outcome, units in zip(ratios, found.outcome, found.units, strict=True):
            state = follow(row.tolist(), 1.05, plan)
            assert units == state.units
            assert outcome == (PASS if state.passes else BLOCK if state.blocks else OPEN)
            seen.add(int(outcome))
    assert seen == {PASS, BLOCK, OPEN}


def test_exact_rates_are_sums_over_all_runs() -> None:
    """Of two looks: every one of the 2^12 patterns, weighed and followed one by one."""
    plan = Sequential(looks=(6, 12), alpha=0.2, rules=1)
    passed = blocked = 0.0
    for pattern in itertools.product((False, True), repeat=12):
        state = follow([0.9 if within else 1.1 for within in pattern], 1.0, plan)
        chance = 0.4 ** sum(pattern) * 0.6 ** (12 - sum(pattern))
        passed, blocked = passed + chance * state.passes, blocked + chance * state.blocks
    assert exact_rates(plan, 0.4) == (pytest.approx(passed), pytest.approx(blocked))
    assert passed > 0.01
    assert blocked > 0.01


@given(
    lost=st.integers(0, 40),
    gained=st.integers(0, 40),
    examples=st.floats(90, 900),
    drop=st.floats(1e-4, 0.3),
)
def test_tango_on_arrays_is_the_judge_s(
    lost: int, gained: int, examples: float, drop: float
) -> None:
    """To the last digits."""
    found = quality.tango_z(
        np.array([lost * 1.0]), np.array([gained * 1.0]), np.float64(examples), drop
    )
    assert float(found[0]) == pytest.approx(
        tango_z(lost, gained, examples, drop), rel=1e-9, abs=1e-9
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    drop=st.sampled_from([0.0, 0.02, 0.05]),
    alpha=st.sampled_from([0.025, 0.0083]),
    size=st.sampled_from([4, 10]),
)
def test_passing_sources_is_the_judge_s_comparison(
    seed: int, drop: float, alpha: float, size: int
) -> None:
    """Records of sources through the judge's comparison, and their sums through the fast path."""
    cell = quality.Cell(examples=400, flips=0.06, size=size, alike=0.2)
    moves = whole._moves(cell, drop, np.random.default_rng(seed))
    lost, gained = int((moves == 1).sum()), int((moves == -1).sum())
    squares = int((moves.reshape(-1, size).sum(axis=1) ** 2).sum())
    found = compare_binary(1 * (moves != -1), 1 * (moves != 1), np.arange(400) // size)
    test = found.drop_test(0.05, alpha)
    counts = [np.array([float(x)]) for x in (lost, gained, squares)]
    z = sources.source_z(*counts, cell, 0.05)
    at_limit = sources.source_z(*counts, cell, float(test.high or 0.0))
    assert at_limit[0] == pytest.approx(-critical(alpha, cell.sources - 1), rel=1e-5)
    assert bool(sources.passes(z, cell, alpha)[0]) == test.holds


def test_too_few_sources_never_pass() -> None:
    """As in the judge: nineteen sources decide nothing, twenty may."""
    few, enough = (quality.Cell(examples=10 * n, flips=0.05, size=10, alike=0.1) for n in (19, 20))
    assert not sources.passes(np.array([-9.0]), few, 0.025)[0]
    assert sources.passes(np.array([-9.0]), enough, 0.025)[0]


@pytest.mark.parametrize(("size", "alike"), sources.CLUSTERS)
def test_sources_lose_and_agree_as_said(size: int, alike: float) -> None:
    """The outcomes of a source: the mean loss, the flips, and the correlation of two examples."""
    pairs, chances = sources.source_outcomes(size, alike, 0.04, 0.02)
    assert chances.sum() == pytest.approx(1.0)
    lost, gained = (chances @ pairs) / size
    assert (lost, gained) == (pytest.approx(0.04), pytest.approx(0.02))
    total = pairs[:, 0] - pairs[:, 1]
    variance = chances @ total**2 - (chances @ total) ** 2
    single = 0.06 - 0.02**2
    assert variance == pytest.approx(size * single * (1 + (size - 1) * alike))


def test_the_point_rule_by_enumeration() -> None:
    """Eight examples, the drop at a quarter: all pairs of lost and gained, added up."""
    cell = quality.Cell(examples=8, flips=0.5)
    total = 0.0
    for lost in range(9):
        for gained in range(9 - lost):
            ways = math.comb(8, lost) * math.comb(8 - lost, gained)
            chance = ways * 0.375**lost * 0.125**gained * 0.5 ** (8 - lost - gained)
            total += chance * ((lost - gained) / 8 <= 0.25)
    assert quality.point_rule(cell, 0.25) == pytest.approx(total)


@pytest.mark.slow
def test_no_test_beats_the_envelope() -> None:
    """The judge's power lies below the most powerful test's wherever its size does; theory is near both."""
    for row in itertools.islice(quality.exact_rows(), 4, 40, 7):
        if row["false_pass"] <= row["alpha"]:
            assert row["power"] <= row["envelope"] + 1e-6
    cell = quality.Cell(examples=10_000, flips=0.05)
    margin = quality.planned_margin(cell, 0.025)
    assert quality.theory(cell, margin, 0.025) == pytest.approx(0.9, abs=1e-4)
    assert quality.envelope(cell, margin, 0.025) == pytest.approx(0.905, abs=0.003)


@pytest.mark.parametrize("arms", [2, 3, 4])
@pytest.mark.parametrize("leaves", latency.LEAVES)
def test_what_one_arm_leaves_favours_nobody(arms: int, leaves: str) -> None:
    """Over all orders the difference is as often above 0 as below; with the first block after any arm
    (as units once were taken) candidate or baseline would gain.
    """
    cell = latency.Cell(arms=arms, session=0.0, leaves=leaves)
    left = model.left_behind(arms, cell.carry)
    difference = left[:, 0] - left[:, 1]
    assert np.allclose(np.sort(difference), np.sort(-difference))
    old = model.left_behind(arms, cell.carry, own_first=False)
    bias = float((old[:, 0] - old[:, 1]).mean())
    assert (abs(bias) > 1e-3) == (leaves != "others")


def made(logs: np.ndarray, order: np.ndarray) -> tuple[Unit, ...]:
    """Units of these block logs in the order of time, under the trace's names."""
    units = []
    for index, (row, places) in enumerate(zip(logs, model.orders(4)[order], strict=True)):
        arms = {
            arm: ArmTimes(
                order=int(place),
                blocks_ns=tuple((round(1e9 * math.exp(row[at])),) for at in (place, 7 - place)),
                warmup_calls=1,
            )
            for arm, place in zip(trace.ARMS, places, strict=True)
        }
        units.append(Unit(index=index, process=0, seed=0, started_s=0.0, load=0.0, arms=arms))
    return tuple(units)


def test_the_fit_finds_the_noise_again() -> None:
    """Blocks simulated with known noise: scale, tails, correlation, bursts and level come back."""
    random = np.random.default_rng(3)
    order = random.integers(0, 24, 1500)
    quick = model.block_noise(NOISE, 1, 1500, 8, random)[0]
    logs = quick + model.slow_level(NOISE, 1, 1500, random)[0][:, None] * 0.05
    units = made(logs, order)
    assert np.allclose(trace.block_logs(units), logs + math.log(1e9), atol=1e-8)
    found = model.fit(units)
    assert found.scale == pytest.approx(NOISE.scale, rel=0.3)
    assert 2.1 <= found.df <= 8
    assert found.lag1 == pytest.approx(NOISE.lag1, abs=0.15)
    assert found.burst_enter == pytest.approx(NOISE.burst_enter, rel=0.4)
    assert found.burst_leave == pytest.approx(NOISE.burst_leave, rel=0.3)
    assert found.burst_mu == pytest.approx(NOISE.burst_mu, abs=0.2)


def test_the_sessions_of_a_trace_are_seen() -> None:
    """Sessions that differ by 1 % are found as that; without, next to nothing; and who follows whom."""
    random = np.random.default_rng(9)
    order = random.integers(0, 24, 800)
    quick = random.normal(0, 0.004, (800, 8))
    effects = random.normal(0, 0.01, (800, 4))
    places = model.orders(4)[order]
    both = np.concatenate([places, 7 - places], axis=1)
    shifted = quick.copy()
    np.put_along_axis(
        shifted, both, np.take_along_axis(quick, both, axis=1) + np.tile(effects, 2), axis=1
    )
    shifted[:, [1, 2, 3, 5, 6, 7]] += 0.02
    found = model.described(NOISE, made(shifted, order), quick)
    assert found["session_sd"] == pytest.approx(0.01, rel=0.25)
    assert found["after_another"] == pytest.approx(0.02, abs=0.002)
    assert abs(found["unit_ratio_lag1"]) < 0.15
    assert model.described(NOISE, made(quick, order), quick)["session_sd"] < 0.002


def test_arms_are_averaged_over_their_own_blocks() -> None:
    """One unit of three arms in the order third, first, second and back."""
    quick = np.array([[[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]]])
    orders = model.orders(3)
    order = next(i for i in range(6) if orders[i].tolist() == [1, 2, 0])
    assert model.arm_means(quick, np.array([[order]]))[0, 0].tolist() == [9.0, 6.0, 16.5]


def test_windows_of_the_trace_share_no_unit() -> None:
    """Each begins where the one before ended; one that is cut short counts for nothing."""
    plan = latency.plan_of(2)
    found = list(latency.windows([0.9] * 20, plan))
    assert found == [("pass", 8), ("pass", 8)]
    assert [outcome for outcome, _ in latency.windows([1.2] * 15, plan)] == ["block"]
    assert list(latency.windows([1.04, 1.06] * 50, plan)) == []


@pytest.mark.slow
def test_whole_verdicts_say_what_the_fast_paths_say() -> None:
    """One verdict for every number of arms and true ratio."""
    found = whole.compared(NOISE, seed=1, each=1)
    assert (found.verdicts, found.equal) == (12, found.rules)
    assert found.rules == 4 * (2 + 3 + 4)


def test_cells_pass_and_block_as_they_should() -> None:
    """A cell of three arms: nothing errs at 0.95 and 1.10, and a walk of fair coins at the margin."""
    cell = latency.Cell(arms=3, session=0.012, leaves="baseline")
    rows = {row["ratio"]: row for row in latency.simulate(NOISE, [cell], seed=2, replications=400)}
    assert rows[0.95]["all_passed"] == 1.0
    assert rows[1.1]["first_blocked"] == 1.0
    assert rows[1.0]["any_blocked"] == 0.0
    low, high = rows[1.05]["first_passed_limits"]
    assert low <= latency.exact_row()["first_passed"] <= high


def test_usual_rules_on_their_own_noise() -> None:
    """Equal arms differ for Mann-Whitney where sessions do; a tenth is seen by both."""
    calls = np.exp(np.random.default_rng(4).normal(0, 0.02, 1000))
    rows = naive.rows(NOISE, calls, seed=5, replications=60)
    rates = {(r["rule"], r["how"], r["session_sd"], r["ratio"]): r["first_blocked"] for r in rows}
    assert len(rates) == 2 * 2 * 3 * 3
    assert rates["Mann-Whitney", "one after the other", 0.012, 1.0] > 0.2
    assert rates["Mann-Whitney", "interleaved units", 0.0, 1.1] == 1.0


def test_a_recorded_block_may_be_short() -> None:
    """A machine that was slow for a moment fills a block with fewer calls; every block gives as many."""
    random = np.random.default_rng(8)
    units = []
    for index in range(80):
        arms = {}
        for order, arm in enumerate(trace.ARMS):
            lengths = (18 if index == 3 and order == 0 else 30, 30)
            blocks = tuple(tuple(random.integers(9_000, 11_000, n).tolist()) for n in lengths)
            arms[arm] = ArmTimes(order=order, blocks_ns=blocks, warmup_calls=1)
        units.append(Unit(index=index, process=0, seed=0, started_s=0.0, load=0.0, arms=arms))
    rows = naive.real_rows(units)
    assert {row["rule"] for row in rows} == {"mean", "Mann-Whitney"}
    blocked = {row["ratio"]: row["first_blocked"] for row in rows if row["rule"] == "mean"}
    assert blocked[1.0] == 0
    assert blocked[1.1] == 1.0


def test_an_anchor_bounds_a_year() -> None:
    """Against a champion alone losses add up; with the anchor they stay near its two points."""
    means = {row["rule"]: row["loss_mean"] for row in history.rows(seed=6, years=200)}
    assert means["point rule"] > means["champion"] > 4.0
    assert 0.5 < means["champion and anchor"] < 2.0


def test_limits_are_clopper_s_and_pearson_s() -> None:
    """10 of 1,000 do not prove 1 %; none of 2,000 proves 0.2 %."""
    assert limits(10, 1000)[2] == pytest.approx(0.0183, abs=1e-4)
    assert limits(0, 2000)[2] == pytest.approx(1 - 0.025 ** (1 / 2000), rel=1e-6)
    assert limits(5, 5)[1:] == (pytest.approx(0.025 ** (1 / 5)), 1.0)


@pytest.mark.slow
def test_a_trace_is_recorded_in_fresh_units() -> None:
    """Three real units: every arm has two blocks of calls, whose median is what the model is fitted to."""
    units = trace.record(3, say=lambda _: None)
    assert [sorted(unit.arms) for unit in units] == [list(trace.ARMS)] * 3
    logs = trace.block_logs(units)
    assert logs.shape == (3, 8)
    assert np.isfinite(logs).all()
    assert np.median(trace.call_ratios(units)) == pytest.approx(1.0, abs=0.01)


def test_each_usual_rule_has_a_figure_of_its_own_and_the_readme_tells_both() -> None:
    """From the committed rows; the cells beside, which no figure is of, are told too."""
    rows = committed("error_rates")["rows"]
    found = naive.figures([row for row in rows if row["part"] == "latency, usual rules"])
    mean, ranks = (
        100 * found[f"naive_false_block_aa_{rule}"] for rule in ("means", "mann_whitney")
    )
    readme, trust = ((ROOT / name).read_text() for name in ("README.md", "docs/trust.md"))
    assert f"{mean:.0f} % (means differ by 5 %), {ranks:.0f} % (Mann-Whitney)" in readme
    beside = [row for row in rows if row["part"] == "latency, beside" and row["ratio"] == 1.05]
    worst = max(
        (row for row in beside if row["first_block_after"] == "itself"),
        key=lambda row: row["first_passed"],
    )
    for page in (readme, trust):
        assert f"{100 * worst['first_passed']:.1f} %" in page
        assert f"at most {100 * worst['first_passed_limits'][1]:.1f} %" in page


def test_what_is_rated_is_what_the_page_says() -> None:
    assert f"and {quality.RATED_FLIPS} independent flips are expected" in str(error_rates.__doc__)
