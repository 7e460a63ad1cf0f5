"""The rules that our pipelines' wiring keeps, checked on the compiled form.

A pipeline that breaks one of them runs, and looks right: it promotes what nobody judged, judges one
model by another one's samples, shows a stale result, or measures two models at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reprune.doors.kfp.evidence import check_evidence
from reprune.doors.kfp.findings import Finding
from reprune.doors.kfp.graph import Graph, Leaf, Source
from reprune.doors.kfp.schema import platform_executors

TEXTS = ("lock", "params", "policy")
# What reads the clock of a machine, or builds for it: two at a time would disturb each other.
MEASURING = ("profile", "build", "tensorrt_build", "benchmark")
# What touches the registry or decides; it never loads the user's code.
CONTROL = (
    "fetch_model",
    "choose_member",
    "fetch_member",
    "fetch_set",
    "choose_machine",
    "gate",
    "report",
    "promote",
)
# A second look at the sealed examples must be asked for, and a failed promotion is mostly a verdict.
NEVER_REPEATED = ("benchmark", "promote")
# What `choose_member` hands on: a member's own secret, else the run's.
MEMBERS_SECRET = "the secret of the member"
# Parameters of the pipeline whose values name secrets, by the only component that may mount them.
SECRETS = {
    "fetch_model": {"read_secret"},
    "fetch_member": {MEMBERS_SECRET},
    "fetch_set": {"read_secret"},
    "promote": {"write_secret", "promoter_secret"},
}
# What every other component may mount: it runs the user's code, which reads the user's data.
DATA_SECRETS = {"data_secret"}
MUST_MOUNT = {
    "fetch_model": {"read_secret"},
    "fetch_set": {"read_secret"},
    "fetch_member": {MEMBERS_SECRET},
    "promote": {"write_secret"},
}
DECIDING = ("gate", "report", "promote")

_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\[['\"]([^'\"]+)['\"]\]\}\}")
_PINNED = re.compile(r".+(@sha256:[0-9a-f]{64}|:(?!latest$)[A-Za-z0-9_][\w.-]*)")


def check_wiring(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> list[Finding]:
    """What breaks a rule, in a pipeline whose references all lead somewhere."""
    graph = Graph(spec)
    found = [*check_evidence(graph), *_check_order(graph), *_check_uncached(graph)]
    for leaf in graph.leaves:
        found += _check_texts(graph, leaf)
        found += _check_surroundings(graph, leaf)
        found += _check_image(graph, leaf, spec)
        found += _check_secrets(graph, leaf, platform)
    found += _check_members(graph)
    found += _check_workspace(graph)
    found += _check_defaults(spec)
    return found


def _check_order(graph: Graph) -> Iterator[Finding]:
    """Where anything is judged: gate, then report, then promote, and each of them always."""
    if not graph.called(*DECIDING):
        return
    for function in DECIDING:
        if not graph.called(function):
            yield Finding(function, "is missing from a pipeline that judges")
    for later, earlier in (("report", "gate"), ("promote", "gate"), ("promote", "report")):
        for leaf in graph.called(later):
            if not any(graph.runs_after(leaf, other) for other in graph.called(earlier)):
                yield Finding(leaf.where, f"does not wait for {earlier}")


def _check_uncached(graph: Graph) -> Iterator[Finding]:
    """The server's cache knows neither what a mutable image holds nor what the registry says today."""
    seen = set()
    for leaf in graph.leaves:
        for path, task in graph.around(leaf):
            options = task.get("cachingOptions", {})
            if path not in seen and (options.get("enableCache") or options.get("cacheKey")):
                yield Finding("/".join(path), "may be answered from the cache")
            seen.add(path)


def _check_texts(graph: Graph, leaf: Leaf) -> Iterator[Finding]:
    """Lock, params and policy come from the pipeline's parameters of these names, whole."""
    declared = graph.component_at(leaf.path).get("inputDefinitions", {}).get("parameters", {})
    for name in TEXTS:
        if name not in declared:
            continue
        source = graph.source("parameters", leaf, name)
        if source is None:
            yield Finding(leaf.where, f"is not given the text '{name}'")
        elif not _is_text(source, name):
            yield Finding(
                leaf.where, f"takes '{name}' from {_words(source)}, not the parameter '{name}'"
            )


def _is_text(source: Source, name: str) -> bool:
    if source.kind == "item":
        return source.selector.endswith(f'["{name}"]')
    return source.kind == "parameter" and source.name == name and not source.selector


def _check_surroundings(graph: Graph, leaf: Leaf) -> Iterator[Finding]:
    """Loops around what measures run one at a time; nothing that decides is conditional or tolerant."""
    loops = 0
    for path, task in graph.around(leaf):
        where = "/".join(path)
        if "parameterIterator" in task or "artifactIterator" in task:
            loops += 1
            limit = task.get("iteratorPolicy", {}).get("parallelismLimit", 0)
            if leaf.function in MEASURING and limit != 1:
                yield Finding(where, f"runs {leaf.function} on several machines at once")
        trigger = task.get("triggerPolicy", {})
        if leaf.function in DECIDING and trigger.get("condition"):
            yield Finding(where, f"runs {leaf.function} only on a condition")
        if trigger.get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
            yield Finding(where, f"runs {leaf.function} whether or not what it waits for succeeded")
        if leaf.function in NEVER_REPEATED and task.get("retryPolicy", {}).get("maxRetryCount"):
            yield Finding(where, f"repeats {leaf.function} when it fails")
    if loops > 1:
        yield Finding(leaf.where, "is in a loop inside a loop, whose items get mixed up locally")


def _check_image(graph: Graph, leaf: Leaf, spec: Mapping[str, Any]) -> Iterator[Finding]:
    """An image is a parameter or pinned; what measures runs in the image of its own machine."""
    container = spec["deploymentSpec"]["executors"][leaf.executor].get("container", {})
    image = container.get("image", "")
    placeholder = _PLACEHOLDER.fullmatch(image)
    if placeholder is None:
        if not pinned(image):
            yield Finding(leaf.where, f"its image '{image}' is neither pinned nor a parameter")
        return
    source = graph.source("parameters", leaf, placeholder[1])
    machine = graph.source("parameters", leaf, "machine")
    if leaf.function in CONTROL and not _is_parameter(source, "control_image"):
        yield Finding(leaf.where, f"runs in {_words(source)}, not in 'control_image'")
    if leaf.function in MEASURING and machine is not None and machine.kind == "output":
        if source != Source("output", machine.path, "image"):
            yield Finding(leaf.where, "does not run in the image of the machine that it is for")
        if machine.name != "name":
            yield Finding(leaf.where, f"takes the machine's {machine.name} for its name")


def _check_defaults(spec: Mapping[str, Any]) -> Iterator[Finding]:
    parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, given in parameters.items():
        default = given.get("defaultValue")
        if name.endswith("_image") and default is not None and not pinned(str(default)):
            yield Finding(name, f"defaults to an image that is not pinned: '{default}'")


def pinned(image: str) -> bool:
    """Whether the reference says which image it is: a digest, or a tag that is not `latest`."""
    return _PINNED.fullmatch(image) is not None


def _is_parameter(source: Source | None, name: str) -> bool:
    return source is not None and source.kind == "parameter" and source.name == name


def _check_secrets(graph: Graph, leaf: Leaf, platform: Mapping[str, Any]) -> Iterator[Finding]:
    """Only fetching may read the registry, only promoting may write it."""
    executor = platform_executors(platform).get(leaf.executor, {})
    mounted = set()
    for mount in (*executor.get("secretAsEnv", []), *executor.get("secretAsVolume", [])):
        given = mount.get("secretNameParameter", {})
        if "componentInputParameter" in given or "taskOutputParameter" in given:
            mounted.add(_secret(graph, leaf, graph.follow("parameters", leaf.path[:-1], given)))
        else:
            fixed = mount.get("secretName") or given.get("runtimeValue", {}).get("constant")
            mounted.add(f"the secret '{fixed}', by a fixed name")
    usual = set() if leaf.function in CONTROL else DATA_SECRETS
    for name in sorted(mounted - SECRETS.get(leaf.function, usual)):
        yield Finding(leaf.where, f"mounts {name}, which {leaf.function} may not have")
    for name in sorted(MUST_MOUNT.get(leaf.function, set()) - mounted):
        yield Finding(leaf.where, f"does not mount {name}")


def _secret(graph: Graph, leaf: Leaf, source: Source) -> str:
    """What the source of a secret's name is called where it is allowed, or forbidden."""
    if source.kind == "parameter":
        return source.name
    for chooser in graph.called("choose_member"):
        if source == Source("output", chooser.path, "read_secret"):
            mine = graph.source("parameters", leaf, "shard")
            if mine == Source("output", chooser.path, "shard"):
                return MEMBERS_SECRET
            return "the secret of another member"
    return _words(source)


def _check_members(graph: Graph) -> Iterator[Finding]:
    """Each member is one of the list, and has the run's own secret where it has none; no other one."""
    for leaf in graph.called("choose_member"):
        secret = graph.source("parameters", leaf, "read_secret")
        if not _is_parameter(secret, "read_secret"):
            yield Finding(leaf.where, f"gives members {_words(secret)} where they name no secret")
    for leaf in graph.called("fetch_member"):
        shard = graph.source("parameters", leaf, "shard")
        choosers = [Source("output", each.path, "shard") for each in graph.called("choose_member")]
        if shard not in choosers:
            yield Finding(leaf.where, f"takes its member from {_words(shard)}, which chooses none")


def _check_workspace(graph: Graph) -> Iterator[Finding]:
    """All steps share one workspace, or none: a note about an artefact means nothing elsewhere."""
    found: dict[Source, str] = {}
    for leaf in graph.leaves:
        declared = graph.component_at(leaf.path).get("inputDefinitions", {}).get("parameters", {})
        if "workspace" in declared:
            source = graph.source("parameters", leaf, "workspace") or Source("constant")
            found.setdefault(source, leaf.where)
    for where in [*found.values()][1:]:
        yield Finding(where, "has another workspace than the tasks before it")


def _words(source: Source | None) -> str:
    if source is None:
        return "nothing"
    if source.kind == "output":
        return f"the output '{source.name}' of {'/'.join(source.path)}"
    if source.kind == "item":
        return f"an item of {'/'.join(source.path)}"
    return f"the {source.kind} '{source.name}'"
