"""From measured sensitivity, cost and budget to widths: the whole choice that a plan records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.allocate import Problem, allocate, ladder
from reprune.compress.curves import Curve, predicted, predicted_error
from reprune.compress.latency import Widths, search
from reprune.core.artifacts import Plan, Prediction

if TYPE_CHECKING:
    from reprune.compress.costs import CostModel
    from reprune.core.params import PlanParams


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen (`rungs`, by group), what it is predicted to lose and what it costs."""

    rungs: Mapping[str, tuple[int, ...]]
    curves: Mapping[str, Curve]
    cost: CostModel

    @classmethod
    def of(
        cls,
        curves: Mapping[str, Curve],
        cost: CostModel,
        params: PlanParams,
        alignment: Mapping[str, int] | None = None,
    ) -> Options:
        """The widths that `params` allows for each group of `curves`: multiples of its `alignment`
        (see compress.alignment), by default of `params.round_to`.
        """
        steps = alignment or {}
        return cls(
            rungs={
                name: ladder(
                    curve.keeps[-1],
                    round_to=steps.get(name, params.round_to),
                    min_keep=params.min_keep,
                )
                for name, curve in curves.items()
            },
            curves=curves,
            cost=cost,
        )

    def problem(self, budget: str, fraction: float) -> Problem:
        """The allocation of at most `fraction` of the dense model's `budget`, "macs" or "params"."""

        def cost(widths: Widths) -> float:
            return float(getattr(self.cost(widths), budget))

        return Problem(
            rungs=self.rungs,
            rises={
                name: tuple(self.curves[name].at(keep) for keep in rungs)
                for name, rungs in self.rungs.items()
            },
            cost=cost,
            limit=fraction * cost({}),
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Widths for every group and what is expected of them."""

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

    A latency budget is met by search over MACs fractions; it needs `time_ratio`. The champion's
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
    whole = options.problem("macs", 1.0)
    kept = _champion_widths(options, params, champion)
    found = search(
        lambda fraction: allocate(params.allocator, options.problem("macs", fraction)),
        time_ratio,
        fraction=params.fraction,
        least=whole.cost(whole.least) / whole.limit,
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
    if {item.group: item.width for item in champion.groups} != {
        name: rungs[-1] for name, rungs in options.rungs.items()
    }:
        return None
    if any(widths[name] not in rungs for name, rungs in options.rungs.items()):
        return None
    if params.budget != "latency" and not options.problem(params.budget, params.fraction).fits(
        widths
    ):
        return None
    return widths
