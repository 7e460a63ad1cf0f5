"""What the Kubernetes settings of a task read: inputs of the DAG around it, or outputs it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reprune.doors.kfp.findings import Finding
from reprune.doors.kfp.graph import upstream
from reprune.doors.kfp.schema import platform_executors
from reprune.doors.kfp.scopes import Scope

# The kinds of parameter that the driver takes for a setting; a text for all others.
SETTINGS = {
    "nodeSelectorJson": ("STRUCT",),
    "nodeAffinityJson": ("STRUCT",),
    "tolerationJson": ("STRUCT", "LIST"),
}


def check_settings(scope: Scope, name: str, platform: Mapping[str, Any]) -> Iterator[Finding]:
    """Settings that read what is not there, or of a kind that the cluster refuses."""
    label = scope.component_of(name).get("executorLabel", "")
    where = scope.at(name)
    for setting, value in _pairs(platform_executors(platform).get(label, {})):
        if not isinstance(value, Mapping):
            continue
        if "componentInputParameter" in value:
            asked = value["componentInputParameter"]
            read = scope.given.get("parameters", {}).get(asked)
            words = f"'{asked}', which {scope.where} is not given"
        elif "taskOutputParameter" in value:
            asked = value["taskOutputParameter"]
            producer, key = asked.get("producerTask"), asked.get("outputParameterKey")
            waited = producer in upstream(scope.tasks, name)
            outputs = scope.component_of(producer).get("outputDefinitions", {})
            read = outputs.get("parameters", {}).get(key) if waited else None
            words = f"'{key}' of '{producer}', which it does not wait for, or which has none"
        else:
            continue
        if read is None:
            yield Finding(where, f"its Kubernetes setting {setting} reads {words}")
        elif read.get("parameterType") not in SETTINGS.get(setting, ("STRING",)):
            kind = read.get("parameterType")
            yield Finding(where, f"its Kubernetes setting {setting} reads a {kind}")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)
