"""Private copies: promote judges, hashes, signs and registers one and the same copy, read once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reprune.core import store
from reprune.core.artifacts import (
    Engines,
    Manifest,
    ModelBundle,
    Plan,
    Profile,
    Report,
    Sensitivity,
    Verdict,
)
from reprune.core.documents import digest_of
from reprune.core.errors import ArtifactError, ArtifactMissing, PayloadCorrupt
from reprune.core.step import work_root
from reprune.core.store import Artifact


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Where the artefacts of one judged run lie. `report` may be missing; nothing else may."""

    verdict: Path
    candidate: Path
    engines: tuple[Path, ...]
    plan: Path
    profiles: tuple[Path, ...]
    table: Path
    report: Path | None = None

    def places(self) -> dict[str, Path]:
        """Where each artefact lies in a compressed version, and where it came from."""
        found = {
            "verdict": self.verdict,
            "bundle": self.candidate,
            "plan": self.plan,
            "sensitivity": self.table,
            **{f"engines/{index}": path for index, path in enumerate(self.engines)},
            **{f"profile/{index}": path for index, path in enumerate(self.profiles)},
        }
        return found if self.report is None else found | {"report": self.report}


@dataclass(frozen=True, kw_only=True)
class Staged:
    """The copies below `folder`, laid out as a compressed version is registered."""

    folder: Path
    verdict: Artifact[Verdict]
    candidate: Artifact[ModelBundle]
    engines: tuple[Artifact[Engines], ...]
    plan: Artifact[Plan]
    profiles: tuple[Artifact[Profile], ...]
    table: Artifact[Sensitivity]
    report: Artifact[Report] | None = None

    def file_digests(self) -> dict[str, str]:
        """Relative path to `sha256:<hex>` of every file that will be registered."""
        return {
            path.relative_to(self.folder).as_posix(): store.file_digest(path)
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@contextmanager
def private_folder(*names: str) -> Iterator[Path]:
    """An empty folder that only this user may enter, named by `names`; gone afterwards.

    What a killed run left there is removed first: the caller holds the lock of the same names.
    """
    folder = work_root() / f"promote-{digest_of(list(names)).removeprefix('sha256:')[:24]}"
    shutil.rmtree(folder, ignore_errors=True)
    with store.disk_errors(folder):
        folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage(evidence: Evidence, folder: Path) -> Staged:
    """Copies everything into `folder`. Raises ArtifactError for what is missing, edited or corrupt.

    Only files that a manifest lists are taken, so nothing else can come to be registered.
    """
    report = None
    if evidence.report is not None and evidence.report.is_dir():
        report = copy_artifact(evidence.report, folder / "report", Report)
    return Staged(
        folder=folder,
        verdict=copy_artifact(evidence.verdict, folder / "verdict", Verdict),
        candidate=copy_artifact(evidence.candidate, folder / "bundle", ModelBundle),
        engines=tuple(
            copy_artifact(path, folder / "engines" / str(index), Engines)
            for index, path in enumerate(evidence.engines)
        ),
        plan=copy_artifact(evidence.plan, folder / "plan", Plan),
        profiles=tuple(
            copy_artifact(path, folder / "profile" / str(index), Profile)
            for index, path in enumerate(evidence.profiles)
        ),
        table=copy_artifact(evidence.table, folder / "sensitivity", Sensitivity),
        report=report,
    )


def copy_artifact(source: Path, destination: Path, kind: type[store.M]) -> Artifact[store.M]:
    """The artefact, copied and then checked as a copy; the source's files are opened once each."""
    if not source.is_dir():
        raise ArtifactMissing(
            "there is no such artefact", where=str(source), fix="run `dvc repro` first"
        )
    for name in (store.MANIFEST, store.DIGEST):
        _copy_file(source, destination, name)
    manifest: Manifest = store.read(destination, kind, deep=False).manifest
    for name in manifest.payload:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ArtifactError(f"lists a payload outside itself: '{name}'", where=str(source))
        _copy_file(source, destination, name)
    return store.read(destination, kind)


def _copy_file(source: Path, destination: Path, name: str) -> None:
    try:
        descriptor = os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise PayloadCorrupt(
            "is a link" if link else f"cannot be read: {error.strerror}",
            where=str(source / name),
            fix="run the step that makes it again",
        ) from error
    target = destination / name
    with os.fdopen(descriptor, "rb") as stream, store.disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
