"""A compiled pipeline as a graph: which tasks run, after what, and where each of their inputs is made.

Loops and nested pipelines are DAGs of their own in the compiled form, and a name means something only
inside its DAG. Here every task that runs a container is a `Leaf` with a path from the root, and every
input is followed through the DAGs to the task, parameter or constant that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Path: TypeAlias = tuple[str, ...]
Kind: TypeAlias = Literal["parameters", "artifacts"]
FUNCTION_FLAG = "--function_to_execute"
ROOT = "the pipeline"


@dataclass(frozen=True)
class Source:
    """Where an input comes from.

    `kind` says what `path` and `name` are: the output `name` of the task at `path`; the parameter
    `name` of the whole pipeline; an item of the loop at `path`; or a constant. `selector` is the
    expression that picks a part of it.
    """

    kind: Literal["output", "parameter", "item", "constant"]
    path: Path = ()
    name: str = ""
    selector: str = ""


@dataclass(frozen=True)
class Leaf:
    """A task that runs a container. `function` is the component's Python name."""

    path: Path
    function: str
    component: str
    executor: str
    task: Mapping[str, Any]

    @property
    def where(self) -> str:
        return "/".join(self.path)


class Graph:
    """The pipeline `spec`, whose references must all lead somewhere (see referring)."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.components: Mapping[str, Any] = {**spec.get("components", {}), "": spec["root"]}
        executors = spec.get("deploymentSpec", {}).get("executors", {})
        self.functions = {label: function_of(executor) for label, executor in executors.items()}
        self.leaves = tuple(self._leaves(()))

    def called(self, *functions: str) -> list[Leaf]:
        """The leaves that run one of these components."""
        return [leaf for leaf in self.leaves if leaf.function in functions]

    def component_at(self, path: Path) -> Mapping[str, Any]:
        """The component that the task at `path` refers to; the root for the empty path."""
        name = self.task_at(path)["componentRef"]["name"] if path else ""
        found: Mapping[str, Any] = self.components[name]
        return found

    def task_at(self, path: Path) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.component_at(path[:-1])["dag"]["tasks"][path[-1]]
        return found

    def around(self, leaf: Leaf) -> list[tuple[Path, Mapping[str, Any]]]:
        """The tasks that contain the leaf, outermost first, and the leaf's own last."""
        paths = [leaf.path[: count + 1] for count in range(len(leaf.path))]
        return [(path, self.task_at(path)) for path in paths]

    def runs_after(self, later: Leaf, earlier: Leaf) -> bool:
        """Whether `later` can start only when `earlier` has ended."""
        if later.path == earlier.path:
            return False
        shared = 0
        while later.path[shared] == earlier.path[shared]:
            shared += 1
        tasks = self.component_at(later.path[:shared])["dag"]["tasks"]
        return earlier.path[shared] in upstream(tasks, later.path[shared])

    def source(self, kind: Kind, leaf: Leaf, name: str) -> Source | None:
        """Where the leaf's input comes from; None if it is not given."""
        given = leaf.task.get("inputs", {}).get(kind, {}).get(name)
        return None if given is None else self.follow(kind, leaf.path[:-1], given)

    def follow(self, kind: Kind, dag: Path, given: Mapping[str, Any]) -> Source:
        """Where what is referred to as `given` inside the DAG at `dag` comes from."""
        selector = given.get("parameterExpressionSelector", "")
        if "runtimeValue" in given:
            return Source("constant", name=str(given["runtimeValue"].get("constant")))
        if kind == "parameters" and "taskOutputParameter" in given:
            ref = given["taskOutputParameter"]
            return self._made(kind, (*dag, ref["producerTask"]), ref["outputParameterKey"])
        if kind == "artifacts" and "taskOutputArtifact" in given:
            ref = given["taskOutputArtifact"]
            return self._made(kind, (*dag, ref["producerTask"]), ref["outputArtifactKey"])
        if "taskFinalStatus" in given:
            return Source("output", (*dag, given["taskFinalStatus"]["producerTask"]), "status")
        name = given[
            "componentInputParameter" if kind == "parameters" else "componentInputArtifact"
        ]
        return self._received(kind, dag, name, selector)

    def _received(self, kind: Kind, dag: Path, name: str, selector: str) -> Source:
        if not dag:
            return Source("parameter", name=name, selector=selector)
        task = self.task_at(dag)
        if task.get("parameterIterator", {}).get("itemInput") == name:
            return Source("item", dag, name, selector)
        given = task.get("inputs", {}).get(kind, {}).get(name)
        if given is None:
            # The DAG's own default.
            default = self.component_at(dag)["inputDefinitions"][kind][name].get("defaultValue")
            return Source("constant", name=str(default))
        found = self.follow(kind, dag[:-1], given)
        if not selector:
            return found
        return Source(found.kind, found.path, found.name, f"{found.selector}{selector}")

    def _made(self, kind: Kind, path: Path, key: str) -> Source:
        component = self.component_at(path)
        if "dag" not in component:
            return Source("output", path, key)
        selected = component["dag"]["outputs"][kind][key]
        if kind == "artifacts":
            ref = selected["artifactSelectors"][0]
            return self._made(kind, (*path, ref["producerSubtask"]), ref["outputArtifactKey"])
        ref = (
            selected.get("valueFromParameter")
            or selected["valueFromOneof"]["parameterSelectors"][0]
        )
        return self._made(kind, (*path, ref["producerSubtask"]), ref["outputParameterKey"])

    def _leaves(self, path: Path) -> Iterator[Leaf]:
        for name, task in self.component_at(path)["dag"]["tasks"].items():
            component = task["componentRef"]["name"]
            label = self.components[component].get("executorLabel")
            if label is None:
                yield from self._leaves((*path, name))
            else:
                yield Leaf((*path, name), self.functions[label], component, label, task)


def upstream(tasks: Mapping[str, Any], name: str) -> set[str]:
    """The tasks of one DAG that must end before `name` starts; with itself in it there is a cycle."""
    found: set[str] = set()
    waiting = list(tasks[name].get("dependentTasks", []))
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += tasks.get(each, {}).get("dependentTasks", [])
    return found


def function_of(executor: Mapping[str, Any]) -> str:
    """The Python function that an executor runs; empty for one that runs none."""
    arguments = executor.get("container", {}).get("args", [])
    if FUNCTION_FLAG not in arguments[:-1]:
        return ""
    return str(arguments[arguments.index(FUNCTION_FLAG) + 1])
