"""From the `registry` section of params.yaml to the adapter that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reprune.core import params
from reprune.core.plugins import lookup
from reprune.registry.protocol import Registry

REGISTRIES: dict[str, str] = {
    "mlflow": "reprune.registry.mlflow_registry:open_mlflow",
    "kubeflow": "reprune.registry.model_registry:open_model_registry",
    "files": "reprune.registry.files:open_files",
}


def open_registry(registry: params.Registry, root: Path) -> Registry:
    """The registry that params.yaml names; relative paths start at `root`. Nothing is contacted yet.

    Third parties add kinds with entry points in the group `reprune.registry`, each a callable
    (params.Registry, root) -> Registry. Raises UnknownName or DocumentError.
    """
    adapter: Callable[[params.Registry, Path], Registry] = lookup(
        "registry", registry.kind, REGISTRIES
    )
    return adapter(registry, root)
