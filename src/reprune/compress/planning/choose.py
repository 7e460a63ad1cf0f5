"""From measured sensitivity, cost and budget to widths: the whole choice that a plan records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reprune.compress.planning.allocate import Problem, allocate, ladder
from reprune.compress.planning.costs import block_key
from reprune.compress.planning.curves import Curve, predicted, predicted_error
from reprune.compress.planning.latency import Widths, search
from reprune.core.artifacts import Plan, Prediction

if TYPE_CHECKING:
    from reprune.compress.planning.costs import CostModel
    from reprune.compress.planning.latency_table import LatencyTable
    from reprune.compress.planning.trying import Tries
    from reprune.core.params import PlanParams

# A budget that is met exactly must not be missed by the rounding of a product: less than one of 10^12.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen (`rungs`, by group), what it is predicted to lose and what it costs.

    Blocks are options beside the groups, by `costs.block_key`, with the rungs 0 and 1; `blocks` maps
    those keys to the groups inside. `times`, where it was measured, predicts latency.
    `evaluate` and `tries` are what allocators that try are given.
    """

    rungs: Mapping[str, tuple[int, ...]]
    curves: Mapping[str, Curve]
    cost: CostModel
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: LatencyTable | None = None
    evaluate: Callable[[Widths], float] | None = None
    tries: Tries | None = None

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

    def problem(self, budget: str, fraction: float) -> Problem:
        """The allocation of at most `fraction` of the dense model's `budget`: "macs", "params", or the
        "latency" that `times` predicts.
        """

        def cost(widths: Widths) -> float:
            if budget == "latency" and self.times is not None:
                return self.times.ratio(widths)
            return float(getattr(self.cost(widths), budget))

        return Problem(
            rungs=self.rungs,
            rises={
                name: tuple(self.curves[name].at(keep) for keep in rungs)
                for name, rungs in self.rungs.items()
            },
            cost=cost,
            limit=fraction * cost({}) * (1.0 + ROUNDING),
            blocks=self.blocks,
            evaluate=self.evaluate,
            tries=self.tries,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Widths for every group, 0 or 1 for the key of every block, and what is expected of them."""

    widths: dict[str, int]
    prediction: Prediction


def choose(
    options: Options,
    params: PlanParams,
    time_ratio: Callable[[Widths], float] | None,
    champion: Plan | None,
    say: Callable[[str], None],
) -> Choice:
    """The widths that `params.allocator` finds under the budget, or the champion's, if they are as good.

    A latency budget is met by search over fractions of the MACs, or of the latency that
    `options.times` predicts; it needs `time_ratio`. The champion's
    widths are kept when its plan was made for the same groups, allocator, budget and fraction, they
    still fit, and they are predicted to lose no more than one standard error of the prediction above
    the fresh ones: below that the sensitivity cannot tell the two apart, and generations of the same
    shape can be compared with each other. The last of a latency budget's trials is left for them.

    Raises CompressionError where the budget cannot be met.
    """
    fresh, ratio = _fresh(options, params, time_ratio, champion)
    kept = _champion_widths(options, params, champion)
    if kept is not None and kept != fresh:
        loss, fresh_loss = predicted(options.curves, kept), predicted(options.curves, fresh)
        tolerance = predicted_error(options.curves, fresh)
        kept_ratio = time_ratio(kept) if time_ratio and loss <= fresh_loss + tolerance else None
        slow = kept_ratio is not None and kept_ratio > params.fraction
        if loss <= fresh_loss + tolerance and not slow:
            say(
                f"plan: keeps the champion's widths; predicted loss {loss:.4f} against "
                f"{fresh_loss:.4f} (standard error {tolerance:.4f})"
            )
            fresh, ratio = kept, kept_ratio
    cost = options.cost(fresh)
    return Choice(
        widths=fresh,
        prediction=Prediction(
            params=cost.params,
            macs=cost.macs,
            loss_increase=predicted(options.curves, fresh),
            latency_ratio=ratio,
        ),
    )


def _fresh(
    options: Options,
    params: PlanParams,
    time_ratio: Callable[[Widths], float] | None,
    champion: Plan | None,
) -> tuple[dict[str, int], float | None]:
    if time_ratio is None:
        problem = options.problem(params.budget, params.fraction)
        return allocate(params.allocator, problem), None
    by = "macs" if options.times is None else "latency"
    whole = options.problem(by, 1.0)
    kept = _champion_widths(options, params, champion)
    found = search(
        lambda fraction: allocate(params.allocator, options.problem(by, fraction)),
        time_ratio,
        fraction=params.fraction,
        least=whole.cost(whole.least) / whole.cost(whole.full),
        trials=max(1, params.latency_trials - (kept is not None)),
    )
    return found.widths, found.ratio


def _champion_widths(
    options: Options, params: PlanParams, champion: Plan | None
) -> dict[str, int] | None:
    """The champion's widths where its plan answered the same question and they are still allowed."""
    if champion is None:
        return None
    asked = (champion.allocator, champion.budget, champion.fraction)
    if asked != (params.allocator, params.budget, params.fraction):
        return None
    widths = {item.group: item.keep for item in champion.groups}
    removed = {block_key(block) for block in champion.blocks or ()}
    same_groups = {item.group: item.width for item in champion.groups} == {
        name: rungs[-1] for name, rungs in options.rungs.items() if name not in options.blocks
    }
    if not same_groups or removed - options.blocks.keys():
        return None
    widths |= {block: int(block not in removed) for block in options.blocks}
    if any(widths[name] not in rungs for name, rungs in options.rungs.items()):
        return None
    if params.budget != "latency" and not options.problem(params.budget, params.fraction).fits(
        widths
    ):
        return None
    return widths
