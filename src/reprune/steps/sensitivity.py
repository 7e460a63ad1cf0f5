"""sensitivity: what each group of channels is worth."""

from __future__ import annotations

from msgspec import UNSET

from reprune.core.artifacts import DataReport, ModelBundle, Sensitivity
from reprune.core.params import PlanParams, PruneParams, SensitivityParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.masking import masks_weights, measure_masks
from reprune.steps.opening import open_dense, open_for_masks, refuse_no_choice
from reprune.steps.refusals import refuse_failed_data, refuse_strangers


@step("sensitivity")
def sensitivity(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    sensitivity: SensitivityParams,
    plan: PlanParams,
    prune: PruneParams,
    seed: int,
    threads: int,
    ctx: Context,
) -> Sensitivity:
    """Measures the loss that each group of channels adds when cut alone, and each block when removed.

    In full, or from estimates and few evaluations (`sensitivity.method`); blocks only with
    `plan.depth`. Where `plan.method` masks weights, each tensor alone is masked instead.

    Resumes where a killed run stopped. Raises DataRefused, ChainBroken for data of another model,
    CompressionError where nothing can be cut.
    """
    refuse_failed_data(data)
    refuse_strangers(dense, {"data report": data})
    if masks_weights(plan):
        whole = open_for_masks(dense, seed=seed, threads=threads, say=ctx.say)
        return measure_masks(whole, sensitivity, plan, prune, seed, ctx)
    from reprune.compress.importance import criterion_label
    from reprune.compress.planning.costs import cost_model
    from reprune.compress.sensitivity.measure import Subject, measure, removables
    from reprune.measure.profile import count_cost

    opened = open_dense(dense, seed=seed, threads=threads, head_dimensions=plan.head_dimensions)
    refuse_no_choice(opened, plan)
    counted = count_cost(opened.module, opened.task.example_inputs(1))
    cost = cost_model(opened.module, opened.groups, counted, opened.blocks)
    subject = Subject(
        task=opened.task,
        module=opened.module,
        groups=opened.groups,
        cost=cost,
        blocks=removables(opened.module, opened.blocks if plan.depth else (), cost),
    )
    measured = measure(subject, sensitivity, prune, seed=seed, work=ctx.work, say=ctx.say)
    return Sensitivity(
        criterion=criterion_label(prune),
        base_loss=measured.base_loss,
        examples=measured.examples,
        groups=measured.groups,
        blocks=measured.blocks or UNSET,
        joint=measured.joint or UNSET,
        cost=measured.cost,
    )
