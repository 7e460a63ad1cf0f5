"""The digits example through `continuous_compression`: a generation that passes, and one that is blocked.

Nothing in the policy is a time, so that a busy machine changes no verdict.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.continuous_compression.pipeline import make
from reprune.core import store
from reprune.core.artifacts import Benchmark, Engines, Previous, Verdict
from reprune.core.params import read_params
from reprune.core.step import run
from reprune.doors.kfp.options import Options
from reprune.doors.local import STAGES
from reprune.doors.steps import read_documents
from reprune.registry.open import open_registry
from reprune.registry.protocol import CHAMPION
from reprune.steps import get_step
from tests.kubeflow import QUIET, handed_on, latest_run, subprocess_runner, texts
from tests.pipeline.test_mnist import DATA, use_example
from tests.repository import Repository, inside, make_repository

pytestmark = [pytest.mark.slow, *QUIET]

POLICY = {
    "schema": 1,
    "targets": {"ort-cpu": "required"},
    "quality": {"accuracy": {"vs_parent": {"max_drop": 0.2, "max_error_ratio": None}}},
    "size": {"vs_parent": {"max_ratio": 0.9}},
}
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


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = make_repository(tmp_path_factory.mktemp("kubeflow") / "repo")
    made.edit("policy.yaml", lambda policy: (policy.clear(), policy.update(POLICY)))
    made.edit("params.yaml", lambda params: params["distill"].update(epochs=1))
    made.train(seed=1, epochs=3)
    made.update()
    return made


@pytest.fixture(scope="module")
def passed(repository: Repository) -> Path:
    """The folder of a run that ended well."""
    out = repository.root.parent / "passed"
    with subprocess_runner(repository, out):
        make(Options(retries=0))(**texts(repository))
    return latest_run(out)


def champion(repository: Repository) -> str | None:
    params = read_params(repository.root / "params.yaml")
    registry = open_registry(params.registry, repository.root)
    return registry.alias(f"{params.name}-compressed", CHAMPION)


def test_a_pass_moves_the_champion(repository: Repository, passed: Path) -> None:
    """All steps as a cluster would run them, from the lock to the registry."""
    verdict = store.read(passed / PLACES["verdict"], Verdict)
    assert verdict.manifest.judgement.outcome == "pass"
    receipt = handed_on(passed, "promote")["receipt"]
    assert receipt["promoted"] is True
    assert champion(repository) == "1"


def test_the_ui_is_given_what_it_shows(passed: Path) -> None:
    """Digests on every artefact, scalars, the confusion matrix and both pages of the report."""
    for folder in PLACES.values():
        task, _, name = folder.rpartition("/")
        metadata = handed_on(passed, task)[name]
        recorded = (passed / folder / store.DIGEST).read_text().strip()
        assert metadata["digest"] == recorded
    shown = handed_on(passed, "gate")
    assert shown["metrics"]["rules_not_passed"] == 0
    matrix = shown["confusion"]["confusionMatrix"]
    assert len(matrix["annotationSpecs"]) == 10
    judged = sum(sum(row["row"]) for row in matrix["rows"])
    assert judged == 450
    for page in ("html", "markdown"):
        written = passed / "report" / page
        assert "pass" in written.read_text(encoding="utf-8").lower()


def test_the_command_line_makes_the_same_artefacts(repository: Repository, passed: Path) -> None:
    """From the same samples the same verdict, byte for byte; what holds no time is the same anyhow."""
    again = repository.root.parent / "again"
    stages = {stage.out: stage for stage in STAGES}
    with inside(repository.root):
        documents = read_documents()
        for name in ("dense", "data", "sensitivity", "plan", "pruned", "verdict", "report"):
            stage = stages[name]
            step = get_step(stage.step)
            many = {given.name for given in step.inputs if given.many}
            inputs: dict[str, Path | list[Path]] = {
                given: [passed / PLACES[place]] if given in many else passed / PLACES[place]
                for given, place in stage.inputs.items()
            }
            made = run(step, inputs, documents, again / name, say=lambda _: None)
            piped = (passed / PLACES[name] / store.DIGEST).read_text().strip()
            assert made.digest == piped, name
    mine, theirs = again / "verdict", passed / PLACES["verdict"]
    for path in store.files(mine):
        assert path.read_bytes() == (theirs / path.relative_to(mine)).read_bytes(), path.name


def test_a_block_fails_the_run_and_says_why(
    repository: Repository, passed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two targets on two machines. The report is written, the candidate is registered with it, and the
    champion stays.
    """
    second = {"runtime": "onnxruntime", "precision": "fp32", "batch_size": 4, "machine": "b"}
    repository.edit(
        "params.yaml",
        lambda params: (
            params["targets"]["ort-cpu"].update(machine="a"),
            params["targets"].update({"ort-4": second}),
        ),
    )
    repository.edit(
        "policy.yaml",
        lambda policy: (
            policy["targets"].update({"ort-4": "required"}),
            policy["quality"]["accuracy"].update(floor=0.999),
        ),
    )
    repository.train(seed=2, epochs=2)
    repository.update()
    out = repository.root.parent / "blocked"
    capfd.readouterr()
    with (
        subprocess_runner(repository, out),
        pytest.raises(RuntimeError, match="promote"),
    ):
        make(Options(retries=0))(
            **texts(repository), machines=[{"name": "a"}, {"name": "b", "image": "another"}]
        )
    blocked = latest_run(out)
    judgement = store.read(blocked / PLACES["verdict"], Verdict).manifest.judgement
    assert judgement.outcome == "block"
    assert {rule.target for rule in judgement.rules} == {"ort-cpu", "ort-4"}
    for number, target in enumerate(("ort-cpu", "ort-4")):
        turn = blocked / f"for-loop-2-iteration-{number}"
        engines = store.read(turn / "build" / "engines", Engines).manifest.engines
        assert {fact.target for fact in engines} == {target}
        measured = store.read(turn / "benchmark" / "measured", Benchmark).manifest
        assert [samples.target for samples in measured.targets] == [target]
        # One look each, at one candidate: no machine counts the other one's.
        assert measured.attempt == 1
    assert store.read(blocked / PLACES["previous"], Previous).manifest.champion is not None
    assert "block" in (blocked / "report" / "html").read_text(encoding="utf-8").lower()
    said = [line.strip() for line in capfd.readouterr().out.splitlines() if line.strip()]
    told = [line for line in said if "registered as version" in line]
    assert told, said[-20:]
    assert judgement.reasons[0] in told[-1]
    assert champion(repository) == "1"


@pytest.mark.deep
@pytest.mark.skipif(not (DATA / "mnist.npz").exists(), reason="needs mnist.npz in REPRUNE_DATA")
def test_a_project_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task, other data (found by the task through a variable), the example's own policy."""
    monkeypatch.setenv("REPRUNE_DATA", str(DATA))
    made = make_repository(tmp_path / "repo")
    use_example(made, "mnist")
    made.edit("policy.yaml", lambda policy: policy.pop("latency"))
    made.train(seed=1, epochs=2)
    made.update()
    with subprocess_runner(made, tmp_path / "out"):
        make(Options(retries=0))(**texts(made))
    run_folder = latest_run(tmp_path / "out")
    assert store.read(run_folder / PLACES["verdict"], Verdict).manifest.judgement.outcome == "pass"
    assert champion(made) == "1"
