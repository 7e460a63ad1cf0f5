"""A watched set: whoever registers a member starts a run of the set, with the others as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprune.core.documents import decode_yaml
from reprune.core.lock import Lock
from reprune.doors.service.wiring import make_sweeper
from tests.doors.service.staging import Stage, kfp_whose_runs_are
from tests.kfp_server import KfpServer

MEMBERS = {"depth": "depth-net", "detector": "detector"}


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with kfp_whose_runs_are("RUNNING") as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Stage(tmp_path, kfp.url, run=("perception",), members=MEMBERS)


def locks(kfp: KfpServer) -> list[Lock]:
    return [
        decode_yaml(run.body["runtime_config"]["parameters"]["lock"], Lock, name="lock")
        for run in kfp.runs.values()
    ]


@pytest.mark.slow
def test_a_retrained_member_starts_a_run_of_the_set(stage: Stage, kfp: KfpServer) -> None:
    """None before all members are there; then one, in which each version of a member is pinned."""
    sweeper = make_sweeper(stage.settings())
    stage.train("detector")
    assert sweeper(0)[1]
    assert not kfp.runs
    stage.train("depth-net", 2.0)
    assert sweeper(0)[1]
    (lock,) = locks(kfp)
    assert lock.dense.version == "depth=1+detector=1"
    assert lock.dense.members
    assert {member: ref.name for member, ref in lock.dense.members.items()} == MEMBERS
    assert sweeper(0)[1]
    assert len(kfp.runs) == 1


NAMED = [{"name": "detector", "read_secret": "its-own"}, {"name": "depth"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, [{"name": "depth"}, {"name": "detector"}]),
        ({"settings": {"members": json.dumps(NAMED)}}, NAMED),
    ],
)
def test_a_run_of_a_set_is_one_of_the_pipeline_for_sets(
    stage: Stage, kfp: KfpServer, given: dict[str, Any], sent: list[dict[str, str]]
) -> None:
    """Where nobody named another package: every member is among its parameters, with its own secret."""
    config = json.loads(stage.file.read_text()) | {"runs": {"perception": given}}
    stage.file.write_text(json.dumps(config))
    stage.train("detector")
    stage.train("depth-net")
    assert make_sweeper(stage.settings())(0)[1]
    (run,) = kfp.runs.values()
    spec = run.body["pipeline_spec"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "perception"
    assert run.body["runtime_config"]["parameters"]["members"] == sent


@pytest.mark.slow
def test_what_was_registered_meanwhile_is_superseded(stage: Stage, kfp: KfpServer) -> None:
    """Of several new versions of members only the newest of each is run; the rows say which were not."""
    stage.train("depth-net")
    stage.train("detector")
    stage.train("detector", 2.0)
    sweeper = make_sweeper(stage.settings())
    assert sweeper(0)[1]
    (lock,) = locks(kfp)
    assert lock.dense.version == "depth=1+detector=2"
    seen = sweeper.ports.registry.look(sweeper.settings.watches.watches[0])
    assert [row.closes for row in seen.rows if row.closes] == [("depth=1+detector=1",)]


def test_a_watch_and_a_project_with_other_members_are_told_apart(
    stage: Stage, kfp: KfpServer
) -> None:
    """Nothing is run for a set that the project knows otherwise."""
    file = stage.root / "watches.yaml"
    file.write_text(file.read_text().replace('"detector": "detector"', '"detector": "other"'))
    stage.train("depth-net")
    stage.train("other")
    sweeper = make_sweeper(stage.settings())
    assert not sweeper(0)[1]
    assert not kfp.runs
