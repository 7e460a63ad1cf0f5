"""What a step refuses before it does anything: data that failed its contract, artefacts of another model."""

from __future__ import annotations

from collections.abc import Mapping

from reprune.core.artifacts import DataReport, Manifest, ModelBundle
from reprune.core.errors import ChainBroken, DataRefused
from reprune.core.store import Artifact


def refuse_failed_data(data: Artifact[DataReport]) -> None:
    """Raises DataRefused, naming what failed, unless the data contract passed."""
    if data.manifest.passed:
        return
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


def refuse_strangers(
    dense: Artifact[ModelBundle], made_from_it: Mapping[str, Artifact[Manifest]]
) -> None:
    """Raises ChainBroken unless each artefact has `dense` as its parent of that name."""
    for name, artifact in made_from_it.items():
        if artifact.manifest.parents.get("dense") != dense.digest:
            raise ChainBroken(
                f"the {name} was not made from this dense model",
                where=str(artifact.path),
                fix="run the steps again from fetch on (dvc repro)",
            )
