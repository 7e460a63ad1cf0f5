"""sensitivity: what each group of channels is worth."""

from __future__ import annotations

from reprune.core.artifacts import DataReport, ModelBundle, Sensitivity
from reprune.core.params import PlanParams, PruneParams, SensitivityParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.measuring import Knobs, open_work

EVERYTHING = (0, 1)


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
    knobs = Knobs(sensitivity=sensitivity, plan=plan, prune=prune, seed=seed, threads=threads)
    work = open_work(dense, data, knobs, ctx)
    return work.conclude([work.look(EVERYTHING, ctx)])
