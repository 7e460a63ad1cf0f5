"""How many channels each group keeps under a budget: allocators, by name.

The core is pure: it knows widths, what each width costs in loss, and a cost function of all widths
together. The cost need not be a sum over groups (a layer between two groups costs their product);
it only must not fall when a group is widened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

from reprune.compress.planning.terms import Terms
from reprune.compress.planning.trying import Tries
from reprune.core.errors import CompressionError
from reprune.core.plugins import lookup

Widths: TypeAlias = Mapping[str, int]
Allocator: TypeAlias = "Callable[[Problem], dict[str, int] | Allocated]"

ALLOCATORS: Mapping[str, str] = {
    "uniform": "reprune.compress.planning.allocate:uniform",
    "sensitivity": "reprune.compress.planning.local_search:by_sensitivity",
    "global": "reprune.compress.planning.by_threshold:by_threshold",
    "search": "reprune.compress.planning.optuna_search:by_search",
    "amc": "reprune.compress.planning.amc:by_agent",
    "evolutionary": "reprune.compress.planning.evolution:by_evolution",
    "netadapt": "reprune.compress.planning.netadapt:by_adaptation",
    "latency": "reprune.compress.planning.exact:by_exact",
}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One budget: `cost` must not exceed `most`. `name` is its unit as people read it ("macs",
    "latency@cpu"). `terms`, where they are known, are the same cost as a sum of small tables, and
    `dense` is what the whole model costs where that differs from all groups at their last rung.
    """

    name: str
    cost: Callable[[Widths], float]
    most: float
    terms: Terms | None = None
    dense: float | None = None

    def fits(self, widths: Widths) -> bool:
        return self.cost(widths) <= self.most

    def share(self, widths: Widths) -> float:
        """The cost over the whole model's, where that is known; else the cost."""
        return self.cost(widths) / (self.dense or 1.0)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`rungs` are the widths that a group may have, rising, the last one its full width; `rises` is
    the predicted loss increase at each rung (falling to 0). `cost` must not exceed `limit`.

    `blocks` are the options among them that are whole blocks (rungs 0 and 1), each with the groups
    inside it: where a block is gone, the widths of those change neither cost nor loss.
    `terms`, where they are known, are `cost` as a sum of small tables, `dense` is the whole model's, and
    `others` are the budgets beside it (see Limit). `floors` bound parts of the predicted rise, which grow as
    groups are cut. `evaluate`, for allocators that try, measures the loss increase of a joint cut on
    tune; `tries` says how often, and what else such allocators may know.
    """

    rungs: Mapping[str, tuple[int, ...]]
    rises: Mapping[str, tuple[float, ...]]
    cost: Callable[[Widths], float]
    limit: float
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unit: str = "macs"
    terms: Terms | None = None
    dense: float | None = None
    others: tuple[Limit, ...] = ()
    floors: tuple[Limit, ...] = ()
    evaluate: Callable[[Widths], float] | None = None
    tries: Tries | None = None

    @property
    def full(self) -> dict[str, int]:
        return {group: rungs[-1] for group, rungs in self.rungs.items()}

    @property
    def least(self) -> dict[str, int]:
        return {group: rungs[0] for group, rungs in self.rungs.items()}

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All budgets, the first one first."""
        first = Limit(
            name=self.unit, cost=self.cost, most=self.limit, terms=self.terms, dense=self.dense
        )
        return (first, *self.others)

    def fits(self, widths: Widths) -> bool:
        """Whether no budget is exceeded."""
        return all(limit.fits(widths) for limit in self.limits)

    def spares(self, widths: Widths) -> bool:
        """Whether every floor is kept."""
        return all(floor.fits(widths) for floor in self.floors)

    def allows(self, widths: Widths) -> bool:
        """Whether no budget is exceeded and every floor is kept."""
        return self.fits(widths) and self.spares(widths)

    def load(self, widths: Widths) -> float:
        """What a search lowers until the widths fit: the cost, or with several budgets the sum of their
        shares that are used, each counted as 1 at the least.
        """
        if not self.others:
            return self.cost(widths)
        return math.fsum(
            max(limit.cost(widths) / limit.most, 1.0) if limit.most > 0 else limit.cost(widths)
            for limit in self.limits
        )


@dataclass(frozen=True, kw_only=True)
class Allocated:
    """Widths, and by what share of its own their predicted rise could still be lower at most: 0 where they
    are proven to be the best, None where nothing is known.
    """

    widths: dict[str, int]
    gap: float | None = None


def ladder(width: int, *, round_to: int, min_keep: float) -> tuple[int, ...]:
    """The widths a group may have: multiples of `round_to`, at least one of it and at least
    `min_keep` of the group, and the full width (aligned or not), which is never exceeded.

    A group no wider than `round_to` has only its full width: it cannot be cut.
    """
    floor = max(round_to, math.ceil(Fraction(str(min_keep)) * width))
    first = -(-floor // round_to) * round_to
    return (*range(first, width, round_to), width)


def allocate(name: str, problem: Problem) -> dict[str, int]:
    """The widths alone of `allocated`, which see."""
    return allocated(name, problem).widths


def allocated(name: str, problem: Problem) -> Allocated:
    """The widths that the allocator `name` chooses: each one a rung, together within the limit. Groups
    inside a block that is gone are whole.

    Raises UnknownName; CompressionError with the smallest reachable fraction where no widths meet
    the limit, or where the allocator (a third party's) did not keep to its problem.
    """
    allocator: Allocator = lookup("allocators", name, ALLOCATORS)
    _refuse_unreachable(problem)
    answer = allocator(problem)
    gap = answer.gap if isinstance(answer, Allocated) else None
    widths = answer.widths if isinstance(answer, Allocated) else answer
    for group, rungs in problem.rungs.items():
        if widths.get(group) not in rungs:
            raise CompressionError(
                f"the allocator '{name}' gave {group} {widths.get(group)} channels; allowed: "
                f"{', '.join(map(str, rungs))}",
                fix="correct the allocator, or use another one",
            )
    if not problem.fits(widths):
        raise CompressionError(
            f"the allocator '{name}' exceeded its budget",
            fix="correct the allocator, or use another one",
        )
    _refuse_below_floors(name, problem, widths)
    chosen = {group: widths[group] for group in problem.rungs}
    for block, groups in problem.blocks.items():
        if chosen[block] == 0:
            # What they are set to costs and loses nothing there.
            chosen |= {group: problem.rungs[group][-1] for group in groups}
    return Allocated(widths=chosen, gap=gap)


def _refuse_below_floors(name: str, problem: Problem, widths: Widths) -> None:
    for floor in problem.floors:
        if not floor.fits(widths):
            raise CompressionError(
                f"the allocator '{name}' takes more from {floor.name} than its floor allows: its cuts are "
                f"predicted to add {floor.cost(widths):.4g} to the loss, and {floor.most:.4g} is allowed",
                where="params.yaml (plan.floors)",
                fix="set plan.allocator to sensitivity or latency, which keep to floors, or raise this one",
            )


def _refuse_unreachable(problem: Problem) -> None:
    """Raises CompressionError with the smallest reachable fraction of the first budget that even the
    cheapest widths exceed.
    """
    for number, limit in enumerate(problem.limits):
        if limit.fits(problem.least):
            continue
        cheapest, whole = least_cost(problem, limit), limit.cost(problem.full)
        if cheapest <= limit.most:
            continue
        reachable = cheapest / (limit.dense or whole)
        name, key = (
            ("the budget", "plan.fraction")
            if number == 0
            else (
                f"the limit of {limit.name}",
                f"plan.limits.{limit.name}",
            )
        )
        raise CompressionError(
            f"no allowed widths meet {name}: the smallest reachable fraction is {reachable:.4f}",
            where="params.yaml (plan)",
            fix=f"set {key} to at least {_round_up(reachable)}, or allow narrower layers "
            "with a smaller plan.min_keep or plan.round_to"
            + ("" if whole == (limit.dense or whole) else ", or set fewer widths by hand"),
        )


def least_cost(problem: Problem, limit: Limit) -> float:
    """The least cost of any widths: that of the narrowest ones, or less where tables know better."""
    narrowest = limit.cost(problem.least)
    if limit.terms is None:
        return narrowest
    from reprune.compress.planning.exact import cheapest

    widths = cheapest(problem, limit)
    return narrowest if widths is None else min(narrowest, limit.cost(widths))


def uniform(problem: Problem) -> dict[str, int]:
    """One share for all groups, each rounded to its nearest rung (up if half-way): the largest share
    that fits. Widths change only at half-way points, so a binary search over those is exact. No block
    is removed: CompressionError where the budget cannot be met without that.
    """
    if not problem.fits(at_share(problem, Fraction(0))):
        raise CompressionError(
            "the uniform allocator removes no blocks, and no widths alone meet the budget",
            where="params.yaml (plan.allocator)",
            fix="set plan.allocator to sensitivity, or raise plan.fraction",
        )
    steps = sorted(
        {
            Fraction(low + high, 2 * rungs[-1])
            for group, rungs in problem.rungs.items()
            if group not in problem.blocks
            for low, high in pairwise(rungs)
        }
    )
    shares = [Fraction(0), *steps]
    fitting, too_large = 0, len(shares)
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if problem.fits(at_share(problem, shares[middle])):
            fitting = middle
        else:
            too_large = middle
    return at_share(problem, shares[fitting])


def at_share(problem: Problem, share: Fraction) -> dict[str, int]:
    """Every group at the rung that is nearest to this share of it; blocks stay."""
    return {
        group: rungs[-1]
        if group in problem.blocks
        else rungs[
            sum(Fraction(low + high, 2 * rungs[-1]) <= share for low, high in pairwise(rungs))
        ]
        for group, rungs in problem.rungs.items()
    }


def _round_up(fraction: float) -> float:
    return math.ceil(fraction * 1000) / 1000
