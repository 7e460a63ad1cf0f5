"""Our pipelines run here, by kfp's own local runner: the same components, one process a task."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kfp import local

from tests.repository import Repository, inside

# kfp says which settings of a cluster the local runner leaves out, and that an image has another name.
QUIET = (
    pytest.mark.filterwarnings("ignore:.*no effect in the current local runner:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*custom or non-Python base image:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*Kubeflow Pipelines SDK:FutureWarning"),
)

# Where each artefact of the local pipeline lies below a run's folder.
PLACES = {
    "dense": "fetch-model/dense",
    "previous": "fetch-model/previous",
    "data": "validate-data/data",
    "profile": "for-loop-1-iteration-0/profile/profiled",
    "sensitivity": "sensitivity-analysis/table",
    "plan": "plan/chosen",
    "pruned": "prune/pruned",
    "candidate": "distill/candidate",
    "engines": "for-loop-2-iteration-0/build/engines",
    "benchmark": "for-loop-2-iteration-0/benchmark/measured",
    "verdict": "gate/verdict",
    "report": "report/written",
}


def texts(repository: Repository) -> dict[str, str]:
    """The three documents, as the parameters of a pipeline."""
    files = {
        "lock": "reprune.lock.yaml",
        "params": "params.yaml",
        "policy": "policy.yaml",
    }
    return {name: (repository.root / file).read_text() for name, file in files.items()}


@contextmanager
def subprocess_runner(repository: Repository, out: Path) -> Iterator[None]:
    """Inside, calling a pipeline runs it in `repository`; what its tasks write lies below `out`.

    kfp.local 2.17 puts an indenting `print` in place of the built-in one while a task runs, and where two
    run beside each other the wrong one may be put back at the end.
    """
    original = builtins.print
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(out), raise_on_error=True)
    try:
        with inside(repository.root):
            yield
    finally:
        builtins.print = original


def latest_run(out: Path) -> Path:
    """The folder of the newest run; below it, one folder a task."""
    return max(out.iterdir(), key=lambda path: path.stat().st_mtime)


def handed_on(run: Path, task: str) -> dict[str, Any]:
    """Metadata of each artifact that a task left, by the artifact's name."""
    output = json.loads((run / task / "executor_output.json").read_text())
    return {
        name: listed["artifacts"][0]["metadata"] for name, listed in output["artifacts"].items()
    }
