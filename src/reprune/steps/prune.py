"""prune: cut the dense model to the plan's widths, and prove that nothing else was changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.artifacts import DataReport, ModelBundle, Plan
from reprune.core.errors import CompressionError, nearest
from reprune.core.memory import keep_freed
from reprune.core.params import DistillParams, PruneParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.masking import masked_bundle, prune_masks
from reprune.steps.opening import groups_again, open_dense, open_for_masks
from reprune.steps.refusals import refuse_failed_data, refuse_strangers

if TYPE_CHECKING:
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group


@step("prune")
def prune(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    chosen: Artifact[Plan],
    prune: PruneParams,
    distill: DistillParams,
    seed: int,
    threads: int,
    ctx: Context,
) -> ModelBundle:
    """Cuts the dense model's groups to the widths of the plan, at once or on a schedule.

    Blocks that the plan names go with the first cut. At once there is no training; on
    `prune.schedule` the model recovers between the cuts, as `distill` says. `prune.sparse_learning`
    trains before the cut, `prune.ladder` takes a gentler one where the bar is missed. A killed run goes
    on where it was. Where the plan masks weights, they are zero and the masks lie beside them, all
    widths stay. The result is a bundle of the same task whose `surgery` records what was asked and
    achieved.

    Raises DataRefused, ChainBroken for a plan or data of another model, CompressionError for a plan
    that does not fit the model, that cuts nothing, or whose cut would change the function.
    """
    refuse_failed_data(data)
    refuse_strangers(dense, {"data report": data, "plan": chosen})
    keep_freed()
    sparsity = chosen.manifest.sparsity
    if sparsity is not UNSET:
        whole = open_for_masks(dense, seed=seed, threads=threads, say=ctx.say)
        made = prune_masks(whole, dense, sparsity, prune, distill, seed, ctx)
        return masked_bundle(dense, made, ctx)
    from reprune.compress.bundle import save_bundle
    from reprune.compress.ladder import prune_channels
    from reprune.compress.stages import Course
    from reprune.compress.structure.alignment import alignments

    dimensions = chosen.manifest.head_dimensions is True
    opened = open_dense(dense, seed=seed, threads=threads, head_dimensions=dimensions)
    widths = _widths(chosen, opened.groups)
    plan = chosen.manifest
    course = Course(
        task=opened.task,
        module=opened.module,
        teacher=opened.module,
        digest=dense.digest,
        groups=opened.groups,
        regroup=partial(groups_again, opened.task, head_dimensions=dimensions),
        widths=widths,
        blocks=_blocks(chosen, opened.blocks),
        prune=prune,
        distill=distill,
        seed=seed,
        say=ctx.say,
        alignment=alignments(opened.module, opened.groups, plan.round_to) if plan.round_to else {},
        block_losses=plan.block_losses or {},
    )
    result = prune_channels(course, ctx.work)
    save_bundle(ctx.out, result.module, result.architecture, dense)
    return ModelBundle(
        name=dense.manifest.name,
        dense_version=dense.manifest.dense_version,
        task=dense.manifest.task,
        members=dense.manifest.members,
        surgery=result.surgery,
    )


def _widths(chosen: Artifact[Plan], groups: Sequence[Group]) -> dict[str, int]:
    """The plan's widths by group. Raises CompressionError for a group that the model does not have so."""
    known = {group.name: group.width for group in groups}
    widths: dict[str, int] = {}
    for item in chosen.manifest.groups:
        what = None
        if item.group not in known:
            hint = nearest(item.group, known)
            what = f"the model has no group '{item.group}' that can be cut; {hint}"
        elif item.width != known[item.group]:
            what = (
                f"the plan says that '{item.group}' has {item.width} channels, the model has "
                f"{known[item.group]}"
            )
        elif item.group in widths:
            what = f"the plan names '{item.group}' twice"
        if what is not None:
            raise CompressionError(
                what, where=str(chosen.path), fix="make the plan again for this model"
            )
        widths[item.group] = item.keep
    return widths


def _blocks(chosen: Artifact[Plan], blocks: Sequence[Block]) -> list[Block]:
    """The blocks that the plan removes. Raises CompressionError for one that cannot be removed."""
    known = {block.name: block for block in blocks}
    found = []
    for name in chosen.manifest.blocks or ():
        if name not in known:
            raise CompressionError(
                f"the model has no block '{name}' that can be removed; {nearest(name, known)}",
                where=str(chosen.path),
                fix="make the plan again for this model",
            )
        found.append(known[name])
    return found
