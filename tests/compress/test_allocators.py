"""Allocators that try: within the budget, within their evaluations, never worse than where they began."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reprune.compress.planning.agent import Agent, Step, truncated
from reprune.compress.planning.allocate import ALLOCATORS, Limit, Problem, allocate, uniform
from reprune.compress.planning.amc import noise
from reprune.compress.planning.trying import Tries, canonical, onto_budget
from reprune.core.errors import CompressionError
from tests.compress.test_allocate import chain

TRIERS = ("search", "amc", "evolutionary", "netadapt")
RUNGS = tuple(range(4, 33, 4))
# By group: how much it hurts to cut it.
PAINS = {"a": 1.0, "b": 0.05, "c": 0.4, "d": 0.02}


def true_rise(widths):
    """Single cuts do not add up: two deep cuts side by side cost extra."""
    cut = {name: 1.0 - widths[name] / 32 for name in PAINS}
    alone = sum(PAINS[name] * cut[name] ** 2 for name in PAINS)
    return alone + 2.0 * (cut["b"] * cut["d"]) ** 2


def toy(fraction=0.5, evaluations=60, seed=0, sampler="tpe", evaluate=true_rise):
    cost = chain([9, 9, 9, 9, 1], list(PAINS))
    return Problem(
        rungs=dict.fromkeys(PAINS, RUNGS),
        rises={
            name: tuple(pain * (1.0 - rung / 32) ** 2 for rung in RUNGS)
            for name, pain in PAINS.items()
        },
        cost=cost,
        limit=fraction * cost(dict.fromkeys(PAINS, 32)),
        evaluate=evaluate,
        tries=Tries(
            evaluations=evaluations,
            seed=seed,
            sampler=sampler,
            importance={
                name: tuple(pain * (32 - n) for n in range(32)) for name, pain in PAINS.items()
            },
        ),
    )


def best_rise(problem):
    """The oracle: every allowed set of widths."""
    every = (
        dict(zip(problem.rungs, w, strict=True)) for w in itertools.product(*problem.rungs.values())
    )
    return min(true_rise(widths) for widths in every if problem.fits(widths))


class Counted:
    """An `evaluate` that counts, and that breaks after so many calls."""

    def __init__(self, evaluate=true_rise, breaks_after=10**9):
        self.evaluate = evaluate
        self.calls = []
        self.breaks_after = breaks_after

    def __call__(self, widths):
        if len(self.calls) >= self.breaks_after:
            raise KeyboardInterrupt
        self.calls.append(tuple(widths.values()))
        return self.evaluate(widths)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIERS)
@given(
    fraction=st.floats(0.1, 1.0),
    evaluations=st.integers(1, 12),
    seed=st.integers(0, 3),
    depth=st.booleans(),
)
@settings(max_examples=6, deadline=None)
def test_the_budget_is_met_and_no_evaluation_is_one_too_many(
    name, fraction, evaluations, seed, depth
):
    """Law: widths are rungs and fit, and different widths were measured at most `evaluations` times."""
    counted = Counted(lambda widths: true_rise(widths) + 0.3 * (1 - widths.get("block x", 1)))
    problem = toy(fraction, evaluations, seed, evaluate=counted)
    if depth:
        problem = with_block(problem)
    if not problem.fits(problem.least):
        return
    widths = allocate(name, problem)
    assert problem.fits(widths)
    assert all(widths[group] in rungs for group, rungs in problem.rungs.items())
    assert len(counted.calls) == len(set(counted.calls)) <= evaluations


def with_block(problem):
    """The groups b and c lie in a block that can go."""
    cost = problem.cost

    def without(widths):
        gone = widths.get("block x", 1) == 0
        return cost({**widths, "b": 1, "c": 1}) if gone else cost(widths)

    return replace(
        problem,
        rungs={**problem.rungs, "block x": (0, 1)},
        rises={**problem.rises, "block x": (0.3, 0.0)},
        blocks={"block x": ("b", "c")},
        cost=without,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIERS)
def test_an_allocator_is_never_worse_than_its_start(name):
    """For several budgets and seeds the measured rise is at most the uniform allocation's."""
    for fraction, seed in ((0.2, 0), (0.5, 1), (0.8, 2)):
        problem = toy(fraction, 10, seed)
        assert true_rise(allocate(name, problem)) <= true_rise(uniform(problem))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "evaluations", "slack"),
    [("search", 40, 1.5), ("evolutionary", 60, 1.5), ("netadapt", 60, 3.5), ("amc", 40, 1.5)],
)
def test_trying_comes_near_the_optimum(name, evaluations, slack):
    """Where the sums mislead, what is found by trying is near the best there is."""
    problem = toy(0.5, evaluations)
    # The sums say that all groups are alike, so that only what is measured can tell.
    flat = replace(problem, rises=dict.fromkeys(PAINS, tuple((1 - r / 32) ** 2 for r in RUNGS)))
    found = true_rise(allocate(name, flat))
    assert found <= slack * best_rise(problem)
    assert found < 0.5 * true_rise(uniform(problem))


@pytest.mark.slow
def test_the_agent_itself_does_as_well_as_uniform():
    """The best episode, starts left out, is at least as good as the uniform allocation; all fit."""
    seen = Counted()
    problem = toy(0.5, 30, evaluate=seen)
    flat = replace(problem, rises=dict.fromkeys(PAINS, tuple((1 - r / 32) ** 2 for r in RUNGS)))
    allocate("amc", flat)
    looked = [dict(zip(PAINS, widths, strict=True)) for widths in seen.calls]
    assert min(true_rise(widths) for widths in looked[2:]) <= true_rise(uniform(problem))
    assert all(problem.fits(widths) for widths in looked)


@pytest.mark.slow
def test_the_agent_learns_what_is_rewarded():
    """Two steps, rewarded for 0.9 and then 0.2: after some episodes the actor leans that way."""
    agent, rng = Agent(2, seed=0), np.random.default_rng(0)
    states = ([1.0, 0.0], [0.0, 1.0])
    for episode in range(150):
        first, second = (agent.act(state, 0.5, rng) for state in states)
        reward = -((first - 0.9) ** 2) - (second - 0.2) ** 2
        steps = [Step(state=states[0], action=first), Step(state=states[1], action=second)]
        agent.learn(steps, reward, rng, train=episode >= 20)
    first, second = (agent.act(state, 1e-6, rng) for state in states)
    assert first > 0.7
    assert second < 0.4


@given(mean=st.floats(0.0, 1.0), sigma=st.floats(0.005, 0.5), seed=st.integers(0, 99))
def test_an_action_is_drawn_from_a_truncated_normal(mean, sigma, seed):
    """Inverting the distribution function gives what scipy's own gives, always in 0..1."""
    ours = truncated(mean, sigma, float(np.random.default_rng(seed).random()))
    low, high = -mean / sigma, (1.0 - mean) / sigma
    drawn = float(np.random.default_rng(seed).random())
    assert ours == pytest.approx(
        stats.truncnorm.ppf(drawn, low, high, loc=mean, scale=sigma), abs=1e-6
    )
    assert 0.0 <= ours <= 1.0


def test_noise_is_constant_and_then_decays():
    assert [noise(done, 400) for done in (0, 99)] == [0.5, 0.5]
    later = [noise(done, 400) for done in range(100, 401, 100)]
    assert later[0] == 0.5
    assert all(after < before for before, after in itertools.pairwise(later))
    assert later[-1] == pytest.approx(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "evolutionary", "amc", "netadapt"])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_equal_seeds_give_equal_evaluations(name, sampler):
    """The whole sequence of evaluations is a function of the problem and the seed: what lets a run that
    was killed go on from the evaluations that it wrote down.
    """
    if sampler == "nsga2" and name != "search":
        return
    runs = [Counted() for _ in range(2)]
    found = [allocate(name, toy(0.5, 20, 3, sampler, evaluate=run)) for run in runs]
    assert found[0] == found[1]
    assert runs[0].calls == runs[1].calls
    if name in {"search", "evolutionary", "amc"}:
        other = Counted()
        allocate(name, toy(0.5, 20, 4, sampler, evaluate=other))
        assert other.calls != runs[0].calls


def test_nsga2_takes_the_best_that_fits():
    """It looks beyond the budget, too, but what it takes fits and is the best of what it saw."""
    seen = Counted()
    problem = toy(0.5, 60, sampler="nsga2", evaluate=seen)
    found = allocate("search", problem)
    looked = [dict(zip(PAINS, widths, strict=True)) for widths in seen.calls]
    assert any(not problem.fits(widths) for widths in looked)
    assert true_rise(found) == min(true_rise(w) for w in looked if problem.fits(w))


@given(
    levels=st.lists(st.integers(0, 7), min_size=4, max_size=4),
    fraction=st.floats(0.1, 1.0),
    gone=st.booleans(),
)
def test_a_wish_is_brought_onto_the_budget(levels, fraction, gone):
    """Law: the result fits, and no group could be a rung wider."""
    problem = with_block(toy(fraction))
    if not problem.fits(problem.least | {"block x": 0}):
        return
    wish = {name: RUNGS[level] for name, level in zip(PAINS, levels, strict=True)}
    found = onto_budget(problem, wish | {"block x": int(not gone)})
    assert problem.fits(found)
    assert canonical(problem, found) == found
    for name in PAINS:
        wider = [rung for rung in RUNGS if rung > found[name]]
        assert not wider or not problem.fits(found | {name: wider[0]})


@pytest.mark.slow
@given(fraction=st.floats(0.1, 1.0))
def test_global_keeps_what_scores_highest(fraction):
    """Law: it fits, nothing can be widened, and of two groups the one whose channels all score higher
    keeps at least as many, but for the last rung, which goes where it fits.
    """
    problem = toy(fraction)
    if not problem.fits(problem.least):
        return
    widths = allocate("global", problem)
    assert problem.fits(widths)
    for name in PAINS:
        wider = [rung for rung in RUNGS if rung > widths[name]]
        assert not wider or not problem.fits(widths | {name: wider[0]})
    kept = [widths[name] for name in ("a", "c", "b", "d")]
    assert all(more >= fewer - 4 for more, fewer in itertools.pairwise(kept))


def test_global_says_what_it_cannot_do():
    with pytest.raises(CompressionError, match="no importance is known for a, b, c, d"):
        allocate("global", replace(toy(), tries=Tries()))
    problem = with_block(toy(0.5))
    tight = replace(problem, limit=problem.cost(problem.least | {"block x": 1}) - 1)
    with pytest.raises(CompressionError, match="removes no blocks"):
        allocate("global", tight)


@pytest.mark.parametrize("name", TRIERS)
def test_without_anything_to_measure_with_it_is_said(name):
    with pytest.raises(CompressionError, match="nothing was given to measure them with"):
        allocate(name, replace(toy(), evaluate=None))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRIERS, "global"])
def test_several_budgets_are_all_met(name):
    problem = toy(0.6, 20)
    size = Limit(name="params", cost=lambda w: sum(w.values()), most=0.55 * 128)
    both = replace(problem, others=(size,))
    widths = allocate(name, both)
    assert both.fits(widths)
    assert sum(widths.values()) <= 0.55 * 128


def test_every_allocator_is_in_the_table():
    assert {"uniform", "sensitivity", "global", *TRIERS} <= set(ALLOCATORS)


@pytest.mark.parametrize("name", ["search", "evolutionary", "amc"])
@pytest.mark.parametrize("margin", [0.0, 10.0])
def test_a_champion_is_kept_where_it_is_tied(name, margin):
    """With a wide margin the given start is kept although others lose less, without one it is not; a start
    that does not fit is never kept.
    """
    champion, too_wide = {"a": 16, "b": 16, "c": 16, "d": 16}, dict.fromkeys(PAINS, 32)
    problem = toy(0.5, 12)

    def tied(widths, best):
        return true_rise(widths) <= true_rise(best) + margin

    tries = replace(problem.tries, starts=(too_wide, champion), tied=tied)
    found = allocate(name, replace(problem, tries=tries))
    assert (found == champion) == (margin > 0.0)


def test_runs_share_what_is_left():
    """An allocator that may make no evaluation any more falls back on sums, and calls nothing."""
    seen = Counted()
    problem = toy(0.5, 30, evaluate=seen)
    spent = replace(problem, tries=replace(problem.tries, remaining=lambda: 0))
    for name in TRIERS:
        assert problem.fits(allocate(name, spent))
    assert not seen.calls
