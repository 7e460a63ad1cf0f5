"""Allocators meet their budget with allowed widths, and sensitivity is worth its measurements."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.compress.planning import allocate as allocate_module
from reprune.compress.planning.allocate import Problem, allocate, ladder, uniform
from reprune.compress.planning.curves import fit_curve
from reprune.compress.planning.local_search import TIE_BREAK, by_sensitivity
from reprune.core.artifacts import CutPoint
from reprune.core.errors import CompressionError, UnknownName


def chain(coefficients: list[int], names: list[str]):
    """The cost of a chain of layers: each one the product of the groups on its two sides."""

    def cost(widths):
        sizes = [3, *(widths[name] for name in names), 10]
        return sum(
            c * a * b for c, (a, b) in zip(coefficients, itertools.pairwise(sizes), strict=True)
        )

    return cost


@st.composite
def problems(draw, max_groups=4, max_width=64):
    count = draw(st.integers(1, max_groups))
    names = [f"g{index}" for index in range(count)]
    round_to = draw(st.sampled_from([1, 4, 8]))
    min_keep = draw(st.sampled_from([0.125, 0.25]))
    rungs, rises = {}, {}
    for name in names:
        width = draw(st.integers(round_to, max_width // (4 if round_to == 1 else 1)))
        rungs[name] = ladder(width, round_to=round_to, min_keep=min_keep)
        points = draw(st.lists(st.tuples(st.integers(1, width), st.floats(-0.1, 3.0)), max_size=4))
        cuts = [
            CutPoint(keep=keep, loss_increase=rise, standard_error=0.01, macs=0, params=0)
            for keep, rise in dict(points).items()
        ]
        curve = fit_curve(width, cuts)
        rises[name] = tuple(curve.at(keep) for keep in rungs[name])
    coefficients = draw(st.lists(st.integers(1, 50), min_size=count + 1, max_size=count + 1))
    cost = chain(coefficients, names)
    dense = cost({name: rungs[name][-1] for name in names})
    return Problem(rungs=rungs, rises=rises, cost=cost, limit=draw(st.floats(0.05, 1.0)) * dense)


def rise_of(problem: Problem, widths) -> float:
    return sum(
        problem.rises[name][rungs.index(widths[name])] for name, rungs in problem.rungs.items()
    )


def exhaustive(problem: Problem) -> float:
    """The least rise that any allowed widths have: the oracle for small problems."""
    return min(
        rise_of(problem, widths)
        for chosen in itertools.product(*problem.rungs.values())
        if problem.fits(widths := dict(zip(problem.rungs, chosen, strict=True)))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniform", "sensitivity"])
@given(problem=problems())
def test_an_allocation_meets_its_budget_with_allowed_widths(name, problem):
    """Every allocator's widths are rungs and fit the limit, or it says what can be reached."""
    if not problem.fits(problem.least):
        smallest = problem.cost(problem.least) / problem.cost(problem.full)
        with pytest.raises(CompressionError, match=f"{smallest:.4f}"):
            allocate(name, problem)
        return
    widths = allocate(name, problem)
    assert set(widths) == set(problem.rungs)
    assert all(widths[group] in rungs for group, rungs in problem.rungs.items())
    assert problem.cost(widths) <= problem.limit


@given(width=st.integers(1, 300), round_to=st.integers(1, 64), min_keep=st.floats(0.01, 1.0))
def test_a_ladder_is_aligned_and_bounded(width, round_to, min_keep):
    """Widths are multiples of round_to between the least share and the width, or the width itself."""
    rungs = ladder(width, round_to=round_to, min_keep=min_keep)
    assert list(rungs) == sorted(set(rungs))
    assert rungs[-1] == width
    for rung in rungs[:-1]:
        assert rung % round_to == 0
        assert max(round_to, min_keep * width) <= rung + 1e-9
        assert 0 < rung < width


@pytest.mark.slow
@given(problem=problems(), share=st.floats(1.0, 3.0))
def test_a_larger_budget_never_narrows_the_uniform_allocation(problem, share):
    """Uniform is monotone in its budget, group by group."""
    if not problem.fits(problem.least):
        return
    more = Problem(
        rungs=problem.rungs,
        rises=problem.rises,
        cost=problem.cost,
        limit=problem.limit * share,
    )
    tight, loose = uniform(problem), uniform(more)
    assert all(tight[name] <= loose[name] for name in tight)


@pytest.mark.slow
@given(problem=problems())
def test_sensitivity_never_predicts_more_loss_than_uniform(problem):
    """At the same budget its prediction is at most uniform's, but for the tie-break's thousandth."""
    if not problem.fits(problem.least):
        return
    scale = max(rises[0] for rises in problem.rises.values())
    slack = TIE_BREAK * scale * len(problem.rungs) + 1e-9
    assert rise_of(problem, by_sensitivity(problem)) <= rise_of(problem, uniform(problem)) + slack


@pytest.mark.slow
@given(problem=problems())
def test_no_group_can_be_widened_for_less_loss(problem):
    """What the last cut left of the budget is spent: one rung more anywhere gains nothing or is too dear."""
    if not problem.fits(problem.least):
        return
    widths = by_sensitivity(problem)
    for name, rungs in problem.rungs.items():
        level = rungs.index(widths[name])
        rises = problem.rises[name]
        if level + 1 < len(rungs) and rises[level + 1] < rises[level] - 1e-9:
            assert not problem.fits(widths | {name: rungs[level + 1]})


@settings(max_examples=60)
@given(problem=problems(max_groups=3, max_width=40))
def test_sensitivity_is_near_the_exhaustive_optimum(problem):
    """On problems small enough to enumerate it comes within a tenth of the curves' range."""
    if not problem.fits(problem.least):
        return
    scale = max(rises[0] for rises in problem.rises.values())
    assert rise_of(problem, by_sensitivity(problem)) <= exhaustive(problem) + 0.1 * scale + 1e-9


def test_sensitivity_spends_the_budget_where_cuts_cost_nothing():
    """With one robust and one fragile group of equal cost, only the robust one is cut."""
    rungs = {name: ladder(64, round_to=8, min_keep=0.125) for name in ("robust", "fragile")}
    rises = {
        "robust": tuple(0.01 * (64 - keep) / 64 for keep in rungs["robust"]),
        "fragile": tuple(2.0 * (64 - keep) / 64 for keep in rungs["fragile"]),
    }
    problem = Problem(rungs=rungs, rises=rises, cost=lambda w: float(sum(w.values())), limit=80.0)
    assert allocate("sensitivity", problem) == {"robust": 16, "fragile": 64}
    assert allocate("uniform", problem) == {"robust": 40, "fragile": 40}


def test_cuts_that_cost_nothing_measurable_are_spread_evenly():
    """Where every increase is zero, no group is emptied while another stays whole."""
    rungs = {name: ladder(64, round_to=8, min_keep=0.125) for name in "abcd"}
    rises = {name: (0.0,) * len(rungs[name]) for name in "abcd"}
    problem = Problem(rungs=rungs, rises=rises, cost=lambda w: float(sum(w.values())), limit=128.0)
    assert set(allocate("sensitivity", problem).values()) == {32}


def test_a_shoulder_behind_a_bump_is_found():
    """A deep cut that is cheap for its saving is taken although the first step is dear."""
    rungs = {"step": (8, 16, 24, 32), "line": (8, 16, 24, 32)}
    rises = {"step": (1.0, 0.98, 0.96, 0.0), "line": (2.4, 1.6, 0.8, 0.0)}
    problem = Problem(rungs=rungs, rises=rises, cost=lambda w: float(sum(w.values())), limit=40.0)
    assert allocate("sensitivity", problem) == {"step": 8, "line": 32}


def test_a_group_narrower_than_the_alignment_stays_whole():
    """A group that has no aligned width keeps all of its channels; it is never emptied."""
    assert ladder(6, round_to=8, min_keep=0.125) == (6,)
    assert ladder(12, round_to=8, min_keep=0.125) == (8, 12)
    assert ladder(32, round_to=8, min_keep=0.3) == (16, 24, 32)


def test_an_unknown_allocator_is_answered_with_the_known_ones():
    """A typo in params.yaml names what there is."""
    problem = Problem(rungs={"a": (8, 16)}, rises={"a": (1.0, 0.0)}, cost=lambda w: 1.0, limit=2.0)
    with pytest.raises(UnknownName, match="sensitivity"):
        allocate("sensitivty", problem)


def test_an_allocator_that_breaks_its_problem_is_refused(monkeypatch):
    """A third party's allocator can neither invent widths nor exceed the budget."""
    rungs = {"a": (8, 16)}
    problem = Problem(rungs=rungs, rises={"a": (1.0, 0.0)}, cost=lambda w: w["a"], limit=8.0)
    for answer, complaint in (({"a": 12}, "allowed: 8, 16"), ({"a": 16}, "exceeded")):
        monkeypatch.setattr(allocate_module, "uniform", lambda _, answer=answer: answer)
        with pytest.raises(CompressionError, match=complaint):
            allocate("uniform", problem)


measured = st.lists(
    st.tuples(st.integers(1, 63), st.floats(-1.0, 5.0), st.floats(0.0, 1.0)),
    max_size=8,
    unique_by=lambda point: point[0],
)


@given(points=measured)
def test_a_fitted_curve_never_rises_with_width_and_ends_at_zero(points):
    """However noisy the measurements, more channels never predict more loss, and all of them none."""
    curve = fit_curve(64, [cut(*point) for point in points])
    values = [curve.at(keep) for keep in range(1, 65)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] == 0.0
    assert min(values) >= 0.0
    assert all(math.isfinite(value) for value in values)


def test_a_curve_that_is_already_monotone_is_kept_and_interpolated():
    """Clean measurements are reproduced, and widths between them lie on the line."""
    curve = fit_curve(64, [cut(16, 1.2, 0.1), cut(32, 0.4, 0.1), cut(48, 0.1, 0.1)])
    assert [curve.at(keep) for keep in (16, 32, 48, 64)] == pytest.approx([1.2, 0.4, 0.1, 0.0])
    assert curve.at(40) == pytest.approx(0.25)
    # Below what was measured, the steepest slope (0.8 over 16 channels) goes on.
    assert curve.at(8) == pytest.approx(1.6)
    assert curve.error_at(40) == pytest.approx(0.1)


def test_an_uncertain_point_yields_to_a_certain_one():
    """Two measurements that contradict each other meet nearer to the one with the smaller error."""
    curve = fit_curve(64, [cut(16, 0.2, 1.0), cut(32, 0.6, 0.1)])
    assert curve.at(16) == curve.at(32) == pytest.approx((0.2 + 0.6 * 100) / 101)


def cut(keep: int, rise: float, error: float) -> CutPoint:
    return CutPoint(keep=keep, loss_increase=rise, standard_error=error, macs=0, params=0)
