"""Artefacts that stay where they are: with a workspace a step leaves its artefact there, and hands on a note.

Kubeflow Pipelines uploads every output and downloads every input. With a volume that all steps mount,
the artefact is written once, below its digest, and what travels is `reference.json`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from reprune.core import store
from reprune.core.artifacts import Manifest
from reprune.core.documents import canonical, decode_json, read_bounded
from reprune.core.errors import ArtifactMissing, DocumentError, InputError, ManifestEdited
from reprune.core.lock import Digest
from reprune.core.store import Artifact

REFERENCE = "reference.json"
FOLDER = "artifacts"


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The digest of an artefact's manifest, which also says where below the workspace it lies."""

    digest: Digest


def _place(workspace: str, digest: str) -> Path:
    return Path(workspace) / FOLDER / digest.removeprefix("sha256:")


@contextmanager
def placed(out: Path, workspace: str) -> Iterator[Path]:
    """Where a step is to write: `out` itself, or a place in the workspace that `hand_on` then names.

    Raises InputError for a workspace in which this user may not write.
    """
    if not workspace:
        # The launcher may have made an empty folder there; a whole artefact replaces it.
        yield out
        return
    # Of its own name: the tasks of a loop run side by side, and their outputs are called alike.
    shared = Path(workspace) / FOLDER
    try:
        shared.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".", dir=shared))
    except PermissionError as error:
        # The pipeline cannot say so itself: Kubeflow's SDK has no fsGroup.
        raise InputError(
            f"user {os.geteuid()} may not write in the workspace",
            where=str(shared),
            fix="take a storage class (`reprune compile --storage-class`) whose volumes this user may write, "
            "or let a policy of the cluster set fsGroup for the pods of runs",
        ) from error
    try:
        yield aside / out.name
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def hand_on(made: Artifact[Manifest], out: Path, workspace: str) -> None:
    """Moves the artefact below its digest and writes the note into `out`."""
    if not workspace:
        return
    final = _place(workspace, made.digest)
    if not final.exists():
        made.path.rename(final)
    out.mkdir(parents=True, exist_ok=True)
    store.write_bytes(out / REFERENCE, canonical(Reference(digest=made.digest)))


def resolved(path: Path, workspace: str) -> Path:
    """Where the artefact handed over as `path` lies.

    Raises ArtifactMissing for a note without a workspace, or whose artefact is gone, and ManifestEdited
    where another artefact lies there now.
    """
    note = path / REFERENCE
    if not note.is_file():
        return path
    if not workspace:
        raise ArtifactMissing(
            "is a note about an artefact in a workspace, and this step has none",
            where=str(note),
            fix="run all steps of one pipeline with the same workspace",
        )
    try:
        reference = decode_json(read_bounded(note), Reference, name=str(note))
    except DocumentError as error:
        raise ArtifactMissing(error.what, where=error.where, fix=error.fix) from error
    folder = _place(workspace, reference.digest)
    recorded = folder / store.DIGEST
    if not recorded.is_file():
        raise ArtifactMissing(
            "the artefact is no longer in the workspace",
            where=str(folder),
            fix="run the pipeline again; a workspace lives as long as its run",
        )
    if recorded.read_text(encoding="ascii").strip() != reference.digest:
        raise ManifestEdited("another artefact lies in its place", where=str(folder))
    return folder
