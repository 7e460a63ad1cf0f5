"""Dense versions: how a retrained model is registered, and which version is meant."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from reprune.core.artifacts import WEIGHTS
from reprune.core.errors import VersionNotFound
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.weights import check_weights


def register_dense(
    registry: Registry, name: str, weights: Path, tags: Mapping[str, str] | None = None
) -> str:
    """A new version of `name` that holds `weights` (a state dict in safetensors); returns its number.

    This is a convenience: any registered version whose files hold exactly one `*.safetensors` will do.
    Raises CheckpointError or NonFiniteWeights for weights that no run could use.
    """
    with tempfile.TemporaryDirectory(prefix="reprune-") as folder:
        copy = Path(folder) / WEIGHTS
        shutil.copyfile(weights, copy)
        check_weights(copy)
        return registry.register(name, Path(folder), dict(tags or {}))


def find_dense(registry: Registry, name: str, version: str | None = None) -> VersionInfo:
    """The newest version of `name`, or the one asked for. Raises VersionNotFound naming what there is."""
    found = registry.versions(name)
    wanted = [info for info in found if version is None or info.version == version]
    if wanted:
        return wanted[-1]
    known = ", ".join(info.version for info in found[-10:])
    raise VersionNotFound(
        f"there is no version {version} of '{name}'" if version else f"'{name}' has no version",
        where=registry.identity,
        fix=f"use one of: {known}" if known else "register a first dense version",
    )
