"""What each member of a set gives up for the shared budget, and what an equal share for each would cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reprune.compress.planning.allocate import Limit, Problem, Widths, allocate
from reprune.compress.planning.terms import Term, Terms
from reprune.core.artifacts import LayerProfile, block_key
from reprune.core.errors import CompressionError

ROUNDING = 1e-12
# The shares of a member's own cost at which its predicted loss is told.
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True, kw_only=True)
class MemberShare:
    """One member under the shared budget: the share of its own cost that is left, the predicted rise in the
    set's loss by its cuts, and that rise if it alone were cut to each share; None where it cannot be.
    """

    left: float
    rise: float
    curve: Mapping[float, float | None]


def timed(problem: Problem, terms: Terms) -> Problem:
    """The same choice with latency as its cost; `terms` are of the whole model where nothing is given."""
    whole = terms({})
    return replace(problem, cost=terms, limit=whole, terms=terms, dense=whole, unit="latency")


def belongs(option: str, member: str) -> bool:
    """Whether a group or a block's key lies in the member's part of the model, or is all of it: a member may
    be one layer.
    """
    return option == member or option.startswith((f"{member}.", block_key(f"{member}.")))


def own_costs(layers: Sequence[LayerProfile], members: Sequence[str]) -> dict[str, int]:
    """The MACs of each member's layers in the dense model."""
    return {
        member: sum(layer.macs for layer in layers if belongs(layer.layer, member))
        for member in members
    }


def floors_of(problem: Problem, floors: Mapping[str, float]) -> tuple[Limit, ...]:
    """A limit for each member in `floors`: what its cuts are predicted to add to the set's loss."""
    return tuple(_floor(problem, member, most) for member, most in floors.items())


def _floor(problem: Problem, member: str, most: float) -> Limit:
    mine = {name: rungs for name, rungs in problem.rungs.items() if belongs(name, member)}

    def rise(widths: Widths) -> float:
        return rise_of(problem, {name: width for name, width in widths.items() if name in mine})

    terms = Terms(
        constant=0.0,
        terms=tuple(
            Term(
                options=(name,),
                values={
                    (rung,): value for rung, value in zip(rungs, problem.rises[name], strict=True)
                },
            )
            for name, rungs in mine.items()
        ),
        full={name: rungs[-1] for name, rungs in problem.rungs.items()},
    )
    # A sum in another order must not miss a floor that is met exactly.
    return Limit(name=member, cost=rise, most=most * (1.0 + ROUNDING), terms=terms)


def member_shares(
    problem: Problem, chosen: Widths, own: Mapping[str, float]
) -> dict[str, MemberShare]:
    """Each member's part in `chosen`; `own` is what each costs in the dense model, in the problem's unit."""
    found = {}
    for member, cost in own.items():
        mine = {name: width for name, width in chosen.items() if belongs(name, member)}
        found[member] = MemberShare(
            left=left_of(problem, mine, cost),
            rise=rise_of(problem, mine),
            curve={share: _rise_alone(problem, member, cost, share) for share in SHARES},
        )
    return found


def left_of(problem: Problem, widths: Widths, own: float) -> float:
    """The share that is left with these widths, and nothing else cut, of what costs `own` whole."""
    saved = problem.cost({}) - problem.cost(widths)
    return 1.0 - saved / own if own else 1.0


def equal_split(problem: Problem, own: Mapping[str, float], share: float) -> dict[str, int] | None:
    """Widths with every member cut to the same share of its own cost, each as well as it can be; None where
    one cannot.
    """
    parts = [_alone(problem, member, cost, share) for member, cost in own.items()]
    widths: dict[str, int] = {}
    for part in parts:
        if part is None:
            return None
        widths |= part
    return widths


def rise_of(problem: Problem, widths: Widths) -> float:
    """The predicted rise with these widths, the other groups whole."""
    gone = {
        name
        for block, inside in problem.blocks.items()
        if widths.get(block) == 0
        for name in inside
    }
    return math.fsum(
        problem.rises[name][problem.rungs[name].index(width)]
        for name, width in widths.items()
        if name not in gone
    )


def _rise_alone(problem: Problem, member: str, own: float, share: float) -> float | None:
    widths = _alone(problem, member, own, share) if own else None
    return None if widths is None else rise_of(problem, widths)


def _alone(problem: Problem, member: str, own: float, share: float) -> dict[str, int] | None:
    """The widths with the least predicted rise that cut this member alone to `share` of what it costs; proven
    to be that where the cost is in tables that link few options.
    """
    rungs = {name: each for name, each in problem.rungs.items() if belongs(name, member)}
    if not rungs:
        return None
    single = Problem(
        rungs=rungs,
        rises={name: problem.rises[name] for name in rungs},
        cost=problem.cost,
        limit=(problem.cost({}) - (1.0 - share) * own) * (1.0 + ROUNDING),
        terms=problem.terms,
        blocks={name: inside for name, inside in problem.blocks.items() if name in rungs},
    )
    try:
        return allocate(_allocator(single), single)
    except CompressionError:
        return None


def _allocator(problem: Problem) -> str:
    """Time falls in stairs, on which a search that only narrows may get stuck; but an integer programme for
    each point of each curve would take too long.
    """
    from reprune.compress.planning.exact import cheapest

    linked = problem.terms is None or cheapest(problem, problem.limits[0]) is None
    return "sensitivity" if linked else "latency"
