"""sensitivity: what each group of channels is worth."""

from __future__ import annotations

from msgspec import UnsetType

from reprune.core.artifacts import DataReport, ModelBundle, Previous, Sensitivity
from reprune.core.params import GenerationsParams, PlanParams, PruneParams, SensitivityParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.inheriting import looked_up, with_reuse
from reprune.steps.measuring import Knobs, open_work

EVERYTHING = (0, 1)


@step("sensitivity")
def sensitivity(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    previous: Artifact[Previous],
    sensitivity: SensitivityParams,
    plan: PlanParams,
    prune: PruneParams,
    generations: GenerationsParams | UnsetType,
    seed: int,
    threads: int,
    ctx: Context,
) -> Sensitivity:
    """Measures the loss that each group of channels adds when cut alone, and each block when removed.

    In full, or from estimates and few evaluations (`sensitivity.method`); blocks only with
    `plan.depth`. Where `plan.method` masks weights, each tensor alone is masked instead. With
    `generations.reuse` the champion's table is used again where a spot check finds that it still holds;
    `reuse` says which happened and why.

    Resumes where a killed run stopped (a spot check begins again). Raises DataRefused, ChainBroken for
    data of another model, CompressionError where nothing can be cut.
    """
    knobs = Knobs(
        sensitivity=sensitivity,
        plan=plan,
        prune=prune,
        generations=generations,
        seed=seed,
        threads=threads,
    )
    work = open_work(dense, data, knobs, ctx)
    reuse = looked_up(work, dense, previous, generations, ctx)
    if isinstance(reuse, Sensitivity):
        return reuse
    return with_reuse(work.conclude([work.look(EVERYTHING, ctx)]), reuse)
