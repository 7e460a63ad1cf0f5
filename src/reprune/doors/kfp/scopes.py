"""The DAGs of a compiled pipeline: inside each of them names mean something of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reprune.doors.kfp.graph import ROOT


@dataclass(frozen=True)
class Scope:
    """One DAG: `where` names it, `given` are its inputs, `tasks` its tasks, `components` all there are."""

    where: str
    given: Mapping[str, Any]
    tasks: Mapping[str, Any]
    components: Mapping[str, Any]

    def at(self, name: str) -> str:
        return name if self.where == ROOT else f"{self.where}/{name}"

    def component_of(self, name: str) -> Mapping[str, Any]:
        reference = self.tasks.get(name, {}).get("componentRef", {}).get("name")
        found: Mapping[str, Any] = self.components.get(reference, {})
        return found


def scopes_of(spec: Mapping[str, Any]) -> Iterator[Scope]:
    """Every DAG of a pipeline, the outermost first."""
    components = spec.get("components", {})
    for where, component in {ROOT: spec["root"], **components}.items():
        if "dag" in component:
            given = component.get("inputDefinitions", {})
            yield Scope(where, given, component["dag"].get("tasks", {}), components)
