"""Artefacts swapped between steps: with made-up samples at the gate, with the real steps everywhere else."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from reprune.steps.promote import promote
from tests import boundaries
from tests.chain import Chain, Story
from tests.registry.promotion import evidence, ready
from tests.repository import Repository, inside, make_repository

STEPS = ("data", "profile", "sensitivity", "plan", "pruned", "candidate", "engines", "benchmark")


@pytest.fixture(autouse=True)
def _own_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("REPRUNE_PROMOTER", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.slow
def test_at_gate_and_promote(tmp_path: Path) -> None:
    """Each artefact that they read: another run's, a byte of its largest file, a byte of its manifest."""
    chain: Chain = ready(tmp_path / "judged")
    ready(tmp_path / "other", Story(seed=7, dense_version="8"))
    root = tmp_path / "repo"
    plain = boundaries.Boundary(artefact="", reader="verdict", how="nothing", swap=lambda _: None)
    assert boundaries.at_the_gate(chain, root, plain) == ""
    whole = boundaries.judged_model(root)
    assert whole
    tried, stopped, wrong = 0, 0, []
    for each in boundaries.boundaries(chain.root, tmp_path / "other", ("verdict", "promote")):
        reason = boundaries.at_the_gate(chain, root, each)
        serves = boundaries.judged_model(root)
        # The gate judges a run whose parts do not fit as an error, which is registered and not promoted.
        tried, stopped = tried + 1, stopped + (serves is None)
        if serves not in (None, whole) or (reason and serves):
            wrong.append(str(each))
    assert wrong == []
    assert stopped == tried > 30
    print(f"{tried} swaps before gate and promote, {stopped} stopped")


@pytest.mark.deep
@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_at_every_other_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real steps, from the one that reads the swapped artefact to promote."""
    monkeypatch.chdir(tmp_path)
    judged, other = (_run(tmp_path / name, seed) for name, seed in (("judged", 1), ("other", 2)))
    root, wrong, stopped = tmp_path / "repo", [], 0
    found = list(boundaries.boundaries(judged.root, other.root, STEPS))
    for each in found:
        boundaries.in_the_pipeline(judged, root, each, _promote)
        serves = boundaries.judged_model(root)
        stopped += serves is None
        if serves is not None and not _measured(root, serves):
            wrong.append(str(each))
    assert wrong == []
    assert stopped > len(found) // 2
    print(f"{len(found)} swaps before other steps, {stopped} stopped")


def _run(root: Path, seed: int) -> Repository:
    repository = make_repository(root)
    repository.train(seed=seed)
    repository.update()
    repository.repro()
    return repository


def _promote(repository: Repository) -> None:
    with inside(repository.root):
        promote(repository.root, evidence(repository.root), now=time.time(), say=lambda _: None)


def _measured(root: Path, serves: dict[str, str]) -> bool:
    """Whether what serves is the very candidate and engines that lie in the run and that its benchmark
    measured: promote refuses any other, so that this is said of the bytes.
    """
    from reprune.core.store import file_digest

    here = {"bundle": root / "artifacts/candidate", "engines/0": root / "artifacts/engines"}
    return bool(serves) and serves == {
        f"{place}/{path.relative_to(folder).as_posix()}": file_digest(path)
        for place, folder in here.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_measure_tells(tmp_path: Path) -> None:
    """A swap that went through would be seen."""
    ready(tmp_path / "judged")
    root = tmp_path / "judged"
    promote(root, evidence(root), now=1_003_600.0, say=lambda _: None)
    serves = boundaries.judged_model(root)
    assert serves is not None
    assert not _measured(root, serves | {"bundle/weights.safetensors": "sha256:" + "0" * 64})
    shutil.rmtree(root / "artifacts" / "candidate")
    assert not _measured(root, serves)
