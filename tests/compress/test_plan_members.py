"""What members of a set give up: the parts add up; a shared budget is no worse than an equal split."""

from __future__ import annotations

import math
from itertools import product

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reprune.compress.planning.allocate import Problem, allocate
from reprune.compress.planning.members import SHARES, belongs, equal_split, member_shares, rise_of
from reprune.core.errors import CompressionError

MEMBERS = ("eye", "nose")


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, dict[str, float]]:
    """Two members of one or two groups, whose costs add up; and what each member costs."""
    rungs, rises, prices = {}, {}, {}
    for member in MEMBERS:
        for number in range(draw(st.integers(1, 2))):
            name = f"{member}.{number}"
            rungs[name] = tuple(range(1, draw(st.integers(2, 4)) + 1))
            steps = draw(
                st.lists(
                    st.floats(0, 10), min_size=len(rungs[name]) - 1, max_size=len(rungs[name]) - 1
                )
            )
            rises[name] = (*(math.fsum(steps[at:]) for at in range(len(steps))), 0.0)
            prices[name] = draw(st.integers(1, 9))

    def cost(widths: object) -> float:
        assert isinstance(widths, dict)
        return float(sum(prices[name] * widths.get(name, rungs[name][-1]) for name in rungs))

    share = draw(st.sampled_from(SHARES))
    own = {
        member: float(sum(prices[n] * rungs[n][-1] for n in rungs if belongs(n, member)))
        for member in MEMBERS
    }
    return Problem(rungs=rungs, rises=rises, cost=cost, limit=share * cost({}) + 1e-9), own


@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_parts_of_the_members_are_the_whole(made: tuple[Problem, dict[str, float]]) -> None:
    """Of cost and of predicted rise; and each member's curve falls as more of it is left."""
    problem, own = made
    try:
        chosen = allocate("sensitivity", problem)
    except CompressionError:
        assume(False)
    shares = member_shares(problem, chosen, own)
    left = sum(own[member] * share.left for member, share in shares.items())
    assert math.isclose(left, problem.cost(chosen), abs_tol=1e-6)
    whole = sum(problem.rises[n][problem.rungs[n].index(w)] for n, w in chosen.items())
    assert math.isclose(sum(share.rise for share in shares.values()), whole, abs_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_a_shared_budget_is_no_worse_than_an_equal_split(
    made: tuple[Problem, dict[str, float]],
) -> None:
    """Every equal split is one of the ways to share, and keeps to the budget of all."""
    problem, own = made
    share = (problem.limit - 1e-9) / problem.cost({})
    equal = equal_split(problem, own, share)
    assume(equal is not None)
    assert equal is not None
    assert problem.fits(equal)
    split = rise_of(problem, equal)
    ways = (
        dict(zip(problem.rungs, widths, strict=True)) for widths in product(*problem.rungs.values())
    )
    best = min(
        math.fsum(problem.rises[name][problem.rungs[name].index(w)] for name, w in way.items())
        for way in ways
        if problem.fits(way)
    )
    assert best <= split + 1e-9


def test_a_block_belongs_to_the_member_that_it_lies_in() -> None:
    assert belongs("eye.0", "eye")
    assert belongs("block eye.layer", "eye")
    assert not belongs("eyebrow.0", "eye")
    assert not belongs("block nose.layer", "eye")
