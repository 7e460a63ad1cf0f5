"""Every component killed: nothing half-written is an artefact, no promotion is half done, again is well."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from reprune.core import store
from reprune.core.artifacts import KINDS, Receipt
from reprune.core.errors import EXIT_DONE
from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry import receipts
from reprune.registry.open import open_registry
from tests.component_run import (
    MACHINES,
    Run,
    component_of,
    copy_project,
    registered,
    shared_runs,
    surroundings,
)
from tests.dying_components import cut_short, of_machine, report_at_last
from tests.killing import Death, Server, called, kill, server, started
from tests.kubeflow import QUIET, handed_on, latest_run, subprocess_runner
from tests.repository import Repository

pytestmark = [pytest.mark.slow, *QUIET]

EVERY = os.environ.get("REPRUNE_DEEP") == "1"
# Artefacts that hold times, or say on what machine they were made: only their kind is the same again.
TIMED = ("profile", "benchmark")
TORCH = (
    "validate_data",
    "profile",
    "sensitivity_analysis",
    "sensitivity_shard",
    "sensitivity_merge",
    "plan",
    "prune",
    "distill",
    "build",
    "benchmark",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return shared_runs(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def forks() -> Iterator[Server]:
    with server() as serving:
        yield serving


def outputs(component: str) -> list[str]:
    """The artefacts that a component leaves; what only the UI reads is none."""
    shown = ("system.Metrics", "system.ClassificationMetrics", "system.HTML", "system.Markdown")
    found = component_of(component).component_spec.outputs
    return [name for name, each in found.items() if not each.type.startswith(shown)]


def whole(folder: Path) -> str | None:
    """The digest of the artefact in `folder`; None where none is. Raises for half of one."""
    if not (folder / store.MANIFEST).exists():
        return None
    kind = json.loads((folder / store.MANIFEST).read_bytes())["kind"]
    return store.read(folder, KINDS[kind]).digest


def moments(death: Death, seed: str) -> list[int]:
    """The writes to die before: those around each rename and some others, or all."""
    every = range(len(death.writes) + 1)
    if EVERY:
        return list(every[:-1])
    renames = [at for at, write in enumerate(death.writes) if write.startswith("os.rename")]
    chosen = random.Random(seed)
    near = {at + step for at in chosen.sample(renames, min(2, len(renames))) for step in (0, 1)}
    return sorted((near | {renames[-1]} | {chosen.choice(every)}) & set(every[:-1]))


@pytest.mark.parametrize("component", ["fetch_model", "gate", "report"])
def test_a_component_killed_at_a_write_leaves_nothing_or_all(
    run: Run, forks: Server, tmp_path: Path, component: str
) -> None:
    """Killed before each write in turn; then again in the same place, to the same digest."""
    wanted = {name: run.digest(f"{component}/{name}") for name in outputs(component)}
    before = registered(run.root)
    once = forks.die(called(run, component, tmp_path / "once"), None)
    assert once.code == EXIT_DONE
    assert len(once.writes) > 20
    for at in moments(once, component):
        out = tmp_path / f"at-{at}"
        asked = called(run, component, out)
        assert forks.die(asked, at).killed, at
        for name, digest in wanted.items():
            assert whole(out / name) in (None, digest), (at, once.writes[at])
        assert forks.die(asked, None).code == EXIT_DONE
        assert {name: whole(out / name) for name in wanted} == wanted, (at, once.writes[at])
        assert not list(out.glob(".*")), at
    assert registered(run.root) == before


def receipt_of(root: Path, version: str, scratch: Path) -> bool:
    """Whether the registered version has its receipt beside all that the receipt names."""
    params = read_params(root / PARAMS_FILE)
    registry = open_registry(params.registry, root)
    shutil.rmtree(scratch, ignore_errors=True)
    registry.fetch(f"{params.name}-compressed", version, scratch)
    return (scratch / receipts.RECEIPT_FILE).is_file()


def test_promote_killed_at_a_write_never_promotes_by_halves(
    run: Run, forks: Server, tmp_path: Path
) -> None:
    """Before each write: the champion is none or a version with its receipt; again, it is the one version."""
    own = copy_project(run, tmp_path / "whole")
    once = forks.die(called(own, "promote", tmp_path / "once"), None)
    assert once.code == EXIT_DONE
    assert registered(own.root).versions == ("1",)
    alias = [at for at, write in enumerate(once.writes) if "aliases" in write]
    assert alias
    chosen = moments(once, "promote")
    for at in sorted({*chosen, *alias[-1:], alias[-1] + 1}):
        own = copy_project(run, tmp_path / f"project-{at}")
        out = tmp_path / f"at-{at}"
        asked = called(own, "promote", out)
        assert forks.die(asked, at).killed
        found = registered(own.root)
        assert found.versions in ((), ("1",)), once.writes[at]
        assert found.champion in (None, "1")
        for version in found.versions:
            assert receipt_of(own.root, version, tmp_path / "scratch"), once.writes[at]
        digest = whole(out / "receipt")
        assert digest is None or found.champion == "1"
        assert forks.die(asked, None).code == EXIT_DONE, once.writes[at]
        after = registered(own.root)
        assert (after.champion, after.versions) == ("1", ("1",))
        receipt = store.read(out / "receipt", Receipt).manifest
        assert receipt.promoted
        assert forks.die(asked, None).code == EXIT_DONE
        assert registered(own.root) == after
        assert store.read(out / "receipt", Receipt).manifest == receipt
        shutil.rmtree(own.root)


def killed_at_draft(run: Run, component: str, out: Path, patience_s: float = 0.0) -> bool:
    """Kills the component some time after its draft appeared; False where it had ended by then."""
    with started(called(run, component, out)) as process:
        while process.poll() is None and not list(out.glob(".*.draft")):
            time.sleep(0.002)
        time.sleep(patience_s)
        ended = process.poll() is not None
        kill(process)
    return not ended


@pytest.mark.parametrize("component", ["fetch_model", "gate"])
def test_a_component_killed_from_outside_is_run_again(
    run: Run, tmp_path: Path, component: str
) -> None:
    """SIGKILL to its whole session when the draft appears: no artefact; again, the same digest."""
    out = tmp_path / "out"
    assert killed_at_draft(run, component, out)
    last = outputs(component)[-1]
    assert whole(out / last) is None
    assert run.call(component, out).code == EXIT_DONE
    for name in outputs(component):
        assert whole(out / name) == run.digest(f"{component}/{name}")


@pytest.mark.deep
@pytest.mark.parametrize("component", TORCH)
def test_a_component_with_the_model_killed_from_outside_is_run_again(
    run: Run, tmp_path: Path, component: str
) -> None:
    """When the draft appears and at moments after it: no artefact, or all of it; again, the same digest."""
    (name,) = outputs(component)
    folder = {"sensitivity_merge": "sensitivity_analysis"}.get(component, component)
    if not (run.folder / folder).exists():
        folder += "-a"
    began = time.monotonic()
    assert run.call(component, tmp_path / "whole").code == EXIT_DONE
    took_s = time.monotonic() - began
    draw = random.Random(component)
    later = [draw.uniform(0.0, took_s) for _ in range(2)]
    for patience_s in (0.0, *later):
        out = tmp_path / f"after-{patience_s}"
        killed = killed_at_draft(run, component, out, patience_s)
        assert (whole(out / name) is None) == killed or killed
        ended = run.call(component, out)
        assert ended.code == EXIT_DONE, ended.said
        found = whole(out / name)
        assert found is not None
        if component not in TIMED:
            assert found == run.digest(f"{folder}/{name}")
        assert not list(out.glob(".*"))


def test_a_champion_is_made_once(run: Run, tmp_path: Path) -> None:
    """Promote again, in a new task and after other work: no second version, the same receipt."""
    own = copy_project(run, tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    assert own.call("promote", first).code == EXIT_DONE
    after = registered(own.root)
    assert (after.champion, after.versions) == ("1", ("1",))
    assert own.call("promote", second).code == EXIT_DONE
    assert registered(own.root) == after
    assert whole(first / "receipt") == whole(second / "receipt")


def handed(run: Run, name: str) -> Any:
    """The artefact as an importer brings it into a pipeline."""
    return dsl.importer(artifact_uri=str(run.path(name)), artifact_class=dsl.Artifact).output


@pytest.fixture
def runner(run: Run, tmp_path: Path) -> Iterator[Run]:
    """kfp's local runner, on a copy of the project."""
    own = copy_project(run, tmp_path)
    repository = Repository(own.root)
    with surroundings(own.root), subprocess_runner(repository, tmp_path / "out"):
        yield own


@pytest.mark.parametrize("dies", [True, False])
def test_a_run_whose_middle_task_is_killed_promotes_nothing(runner: Run, dies: bool) -> None:
    """The verdict is a pass; the task before promote dies when it has written all: promote never begins."""
    given = asdict(runner.texts)

    @dsl.pipeline(name="cut-short")
    def cut():  # type: ignore[no-untyped-def]
        died = cut_short(report=handed(runner, "report/written"), dies=dies)
        with dsl.ParallelFor(list(MACHINES), parallelism=1) as name:
            found = of_machine(folder=str(runner.folder), name=name)
        component_of("promote")(
            **given,
            verdict=handed(runner, "gate/verdict"),
            candidate=handed(runner, "distill/candidate"),
            engines=dsl.Collected(found.outputs["engines"]),
            chosen=handed(runner, "plan/chosen"),
            profiles=dsl.Collected(found.outputs["profiled"]),
            table=handed(runner, "sensitivity_analysis/table"),
            report=died.outputs["written"],
        )

    before = registered(runner.root)
    if not dies:
        cut()
        assert registered(runner.root).champion == "1"
        return
    with pytest.raises(RuntimeError, match="cut-short"):
        cut()
    assert registered(runner.root) == before
    assert not (latest_run(runner.root.parent / "out") / "promote").exists()


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_a_task_that_fails_once_and_is_retried_makes_the_same(
    runner: Run, tmp_path: Path, how: str
) -> None:
    """What the first attempt left lies in the way of nothing."""
    given = {
        "lock": runner.texts.lock,
        "params": runner.texts.params,
        "policy": runner.texts.policy,
    }

    @dsl.pipeline(name="retried")
    def retried():  # type: ignore[no-untyped-def]
        task = report_at_last(
            **given, mark=str(tmp_path / "mark"), how=how, verdict=handed(runner, "gate/verdict")
        )
        task.set_retry(num_retries=1, backoff_duration="0s")

    retried()
    folder = latest_run(tmp_path / "out") / "report-at-last"
    assert (tmp_path / "mark").exists()
    assert whole(folder / "written") == runner.digest("report/written")
    assert handed_on(folder.parent, "report-at-last")["written"]["digest"] == whole(
        folder / "written"
    )
    assert not list(folder.glob(".*"))
