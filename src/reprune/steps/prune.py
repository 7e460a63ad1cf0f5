"""prune: cut the dense model to the plan's widths, and prove that nothing else was changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reprune.core.artifacts import DataReport, ModelBundle, Plan
from reprune.core.errors import ChainBroken, CompressionError, DataRefused, nearest
from reprune.core.params import PruneParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from reprune.compress.groups import Survey


@step("prune")
def prune(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    chosen: Artifact[Plan],
    prune: PruneParams,
    seed: int,
    threads: int,
    ctx: Context,
) -> ModelBundle:
    """Cuts the dense model's groups to the widths of the plan; no training yet.

    The result is a bundle of the same task whose `surgery` records what was asked and achieved.
    Raises DataRefused, ChainBroken for a plan of another model, CompressionError for a plan that
    does not fit the model, that cuts nothing, or whose cut would change the function.
    """
    _refuse_unfit(dense, data, chosen)
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.compress.bundle import load_bundle, save_bundle
    from reprune.compress.groups import survey
    from reprune.compress.structured import cut

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded = load_bundle(dense)
    if loaded.architecture is not None:
        raise CompressionError(
            "the dense model is itself a pruned one", where=str(dense.path), fix="cut its original"
        )
    keep: Sequence[str] = getattr(loaded.task, "keep", ())
    found = survey(loaded.module, loaded.task.example_inputs(2), keep)
    widths = _widths(chosen, found)
    result = cut(loaded.task, loaded.module, found.groups, widths, prune, seed, ctx.say)
    save_bundle(ctx.out, result.module, result.architecture, dense)
    return ModelBundle(
        name=dense.manifest.name,
        dense_version=dense.manifest.dense_version,
        task=dense.manifest.task,
        surgery=result.surgery,
    )


def _refuse_unfit(
    dense: Artifact[ModelBundle], data: Artifact[DataReport], chosen: Artifact[Plan]
) -> None:
    if not data.manifest.passed:
        failed = [
            item.name
            for item in data.manifest.expectations
            if not item.success and item.severity == "critical"
        ]
        raise DataRefused(
            f"the data contract failed: {', '.join(failed) or 'see the report'}",
            where=str(data.path),
            fix="correct the data or the contract, and run validate again",
        )
    for name, artifact in (("data report", data), ("plan", chosen)):
        parent = artifact.manifest.parents.get("dense")
        if parent is not None and parent != dense.digest:
            raise ChainBroken(
                f"the {name} was made for another dense model",
                where=str(artifact.path),
                fix="run the steps again from fetch on (dvc repro)",
            )


def _widths(chosen: Artifact[Plan], found: Survey) -> dict[str, int]:
    """The plan's widths by group. Raises CompressionError for a group that the model does not have so."""
    known = {group.name: group.width for group in found.groups}
    where = str(chosen.path)
    widths: dict[str, int] = {}
    for item in chosen.manifest.groups:
        if item.group not in known:
            why = found.skipped.get(item.group)
            raise CompressionError(
                f"the plan cuts '{item.group}', "
                + (
                    f"but {why}"
                    if why
                    else f"which the model does not have; {nearest(item.group, known)}"
                ),
                where=where,
                fix="make the plan again for this model",
            )
        if item.width != known[item.group]:
            raise CompressionError(
                f"the plan says that '{item.group}' has {item.width} channels, the model has "
                f"{known[item.group]}",
                where=where,
                fix="make the plan again for this model",
            )
        if item.group in widths:
            raise CompressionError(f"the plan names '{item.group}' twice", where=where)
        widths[item.group] = item.keep
    return widths
