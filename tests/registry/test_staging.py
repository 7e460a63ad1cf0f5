"""The private copy: what is taken, from where to where, under whose eyes, and what is refused on the way."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Report
from reprune.core.errors import ArtifactError, ArtifactMissing, PayloadCorrupt
from reprune.steps.staging import Evidence, copy_artifact, private_folder, stage
from tests.chain import reencode
from tests.registry.promotion import copy_repository, evidence


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return copy_repository(template, tmp_path / "repo")


def test_each_artefact_has_its_place() -> None:
    """As they lie in a registered version; several engines and profiles are numbered in their order."""
    one = Path("one")
    found = Evidence(
        verdict=one / "v",
        candidate=one / "c",
        engines=(one / "e", one / "f"),
        plan=one / "p",
        profiles=(one / "q", one / "r"),
        table=one / "t",
    )
    places = {
        "verdict": one / "v",
        "bundle": one / "c",
        "plan": one / "p",
        "sensitivity": one / "t",
        "engines/0": one / "e",
        "engines/1": one / "f",
        "profile/0": one / "q",
        "profile/1": one / "r",
    }
    assert found.places() == places
    told = Evidence(**{**found.__dict__, "report": one / "s"})
    assert told.places() == places | {"report": one / "s"}


def test_the_copies_lie_where_they_are_registered(root: Path, tmp_path: Path) -> None:
    """Each at its place, read from there, and no other file beside those that manifests list."""
    given = evidence(root)
    (root / "artifacts" / "plan" / "extra").write_text("x")
    staged = stage(given, tmp_path / "copy")
    assert staged.folder == tmp_path / "copy"
    assert staged.report is None
    found = {
        "verdict": staged.verdict,
        "bundle": staged.candidate,
        "plan": staged.plan,
        "sensitivity": staged.table,
        "engines/0": staged.engines[0],
        "profile/0": staged.profiles[0],
    }
    listed = {}
    for place, artifact in found.items():
        assert artifact.path == tmp_path / "copy" / place
        source = store.read(given.places()[place], type(artifact.manifest))
        assert (artifact.digest, artifact.manifest) == (source.digest, source.manifest)
        for name in (store.MANIFEST, store.DIGEST, *artifact.manifest.payload):
            listed[f"{place}/{name}"] = store.file_digest(given.places()[place] / name)
    assert staged.file_digests() == listed


def test_a_report_is_taken_where_there_is_one(root: Path, tmp_path: Path) -> None:
    """It may be missing, or be no folder; one that is there is copied, and must be a report."""
    report = root / "artifacts" / "report"
    assert stage(evidence(root), tmp_path / "a").report is None
    report.write_text("no folder")
    assert stage(evidence(root), tmp_path / "b").report is None
    report.unlink()
    none = Evidence(**{**evidence(root).__dict__, "report": None})
    assert stage(none, tmp_path / "c").report is None
    report.mkdir()
    with pytest.raises(PayloadCorrupt, match="cannot be read"):
        stage(evidence(root), tmp_path / "d")
    report.rmdir()
    with store.drafting(report) as draft:
        (draft / "report.md").write_text("all is well")
        manifest = Report(outcome="pass", headline="well")
        written = store.write(draft, manifest, step="report", parents={}, out=report)
    staged = stage(evidence(root), tmp_path / "e")
    assert staged.report is not None
    assert staged.report.digest == written.digest
    assert staged.report.path == tmp_path / "e" / "report"
    assert "report/report.md" in staged.file_digests()


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing) as caught:
        copy_artifact(tmp_path / "none", tmp_path / "copy", Plan)
    assert caught.value.where == str(tmp_path / "none")


@pytest.mark.parametrize("name", ["manifest.json", "manifest.digest", "weights.safetensors"])
@pytest.mark.parametrize("how", ["gone", "link", "pipe"])
def test_every_file_is_opened_and_no_link_followed(
    root: Path, tmp_path: Path, name: str, how: str
) -> None:
    """The manifest's own files too; a pipe that nobody writes to does not hold promote up."""
    source = root / "artifacts" / "candidate"
    path = source / name
    kept = path.rename(tmp_path / "kept")
    if how == "link":
        path.symlink_to(kept)
    elif how == "pipe":
        os.mkfifo(path)
    words = {"gone": "cannot be read: No such file", "link": "is a link", "pipe": ""}[how]
    with pytest.raises(ArtifactError, match=words or None) as caught:
        copy_artifact(source, tmp_path / "copy", ModelBundle)
    if how != "pipe":
        assert caught.value.where == str(path)
        assert isinstance(caught.value, PayloadCorrupt)


@pytest.mark.parametrize("name", ["/etc/hostname", "../../params.yaml", "a/../../b", "", "."])
def test_a_payload_lies_inside(root: Path, tmp_path: Path, name: str) -> None:
    """A path that leaves the artefact, or is none, is refused before anything is opened."""
    source = root / "artifacts" / "plan"
    reencode(source, payload={name: "sha256:" + "0" * 64})
    with pytest.raises(ArtifactError, match="lists a payload outside itself") as caught:
        copy_artifact(source, tmp_path / "copy", Plan)
    assert caught.value.where == str(source)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        "manifest.digest",
        "manifest.json",
    ]


def test_the_copy_is_checked_and_not_the_source(root: Path, tmp_path: Path) -> None:
    """Of another kind, or with a payload that is not the listed one: refused, and told of the copy."""
    source = root / "artifacts" / "plan"
    with pytest.raises(ArtifactError):
        copy_artifact(source, tmp_path / "a", ModelBundle)
    (source / "plan.yaml").write_text("other")
    with pytest.raises(PayloadCorrupt) as caught:
        copy_artifact(source, tmp_path / "b", Plan)
    assert caught.value.where.startswith(str(tmp_path / "b"))


def test_the_folder_is_this_users_alone(tmp_path: Path) -> None:
    """Named by the model, empty whatever a killed run left, closed to others, and gone afterwards."""
    with private_folder("a", "b") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.iterdir()) == []
        (folder / "left").write_text("x")
        other = folder.with_name(folder.name + "x")
        folder.rename(other)
    assert not folder.exists()
    other.rename(folder)
    with private_folder("a", "b") as again:
        assert again == folder
        assert list(again.iterdir()) == []
        with private_folder("a", "c") as another:
            assert another != folder
            assert re.fullmatch(r"promote-[0-9a-f]{24}", another.name)
    assert not folder.exists()
    with pytest.raises(KeyError), private_folder("a") as broken:
        raise KeyError
    assert not broken.exists()
