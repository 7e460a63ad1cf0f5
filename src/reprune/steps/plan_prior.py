"""What the champion's plan predicted and what came of it: a prior for what this one predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from reprune.core.artifacts import ModelBundle, Plan, Previous
from reprune.core.params import GenerationsParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.inheriting import stored_part

if TYPE_CHECKING:
    from reprune.compress.planning.achieved import Achieved


def prior_for_people(
    result: Plan,
    previous: Artifact[Previous],
    generations: GenerationsParams | UnsetType,
    ctx: Context,
) -> dict[str, Any]:
    """For `plan.yaml`: the predicted loss times what came of one unit of it in the champion, before recovery.

    It decides nothing: one factor for all sums ranks no plan above another. Empty where nothing is taken
    over, this plan measured its own joint cut, or the champion's answered another question.
    """
    predicted = result.predicted
    known = predicted.tried is not UNSET or predicted.joint_loss_increase is not UNSET
    if generations is UNSET or not generations.reuse or known or predicted.loss_increase is None:
        return {}
    found = _champions(result, previous)
    if found is None or found.factor is None:
        return {}
    prior = predicted.loss_increase * found.factor
    ctx.say(
        f"plan: predicted loss {predicted.loss_increase:.4f} as a sum, {prior:.4f} before recovery if it "
        f"comes out as the champion's did ({found.factor:.2f} times its sum)"
    )
    return {
        "loss_increase_as_the_champion_came_out": float(f"{prior:.4g}"),
        "the_champion_came_out": f"{found.factor:.3g} times its predicted {found.sum_of_cuts:.4g}, "
        "before recovery",
    }


def _champions(result: Plan, previous: Artifact[Previous]) -> Achieved | None:
    """None where the champion's plan has other groups or another budget, or its sums were refitted: cuts
    add up the worse, the deeper they are.
    """
    from reprune.compress.planning.achieved import achieved

    plan = stored_part(previous, "plan", Plan)
    champion = stored_part(previous, "champion", ModelBundle)
    if plan is None or champion is None or _question(plan.manifest) != _question(result):
        return None
    if plan.manifest.predicted.additivity is not UNSET:
        return None
    return achieved(plan.manifest, champion.manifest)


def _question(plan: Plan) -> list[object]:
    groups = [(item.group, item.width) for item in plan.groups]
    return [groups, plan.budget, plan.fraction, plan.limits, plan.floors, plan.head_dimensions]
