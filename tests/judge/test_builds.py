"""Several builds of each engine: the builds are the sample, run in turn, as many of every arm.

Deep: error rates with more than the fewest builds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats

from benchmarks.rates.builds import MARGIN, PLAN, Cell, cells, draw, normal, rates
from reprune.core.artifacts import Judgement, RuleResult
from reprune.core.documents import canonical
from reprune.judge.builds import FEWEST_BUILDS, builds_of, over_builds
from reprune.judge.decided import decided, decided_throughput
from reprune.judge.evidence import ArmTimes, BatchUnits, Evidence, Unit
from reprune.judge.latency import follow, unit_ratio
from reprune.judge.verdict import PROCEDURE, judge
from tests.building import edit, make_evidence, make_policy, make_units

LATENCY = {"latency": {"vs_parent": {"max_ratio": 0.9}}, "size": None}
LOOKS = (8, 15, 30)
# Every unit of these is well within the limit, and three such builds do not tell where the next one is.
APART = [0.85, 0.9, 1.2]


def as_builds(
    units: tuple[Unit, ...], builds: int, effects: list[float] | None = None
) -> tuple[Unit, ...]:
    """The units as if they had run `builds` builds in turn; `effects` slow the candidate's."""

    def slowed(arm: str, times: ArmTimes, build: int) -> ArmTimes:
        factor = effects[build] if effects and arm == "candidate" else 1.0
        blocks = tuple(tuple(round(ns * factor) for ns in block) for block in times.blocks_ns)
        return replace(times, build=build, blocks_ns=blocks)

    return tuple(
        replace(
            unit,
            arms={arm: slowed(arm, times, unit.index % builds) for arm, times in unit.arms.items()},
        )
        for unit in units
    )


def rebuilt(
    units: tuple[Unit, ...], builds: int, *, made: int | None = None, **more: object
) -> Evidence:
    """Evidence whose one target has `made` builds of each arm, and these units."""
    evidence = edit(make_evidence(units=1), "targets.0.units", units)
    copies = tuple(f"engines/cpu/x-{number}.engine" for number in range(1, made or builds))
    engines = tuple(
        replace(fact, copies=tuple(f"{fact.arm}-{copy}" for copy in copies))
        for fact in evidence.engines
    )
    return replace(evidence, engines=engines, **more)


def judged(evidence: Evidence) -> Judgement:
    return judge(evidence, make_policy(**LATENCY, looks=LOOKS))


def rule(evidence: Evidence) -> RuleResult:
    (found,) = [r for r in judged(evidence).rules if r.rule == "latency.vs_parent"]
    return found


UNITS = make_units(30, {"dense": 0.7, "champion": 1.0})


# --- the interval -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(min_value=0.5, max_value=2.0), min_size=3, max_size=8),
    level=st.sampled_from([0.0083, 0.025, 0.1]),
    limit=st.floats(min_value=0.6, max_value=1.5),
)
def test_one_unit_a_build_is_student_on_logarithms(
    values: list[float], level: float, limit: float
) -> None:
    """As scipy computes it: the interval of a mean, and the one-sided p-value."""
    logs = np.log(values)
    if logs.std() < 1e-6:
        return
    found = over_builds(values, range(len(values)), limit, level)
    low, high = stats.t.interval(1 - 2 * level, len(logs) - 1, logs.mean(), stats.sem(logs))
    assert found.low == pytest.approx(math.exp(low), rel=1e-6)
    assert found.high == pytest.approx(math.exp(high), rel=1e-6)
    p_value = stats.ttest_1samp(logs, math.log(limit), alternative="greater").pvalue
    assert found.p_harm == pytest.approx(p_value, abs=1e-6)


def test_a_build_counts_once_however_many_units_it_has() -> None:
    """A thousand units of three builds are three values: the median of each."""
    few = over_builds([0.9, 1.0, 1.1], [0, 1, 2], 1.0, 0.05)
    many = over_builds([0.9, 1.0, 1.1] * 300, [0, 1, 2] * 300, 1.0, 0.05)
    wild = over_builds([0.9, 1.0, 1.1] * 3 + [50.0], [0, 1, 2] * 3 + [0], 1.0, 0.05)
    assert few == many
    assert wild == few


def test_fewer_than_three_builds_have_no_interval() -> None:
    """Two values would give one of any width; nothing passes and nothing blocks."""
    found = over_builds([0.5, 0.5], [0, 1], 1.0, 0.05)
    assert (found.low, found.high, found.p_harm) == (None, None, 1.0)
    state = follow([0.5] * 30, 1.0, PLAN, [0, 1] * 15)
    assert not state.settled


def test_builds_that_are_alike_pass_at_the_limit_and_block_above_it() -> None:
    """A builder that always gives the same engine has no effect of builds."""
    builds = [0, 1, 2] * 5
    assert follow([0.9] * 15, 0.9, PLAN, builds).passes
    assert follow([0.91] * 15, 0.9, PLAN, builds).blocks
    assert follow([0.89] * 15, 0.9, PLAN, builds).passes


def test_without_builds_nothing_changes() -> None:
    """Old evidence has no `build`: the same looks, the same bytes, the same procedure."""
    ratios = [unit_ratio(unit, "dense") for unit in UNITS]
    assert builds_of(UNITS) == ()
    assert follow(ratios, 0.9, PLAN, builds_of(UNITS)) == follow(ratios, 0.9, PLAN)
    assert b"build" not in canonical(UNITS)
    assert PROCEDURE == "3"


# --- error rates --------------------------------------------------------------------------------


def test_units_as_the_sample_would_pass_what_differs_by_build() -> None:
    """Why builds are the sample: a few lucky builds, measured very often, look certain."""
    random = np.random.default_rng(5)
    cell = Cell(builds=3, effects=normal(0.02), name="")
    passes = 0
    for _ in range(200):
        ratios, _ = draw(cell, MARGIN, random)
        passes += follow(ratios, MARGIN, PLAN).passes
    assert passes > 4 * PLAN.alpha * 200


@pytest.mark.parametrize("builds", [3, 5])
def test_a_candidate_at_the_margin_passes_less_often_than_alpha(builds: int) -> None:
    """Between-build deviations of 2 %: the upper 95 % limit of the simulated rate is below alpha."""
    found = rates(
        Cell(builds=builds, effects=normal(0.02), name=""), MARGIN, replications=3000, seed=1
    )
    assert found["passed_limits"][1] < PLAN.alpha


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell,
            id=f"{cell.builds}-{cell.name}",
            marks=[] if cell.builds == FEWEST_BUILDS else pytest.mark.deep,
        )
        for cell in cells()
    ],
)
def test_no_cell_passes_more_often_than_alpha(cell: Cell) -> None:
    """Builds that differ by 1 to 3 %, and builders that choose between two kernels."""
    found = rates(cell, MARGIN, replications=10_000, seed=2)
    assert found["passed_limits"][1] < PLAN.alpha


@pytest.mark.slow
def test_crossed_builds_with_one_value_for_each_of_the_candidates_would_pass_too_often() -> None:
    """Why unit i runs build i of all arms: a baseline's lucky builds would be in every value alike."""
    cell = Cell(builds=3, effects=normal(0.02), name="", crossed=True)
    assert rates(cell, MARGIN, replications=10_000, seed=2)["passed_limits"][0] > PLAN.alpha


# --- judging ------------------------------------------------------------------------------------


def test_a_clear_speed_up_passes_over_builds_and_says_so() -> None:
    """The words name the builds; what was taken from the first one alone is a note."""
    evidence = rebuilt(as_builds(UNITS, 3, [0.99, 1.0, 1.01]), 3)
    found = rule(evidence)
    assert found.outcome == "pass"
    assert "of 3 builds" in found.words
    (note,) = [note for note in judged(evidence).notes if "builds its own engines" in note]
    assert "3 builds of each arm" in note
    assert "slow calls are those of all builds together" in note


def test_builds_that_differ_too_much_are_undecided() -> None:
    """Each build was measured precisely, and the next one may be anywhere."""
    found = rule(rebuilt(as_builds(UNITS, 3, APART), 3))
    assert found.outcome == "inconclusive"
    assert "More builds" in found.decide
    assert rule(rebuilt(as_builds(UNITS, 3), 3)).outcome == "pass"


def test_a_slowdown_in_every_build_blocks() -> None:
    """Five builds, all of them slower than the limit allows."""
    slow = make_units(30, {"dense": 1.2, "champion": 1.0})
    assert rule(rebuilt(as_builds(slow, 5, [0.98, 1.0, 1.01, 1.02, 0.99]), 5)).outcome == "block"


def test_throughput_is_judged_over_builds_too() -> None:
    """Lucky builds make no rate; the interval is wider than that of the units."""
    policy = make_policy(throughput={"vs_parent": {"min_ratio": 1.1}}, **LATENCY, looks=LOOKS)

    def found(effects: list[float]) -> RuleResult:
        evidence = rebuilt(as_builds(UNITS, 3, effects), 3)
        (one,) = [r for r in judge(evidence, policy).rules if r.rule == "throughput.vs_parent"]
        return one

    assert found([0.99, 1.0, 1.01]).outcome == "pass"
    assert found(APART).outcome == "inconclusive"


def test_the_benchmark_stops_when_the_judge_would_have_decided() -> None:
    """`decided` reads the builds as the judge does."""
    policy = make_policy(**LATENCY, looks=LOOKS)
    arms = ("candidate", "dense", "champion")
    clear, unclear = as_builds(UNITS, 3), as_builds(UNITS, 3, APART)
    assert decided(clear[:8], policy, arms=arms, attempt=1)
    assert not decided(unclear[:8], policy, arms=arms, attempt=1)
    # As units alone these would be decided by now.
    alone = tuple(
        replace(u, arms={a: replace(t, build=0) for a, t in u.arms.items()}) for u in unclear[:15]
    )
    assert decided(alone, policy, arms=arms, attempt=1)
    assert not decided(unclear[:15], policy, arms=arms, attempt=1)
    rates_only = make_policy(
        throughput={"vs_parent": {"min_ratio": 1.1}}, latency=None, size=None, looks=LOOKS
    )
    for units, done in ((alone, True), (unclear[:15], False)):
        settled = decided_throughput(units, rates_only, arms=arms, attempt=1, batches=1)
        assert settled is done


# --- evidence that contradicts itself -----------------------------------------------------------


def words_of(evidence: Evidence) -> str:
    found = judged(evidence)
    assert found.outcome == "error", found.headline
    return " ".join(found.reasons)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (rebuilt(as_builds(UNITS, 2), 2), f"fewer than {FEWEST_BUILDS} builds"),
        (rebuilt(as_builds(UNITS, 3), 3, made=4), "3 builds ran, and 4 were made"),
        (rebuilt(as_builds(UNITS, 3), 3, made=1), "3 builds ran, and 1 were made"),
        (rebuilt(UNITS, 3, made=3), "1 build ran, and 3 were made"),
    ],
)
def test_builds_that_were_made_must_have_been_timed(evidence: Evidence, said: str) -> None:
    """All of them, and at least three."""
    assert said in words_of(evidence)


def test_every_arm_has_as_many_builds() -> None:
    """One fewer of the champion is an error, not a smaller sample."""
    evidence = rebuilt(as_builds(UNITS, 3), 3)
    place = next(n for n, fact in enumerate(evidence.engines) if fact.arm == "champion")
    broken = edit(evidence, f"engines.{place}.copies", lambda copies: copies[:1])
    assert "not as many builds of each arm" in words_of(broken)


def test_arms_of_a_unit_must_have_run_the_same_build() -> None:
    """Else one lucky build of the candidate could meet every unlucky one."""
    evidence = rebuilt(as_builds(UNITS, 3), 3)
    broken = edit(evidence, "targets.0.units.4.arms.candidate.build", 0)
    assert "ran different builds" in words_of(broken)


@pytest.mark.parametrize("change", ["skipped", "negative", "huge"])
def test_builds_are_run_in_turn(change: str) -> None:
    """Nobody chooses which of them are timed, nor how often."""
    units = as_builds(UNITS, 3)
    build = {"skipped": 0, "negative": -1, "huge": 7}[change]
    arms = {arm: replace(times, build=build) for arm, times in units[4].arms.items()}
    broken = (*units[:4], replace(units[4], arms=arms), *units[5:])
    assert "not run in turn" in words_of(rebuilt(broken, 3))


def test_other_batch_sizes_are_held_to_it_too() -> None:
    """Their units are evidence like any other."""
    policy = make_policy(throughput={"vs_parent": {"min_ratio": 1.1}}, **LATENCY, looks=LOOKS)
    evidence = rebuilt(as_builds(UNITS, 3), 3)
    larger = BatchUnits(batch_size=4, units=as_builds(UNITS, 3))
    good = edit(evidence, "targets.0.throughput", (larger,))
    assert judge(good, policy).outcome != "error"
    for units in (UNITS, as_builds(UNITS, 4)):
        broken = edit(evidence, "targets.0.throughput", (replace(larger, units=units),))
        assert judge(broken, policy).outcome == "error"
