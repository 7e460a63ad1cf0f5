"""The report step: its files from a verdict directory, the same every time, and nothing else read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import Report, Verdict
from reprune.core.documents import MAX_JSON_BYTES, decode_yaml
from reprune.core.errors import ArtifactError, PayloadCorrupt
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.step import Documents, run
from reprune.core.store import Artifact
from reprune.report.facts import read_facts
from reprune.report.plots import PLOTS
from reprune.steps import get_step
from tests.building import edit
from tests.report import verdicts
from tests.report.scenes import BLOCKED, SCENES
from tests.report.verdicts import lock_of, write_verdict


def documents(root: Path, report: str = "") -> Documents:
    text = f"name: digits\ntask: task.digits:DigitsTask\n{report}"
    policy = "targets: {t: required}\nlatency: {vs_parent: {max_ratio: 1.0}}\n"
    return Documents(
        root=root,
        params=decode_yaml(text, Params, name="params.yaml"),
        policy=decode_yaml(policy, Policy, name="policy.yaml"),
        lock=lock_of(BLOCKED),
    )


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


def reported(verdict: Artifact[Verdict], out: Path, section: str = "") -> Artifact[Report]:
    run(
        get_step("report"),
        {"verdict": verdict.path},
        documents(out.parent, section),
        out,
        say=lambda _: None,
    )
    return store.read(out, Report)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_it_writes_every_file(name: str, tmp_path: Path) -> None:
    """Every outcome gives Markdown, HTML, JUnit, metrics and plots, and a manifest with the headline."""
    found = reported(write_verdict(SCENES[name], tmp_path), tmp_path / "report")
    assert set(found.manifest.payload) == {
        "report.md",
        "report.html",
        "junit.xml",
        "metrics.json",
        *(plot.path for plot in PLOTS),
    }
    assert found.manifest.outcome == SCENES[name].outcome
    assert found.manifest.headline == SCENES[name].headline


def test_the_same_verdict_gives_the_same_report(tmp_path: Path) -> None:
    """Run twice, the bytes are the same: no clock, host or order of a set is in them."""
    verdict = write_verdict(BLOCKED, tmp_path)
    first, second = (reported(verdict, tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest


def test_an_edited_verdict_is_refused(tmp_path: Path) -> None:
    """One changed byte of the evidence, and there is no report."""
    verdict = write_verdict(BLOCKED, tmp_path)
    evidence = verdict.path / "evidence.json"
    evidence.write_bytes(evidence.read_bytes().replace(b'"attempt":1', b'"attempt":2', 1))
    with pytest.raises(PayloadCorrupt):
        reported(verdict, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_an_unreadable_ancestor_is_named(tmp_path: Path) -> None:
    """A copy that is no manifest is an error that says which file."""
    verdict = write_verdict(BLOCKED, tmp_path)
    with store.drafting(tmp_path / "bad") as draft:
        for name in verdict.manifest.payload:
            (draft / name).parent.mkdir(exist_ok=True, parents=True)
            (draft / name).write_bytes(verdict.file(name).read_bytes())
        victim = next(iter((draft / "ancestors").iterdir()))
        victim.write_text("{}")
        parents = verdict.manifest.parents
        bad = store.write(
            draft, verdict.manifest, step="gate", parents=parents, out=tmp_path / "bad"
        )
    with pytest.raises(ArtifactError, match=victim.name):
        reported(bad, tmp_path / "report")


def test_evidence_of_many_examples_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be larger than any document: a verdict that cannot be reported would waste its look."""
    real, seed = verdicts._evidence, "s" * (MAX_JSON_BYTES + 1)
    monkeypatch.setattr(verdicts, "_evidence", lambda scene: edit(real(scene), "seed", seed))
    facts = read_facts(write_verdict(BLOCKED, tmp_path))
    assert facts.evidence is not None
    assert facts.evidence.seed == seed


def test_examples_are_shown_where_params_ask_for_them(tmp_path: Path) -> None:
    """`report.show_examples` lists the ids of what changed."""
    verdict = write_verdict(BLOCKED, tmp_path)
    quiet = reported(verdict, tmp_path / "quiet").file("report.html").read_text(encoding="utf-8")
    section = "report: {show_examples: true}\n"
    told = (
        reported(verdict, tmp_path / "told", section)
        .file("report.html")
        .read_text(encoding="utf-8")
    )
    assert "Which examples changed" not in quiet
    assert "Which examples changed" in told


def test_reporting_loads_nothing_heavy() -> None:
    """Importing the step loads no framework, no tracker, and not even numpy."""
    code = (
        "import sys, reprune.steps.report; "
        "print([n for n in ('torch','numpy','scipy','mlflow','dvc','jinja2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
