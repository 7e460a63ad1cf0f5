"""How the steps are wired on one machine: the table that `dvc.yaml` is rendered from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from reprune.core.lock import LOCK_FILE
from reprune.core.params import PARAMS_FILE
from reprune.core.policy import POLICY_FILE
from reprune.core.step import Step
from reprune.measure.attempts import ATTEMPTS_FILE
from reprune.steps import get_step

ARTIFACTS = "artifacts"
DVC_FILE = "dvc.yaml"


@dataclass(frozen=True)
class Stage:
    """`out` is the artefact's folder below `artifacts/`; `inputs` maps a step's inputs to such folders."""

    out: str
    step: str
    inputs: dict[str, str] = field(default_factory=dict)


_MODEL = {"dense": "dense", "data": "data"}
STAGES: tuple[Stage, ...] = (
    Stage("dense", "fetch-dense"),
    Stage("previous", "fetch-previous"),
    Stage("data", "validate", {"dense": "dense", "previous": "previous"}),
    Stage("profile", "profile", {**_MODEL, "previous": "previous"}),
    Stage("sensitivity", "sensitivity", {**_MODEL, "previous": "previous"}),
    Stage(
        "plan",
        "plan",
        {
            "dense": "dense",
            "profiles": "profile",
            "table": "sensitivity",
            "previous": "previous",
        },
    ),
    Stage("pruned", "prune", {**_MODEL, "chosen": "plan"}),
    Stage(
        "candidate",
        "distill",
        {"student": "pruned", "teacher": "dense", "data": "data", "previous": "previous"},
    ),
    Stage("engines", "build", {"candidate": "candidate", "previous": "previous", **_MODEL}),
    Stage("benchmark", "benchmark", {"engines": "engines", "previous": "previous", **_MODEL}),
    Stage(
        "verdict",
        "gate",
        {
            "benchmarks": "benchmark",
            "engines": "engines",
            "profiles": "profile",
            "candidate": "candidate",
            "pruned": "pruned",
            "dense": "dense",
            "previous": "previous",
            "data": "data",
            "chosen": "plan",
            "table": "sensitivity",
        },
    ),
    Stage("report", "report", {"verdict": "verdict"}),
)


def artifact(root: Path, name: str) -> Path:
    """The folder of the local pipeline's artefact `name`."""
    return root / ARTIFACTS / name


def dvc_text() -> str:
    """The text of `dvc.yaml`: one stage for each of STAGES, read off the steps' signatures."""
    stages = {stage.out: _dvc_stage(stage, get_step(stage.step)) for stage in STAGES}
    header = (
        "# Generated from the steps' signatures (reprune.doors.local). `reprune promote` is not a\n"
        "# stage: the pipeline ends at a verdict, and promotion is a command of its own.\n"
    )
    from reprune.report.plots import PLOTS

    report = f"{ARTIFACTS}/report"
    plots = [
        {
            f"{report}/{one.path}": {
                "x": one.x,
                "y": one.y,
                "title": one.title,
                "template": one.template,
            }
        }
        for one in PLOTS
    ]
    body = {"stages": stages, "metrics": [f"{report}/metrics.json"], "plots": plots}
    return header + yaml.safe_dump(body, sort_keys=False, width=1000)


def _dvc_stage(stage: Stage, step: Step) -> dict[str, object]:
    flags = [f"--{name} {ARTIFACTS}/{folder}" for name, folder in stage.inputs.items()]
    command = " ".join(["reprune", step.name, *flags, f"--out {ARTIFACTS}/{stage.out}"])
    dependencies = [f"{ARTIFACTS}/{folder}" for folder in dict.fromkeys(stage.inputs.values())]
    documents = {item.partition("=")[2] for item in step.documents}
    dependencies += [LOCK_FILE] if "lock" in documents else []
    dependencies += [POLICY_FILE] if "policy" in documents else []
    dependencies += [PARAMS_FILE] if "params" in documents else []
    dependencies += ["task"] if "task" in step.sections else []
    described: dict[str, object] = {"desc": step.summary, "cmd": command, "deps": dependencies}
    if step.sections:
        described["params"] = list(step.sections)
    outs: list[object] = [f"{ARTIFACTS}/{stage.out}"]
    if step.name == "benchmark":
        # Each look at the sealed data is counted, so DVC must never delete the count.
        outs.append({ATTEMPTS_FILE: {"cache": False, "persist": True}})
    described["outs"] = outs
    return described
