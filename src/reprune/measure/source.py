"""What engines are built from: a model, its example inputs and, where it is quantised, calibration inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reprune.core.errors import BuildError, TaskError
from reprune.core.params import Target
from reprune.runtimes.base import Source, get_runtime

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.core.artifacts import Surgery
    from reprune.task.protocol import Batch, Task

# Precisions whose activations need ranges, or might not fit into fp16.
CALIBRATED = ("fp16", "int8", "int8-fp16")
# For an engine that is only timed: how fast it is does not depend on the ranges.
CALIBRATION_EXAMPLES = 32


def source_of(
    module: nn.Module, task: Task, target: Target, *, examples: int, surgery: Surgery | None = None
) -> Source:
    """The source of an engine of `module` for `target`; `examples` calibrate it where it needs that.

    Raises BuildError for a precision or device that the runtime does not offer, TaskError for an empty
    calibration split that is needed.
    """
    _refuse_unable(target)
    calibration: Sequence[tuple[Tensor, ...]] = ()
    if target.precision in CALIBRATED:
        calibration = [batch.inputs for batch in calibration_batches(task, examples)]
    return Source(
        module=module,
        example_inputs=task.example_inputs(2),
        input_names=tuple(task.input_names),
        calibration=calibration,
        sparsity=sparsity_pattern(surgery),
    )


def calibration_batches(task: Task, examples: int) -> tuple[Batch, ...]:
    """Whole batches of `calibration` until there are at least `examples`, or it ends.

    Raises TaskError for an empty one.
    """
    found: list[Batch] = []
    for batch in task.batches("calibration", epoch=0, seed=0):
        found.append(batch)
        if sum(map(len, found)) >= examples:
            break
    if not found:
        raise TaskError(
            "the calibration split is empty",
            fix="engines are quantised on it and compared with their bundles: give it examples",
        )
    return tuple(found)


def sparsity_pattern(surgery: Surgery | None) -> str:
    """The pattern of a bundle's masked weights: one that all share, else "unstructured"; "" for none."""
    if surgery is None or not surgery.sparsity:
        return ""
    patterns = {one.pattern for one in surgery.sparsity}
    return patterns.pop() if len(patterns) == 1 else "unstructured"


def _refuse_unable(target: Target) -> None:
    can = get_runtime(target.runtime).capabilities
    if target.precision not in can.precisions:
        raise BuildError(
            f"{target.runtime} does not build {target.precision}",
            where="params.yaml (targets)",
            fix=f"use one of: {', '.join(can.precisions)}",
        )
    if target.device and target.device.partition(":")[0] not in can.devices:
        raise BuildError(
            f"{target.runtime} does not run on the device '{target.device}'",
            where="params.yaml (targets)",
            fix=f"use one of: {', '.join(can.devices)}",
        )
