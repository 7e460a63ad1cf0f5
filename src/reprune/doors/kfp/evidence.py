"""Whether each artefact goes where the local pipeline sends it: one table of wires, two orchestrators.

Most artefacts are of a few types to Kubeflow Pipelines, so that it lets a dense model take the
candidate's place, or one machine's engines another's.
"""

from __future__ import annotations

from collections.abc import Iterator

from reprune.doors.kfp.findings import Finding
from reprune.doors.kfp.graph import Graph, Leaf, Source
from reprune.doors.local import STAGES

# Which step a component runs; `fetch_model` and `fetch_set` run two fetches, `promote` is a command.
STEP_OF = {
    "validate_data": "validate",
    "profile": "profile",
    "sensitivity_analysis": "sensitivity",
    "plan": "plan",
    "prune": "prune",
    "distill": "distill",
    "build": "build",
    "tensorrt_build": "build",
    "benchmark": "benchmark",
    "gate": "gate",
    "report": "report",
}
# The artefacts, by their names in the local pipeline, and the outputs that may be them.
MADE_BY: dict[str, set[tuple[str, str]]] = {
    "dense": {("fetch_model", "dense"), ("fetch_set", "dense")},
    "previous": {("fetch_model", "previous"), ("fetch_set", "previous")},
    "member": {("fetch_member", "weights")},
    "data": {("validate_data", "data")},
    "profile": {("profile", "profiled")},
    "sensitivity": {("sensitivity_analysis", "table"), ("sensitivity_merge", "table")},
    "shard": {("sensitivity_shard", "measured")},
    "plan": {("plan", "chosen")},
    "pruned": {("prune", "pruned")},
    "candidate": {("distill", "candidate")},
    "engines": {("build", "engines"), ("tensorrt_build", "engines")},
    "benchmark": {("benchmark", "measured")},
    "verdict": {("gate", "verdict")},
    "report": {("report", "written")},
}
# What promote takes, beside which artefact it is.
PROMOTED = {
    "verdict": "verdict",
    "candidate": "candidate",
    "engines": "engines",
    "chosen": "plan",
    "profiles": "profile",
    "table": "sensitivity",
    "report": "report",
}
# Steps that the local pipeline has no stage for.
BESIDE: dict[str, dict[str, str]] = {
    "fetch_member": {},
    "fetch_set": {"members": "member"},
    "sensitivity_shard": {"dense": "dense", "data": "data"},
    "sensitivity_merge": {
        "dense": "dense",
        "data": "data",
        "previous": "previous",
        "shards": "shard",
    },
    "promote": PROMOTED,
}
# What the gate judged must be, task for task, what promote is given.
JUDGED = ("candidate", "engines", "profiles", "chosen", "table")


def wires(function: str) -> dict[str, str]:
    """The artefact that each input of a component takes; nothing is known of other people's."""
    if function in BESIDE:
        return BESIDE[function]
    step = STEP_OF.get(function)
    return next((stage.inputs for stage in STAGES if stage.step == step), {})


def check_evidence(graph: Graph) -> Iterator[Finding]:
    """Inputs that come from the wrong task, and promotions of something else than was judged."""
    makers = {leaf.path: leaf.function for leaf in graph.leaves}
    for leaf in graph.leaves:
        for name, artefact in wires(leaf.function).items():
            source = graph.source("artifacts", leaf, name)
            made = None if source is None else (makers.get(source.path, ""), source.name)
            if made not in MADE_BY[artefact]:
                found = "nothing" if made is None else f"'{made[1]}' of {made[0] or 'outside'}"
                yield Finding(leaf.where, f"takes '{name}' from {found}, which is no {artefact}")
    for leaf in graph.called("promote"):
        yield from _check_judged(graph, leaf)
    for leaf in graph.called("benchmark"):
        yield from _check_together(graph, leaf)


def _check_judged(graph: Graph, promote: Leaf) -> Iterator[Finding]:
    verdict = graph.source("artifacts", promote, "verdict")
    for gate in graph.called("gate"):
        if verdict != Source("output", gate.path, "verdict"):
            continue
        for name in JUDGED:
            if graph.source("artifacts", promote, name) != graph.source("artifacts", gate, name):
                yield Finding(promote.where, f"takes another '{name}' than {gate.where} judged")
    for report in graph.called("report"):
        stored = graph.source("artifacts", promote, "report")
        other = graph.source("artifacts", report, "verdict") != verdict
        if stored == Source("output", report.path, "written") and other:
            yield Finding(promote.where, f"stores the report of another verdict, {report.where}")


def _check_together(graph: Graph, benchmark: Leaf) -> Iterator[Finding]:
    """What is timed was built for the same machine: both in one iteration of one loop, for one name."""
    source = graph.source("artifacts", benchmark, "engines")
    for build in graph.called("build", "tensorrt_build"):
        if source is None or source.path != build.path:
            continue
        machines = [graph.source("parameters", leaf, "machine") for leaf in (benchmark, build)]
        if machines[0] != machines[1] or benchmark.path[:-1] != build.path[:-1]:
            yield Finding(benchmark.where, f"times what {build.where} built for another machine")
