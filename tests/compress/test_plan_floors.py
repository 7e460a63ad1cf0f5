"""Floors of a set's members: no plan takes more from one than it may give, or it is refused."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reprune.compress.planning.allocate import Problem, allocate, allocated
from reprune.compress.planning.members import belongs, floors_of, rise_of
from reprune.compress.planning.terms import Term, Terms
from reprune.compress.planning.trying import Tries
from reprune.core.errors import CompressionError, DocumentError
from reprune.core.params import read_params

MEMBERS = ("eye", "nose")


def part(problem: Problem, widths: Mapping[str, int], member: str) -> float:
    return rise_of(problem, {n: w for n, w in widths.items() if belongs(n, member)})


def every(problem: Problem) -> list[dict[str, int]]:
    return [
        dict(zip(problem.rungs, widths, strict=True)) for widths in product(*problem.rungs.values())
    ]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, dict[str, float]]:
    """Two members of one or two groups, whose costs are tables that add up, and one or two floors."""
    rungs, rises, prices = {}, {}, {}
    for member in MEMBERS:
        for number in range(draw(st.integers(1, 2))):
            name = f"{member}.{number}"
            rungs[name] = tuple(range(1, draw(st.integers(2, 5)) + 1))
            count = len(rungs[name]) - 1
            steps = draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count))
            rises[name] = (*(math.fsum(steps[at:]) for at in range(count)), 0.0)
            prices[name] = draw(st.integers(1, 9))
    terms = Terms(
        constant=0.0,
        terms=tuple(
            Term(options=(name,), values={(rung,): float(prices[name] * rung) for rung in found})
            for name, found in rungs.items()
        ),
        full={name: found[-1] for name, found in rungs.items()},
    )
    share = draw(st.floats(0.2, 0.95))
    problem = Problem(rungs=rungs, rises=rises, cost=terms, limit=share * terms({}), terms=terms)
    floors = {
        member: draw(st.floats(0.0, 12.0))
        for member in draw(st.sampled_from([MEMBERS, MEMBERS[:1]]))
    }
    return replace(problem, floors=floors_of(problem, floors)), floors


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(problems())
def test_the_exact_allocator_is_best_among_what_floors_allow(
    made: tuple[Problem, dict[str, float]],
) -> None:
    """Or says that nothing is, exactly where nothing is."""
    problem, floors = made
    fitting = [
        widths
        for widths in every(problem)
        if problem.fits(widths)
        and all(part(problem, widths, one) <= most + 1e-12 for one, most in floors.items())
    ]
    assume(any(problem.fits(widths) for widths in every(problem)))
    if not fitting:
        with pytest.raises(CompressionError, match=r"all limits at once: macs, the floor of"):
            allocate("latency", problem)
        return
    found = allocate("latency", problem)
    assert found in fitting
    best = min(rise_of(problem, widths) for widths in fitting)
    # Ties are broken by less than this.
    assert rise_of(problem, found) <= best + 0.01 * (1.0 + best)


@pytest.mark.parametrize("eye", [1e-300, 1e-49, 1e-12])
def test_a_floor_next_to_nothing_leaves_the_member_whole(eye: float) -> None:
    """In units of such a floor one channel costs more than a solver can compute with."""
    found = allocate("latency", replace(floored(eye=eye), limit=7.0))
    assert found["eye.0"] == 4
    assert found["nose.0"] < 4


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(problems())
def test_greedy_search_never_falls_below_a_floor(made: tuple[Problem, dict[str, float]]) -> None:
    """What it refuses may have been possible, but only with floors that leave little room."""
    problem, floors = made
    assume(any(problem.fits(widths) for widths in every(problem)))
    found = None
    with contextlib.suppress(CompressionError):
        found = allocate("sensitivity", problem)
    assume(found is not None)
    assert found is not None
    assert problem.fits(found)
    for member, most in floors.items():
        assert part(problem, found, member) <= most * (1.0 + 1e-9)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(problems())
def test_floors_that_do_not_bind_change_nothing(made: tuple[Problem, dict[str, float]]) -> None:
    problem, _ = made
    assume(any(problem.fits(widths) for widths in every(problem)))
    free = replace(problem, floors=())
    wide = replace(problem, floors=floors_of(free, dict.fromkeys(MEMBERS, 1e6)))
    assert allocate("sensitivity", wide) == allocate("sensitivity", free)


def tight() -> Problem:
    """An eye that gives nothing away and a nose that can; without a floor the eye is cut."""
    rungs = {"eye.0": (1, 2, 3, 4), "nose.0": (1, 2, 3, 4)}
    terms = Terms(
        constant=0.0,
        terms=tuple(
            Term(options=(name,), values={(rung,): float(rung) for rung in found})
            for name, found in rungs.items()
        ),
        full=dict.fromkeys(rungs, 4),
    )
    rises = {"eye.0": (0.9, 0.6, 0.3, 0.0), "nose.0": (4.0, 1.5, 0.5, 0.0)}
    return Problem(rungs=rungs, rises=rises, cost=terms, limit=5.0, terms=terms)


def floored(**floors: float) -> Problem:
    return replace(tight(), floors=floors_of(tight(), floors))


@pytest.mark.parametrize("name", ["sensitivity", "latency"])
def test_a_floor_moves_the_cut_to_the_others(name: str) -> None:
    assert allocate(name, tight()) == {"eye.0": 1, "nose.0": 4}
    assert allocate(name, floored(eye=0.6)) == {"eye.0": 2, "nose.0": 3}
    assert allocate(name, floored(eye=0.3)) == {"eye.0": 3, "nose.0": 2}
    assert allocate(name, floored(nose=0.0)) == {"eye.0": 1, "nose.0": 4}


def test_floors_that_leave_no_plan_are_named() -> None:
    with pytest.raises(CompressionError, match=r"floors of eye \(0.3\), nose \(0.5\)"):
        allocate("sensitivity", floored(eye=0.3, nose=0.5))
    with pytest.raises(CompressionError, match=r"macs, the floor of eye, the floor of nose"):
        allocated("latency", floored(eye=0.3, nose=0.5))


def test_an_allocator_that_knows_no_floors_is_refused_where_it_falls_below_one() -> None:
    assert allocate("uniform", floored(eye=0.6)) == {"eye.0": 2, "nose.0": 2}
    with pytest.raises(CompressionError, match="'uniform' takes more from eye"):
        allocate("uniform", floored(eye=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "amc", "evolutionary", "netadapt"])
def test_allocators_that_try_keep_to_floors(name: str) -> None:
    """Of what they look at, only what the floors allow is taken, whatever it measures."""

    def measured(widths: Mapping[str, int]) -> float:
        return 0.1 * (4 - widths["eye.0"]) + (4 - widths["nose.0"])

    tries = Tries(seed=3, evaluations=12)
    free = replace(tight(), evaluate=measured, tries=tries)
    assert allocate(name, free) == {"eye.0": 1, "nose.0": 4}
    bound = replace(floored(eye=0.3), evaluate=measured, tries=tries)
    assert allocate(name, bound) == {"eye.0": 3, "nose.0": 2}


@pytest.mark.parametrize(
    ("members", "plan", "wrong"),
    [
        ({"eye": "e", "nose": "n"}, {"floors": {"eye": 0.5}}, ""),
        ({"eye": "e", "nose": "n"}, {"floors": {"ey": 0.5}}, "no member 'ey'"),
        (None, {"floors": {"eye": 0.5}}, "this is no set"),
        ({"eye": "e"}, {"floors": {"eye": 0.5}, "method": "weights"}, "does not read plan.floors"),
        ({"eye": "e"}, {"floors": {"eye": -0.5}}, "floors"),
    ],
)
def test_floors_name_members_of_the_set(
    tmp_path: Path, members: dict[str, str] | None, plan: dict[str, object], wrong: str
) -> None:
    raw = {"name": "face", "task": "t:T", "plan": plan} | ({"members": members} if members else {})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    if not wrong:
        assert read_params(tmp_path / "params.yaml").plan.floors == {"eye": 0.5}
        return
    with pytest.raises(DocumentError, match=wrong):
        read_params(tmp_path / "params.yaml")
