"""Whether a compiled pipeline would run as it was meant: decided on the file alone, without a cluster.

Kubeflow's own compiler and loader let a reference to nothing pass, and a cluster finds it hours into a
run. Three looks, each only at what the one before found whole: every message has the fields of its
schema; every reference leads somewhere; and the wiring keeps the rules that a promotion rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reprune.core.errors import RepruneError
from reprune.doors.kfp.findings import Finding
from reprune.doors.kfp.referring import check_references
from reprune.doors.kfp.schema import check_schema
from reprune.doors.kfp.wiring import check_wiring

__all__ = ["Finding", "check_package", "package_of", "refuse"]

Document = Mapping[str, Any]


def check_package(documents: Sequence[Document]) -> list[Finding]:
    """What is wrong with a compiled package (its YAML documents, decoded); nothing means it is sound.

    Raises MissingExtra where kfp is not installed.
    """
    spec, platform = package_of(documents)
    if found := check_schema(spec, platform):
        return found
    if found := check_references(spec, platform):
        return found
    return check_wiring(spec, platform)


def package_of(documents: Sequence[Document]) -> tuple[Document, Document]:
    """The pipeline and its platform settings, of either form: a package, or manifests for Kubernetes.

    The settings are empty where there are none.
    """
    for document in documents:
        if document.get("kind") == "PipelineVersion":
            spec = document.get("spec", {})
            return spec.get("pipelineSpec", {}), spec.get("platformSpec", {})
    first = documents[0] if documents else {}
    return first, documents[1] if len(documents) > 1 else {}


def refuse(name: str, found: Sequence[Finding]) -> None:
    """Raises RepruneError that lists what was found; returns if that is nothing."""
    if found:
        lines = "\n".join(f"  {each}" for each in found)
        raise RepruneError(
            f"the compiled pipeline is not sound:\n{lines}",
            where=name,
            fix="correct pipelines/ or components/; nothing was written",
        )
