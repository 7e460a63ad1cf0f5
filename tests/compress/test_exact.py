"""The allocator that proves its answer, against every combination there is."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.compress.planning import elimination, exact
from reprune.compress.planning.allocate import Allocated, Limit, Problem, allocate, allocated
from reprune.compress.planning.local_search import tie_broken
from reprune.compress.planning.terms import Term, Terms
from reprune.core.errors import CompressionError

SHAPES = {
    "chain": [("a",), ("a", "b"), ("b", "c"), ("c", "d")],
    "shared": [("s", "a"), ("s", "b"), ("s", "c"), ("s", "d", "a")],
    "ring": [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")],
    "block": [("a", "block x", "s"), ("s", "b"), ("s",), ("c", "block x")],
    "apart": [("a",), ("b",), ("c", "d")],
}


def terms_over(rungs, shape, values) -> Terms:
    """Tables with these values, one after the other; with the block gone its tables are 0."""
    value = iter(values)
    tables = []
    for options in shape:
        table = {}
        for key in itertools.product(*(rungs[name] for name in options)):
            gone = any(n == "block x" and w == 0 for n, w in zip(options, key, strict=True))
            table[key] = 0.0 if gone else next(value)
        tables.append(Term(options=options, values=table))
    full = {name: widths[-1] for name, widths in rungs.items()}
    return Terms(constant=next(value), terms=tuple(tables), full=full)


@st.composite
def problems(draw, limits=1, rising=False):
    """Costs of any sign and no order (or never falling, as MACs), rises that fall to 0."""
    shape = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    names = sorted({name for options in shape for name in options})
    rungs, rises = {}, {}
    for name in names:
        count = draw(st.integers(1, 3))
        rungs[name] = (0, 1) if name == "block x" else (2, 4, 7, 8)[-count:]
        steps = [draw(st.sampled_from([0.0, 0.1, 0.35, 1.0, 1.02, 2.5])) for _ in rungs[name][1:]]
        rises[name] = tuple(math.fsum(steps[index:]) for index in range(len(steps) + 1))
    found = []
    for number in range(limits):
        whole = draw(st.booleans())
        drawn = draw(st.lists(st.integers(1 if rising else -9, 40), min_size=90, max_size=90))
        terms = terms_over(rungs, shape, [v if whole else v / 7.0 for v in drawn])
        if rising:
            terms = accumulated(terms, rungs)
        every = [terms(widths) for widths in combinations(rungs)]
        share = draw(st.floats(0.0, 1.0))
        most = min(every) + share * (max(every) - min(every))
        found.append(Limit(name=f"unit{number}", cost=terms, most=most, terms=terms))
    first, *others = found
    return Problem(
        rungs=rungs,
        rises=rises,
        cost=first.cost,
        limit=first.most,
        terms=first.terms,
        unit=first.name,
        others=tuple(others),
        blocks={"block x": ("a", "c")} if "block x" in rungs else {},
    )


def accumulated(terms: Terms, rungs) -> Terms:
    """Tables in which wider never costs less."""
    tables = []
    for term in terms.terms:
        shape = [len(rungs[name]) for name in term.options]
        table = np.array(list(term.values.values())).reshape(shape)
        for axis in range(table.ndim):
            table = np.maximum.accumulate(table, axis=axis)
        values = dict(zip(term.values, (float(v) for v in table.ravel()), strict=True))
        tables.append(Term(options=term.options, values=values))
    return Terms(constant=terms.constant, terms=tuple(tables), full=terms.full)


def combinations(rungs):
    for chosen in itertools.product(*rungs.values()):
        yield dict(zip(rungs, chosen, strict=True))


def rise_of(problem: Problem, widths) -> float:
    return math.fsum(
        loss[rungs.index(widths[name])]
        for (name, rungs), loss in zip(problem.rungs.items(), tie_broken(problem), strict=True)
    )


def best_of_all(problem: Problem) -> float | None:
    fitting = [rise_of(problem, w) for w in combinations(problem.rungs) if problem.fits(w)]
    return min(fitting, default=None)


def close(found: float, best: float) -> bool:
    return found == pytest.approx(best, rel=1e-6, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_elimination_finds_the_best_of_all_combinations(problem):
    """Chains, rings, shared widths, blocks; costs that fall where a group is widened, and below 0."""
    answer = exact.by_exact(problem)
    assert problem.fits(answer.widths)
    assert answer.gap == 0.0
    assert close(rise_of(problem, answer.widths), best_of_all(problem))


def test_elimination_finds_what_no_multiplier_does():
    """Over many fine steps the best answer lies off the hull: greedy fillings miss it, labels do not."""
    drawn = np.random.default_rng(1)
    names = [f"g{number}" for number in range(5)]
    rungs = dict.fromkeys(names, (2, 4, 6, 8))
    for _ in range(12):
        steps = drawn.exponential(1.0, (5, 3))
        rises = {
            name: (*np.cumsum(row[::-1])[::-1].tolist(), 0.0)
            for name, row in zip(names, steps, strict=True)
        }
        tables = tuple(
            Term(
                options=pair,
                values={
                    (a, b): float(weight * a * b)
                    for a, b in itertools.product(rungs[pair[0]], rungs[pair[1]])
                },
            )
            for pair, weight in zip(
                itertools.pairwise(names), drawn.integers(1, 60, 4).tolist(), strict=True
            )
        )
        cost = Terms(constant=0.0, terms=tables, full=dict.fromkeys(names, 8))
        problem = Problem(rungs=rungs, rises=rises, cost=cost, limit=0.45 * cost({}), terms=cost)
        answer = exact.by_exact(problem)
        assert answer.gap == 0.0
        assert close(rise_of(problem, answer.widths), best_of_all(problem))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(problem=problems(limits=2))
def test_integer_programming_finds_the_best_of_all_combinations(problem):
    """Several limits at once; where none fit all of them, that is proven and said."""
    best = best_of_all(problem)
    if best is None:
        with pytest.raises(CompressionError, match="unit0, unit1"):
            exact.by_exact(problem)
        return
    answer = exact.by_exact(problem)
    assert problem.fits(answer.widths)
    assert answer.gap == 0.0
    assert close(rise_of(problem, answer.widths), best)


@settings(max_examples=20, deadline=None)
@given(problem=problems())
def test_both_ways_agree(problem):
    """What elimination finds integer programming finds too, where the tables would be too wide."""
    by_tree = exact.by_exact(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "MOST_ENTRIES", 0)
        by_programme = exact.by_exact(problem)
    assert by_programme.gap == 0.0
    assert close(rise_of(problem, by_programme.widths), rise_of(problem, by_tree.widths))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(problem=problems(rising=True), more=st.floats(1.0, 2.0))
def test_more_budget_never_predicts_more_loss(problem, more):
    """And it is never worse than the other allocators at the same budget."""
    widths = exact.by_exact(problem).widths
    wider = exact.by_exact(replace(problem, limit=problem.limit * more)).widths
    assert rise_of(problem, wider) <= rise_of(problem, widths) + 1e-12
    for rival in ("uniform", "sensitivity"):
        with contextlib.suppress(CompressionError):  # uniform removes no block
            other = allocate(rival, problem)
            assert rise_of(problem, widths) <= rise_of(problem, other) + 1e-12


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(problem=problems(limits=2, rising=True))
def test_the_search_meets_several_limits_too(problem):
    """by_sensitivity and uniform keep every limit, and the proven answer is no worse."""
    if not problem.fits(problem.least):
        with pytest.raises(CompressionError, match="smallest reachable"):
            allocate("sensitivity", problem)
        return
    best = rise_of(problem, allocate("latency", problem))
    searched = allocate("sensitivity", problem)
    assert problem.fits(searched)
    assert best <= rise_of(problem, searched) * (1 + 1e-6) + 1e-9


def test_a_staircase_is_seen_by_the_exact_allocator_alone():
    """Where narrower is dearer (31 channels against 32), a search that trusts order says so."""
    cost = Terms(
        constant=0.0,
        terms=(Term(options=("a",), values={(8,): 50.0, (16,): 20.0, (32,): 30.0}),),
        full={"a": 32},
    )
    problem = Problem(
        rungs={"a": (8, 16, 32)},
        rises={"a": (1.0, 0.9, 0.0)},
        cost=cost,
        limit=25.0,
        terms=cost,
        unit="latency@cpu",
    )
    assert allocated("latency", problem) == Allocated(widths={"a": 16}, gap=0.0)
    with pytest.raises(CompressionError, match=r"set plan\.allocator to latency"):
        allocate("sensitivity", problem)
    with pytest.raises(CompressionError, match=r"smallest reachable fraction is 0\.6667"):
        allocate("latency", replace(problem, limit=19.0))


def test_what_fits_only_within_the_solvers_tolerance_does_not_fit():
    """An integer programme takes 1e-9 too much for enough; the plan does not, and is still proven."""
    full = {"a": 8, "b": 8}
    tables = (
        Term(options=("a",), values={(4,): 1.0, (8,): 2.0}),
        Term(options=("b",), values={(4,): 1.0, (8,): 2.0}),
    )
    cost = Terms(constant=0.0, terms=tables, full=full)
    problem = Problem(
        rungs={"a": (4, 8), "b": (4, 8)},
        rises={"a": (1.0, 0.0), "b": (2.0, 0.0)},
        cost=cost,
        limit=3.0 - 1e-9,
        terms=cost,
        others=(Limit(name="two", cost=cost, most=3.5, terms=cost),),
    )
    assert allocated("latency", problem) == Allocated(widths={"a": 4, "b": 4}, gap=0.0)
    enough = replace(problem, limit=3.0)
    assert allocated("latency", enough) == Allocated(widths={"a": 4, "b": 8}, gap=0.0)


def test_a_search_that_floors_stop_takes_nothing_from_what_was_proven(monkeypatch):
    """It takes the cut that is cheaper by what it saves, and the floor has no room for the other then."""
    full = {"eye.a": 2, "eye.b": 2}
    cost = Terms(
        constant=0.0,
        terms=(
            Term(options=("eye.a",), values={(1,): 40.0, (2,): 100.0}),
            Term(options=("eye.b",), values={(1,): 1.0, (2,): 100.0}),
        ),
        full=full,
    )
    lost = Terms(
        constant=0.0,
        terms=(
            Term(options=("eye.a",), values={(1,): 0.06, (2,): 0.0}),
            Term(options=("eye.b",), values={(1,): 0.1, (2,): 0.0}),
        ),
        full=full,
    )
    problem = Problem(
        rungs={"eye.a": (1, 2), "eye.b": (1, 2)},
        rises={"eye.a": (0.06, 0.0), "eye.b": (0.1, 0.0)},
        cost=cost,
        limit=105.0,
        terms=cost,
        floors=(Limit(name="eye", cost=lost, most=0.11, terms=lost),),
    )
    with pytest.raises(CompressionError, match="floor"):
        allocate("sensitivity", problem)
    solve = exact.programmed
    # As where the solver's time is up before its bound is there.
    monkeypatch.setattr(
        exact, "programmed", lambda *given: replace(solve(*given), bound=solve(*given).bound - 0.01)
    )
    answer = allocated("latency", problem)
    assert answer.widths == {"eye.a": 2, "eye.b": 1}
    assert answer.gap == pytest.approx(0.1, abs=1e-3)


def test_a_cost_that_is_only_a_function_is_refused():
    """Nothing is proven about a cost that cannot be looked into."""
    problem = Problem(rungs={"a": (1, 2)}, rises={"a": (1.0, 0.0)}, cost=lambda w: w["a"], limit=1)
    with pytest.raises(CompressionError, match="sum of tables"):
        allocate("latency", problem)
