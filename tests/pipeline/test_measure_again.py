"""What promote advises where evidence is too old, done with DVC: the candidate stays, its evidence is new."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import Benchmark, ModelBundle, Verdict
from reprune.steps.acceptance import MEASURE_AGAIN
from tests.ci.workflows import commands
from tests.repository import make_repository

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src"
Quiet = Callable[[], AbstractContextManager[None]]


@pytest.mark.timeout(1500)
def test_the_candidate_is_measured_anew_and_not_made_anew(tmp_path: Path, quiet: Quiet) -> None:
    """The commands that stand in the advice, in their order, up to promoting."""
    repository = make_repository(tmp_path / "repo")
    repository.edit("policy.yaml", lambda policy: policy.update({"looks": [8]}))
    repository.edit("params.yaml", lambda params: params["distill"].update(epochs=1))
    root, programs = repository.root, commands(tmp_path / "bin", SOURCE)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DVC_NO_ANALYTICS": "1",
    }

    def run(line: str) -> None:
        done = subprocess.run(
            line.split(), cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    def digests() -> tuple[str, str, str]:
        places = (("candidate", ModelBundle), ("benchmark", Benchmark), ("verdict", Verdict))
        candidate, measured, judged = (
            store.read(root / "artifacts" / name, kind).digest for name, kind in places
        )
        return candidate, measured, judged

    if not (root / ".git").exists():
        run("git init -q")
    if not (root / ".dvc").exists():
        run("dvc init -q")
    repository.train(epochs=2)
    repository.update()
    advised = re.findall(r"`(dvc repro[^`]*)`", MEASURE_AGAIN)[:2]
    with quiet():
        run("dvc repro")
        before = digests()
        for line in advised:
            run(line)
    after = digests()
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[2] != before[2]
