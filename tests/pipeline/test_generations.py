"""The main job on real input: a digit classifier's first generation, judged, promoted, and tampered with.

Generations after it, judged against the champion, are those of test_demo.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.repository import Repository, make_repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(
    tmp_path_factory: pytest.TempPathFactory, quiet: Callable[[], AbstractContextManager[None]]
) -> Repository:
    """One generation run through to its promotion."""
    plain = make_repository(tmp_path_factory.mktemp("generations") / "repo")
    made = Repository(plain.root, quiet)
    made.train(seed=1)
    made.update()
    made.repro()
    # As it is before anything is promoted, for the tests that tamper with it.
    shutil.copytree(made.root, made.root.with_name("judged"), symlinks=True)
    return made


def test_the_first_generation_passes_and_is_promoted(repository: Repository) -> None:
    """No champion yet: non-inferior to its parent, floors met, promoted; twice changes nothing."""
    checked = repository.reprune("check", "--recompute", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    judgement = json.loads(checked.stdout)["judgement"]
    assert judgement["outcome"] == "pass"
    first = repository.reprune("promote", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["promoted"]
    second = json.loads(repository.reprune("promote", "--json").stdout)
    assert second["already_done"]
    assert second["receipt"] == json.loads(first.stdout)["receipt"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("artifacts/verdict/samples/0/latency/ort-cpu.json", b'"index":0', b'"index":1'),
        ("artifacts/verdict/manifest.json", b'"outcome": "pass"', b'"outcome": "block"'),
        ("artifacts/verdict/policy.json", b'"max_drop":0.03', b'"max_drop":0.9'),
        ("artifacts/candidate/manifest.json", b'"dense_version"', b'"dense_versiom"'),
        ("artifacts/plan/manifest.json", b'"fraction": 0.5', b'"fraction": 0.6'),
        ("policy.yaml", b"max_drop: 0.03", b"max_drop: 0.9"),
        ("params.yaml", b"fraction: 0.5", b"fraction: 0.6"),
        ("task/digits.py", b"batch_size=64", b"batch_size=65"),
        ("artifacts/engines/engines/ort-cpu/candidate.onnx", b"o", b"p"),
    ],
)
def test_an_edited_run_is_refused_by_promote(
    repository: Repository, tmp_path: Path, file: str, old: bytes, new: bytes
) -> None:
    """A sample, a manifest, an engine, the policy, a knob, the task edited after a pass: refused."""
    copy = Repository(tmp_path / "copy")
    shutil.copytree(repository.root.with_name("judged"), copy.root, symlinks=True)
    raw = (copy.root / file).read_bytes()
    assert old in raw
    (copy.root / file).write_bytes(raw.replace(old, new, 1))
    result = copy.reprune("promote")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert not list((copy.root / ".reprune/registry").rglob("digits-compressed"))
