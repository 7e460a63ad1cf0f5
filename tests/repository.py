"""A user's repository in a temporary folder: the template on the plain-folder registry, run step by step.

The steps are called through the same `run` that every door calls, in the order of `STAGES`; DVC is
left out so that a whole generation takes seconds. `tests/pipeline/test_dvc.py` has DVC in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reprune.core.params import read_params
from reprune.core.step import run
from reprune.core.store import Artifact
from reprune.doors.init import SCRIPT, TEMPLATE, init
from reprune.doors.local import STAGES, Stage, artifact
from reprune.doors.steps import read_documents
from reprune.registry.open import open_registry
from reprune.steps import get_step
from reprune.steps.update import update

# Small enough for seconds, large enough for a real verdict.
QUICK = {
    "registry": {"kind": "files", "uri": ".reprune/registry", "workspace": "default"},
    "profile": {"calls": 20, "warmup_calls": 5},
    "sensitivity": {"cuts": [0.5], "examples": 100},
    "prune": {"criterion": "l1", "examples": 128, "compensate": True, "recalibrate": True},
    "distill": {"epochs": 3, "learning_rate": 0.02, "temperature": 4.0, "weight": 0.5},
    "benchmark": {"block_ms": 2.0, "units_per_process": 4, "warmup_seconds": 0.05},
}


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class Repository:
    """`root` is what `reprune init` wrote; methods work inside it, and the benchmark within `quiet`."""

    root: Path
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext

    def edit(self, file: str, change: Callable[[Any], None]) -> None:
        """Rewrites a YAML file after `change` altered its value."""
        path = self.root / file
        value = yaml.safe_load(path.read_text())
        change(value)
        path.write_text(yaml.safe_dump(value, sort_keys=False))

    def train(self, *, seed: int = 1, epochs: int = 6) -> str:
        """Trains and registers a dense version with the template's own script."""
        subprocess.run(
            [sys.executable, "train.py", "--seed", str(seed), "--epochs", str(epochs)],
            cwd=self.root,
            check=True,
            capture_output=True,
        )
        params = read_params(self.root / "params.yaml")
        return open_registry(params.registry, self.root).versions(params.name)[-1].version

    def update(self) -> None:
        with inside(self.root):
            update(Path.cwd())

    def step(self, stage: Stage) -> Artifact[Any]:
        """Runs one stage as `dvc repro` would."""
        step = get_step(stage.step)
        many = {given.name for given in step.inputs if given.many}
        inputs: dict[str, Path | list[Path]] = {}
        for name, folder in stage.inputs.items():
            path = artifact(Path(), folder)
            inputs[name] = [path] if name in many else path
        with self.quiet() if stage.out == "benchmark" else nullcontext(), inside(self.root):
            return run(
                step, inputs, read_documents(), artifact(Path(), stage.out), say=lambda _: None
            )

    def repro(self, *, until: str = "report") -> Artifact[Any]:
        """Runs every stage up to `until`; returns its artefact."""
        for stage in STAGES:
            result = self.step(stage)
            if stage.out == until:
                return result
        raise ValueError(until)

    def reprune(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line, as a user would type it."""
        return subprocess.run(
            [sys.executable, "-m", "reprune.doors.cli", *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )


def make_repository(root: Path) -> Repository:
    """`reprune init` in `root`, with train.py, quick knobs and the plain-folder registry; no model yet."""
    root.mkdir(parents=True, exist_ok=True)
    init(root, train=False)
    shutil.copy(TEMPLATE / SCRIPT, root)
    repository = Repository(root)
    repository.edit("params.yaml", lambda params: params.update(QUICK))
    repository.edit("policy.yaml", lambda policy: policy.update({"looks": [8, 15, 30]}))
    return repository


def stage(out: str) -> Stage:
    return next(stage for stage in STAGES if stage.out == out)
