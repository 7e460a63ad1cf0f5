"""What the steps do where weights are masked instead of channels cut (plan.method "weights", "n:m")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from reprune.core.artifacts import (
    Cost,
    GroupPlan,
    ModelBundle,
    Plan,
    Prediction,
    Sensitivity,
    SparsityPlan,
)
from reprune.core.errors import CompressionError
from reprune.core.params import (
    DistillParams,
    PlanParams,
    PruneParams,
    SensitivityParams,
)
from reprune.core.step import Context
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from reprune.compress.masks.masked import Masked
    from reprune.compress.masks.planning import MaskPlan
    from reprune.compress.masks.sensitivity import MaskSubject
    from reprune.compress.sensitivity.observed import Observed
    from reprune.steps.opening import Dense

# What a masking Plan's `fraction` is a fraction of.
WEIGHTS_BUDGET = "weights"


def masks_weights(plan: PlanParams) -> bool:
    """Whether the params ask for masks."""
    return plan.method != "channels"


@dataclass(frozen=True, kw_only=True)
class MaskWork:
    """What is measured of each maskable tensor around `plan.sparsity`; of an n:m pattern only the base
    loss, for there is nothing to share out.
    """

    subject: MaskSubject
    shares: tuple[float, ...]
    examples: int

    def look(self, shard: tuple[int, int], ctx: Context) -> Observed:
        from reprune.compress.masks.sensitivity import look_at_tensors

        return look_at_tensors(
            self.subject,
            self.shares,
            examples=self.examples,
            work=ctx.work,
            say=ctx.say,
            shard=shard,
        )

    def conclude(self, parts: Sequence[Observed]) -> Sensitivity:
        from reprune.compress.importance import criterion_label
        from reprune.compress.masks.sensitivity import conclude_tensors

        measured = conclude_tensors(self.subject, self.shares, parts)
        return Sensitivity(
            criterion=criterion_label(self.subject.prune),
            base_loss=measured.base_loss,
            examples=measured.examples,
            groups=(),
            tensors=measured.tensors,
            cost=measured.cost,
        )


def mask_work(
    opened: Dense, sensitivity: SensitivityParams, plan: PlanParams, prune: PruneParams, seed: int
) -> MaskWork:
    """The tensors of `opened` that may be masked, and how they are to be measured.

    Raises CompressionError where a cheaper measurement is asked for: there is none of masks.
    """
    _refuse_knobs(
        f"plan.method '{plan.method}' masks weights, each tensor of which is measured in full",
        {"sensitivity.method: calibrated": sensitivity.method == "calibrated"},
    )
    from reprune.compress.masks.planning import find_weights
    from reprune.compress.masks.sensitivity import MaskSubject, shares_for

    weights = find_weights(opened.task, opened.module, plan)
    return MaskWork(
        subject=MaskSubject(
            task=opened.task, module=opened.module, weights=weights, prune=prune, seed=seed
        ),
        shares=shares_for(plan.sparsity) if plan.method == "weights" else (),
        examples=sensitivity.examples,
    )


def plan_of_masks(
    opened: Dense,
    before: Cost,
    table: Artifact[Sensitivity],
    plan: PlanParams,
    prune: PruneParams,
    seed: int,
) -> tuple[Plan, dict[str, Any]]:
    """The Plan, and the same for people. Every group of channels keeps its full width.

    Nothing is promised of MACs or latency: zeros are computed like other numbers.
    """
    _refuse_knobs(
        f"plan.method '{plan.method}' masks weights",
        {
            "plan.depth": plan.depth,
            "plan.head_dimensions": plan.head_dimensions,
            "plan.budget: latency": plan.budget == "latency",
        },
    )
    from reprune.compress.masks.planning import plan_masks

    tensors = table.manifest.tensors
    made = plan_masks(
        opened.task, opened.module, plan, prune, () if tensors is UNSET else tensors, seed
    )
    sparsity = made.sparsity
    result = Plan(
        allocator=plan.pattern if plan.method == "n:m" else plan.scope,
        budget=WEIGHTS_BUDGET,
        fraction=1.0 - sparsity.zeros / made.weights.size,
        before=before,
        groups=tuple(
            GroupPlan(group=group.name, width=group.width, keep=group.width)
            for group in opened.groups
        ),
        predicted=Prediction(
            params=before.params,
            macs=before.macs,
            loss_increase=made.loss_increase,
            latency_ratio=None,
        ),
        sparsity=sparsity,
        by_hand=tuple(sorted(plan.sparsities or ())) or UNSET,
    )
    return result, _for_people(result, made)


def prune_masks(
    opened: Dense,
    dense: Artifact[ModelBundle],
    sparsity: SparsityPlan,
    prune: PruneParams,
    distill: DistillParams,
    seed: int,
    ctx: Context,
) -> Masked:
    """The dense model masked as the plan says, at once or on `prune.schedule`. Raises CompressionError
    where the plan does not fit the model.
    """
    _refuse_knobs(
        "the plan masks weights",
        {
            "prune.sparse_learning": prune.sparse_learning.method != "none",
            "prune.ladder": bool(prune.ladder.fractions),
        },
    )
    from reprune.compress.masks.growth import MaskCourse, grow_masks
    from reprune.compress.masks.masked import mask_model

    if prune.schedule.kind == "one-shot":
        return mask_model(opened.task, opened.module, sparsity, prune, seed=seed, say=ctx.say)
    course = MaskCourse(
        task=opened.task,
        module=opened.module,
        digest=dense.digest,
        plan=sparsity,
        prune=prune,
        distill=distill,
        seed=seed,
        say=ctx.say,
    )
    return grow_masks(course, ctx.work)


def masked_bundle(dense: Artifact[ModelBundle], made: Masked, ctx: Context) -> ModelBundle:
    """Writes the payload and returns the manifest of the masked model's bundle."""
    from reprune.compress.bundle import save_bundle

    save_bundle(ctx.out, made.module, None, dense, made.masks)
    return ModelBundle(
        name=dense.manifest.name,
        dense_version=dense.manifest.dense_version,
        task=dense.manifest.task,
        members=dense.manifest.members,
        surgery=made.surgery,
    )


def _refuse_knobs(what: str, asked: dict[str, bool]) -> None:
    """Raises CompressionError for knobs that only channels obey: they would do nothing, silently."""
    idle = [knob for knob, on in asked.items() if on]
    if idle:
        raise CompressionError(
            f"{what}, for which {' and '.join(idle)} can do nothing",
            where="params.yaml",
            fix="take it out, or set plan.method to channels",
        )


def _for_people(plan: Plan, made: MaskPlan) -> dict[str, Any]:
    sparsity = made.sparsity
    return {
        "method": "masks",
        "pattern": sparsity.pattern,
        "scope": sparsity.scope,
        "weights": made.weights.size,
        "zeros": sparsity.zeros,
        **({} if plan.by_hand is UNSET else {"by_hand": list(plan.by_hand)}),
        "tensors": {
            item.tensor: {
                "weights": item.size,
                "zeros": item.zeros,
                "sparsity": float(f"{item.zeros / item.size:.4g}"),
            }
            for item in sparsity.tensors
        },
        "left_whole": dict(made.weights.skipped),
        "predicted": {
            "loss_increase": None
            if made.loss_increase is None
            else float(f"{made.loss_increase:.4g}"),
            "macs": plan.predicted.macs,
            "params": plan.predicted.params,
        },
    }
