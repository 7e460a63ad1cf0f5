"""From measured sensitivity, cost and budgets to widths: the whole choice that a plan records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.compress.planning.allocate import Allocated, Limit, allocate, allocated, least_cost
from reprune.compress.planning.champions import budgets_of, widths_to_try
from reprune.compress.planning.closing import Goal, Latency, close
from reprune.compress.planning.cost_terms import cost_terms
from reprune.compress.planning.curves import predicted, predicted_error
from reprune.compress.planning.latency import search
from reprune.compress.planning.options import LATENCY, ROUNDING, Options, TimeRatio
from reprune.compress.planning.terms import Rungs, Terms
from reprune.compress.planning.trying import shared_out
from reprune.core.artifacts import LatencyPrediction, Plan, Prediction
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.planning.latency import Widths
    from reprune.core.artifacts import JointTrial
    from reprune.core.params import PlanParams


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Widths for every group, 0 or 1 for the key of every block, and what is expected of them. `tried` is
    how the champion's widths did against fresh ones, where both were cut; `champion` says whether they were
    looked at.
    """

    widths: dict[str, int]
    prediction: Prediction
    tried: JointTrial | None = None
    champion: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """Widths, the gap that the allocator left, the measured ratio of a latency budget, and by limit what is
    known of the latencies.
    """

    widths: dict[str, int]
    gap: float | None = None
    ratio: float | None = None
    latencies: Mapping[str, Latency] = field(default_factory=dict)


def choose(
    options: Options,
    params: PlanParams,
    time_ratio: TimeRatio | None,
    champion: Plan | None,
    say: Callable[[str], None],
    compare: Callable[[Widths, Widths], JointTrial] | None = None,
) -> Choice:
    """The widths that `params.allocator` finds under the budget and limits, or the champion's, if they are
    as good.

    A latency budget is met by search over fractions of the MACs, or of the latency that
    `options.times` predicts; it needs `time_ratio`. With the allocator "latency", for latency limits, and
    where `options.forecasts` know the budget's target, tables are planned by, timed and corrected
    (closing.close). Where `options.tries` share their evaluations, every run gets its part of what is left.

    The champion's widths are kept when its plan was made for the same groups, allocator, budget and
    fraction, they still fit, and they are predicted to lose no more than one standard error of the
    prediction above the fresh ones: below that the sensitivity cannot tell the two apart, and generations of
    the same shape can be compared with each other. With `compare`, which cuts the champion's widths and
    fresh ones, what it measured decides instead. The last of a latency budget's trials is left for them,
    where there are two, and where no other widths that were timed meet it, theirs may.

    Raises CompressionError where the budget cannot be met.
    """
    taken: Counter[str] = Counter()
    if time_ratio is not None:
        time_ratio = _counted(time_ratio, params.latency_target, taken)
    timers = {name: _counted(time, name, taken) for name, time in options.timers.items()}
    options = replace(options, timers=timers)
    by_table = params.budget == "latency" and params.latency_target in options.forecasts
    options = _forecasting(options, params, say)
    goals = _goals(options, params, time_ratio) if by_table or _by_tables(params) else {}
    timed = time_ratio is not None or any(goal.time for goal in goals.values())
    kept = widths_to_try(options, params, champion, timed=timed, say=say)
    trials = params.latency_trials - (kept is not None and timed)
    options = replace(
        options,
        tries=shared_out(
            options.tries, lambda: trials - max(taken.values(), default=0) if timed else 1, say
        ),
    )
    tried = None
    try:
        found = _fresh(options, params, goals, time_ratio, trials, say)
    except CompressionError:
        # None that was timed is fast enough: the trial that is left may be of one that is.
        asked = kept is not None and (goals or time_ratio is not None)
        last = _kept(kept, goals, options, params, time_ratio) if kept and asked else None
        if last is None:
            raise
        say("plan: keeps the champion's widths, for no others that were timed are fast enough")
        found = last
    if kept is not None and kept != found.widths:
        tried = compare(kept, found.widths) if compare is not None else None
        losses = _as_good(options, kept, found.widths, tried)
        again = _kept(kept, goals, options, params, time_ratio) if losses else None
        if again is not None:
            say(f"plan: keeps the champion's widths; {losses}")
            found = again
    return Choice(
        widths=found.widths,
        prediction=_prediction(options, found, taken, params.latency_trials),
        tried=tried,
        champion=kept is not None,
    )


def _as_good(options: Options, kept: Widths, fresh: Widths, tried: JointTrial | None) -> str:
    """The predicted losses of both in words, where the champion's widths are as good; else nothing."""
    loss, fresh_loss = predicted(options.curves, kept), predicted(options.curves, fresh)
    tolerance = predicted_error(options.curves, fresh)
    holds = tried.holds if tried is not None else loss <= fresh_loss + tolerance
    words = f"predicted loss {loss:.4f} against {fresh_loss:.4f} (standard error {tolerance:.4f})"
    return words if holds else ""


def _counted(time_ratio: TimeRatio, target: str, taken: Counter[str]) -> TimeRatio:
    def ratio(widths: Widths) -> float:
        taken[target] += 1
        return time_ratio(widths)

    return ratio


def _prediction(options: Options, found: Found, taken: Counter[str], most: int) -> Prediction:
    """`taken` are the plans that were timed, by target, `most` how many might have been."""
    cost = options.cost(found.widths)
    return Prediction(
        params=cost.params,
        macs=cost.macs,
        loss_increase=predicted(options.curves, found.widths),
        latency_ratio=found.ratio,
        optimality_gap=UNSET if found.gap is None else found.gap,
        latencies={
            name.removeprefix(LATENCY): LatencyPrediction(
                forecast=one.forecast,
                measured=one.measured,
                correction=one.correction,
                trials=taken[name.removeprefix(LATENCY)],
                most=most,
            )
            for name, one in found.latencies.items()
        }
        or UNSET,
    )


def _forecasting(options: Options, params: PlanParams, say: Callable[[str], None]) -> Options:
    """With a forecast for a latency budget's target where no table is: what was timed in the model, or else
    the MACs, which the trials then correct.
    """
    target = params.latency_target
    if params.budget != "latency" or target in options.forecasts:
        return options

    def by_macs(rungs: Rungs) -> Terms:
        return cost_terms(options.cost, rungs, "macs")

    if options.times is None and params.allocator == "latency":
        say(f"plan: no profile has operator tables of '{target}': latency is planned by MACs")
    forecast = by_macs if options.times is None else options.times.terms
    return replace(options, forecasts={**options.forecasts, target: forecast})


def _by_tables(params: PlanParams) -> bool:
    """Whether latencies are planned by tables, or what stands for them, whatever is forecast."""
    limits = any(name.startswith(LATENCY) for name in params.limits or ())
    return limits or params.allocator == "latency"


def _goals(options: Options, params: PlanParams, time_ratio: TimeRatio | None) -> dict[str, Goal]:
    """The latencies among the budgets, to be planned by tables."""
    budgets = budgets_of(params)
    goals = {}
    for name in (name for name in budgets if name.startswith(LATENCY)):
        target = name.removeprefix(LATENCY)
        limit = options.limit(name, 1.0)
        goals[name] = Goal(
            target=target,
            fraction=budgets[name],
            forecast=limit.share,
            least=least_cost(options.problem(name, 1.0), limit) / (limit.dense or 1.0),
            time=time_ratio if target == params.latency_target else options.timers.get(target),
            dense_ms=options.dense_ms.get(target),
        )
    return goals


def _closed(
    options: Options,
    params: PlanParams,
    goals: Mapping[str, Goal],
    trials: int,
    say: Callable[[str], None],
) -> Found:
    """Planned by tables and timed."""
    budgets = budgets_of(params)

    def plan(bounds: Mapping[str, float]) -> Allocated:
        (first, fraction), *others = (budgets | dict(bounds)).items()
        exact = params.allocator == "latency"
        return allocated(
            params.allocator, options.problem(first, fraction, dict(others), tables=exact)
        )

    closed = close(plan, goals, lambda widths: _loss(options, widths), trials=trials, say=say)
    budget = closed.latencies.get(next(iter(budgets)))
    return Found(
        widths=closed.allocated.widths,
        gap=closed.allocated.gap,
        ratio=budget.measured if budget else None,
        latencies=closed.latencies,
    )


def _loss(options: Options, widths: Widths) -> tuple[bool, float]:
    """What decides between plans that were timed: the measured rise where it is known, for that is what the
    allocator went by; of others the sum of single cuts, after all that were measured.
    """
    tries, evaluate = options.tries, options.evaluate
    if evaluate is not None and tries is not None and (tries.knows is None or tries.knows(widths)):
        return False, evaluate(widths)
    return True, predicted(options.curves, widths)


def _fresh(
    options: Options,
    params: PlanParams,
    goals: Mapping[str, Goal],
    time_ratio: TimeRatio | None,
    trials: int,
    say: Callable[[str], None],
) -> Found:
    if goals:
        return _closed(options, params, goals, trials, say)
    others = dict(params.limits or {})
    exact = params.allocator == "latency"
    if time_ratio is None:
        problem = options.problem(params.budget, params.fraction, others, tables=exact)
        answer = allocated(params.allocator, problem)
        return Found(widths=answer.widths, gap=answer.gap)
    whole = _stand_in(options)
    by = whole.name
    narrowest = options.problem(by, 1.0).least
    found = search(
        lambda fraction: allocate(params.allocator, options.problem(by, fraction, others)),
        time_ratio,
        fraction=params.fraction,
        least=whole.cost(narrowest) / (whole.dense or 1.0),
        trials=trials,
    )
    return _searched(options, params, found.widths, found.ratio)


def _stand_in(options: Options) -> Limit:
    """What a latency budget is searched along: what was timed in the model, or else the MACs."""
    return options.limit("macs" if options.times is None else "latency", 1.0)


def _searched(options: Options, params: PlanParams, widths: dict[str, int], ratio: float) -> Found:
    one = Latency(forecast=_stand_in(options).share(widths), measured=ratio, correction=1.0)
    return Found(widths=widths, ratio=ratio, latencies={LATENCY + params.latency_target: one})


def _kept(
    widths: dict[str, int],
    goals: Mapping[str, Goal],
    options: Options,
    params: PlanParams,
    time_ratio: TimeRatio | None,
) -> Found | None:
    """The champion's widths, timed; None where they are too slow now."""
    if not goals:
        if time_ratio is None:
            return Found(widths=widths)
        ratio = time_ratio(widths)
        return None if ratio > params.fraction else _searched(options, params, widths, ratio)
    latencies = {}
    for name, goal in goals.items():
        forecast, measured = goal.forecast(widths), goal.time(widths) if goal.time else None
        if (forecast if measured is None else measured) > goal.fraction * (1.0 + ROUNDING):
            return None
        latencies[name] = Latency(forecast=forecast, measured=measured, correction=1.0)
    budget = latencies.get(LATENCY + params.latency_target) if params.budget == "latency" else None
    return Found(widths=widths, ratio=budget.measured if budget else None, latencies=latencies)
