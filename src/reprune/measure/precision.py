"""Which layers stay in float: as few as make the quantised model as good as the policy of `build` asks."""

from __future__ import annotations

from pathlib import Path

from reprune.core.artifacts import BuildFact
from reprune.core.params import BuildParams, Target
from reprune.runtimes.base import Runtime, Source
from reprune.task.protocol import Task


def with_float_layers(
    runtime: Runtime,
    source: Source,
    target: Target,
    task: Task,  # noqa: ARG001
    params: BuildParams,  # noqa: ARG001
    destination: Path,
) -> BuildFact:
    """Builds the engine at `destination`."""
    return runtime.build(source, target, destination)
