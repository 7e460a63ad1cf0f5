"""The pipeline `sharded_sensitivity`: what comes out is the artefact of the step that nobody sharded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.sharded_sensitivity.pipeline import make
from reprune.core import store
from reprune.core.artifacts import Sensitivity
from reprune.core.step import run
from reprune.doors.kfp.options import Options
from reprune.doors.steps import read_documents
from reprune.steps import get_step
from tests.kubeflow import QUIET, handed_on, latest_run, subprocess_runner, texts
from tests.repository import Repository, inside, make_repository

pytestmark = [pytest.mark.slow, *QUIET]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = make_repository(tmp_path_factory.mktemp("sharded") / "repo")
    made.train(seed=1, epochs=1)
    made.update()
    return made


def test_two_shards_give_what_the_whole_step_gives(repository: Repository) -> None:
    """From the lock on, as a cluster would run it: both shards at once, then merged."""
    out = repository.root.parent / "out"
    with subprocess_runner(repository, out):
        task = make(Options(retries=0))(**texts(repository), shards=["0/2", "1/2"])
    given = Path(task.outputs["Output"].path)
    folder = latest_run(out)
    merged = store.read(given, Sensitivity)
    assert given == folder / "sensitivity-merge/table"
    assert handed_on(folder, "sensitivity-merge")["table"]["digest"] == merged.digest
    inputs = {"dense": folder / "fetch-model/dense", "data": folder / "validate-data/data"}
    inputs["previous"] = folder / "fetch-model/previous"
    with inside(repository.root):
        documents = read_documents()
        whole = run(get_step("sensitivity"), inputs, documents, out / "whole", say=lambda _: None)
    assert merged.digest == whole.digest
    assert merged.manifest.groups
