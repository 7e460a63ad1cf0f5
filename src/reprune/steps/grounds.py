"""What a judgement rests on, as values: the gate reads it from artefacts, `recompute` from a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprune.core.artifacts import (
    Benchmark,
    DataReport,
    Engines,
    ModelBundle,
    Plan,
    Previous,
    Profile,
    Sensitivity,
)
from reprune.core.errors import ArtifactError
from reprune.core.lock import Lock
from reprune.core.params import Params
from reprune.core.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A benchmark and the folder that its payload files lie in."""

    digest: str
    manifest: Benchmark
    folder: Path

    def file(self, name: str) -> Path:
        """The payload file `name`. Raises ArtifactError if the manifest does not vouch for it."""
        if name not in self.manifest.payload:
            raise ArtifactError(f"the benchmark vouches for no '{name}'", where=str(self.folder))
        return self.folder / name


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """Everything a judgement rests on. `digests` maps the gate's input names to manifest digests."""

    lock: Lock
    policy: Policy
    params: Params
    digests: Mapping[str, str]
    benchmarks: Sequence[Measured]
    engines: Sequence[Engines]
    profiles: Sequence[Profile]
    candidate: ModelBundle
    pruned: ModelBundle
    dense: ModelBundle
    previous: Previous
    data: DataReport
    chosen: Plan
    table: Sensitivity
