"""What the champion's plan predicted and what came of it: a prior for what this one predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.core.artifacts import CameOut, ModelBundle, Plan, Prediction, Previous, Sensitivity
from reprune.core.params import GenerationsParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.inheriting import stored_part

if TYPE_CHECKING:
    from reprune.compress.planning.achieved import Achieved


def with_prior(
    result: Plan, previous: Artifact[Previous], generations: GenerationsParams | UnsetType
) -> Plan:
    """The plan with what came of the champion's (`predicted.champion`), before recovery and after it.

    It decides nothing: one factor for all sums ranks no plan above another. As it was where nothing is taken
    over, the champion's plan answered another question, or the sums of one of the two were refitted or are
    not to be trusted.
    """
    predicted = result.predicted
    if generations is UNSET or not generations.reuse or predicted.loss_increase is None:
        return result
    found = _champions(result, previous)
    if found is None or found.sum_of_cuts is None or found.sum_of_cuts <= 0.0:
        return result
    if found.before is None and found.recovered is None:
        return result
    came = CameOut(sum_of_cuts=found.sum_of_cuts, before=found.before, after=found.recovered)
    return replace(result, predicted=replace(predicted, champion=came))


def prior_for_people(predicted: Prediction, ctx: Context) -> dict[str, Any]:
    """For `plan.yaml`: the predicted loss times what came of one unit of it in the champion. Before recovery
    only where this plan measured no joint cut of its own; empty where nothing is known.
    """
    came, total = predicted.champion, predicted.loss_increase
    if came is UNSET or total is None:
        return {}
    known = predicted.tried is not UNSET or predicted.joint_loss_increase is not UNSET
    told: dict[str, Any] = {}
    words = []
    if came.before is not None and not known:
        factor = max(came.before, 0.0) / came.sum_of_cuts
        told["loss_increase_as_the_champion_came_out"] = float(f"{total * factor:.4g}")
        words.append(f"{factor:.3g} times its predicted {came.sum_of_cuts:.4g}, before recovery")
        ctx.say(
            f"plan: predicted loss {total:.4f} as a sum, {total * factor:.4f} before recovery if it comes "
            f"out as the champion's did ({factor:.2f} times its sum)"
        )
    if came.after is not None:
        factor = came.after / came.sum_of_cuts
        told["loss_increase_after_recovery_as_the_champion_came_out"] = float(
            f"{total * factor:.4g}"
        )
        words.append(f"{factor:.3g} times its predicted {came.sum_of_cuts:.4g}, after recovery")
        ctx.say(f"plan: {total * factor:.4f} after recovery if it comes out as the champion's did")
    return {**told, "the_champion_came_out": "; ".join(words)} if words else {}


def _champions(result: Plan, previous: Artifact[Previous]) -> Achieved | None:
    """None where the champion's plan has other groups or another budget (cuts add up the worse, the deeper
    they are), and where the sums of one of them are no plain ones: one unit of a refitted sum is another,
    and where cuts do not add up a unit tells nothing.
    """
    from reprune.compress.planning.achieved import achieved

    plan = stored_part(previous, "plan", Plan)
    champion = stored_part(previous, "champion", ModelBundle)
    if plan is None or champion is None or _question(plan.manifest) != _question(result):
        return None
    checks = (plan.manifest.predicted.additivity, result.predicted.additivity)
    if any(check is not UNSET and check.outcome != "additive" for check in checks):
        return None
    table = stored_part(previous, "sensitivity", Sensitivity)
    base = None if table is None else table.manifest.base_loss
    return achieved(plan.manifest, champion.manifest, base)


def _question(plan: Plan) -> list[object]:
    groups = [(item.group, item.width) for item in plan.groups]
    return [groups, plan.budget, plan.fraction, plan.limits, plan.floors, plan.head_dimensions]
