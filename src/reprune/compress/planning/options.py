"""What a plan may choose, what that is predicted to lose, and what it costs in every unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from reprune.compress.planning.allocate import Limit, Problem, ladder
from reprune.compress.planning.by_hand import ByHand, obeyed
from reprune.compress.planning.cost_terms import cost_terms
from reprune.compress.planning.costs import CostModel
from reprune.compress.planning.curves import Curve
from reprune.compress.planning.latency import Widths
from reprune.compress.planning.members import floors_of
from reprune.compress.planning.terms import Rungs, Terms
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.planning.latency_table import LatencyTable
    from reprune.compress.planning.trying import Tries
    from reprune.core.params import PlanParams

TimeRatio: TypeAlias = Callable[[Widths], float]

# A budget that is met exactly must not be missed by the rounding of a product: less than one of 10^12.
ROUNDING = 1e-12
LATENCY = "latency@"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen (`rungs`, by group), what it is predicted to lose and what it costs.

    Blocks are options beside the groups, by `artifacts.block_key`, with the rungs 0 and 1; `blocks` maps
    those keys to the groups inside. `times`, where it was measured, predicts latency.
    `forecasts` predict it by target, in any unit, as tables over rungs, and `timers` measure it there as
    a share of the dense model's. `whole` are the full widths where a rung was set by hand.
    `floors` are the most that members' cuts may add to the predicted loss. `dense_ms`, by target, is what the
    dense model was measured to take, to tell ratios in milliseconds too.
    `evaluate` and `tries` are what allocators that try are given.
    """

    rungs: Mapping[str, tuple[int, ...]]
    curves: Mapping[str, Curve]
    cost: CostModel
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: LatencyTable | None = None
    forecasts: Mapping[str, Callable[[Rungs], Terms]] = field(default_factory=dict)
    timers: Mapping[str, TimeRatio] = field(default_factory=dict)
    whole: Mapping[str, int] | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    dense_ms: Mapping[str, float] = field(default_factory=dict)
    evaluate: Callable[[Widths], float] | None = None
    tries: Tries | None = None
    _limits: dict[tuple[str, bool], Limit] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        curves: Mapping[str, Curve],
        cost: CostModel,
        params: PlanParams,
        alignment: Mapping[str, int] | None = None,
        blocks: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Options:
        """The widths that `params` allows for each group of `curves`: multiples of its `alignment`
        (see structure.alignment), by default of `params.round_to`. `blocks` are keys among the curves.
        """
        steps, inside = alignment or {}, blocks or {}
        return cls(
            rungs={
                name: (0, 1)
                if name in inside
                else ladder(
                    curve.keeps[-1],
                    round_to=steps.get(name, params.round_to),
                    min_keep=params.min_keep,
                )
                for name, curve in curves.items()
            },
            curves=curves,
            cost=cost,
            blocks=inside,
        )

    @property
    def full(self) -> Mapping[str, int]:
        """The width of every group in the dense model, and 1 for every block."""
        return self.whole or {name: rungs[-1] for name, rungs in self.rungs.items()}

    def by_hand(self, hand: ByHand, *, depth: bool) -> Options:
        """With what a person set in place of what could be chosen; see by_hand.obeyed."""
        rungs = obeyed(hand, self.rungs, self.blocks, depth=depth)
        return replace(self, rungs=rungs, whole=self.full)

    def limit(self, unit: str, fraction: float, *, tables: bool = False) -> Limit:
        """At most `fraction` of the dense model's "macs", "params", "bytes", "latency@<target>", or of the
        "latency" that `times` predicts. Latency is in tables always, a count where `tables` are asked for.

        Raises CompressionError for a target that nothing forecasts.
        """
        if (unit, tables) not in self._limits:
            self._limits[unit, tables] = self._limit_of_all(unit, tables)
        whole = self._limits[unit, tables]
        return replace(whole, most=fraction * whole.most * (1.0 + ROUNDING))

    def _limit_of_all(self, unit: str, tables: bool) -> Limit:
        if unit == "latency" and self.times is not None:
            terms = self.times.terms(self.rungs)
            return Limit(name=unit, cost=self.times.ratio, most=1.0, terms=terms, dense=1.0)
        if unit.startswith(LATENCY):
            forecast = self._forecast(unit.removeprefix(LATENCY))
            whole = forecast({name: (width,) for name, width in self.full.items()})({})
            terms = forecast(self.rungs)
            return Limit(name=unit, cost=terms, most=whole, terms=terms, dense=whole)

        def cost(widths: Widths) -> float:
            return float(getattr(self.cost(widths), unit))

        found = None
        if tables and isinstance(self.cost, CostModel):
            counted = cast("Literal['macs', 'params', 'bytes']", unit)
            found = cost_terms(self.cost, self.rungs, counted)
        dense = cost({})
        return Limit(name=unit, cost=cost, most=dense, terms=found, dense=dense)

    def _forecast(self, target: str) -> Callable[[Rungs], Terms]:
        if target in self.forecasts:
            return self.forecasts[target]
        raise CompressionError(
            f"nothing predicts the latency on '{target}': no profile has its operator tables",
            where="params.yaml (plan.limits)",
            fix="take the limit out, or give plan a profile that has them",
        )

    def problem(
        self,
        budget: str,
        fraction: float,
        others: Mapping[str, float] | None = None,
        *,
        tables: bool = False,
    ) -> Problem:
        """The allocation of at most `fraction` of the dense model's `budget`, and of the `others` at most
        their fractions; units as in `limit`.
        """
        first = self.limit(budget, fraction, tables=tables)
        found = Problem(
            rungs=self.rungs,
            rises={
                name: tuple(self.curves[name].at(keep) for keep in rungs)
                for name, rungs in self.rungs.items()
            },
            cost=first.cost,
            limit=first.most,
            blocks=self.blocks,
            unit=first.name,
            terms=first.terms,
            dense=first.dense,
            evaluate=self.evaluate,
            tries=self.tries,
            others=tuple(
                self.limit(unit, share, tables=tables) for unit, share in (others or {}).items()
            ),
        )
        return replace(found, floors=floors_of(found, self.floors))
