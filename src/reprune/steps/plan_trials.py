"""Joint cuts that a plan may measure: for allocators that try, and to see whether sums can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from reprune.core.artifacts import Additivity, Plan, Prediction, Tried
from reprune.core.params import PlanParams, PruneParams
from reprune.core.plan_checks import SUMS, TRYING
from reprune.core.step import Context
from reprune.steps.opening import Dense

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reprune.compress.planning.evaluated import Evaluator
    from reprune.compress.planning.options import Options
    from reprune.compress.planning.quality import Quality

# What takes the place of sums that are not to be trusted.
INSTEAD = "search"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What `choose` is given: as it was where nothing is measured."""

    options: Options
    params: PlanParams
    champion: Plan | None
    evaluator: Evaluator | None = None
    quality: Quality | None = None

    def recorded(self, prediction: Prediction, widths: Mapping[str, int]) -> Prediction:
        """The prediction with what was measured. The chosen widths are measured here where they were not
        yet and an evaluation is left.
        """
        evaluator, quality = self.evaluator, self.quality
        if evaluator is None:
            return prediction
        tried: Tried | Any = UNSET
        if evaluator.left or evaluator.knows(widths):
            rise, error = evaluator.measured(widths)
            tried = Tried(
                evaluations=evaluator.used,
                most=evaluator.most,
                examples=evaluator.spent,
                loss_increase=rise,
                standard_error=error,
                allocator=self.params.allocator,
            )
        return msgspec.structs.replace(
            prediction,
            additivity=UNSET
            if quality is None
            else Additivity(
                plans=quality.plans,
                before=quality.before,
                after=quality.after,
                outcome=quality.outcome,
            ),
            tried=tried,
        )


def with_trials(
    options: Options,
    opened: Dense,
    plan: PlanParams,
    prune: PruneParams,
    seed: int,
    champion: Plan | None,
    ctx: Context,
) -> Trial:
    """What the allocator may measure, and, where `plan.evaluations` is set for one that adds up single
    cuts, sums that were checked near the budget: refitted where that makes them good enough, else
    given up for the allocator "search" with the evaluations that are left.

    Raises MissingExtra where "search" is to choose and Optuna is not installed. What was measured until then
    is kept, and not measured again once it is.
    """
    from reprune.compress.planning.evaluated import EXAMPLES, Bed, Evaluator, importance, shapes
    from reprune.compress.planning.trying import EVALUATIONS, Tries
    from reprune.core.plugins import require

    sums = plan.allocator in SUMS and plan.evaluations is not UNSET
    asked = Trial(options=options, params=plan, champion=champion)
    bed = Bed(
        task=opened.task,
        module=opened.module,
        groups=opened.groups,
        blocks=opened.blocks if plan.depth else (),
        prune=prune,
        seed=seed,
    )
    tries = Tries(seed=seed)
    if plan.allocator == "global":
        tries = replace(tries, importance=importance(bed))
        return replace(asked, options=replace(options, tries=tries))
    if plan.allocator not in TRYING and not sums:
        return asked
    if plan.allocator == INSTEAD:
        require("optuna", "search")
    evaluator = Evaluator(
        bed=bed,
        examples=plan.evaluation_examples or EXAMPLES,
        most=plan.evaluations or EVALUATIONS,
        work=ctx.work,
        say=ctx.say,
    )
    quality = None
    allocator = plan.allocator
    if sums:
        options, quality = _checked(options, plan, seed, evaluator, ctx)
        if quality is None or quality.outcome != "not-additive" or not evaluator.left:
            if quality is not None and quality.outcome == "not-additive":
                ctx.say(
                    f"plan: not additive here, and no evaluation is left for '{INSTEAD}': the sums decide "
                    "all the same; set a larger plan.evaluations"
                )
            return replace(asked, options=options, evaluator=evaluator, quality=quality)
        allocator = INSTEAD
        ctx.say(
            f"plan: not additive here: '{INSTEAD}' chooses instead of '{plan.allocator}', with "
            f"{evaluator.left} evaluations"
        )
        require("optuna", "search")
    tries = replace(
        tries,
        evaluations=max(1, evaluator.left),
        sampler=plan.search.sampler if plan.search else "tpe",
        shapes=shapes(bed) if allocator == "amc" else {},
        starts=_widths_of(champion, options),
        remaining=lambda: evaluator.left,
        tied=lambda widths, best: _tied(evaluator, widths, best),
        knows=evaluator.knows,
    )
    return Trial(
        options=replace(options, evaluate=evaluator, tries=tries),
        params=msgspec.structs.replace(plan, allocator=allocator),
        champion=None,  # its widths are among the starts: measured, not predicted
        evaluator=evaluator,
        quality=quality,
    )


def _checked(
    options: Options, plan: PlanParams, seed: int, evaluator: Evaluator, ctx: Context
) -> tuple[Options, Quality | None]:
    """The options with refitted curves where that helped. The joint cuts lie near the plan's own limits,
    latencies as tables have them; a latency budget that nothing predicts is taken as one of MACs.
    """
    from reprune.compress.planning.quality import ROUND, checked

    problem = replace(
        options.problem(_budget_unit(options, plan), plan.fraction, plan.limits or {}),
        evaluate=evaluator,
    )
    most = min(evaluator.most, max(evaluator.most // 2, ROUND))
    quality = checked(problem, most=most, seed=seed, say=ctx.say)
    if quality is None:
        ctx.say(
            f"plan: sums of cuts were not checked: that takes {ROUND} evaluations and two groups to cut"
        )
    if quality is None or quality.outcome != "refitted":
        return options, quality
    curves = {
        name: replace(
            curve,
            increases=tuple(quality.weights.get(name, 1.0) * rise for rise in curve.increases),
            errors=tuple(quality.weights.get(name, 1.0) * error for error in curve.errors),
        )
        for name, curve in options.curves.items()
    }
    return replace(options, curves=curves), quality


def _budget_unit(options: Options, plan: PlanParams) -> str:
    """The budget's unit for Options.limit, before anything stands for a latency that no table knows."""
    if plan.budget != "latency":
        return plan.budget
    if plan.latency_target in options.forecasts:
        return f"latency@{plan.latency_target}"
    return "macs" if options.times is None else "latency"


def _tied(evaluator: Evaluator, widths: Mapping[str, int], best: Mapping[str, int]) -> bool:
    """Whether `widths` lose no more than one standard error above `best`, both measured."""
    mean, error = evaluator.above(widths, best)
    return mean <= error


def _widths_of(champion: Plan | None, options: Options) -> tuple[dict[str, int], ...]:
    """The champion's widths, where its plan has the same groups and blocks."""
    from reprune.core.artifacts import block_key

    if champion is None:
        return ()
    gone = {block_key(block) for block in champion.blocks or ()}
    known = {item.group: item.keep for item in champion.groups}
    known |= {block: int(block not in gone) for block in options.blocks}
    if set(known) != set(options.rungs) or gone - set(options.blocks):
        return ()
    return ({name: known[name] for name in options.rungs},)


def trials_for_people(predicted: Prediction) -> dict[str, Any]:
    """What was measured, in words."""
    found: dict[str, Any] = {}
    if predicted.additivity is not UNSET:
        found["sums_of_cuts"] = _additivity_in_words(predicted.additivity)
    if predicted.tried is not UNSET:
        tried = predicted.tried
        found["measured_loss_increase"] = float(f"{tried.loss_increase:.4g}")
        found["measured"] = (
            f"{tried.evaluations} joint cuts of at most {tried.most}, for {tried.examples} examples "
            f"forwarded; chosen by {tried.allocator}; standard error {tried.standard_error:.2g}"
        )
    return found


def _additivity_in_words(found: Additivity) -> str:
    seen = f"rank correlation with {found.plans} joint cuts near the budget {found.before:.2f}"
    if found.outcome == "additive":
        return f"they add up: {seen}"
    after = "" if found.after is None else f", after refitting {found.after:.2f}"
    if found.outcome == "refitted":
        return f"refitted: {seen}{after}"
    return f"not additive here: {seen}{after}"
