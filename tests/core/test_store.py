"""Artefact directories: whole or absent, and every change to one is seen."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core import store
from reprune.core.artifacts import Cost, GroupPlan, Plan, Prediction, Profile
from reprune.core.errors import (
    ArtifactError,
    ArtifactMissing,
    DiskFull,
    ManifestEdited,
    PayloadCorrupt,
    RepruneError,
    SchemaTooNew,
)


def make_plan(keep: int = 4) -> Plan:
    cost = Cost(params=10, macs=20, bytes=40)
    return Plan(
        allocator="uniform",
        budget="macs",
        fraction=0.5,
        before=cost,
        groups=(GroupPlan(group="conv", width=8, keep=keep),),
        predicted=Prediction(params=5, macs=10, loss_increase=0.25, latency_ratio=None),
    )


def write_plan(out: Path, keep: int = 4, text: str = "hello") -> store.Artifact[Plan]:
    with store.drafting(out) as draft:
        (draft / "deep").mkdir()
        (draft / "deep" / "file.txt").write_text(text)
        return store.write(
            draft, make_plan(keep), step="plan", parents={"b": "2", "a": "1"}, out=out
        )


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """Encoding and decoding is the identity, digest included."""
    written = write_plan(tmp_path / "plan")
    read = store.read(tmp_path / "plan", Plan)
    assert read == written
    assert list(read.manifest.parents) == ["a", "b"]
    assert read.file("deep/file.txt").read_text() == "hello"
    with pytest.raises(ArtifactError, match="no payload"):
        read.file("other")


def test_the_digest_is_over_the_decoded_form(tmp_path: Path) -> None:
    """White space and key order in manifest.json do not change what it is."""
    written = write_plan(tmp_path / "plan")
    path = tmp_path / "plan" / store.MANIFEST
    value = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(value.items())), indent=7))
    assert store.read(tmp_path / "plan", Plan).digest == written.digest


def test_a_hand_edited_manifest_is_refused(tmp_path: Path) -> None:
    """One number changed by hand is named as an edit, not believed."""
    write_plan(tmp_path / "plan")
    path = tmp_path / "plan" / store.MANIFEST
    path.write_text(path.read_text().replace('"keep": 4', '"keep": 5'))
    with pytest.raises(ManifestEdited, match="changed after it was written"):
        store.read(tmp_path / "plan", Plan)


@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 39), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_payload_is_seen(tmp_path_factory, position: int, bit: int) -> None:
    """No single bit of a payload can change unseen."""
    out = tmp_path_factory.mktemp("flip") / "plan"
    write_plan(out, text="x" * 40)
    path = out / "deep" / "file.txt"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(PayloadCorrupt, match="not those that the manifest lists"):
        store.read(out, Plan)


def test_a_missing_or_linked_payload_is_refused(tmp_path: Path) -> None:
    """A payload that is gone, or that points elsewhere, is not used."""
    write_plan(tmp_path / "plan")
    path = tmp_path / "plan" / "deep" / "file.txt"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(PayloadCorrupt, match="not there"):
        store.read(tmp_path / "plan", Plan)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PayloadCorrupt, match="not there"):
        store.read(tmp_path / "plan", Plan)


def rewrite(out: Path, **changes: object) -> None:
    """A manifest with a corrected digest: what a careful forger would leave."""
    path = out / store.MANIFEST
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(value))
    (out / store.DIGEST).write_text(store.digest_of(value))


def test_newer_schemas_and_other_kinds_are_refused(tmp_path: Path) -> None:
    """What this version cannot understand is refused with the way out."""
    out = tmp_path / "plan"
    write_plan(out)
    with pytest.raises(ArtifactError, match="a Profile is needed"):
        store.read(out, Profile)
    rewrite(out, schema=2)
    with pytest.raises(SchemaTooNew, match="schema 2"):
        store.read(out, Plan)
    rewrite(out, schema=1, surprise=1)
    with pytest.raises(ArtifactError, match="unknown key 'surprise'"):
        store.read(out, Plan)


def test_payload_names_stay_inside(tmp_path: Path) -> None:
    """A manifest cannot vouch for files outside its own directory."""
    out = tmp_path / "plan"
    write_plan(out)
    for name in ("../x", "/etc/passwd"):
        rewrite(out, payload={name: "sha256:0"})
        with pytest.raises(ArtifactError, match="outside itself"):
            store.read(out, Plan)


@pytest.mark.parametrize("name", [store.MANIFEST, store.DIGEST])
def test_half_a_directory_is_no_artefact(tmp_path: Path, name: str) -> None:
    """Without its manifest or its digest a directory is missing, whatever else it holds."""
    write_plan(tmp_path / "plan")
    (tmp_path / "plan" / name).unlink()
    with pytest.raises(ArtifactMissing):
        store.read(tmp_path / "plan", Plan)
    with pytest.raises(ArtifactMissing):
        store.read(tmp_path / "nowhere", Plan)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """An exception while the payload is written changes nothing and leaves nothing."""
    out = tmp_path / "plan"
    before = write_plan(out).digest
    with pytest.raises(ValueError, match="boom"), store.drafting(out) as draft:
        (draft / "half").write_text("half")
        raise ValueError("boom")
    assert store.read(out, Plan).digest == before
    assert os.listdir(tmp_path) == ["plan"]


def test_rewriting_replaces_the_whole_directory(tmp_path: Path) -> None:
    """A second result takes the place of the first; a folder that is no artefact is never replaced."""
    out = tmp_path / "plan"
    write_plan(out, keep=4)
    write_plan(out, keep=2)
    assert store.read(out, Plan).manifest.groups[0].keep == 2
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="not an artefact"):
        write_plan(other)
    assert (other / "thesis.txt").read_text() == "years of work"


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    """Drafts of dead runs go; a directory that was moved aside comes back if nothing took its place."""
    out = tmp_path / "plan"
    digest = write_plan(out).digest
    (tmp_path / ".plan.1.ab.draft").mkdir()
    out.rename(tmp_path / ".plan.1.old")
    with pytest.raises(ValueError, match="stop"), store.drafting(out):
        raise ValueError("stop")
    assert store.read(out, Plan).digest == digest
    assert os.listdir(tmp_path) == ["plan"]


def test_os_errors_become_words() -> None:
    """A full disk is named as one, with what to do; a forbidden folder too."""
    full = store.translate(OSError(errno.ENOSPC, "No space left"), Path("x"))
    assert isinstance(full, DiskFull)
    assert full.exit_code == 1
    assert "free some space" in str(full)
    assert isinstance(store.translate(OSError(errno.EACCES, "denied"), Path("x")), ArtifactError)
    for number in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        wrong = store.translate(OSError(number, "no way"), Path("x"))
        assert isinstance(wrong, ArtifactError)
        assert str(wrong).startswith("x: cannot be written: no way\nTo fix: correct the path")
    ours = store.translate(OSError(errno.EIO, "broken"), Path("x"))
    assert isinstance(ours, RepruneError)
    assert ours.exit_code == 1


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_really_full_disk_changes_nothing(tmp_path: Path) -> None:
    """On a real file system of 64 KiB: a clear error, and the old artefact is untouched."""
    script = tmp_path / "fill.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nsys.path[:0] = sys.argv[1:2]\n"
        "from reprune.core import store\nfrom reprune.core.artifacts import Plan\n"
        "from reprune.core.errors import DiskFull\n"
        "from tests.core.test_store import write_plan\n"
        "out = Path(sys.argv[2]) / 'plan'\n"
        "digest = write_plan(out).digest\n"
        "try:\n    write_plan(out, text='x' * 1_000_000)\n"
        "except DiskFull as error:\n    print('DISK FULL', error.where)\n"
        "assert store.read(out, Plan).digest == digest\n"
        "assert [p.name for p in out.parent.iterdir()] == ['plan']\n"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    command = (
        f"mount -t tmpfs -o size=64k tmpfs {disk} && {sys.executable} {script} {Path.cwd()} {disk}"
    )
    result = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in result.stderr and "unshare" in result.stderr:
        pytest.skip("needs user namespaces")
    assert result.returncode == 0, result.stderr
    assert "DISK FULL" in result.stdout


def test_folder_digests_see_names_and_bytes(tmp_path: Path) -> None:
    """Content and name count; compiled Python and hidden files do not."""
    (tmp_path / "a.py").write_text("1")
    first = store.folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert store.folder_digest(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert store.folder_digest(tmp_path) != first
