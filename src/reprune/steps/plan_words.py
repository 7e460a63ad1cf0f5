"""What a plan says to people: its text, and what the check on joint cuts makes of its prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from reprune.core.artifacts import JointCheck, LatencyPrediction, Plan, Prediction
from reprune.core.params import PlanParams
from reprune.core.plan_checks import SUMS
from reprune.core.step import Context
from reprune.steps.plan_trials import trials_for_people

if TYPE_CHECKING:
    from reprune.compress.planning.choose import Choice
    from reprune.compress.planning.options import Options

# Below this rank correlation of sums with joint cuts, single cuts do not add up.
ADDITIVE = 0.8
HOW_TO_CHECK = (
    ", or set plan.evaluations: sums are then refitted near the budget, and a search chooses where that "
    "does not help"
)

# What a person may decide, by method, and the line that does it.
BY_HAND = {
    "channels": (
        "width",
        "widths: {GROUP: CHANNELS}    # groups that are not named are allocated as before",
    ),
    "weights": (
        "share",
        "sparsities: {TENSOR: SHARE}  # with plan.scope local or sensitivity; others as before",
    ),
}


def with_joint(
    prediction: Prediction, joint: JointCheck | UnsetType, allocator: str, ctx: Context
) -> Prediction:
    """The prediction with what the check on joint cuts says of it, where there was one; a warning where
    the sum of single cuts ranked them badly.
    """
    if joint is UNSET or prediction.loss_increase is None:
        return prediction
    from reprune.compress.sensitivity.joint import correction

    tau = joint.rank_correlation
    corrected = correction(joint)(prediction.loss_increase)
    ctx.say(
        f"plan: predicted loss {prediction.loss_increase:.4f} as a sum, {corrected:.4f} as joint cuts "
        f"came out (rank correlation {tau:.2f})"
    )
    if tau < ADDITIVE:
        ctx.say(
            f"plan: WARNING: not additive here: over {len(joint.measured)} joint cuts the sum of single "
            f"cuts has the rank correlation {tau:.2f} with what was measured, below {ADDITIVE}; judge "
            "this plan by its loss after the cut" + (HOW_TO_CHECK if allocator in SUMS else "")
        )
    return msgspec.structs.replace(
        prediction, joint_loss_increase=corrected, joint_rank_correlation=tau
    )


def how_to_edit(params: PlanParams) -> str:
    """The comment at the head of `plan.yaml`: where a person's own widths, or shares of masks, go."""
    if params.method not in BY_HAND:
        return ""
    what, knob = BY_HAND[params.method]
    lines = [
        f"Written by `reprune plan`, and written again by the next run. To decide a {what} yourself, put it",
        "into params.yaml, where the lock covers it, and plan again; it is obeyed exactly, or refused with",
        "the reason:",
        "  plan:",
        f"    {knob}",
    ]
    if params.depth:
        lines.append("    removed_blocks: [BLOCK]      # exactly these go ([]: none)")
    return "".join(f"# {line}\n" for line in lines)


def for_people(plan: Plan, options: Options, choice: Choice) -> dict[str, Any]:
    """What a reviewer reads and compares with the last one: round numbers, one group a line."""
    before, after = plan.before, options.cost(choice.widths)
    removed = {} if plan.blocks is UNSET else {"removed_blocks": list(plan.blocks)}
    return {
        "allocator": plan.allocator,
        "budget": plan.budget,
        "fraction": plan.fraction,
        **({} if plan.limits is UNSET else {"limits": dict(plan.limits)}),
        **({} if plan.floors is UNSET else {"floors": dict(plan.floors)}),
        **({} if plan.by_hand is UNSET else {"by_hand": list(plan.by_hand)}),
        **removed,
        "groups": {
            item.group: {
                "before": item.width,
                "after": item.keep,
                "predicted_loss": _short(options.curves[item.group].at(item.keep)),
            }
            for item in plan.groups
        },
        "cost": {
            name: {
                "before": getattr(before, name),
                "after": getattr(after, name),
                "left": _short(getattr(after, name) / getattr(before, name)),
            }
            for name in ("macs", "params", "bytes")
        },
        "predicted": {
            "loss_increase": _short(plan.predicted.loss_increase),
            "latency_ratio": _short(plan.predicted.latency_ratio),
            **_joint_for_people(plan.predicted),
            **trials_for_people(plan.predicted),
            **_latencies_for_people(plan, options.dense_ms),
            **_gap_for_people(plan.predicted),
        },
    }


def _latencies_for_people(plan: Plan, dense_ms: Mapping[str, float]) -> dict[str, Any]:
    """By target: what the table said, what was measured, how the table was corrected to plan this, and how
    many plans were timed for it; in milliseconds what the dense model took when it was profiled, and what
    that leaves to this plan.
    """
    latencies = plan.predicted.latencies
    if latencies is UNSET:
        return {}
    return {
        "latency": {
            target: {
                "by_table": _short(one.forecast),
                "measured": _short(one.measured)
                if one.measured is not None
                else "not here: predicted only",
                "saving_corrected_by": _short(one.correction),
                **_timed_for_people(one),
                **_milliseconds(one, dense_ms.get(target)),
            }
            for target, one in latencies.items()
        }
    }


def _timed_for_people(one: LatencyPrediction) -> dict[str, str]:
    if one.trials is UNSET or one.most is UNSET:
        return {}
    return {"plans_timed": f"{one.trials} of at most {one.most}"}


def _milliseconds(one: LatencyPrediction, dense_ms: float | None) -> dict[str, Any]:
    if dense_ms is None:
        return {}
    ratio = one.forecast if one.measured is None else one.measured
    return {"latency_ms": {"before": _short(dense_ms), "after": _short(ratio * dense_ms)}}


def _gap_for_people(predicted: Prediction) -> dict[str, Any]:
    gap = predicted.optimality_gap
    return {} if gap is UNSET else {"optimality_gap": _short(gap)}


def _joint_for_people(predicted: Prediction) -> dict[str, Any]:
    joint, tau = predicted.joint_loss_increase, predicted.joint_rank_correlation
    if joint is UNSET or tau is UNSET:
        return {}
    warned = {"warning": "not additive here"} if tau < ADDITIVE else {}
    return {
        "joint_loss_increase": _short(joint),
        "joint_rank_correlation": _short(tau),
        **warned,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
