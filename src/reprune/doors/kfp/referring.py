"""Whether every name in a compiled pipeline leads somewhere.

Kubeflow's compiler writes references that do not (a part of a loop's item as a task's image, a
pipeline parameter as a node selector inside a loop), its loader accepts them, and the cluster's
driver fails on them when the task's turn comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reprune.doors.kfp.findings import Finding
from reprune.doors.kfp.graph import ROOT, Kind, upstream
from reprune.doors.kfp.schema import platform_executors
from reprune.doors.kfp.scopes import Scope, scopes_of
from reprune.doors.kfp.settings import check_settings

PLACEHOLDER = re.compile(r"\$\.inputs\.parameters\[['\"]([^'\"]+)['\"]\]")
CONDITION = re.compile(r"inputs\.parameter_values\[['\"]([^'\"]+)['\"]\]")
KINDS: tuple[Kind, Kind] = ("parameters", "artifacts")
# What a task's image and resources arrive as where they are parameters; no component declares them.
UNDECLARED = re.compile(r"base_image|accelerator_(type|count)|(cpu|memory)_(limit|request)")
CHANNEL = "pipelinechannel--"
ANY_ARTIFACT = "system.Artifact"


def check_references(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> list[Finding]:
    """Every reference of a pipeline that leads nowhere, or to something of another kind."""
    components = spec.get("components", {})
    scopes = list(scopes_of(spec))
    found = [*_check_parts(spec, platform)]
    if found or (found := [*_check_nesting(spec)]):
        return found
    for scope in scopes:
        for name, task in scope.tasks.items():
            found += _check_task(scope, name, task)
            found += _check_placeholders(scope, name, task, spec)
            found += check_settings(scope, name, platform)
    for where, component in {ROOT: spec["root"], **components}.items():
        if "dag" in component:
            found += _check_outputs(where, component, components)
    return found


def _check_parts(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> Iterator[Finding]:
    """Components and executors: each that is named exists, each that exists is used."""
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    labels = {name: each["executorLabel"] for name, each in components.items() if "dag" not in each}
    for name, label in labels.items():
        if label not in executors:
            yield Finding(name, f"refers to the executor '{label}', which does not exist")
    for label in executors.keys() - set(labels.values()):
        yield Finding(label, "is an executor of no component")
    for label in platform_executors(platform).keys() - executors.keys():
        yield Finding(label, "has Kubernetes settings, but there is no such executor")
    used = set()
    for scope in scopes_of(spec):
        for name, task in scope.tasks.items():
            reference = task.get("componentRef", {}).get("name", "")
            used.add(reference)
            if reference not in components:
                yield Finding(
                    scope.at(name), f"refers to the component '{reference}', which does not exist"
                )
    for name in components.keys() - used:
        yield Finding(name, "is a component that no task refers to")


def _check_nesting(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """A DAG that contains itself, and tasks that wait for each other or for nothing."""
    inside = {
        scope.where: [scope.tasks[name]["componentRef"]["name"] for name in scope.tasks]
        for scope in scopes_of(spec)
    }
    for where, parts in inside.items():
        waiting, seen = list(parts), set[str]()
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting += inside.get(each, [])
        if where in seen:
            yield Finding(where, "contains itself")
    for scope in scopes_of(spec):
        for name, task in scope.tasks.items():
            for other in task.get("dependentTasks", []):
                if other not in scope.tasks:
                    yield Finding(
                        scope.at(name), f"waits for '{other}', which is no task beside it"
                    )
            if name in upstream(scope.tasks, name):
                yield Finding(scope.at(name), "waits for itself")


def _check_task(scope: Scope, name: str, task: Mapping[str, Any]) -> Iterator[Finding]:
    where = scope.at(name)
    declared = scope.component_of(name).get("inputDefinitions", {})
    item = task.get("parameterIterator", {}).get("itemInput")
    for kind in KINDS:
        given = task.get("inputs", {}).get(kind, {})
        for each in given:
            wanted = declared.get(kind, {}).get(each)
            if wanted is None and not (each.startswith(CHANNEL) or UNDECLARED.fullmatch(each)):
                yield Finding(where, f"is given '{each}', which its component does not take")
            yield from _check_input(scope, name, kind, each)
        for each, wanted in declared.get(kind, {}).items():
            optional = wanted.get("isOptional") or "defaultValue" in wanted
            if each not in given and each != item and not optional:
                yield Finding(where, f"is not given '{each}', which its component needs")
    yield from _check_iterator(where, task, declared)
    for each in CONDITION.findall(task.get("triggerPolicy", {}).get("condition", "")):
        if each not in task.get("inputs", {}).get("parameters", {}):
            yield Finding(where, f"runs on a condition on '{each}', which it is not given")


def _check_input(scope: Scope, name: str, kind: Kind, each: str) -> Iterator[Finding]:
    """One input of a task: what it refers to exists, ends before it, and is of its kind."""
    where, task = scope.at(name), scope.tasks[name]
    reference = task["inputs"][kind][each]
    wanted = scope.component_of(name).get("inputDefinitions", {}).get(kind, {}).get(each)
    made = reference.get("taskOutputParameter" if kind == "parameters" else "taskOutputArtifact")
    status = reference.get("taskFinalStatus")
    if made or status:
        producer = (made or status)["producerTask"]
        if producer not in scope.tasks:
            yield Finding(where, f"takes '{each}' of '{producer}', which is no task beside it")
            return
        if producer not in upstream(scope.tasks, name):
            yield Finding(where, f"takes '{each}' of '{producer}' without waiting for it")
        if status:
            return
        key = made["outputParameterKey" if kind == "parameters" else "outputArtifactKey"]
        outputs = scope.component_of(producer).get("outputDefinitions", {}).get(kind, {})
        if key not in outputs:
            yield Finding(where, f"takes '{each}' of '{producer}', which has no output '{key}'")
            return
        yield from _check_kind(where, each, outputs[key], wanted)
    elif "runtimeValue" not in reference:
        asked = reference.get(
            "componentInputParameter" if kind == "parameters" else "componentInputArtifact"
        )
        known = scope.given.get(kind, {})
        if asked not in known:
            yield Finding(where, f"takes '{each}' from '{asked}', which {scope.where} is not given")
        elif "parameterExpressionSelector" not in reference:
            yield from _check_kind(where, each, known[asked], wanted)


def _check_kind(
    where: str, each: str, found: Mapping[str, Any], wanted: Mapping[str, Any] | None
) -> Iterator[Finding]:
    if wanted is None:
        return
    if found.get("parameterType") != wanted.get("parameterType"):
        yield Finding(
            where, f"'{each}' is {found.get('parameterType')}, not {wanted.get('parameterType')}"
        )
    if bool(found.get("isArtifactList")) != bool(wanted.get("isArtifactList")):
        word = "a list" if found.get("isArtifactList") else "one artifact"
        yield Finding(where, f"'{each}' is given {word}, and takes the other")
    title, asked = _title(found), _title(wanted)
    if ANY_ARTIFACT not in (title, asked) and title != asked:
        yield Finding(where, f"'{each}' is a {title}, not a {asked}")


def _title(definition: Mapping[str, Any]) -> str:
    return str(definition.get("artifactType", {}).get("schemaTitle", ANY_ARTIFACT))


def _check_iterator(
    where: str, task: Mapping[str, Any], declared: Mapping[str, Any]
) -> Iterator[Finding]:
    iterator = task.get("parameterIterator")
    if iterator is None:
        if "iteratorPolicy" in task and "artifactIterator" not in task:
            yield Finding(where, "limits the parallelism of a loop that it is not")
        return
    if iterator.get("itemInput") not in declared.get("parameters", {}):
        yield Finding(where, f"loops into '{iterator.get('itemInput')}', which it does not take")
    items = iterator.get("items", {})
    if "raw" in items:
        try:
            sound = isinstance(json.loads(items["raw"]), list)
        except ValueError:
            sound = False
        if not sound:
            yield Finding(where, "loops over a text that is no JSON list")
    elif items.get("inputParameter") not in task.get("inputs", {}).get("parameters", {}):
        yield Finding(where, f"loops over '{items.get('inputParameter')}', which it is not given")


def _check_placeholders(
    scope: Scope, name: str, task: Mapping[str, Any], spec: Mapping[str, Any]
) -> Iterator[Finding]:
    """What a container's image, resources or environment read is given to the task."""
    component = scope.component_of(name)
    label = component.get("executorLabel")
    container = spec.get("deploymentSpec", {}).get("executors", {}).get(label, {})
    texts = json.dumps(container.get("container", {}) | {"command": []})
    known = {
        *task.get("inputs", {}).get("parameters", {}),
        *component.get("inputDefinitions", {}).get("parameters", {}),
    }
    for each in sorted(set(PLACEHOLDER.findall(texts)) - known):
        yield Finding(scope.at(name), f"its container reads '{each}', which it is not given")
    for each, given in task.get("inputs", {}).get("parameters", {}).items():
        text = str(given.get("runtimeValue", {}).get("constant", ""))
        for inner in sorted(set(PLACEHOLDER.findall(text)) - known):
            yield Finding(
                scope.at(name), f"its '{each}' is made of '{inner}', which it is not given"
            )


def _check_outputs(
    where: str, component: Mapping[str, Any], components: Mapping[str, Any]
) -> Iterator[Finding]:
    """A DAG's outputs: each that is declared is made, by a task that has it."""
    scope = Scope(where, {}, component["dag"].get("tasks", {}), components)
    for kind in KINDS:
        declared = component.get("outputDefinitions", {}).get(kind, {})
        made = component["dag"].get("outputs", {}).get(kind, {})
        for each in sorted(declared.keys() ^ made.keys()):
            word = "made" if each in declared else "declared"
            yield Finding(where, f"its output '{each}' is not {word}")
        for each, selected in made.items():
            for task, key in _selected(selected):
                if task not in scope.tasks:
                    yield Finding(
                        where, f"its output '{each}' is of '{task}', which is no task of it"
                    )
                elif key not in scope.component_of(task).get("outputDefinitions", {}).get(kind, {}):
                    yield Finding(
                        where, f"its output '{each}' is '{key}' of '{task}', which has none"
                    )


def _selected(selected: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for each in selected.get("artifactSelectors", []):
        yield each.get("producerSubtask", ""), each.get("outputArtifactKey", "")
    one = selected.get("valueFromParameter")
    several = selected.get("valueFromOneof", {}).get("parameterSelectors", [])
    for each in [*([one] if one else []), *several]:
        yield each.get("producerSubtask", ""), each.get("outputParameterKey", "")
