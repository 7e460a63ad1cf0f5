"""Artefact directories that are whole or absent, and checked by digest whenever they are read.

A directory holds `manifest.json`, `manifest.digest` (the manifest's digest, so that a hand edit is
seen at once) and the payload files that the manifest lists. It is written beside its place, every
file fsynced, the manifest last, and renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

import msgspec

from reprune import __version__
from reprune.core import durable
from reprune.core.artifacts import KINDS, AnyManifest, Manifest, Producer
from reprune.core.documents import canonical, decode_json, digest_of, read_bounded, strict_json
from reprune.core.errors import (
    ArtifactError,
    ArtifactMissing,
    DiskFull,
    DocumentError,
    ManifestEdited,
    PayloadCorrupt,
    RepruneError,
    SchemaTooNew,
)

M = TypeVar("M", bound=Manifest)
M_co = TypeVar("M_co", bound=Manifest, covariant=True)

MANIFEST = "manifest.json"
DIGEST = "manifest.digest"

# Whoever gave the path has to act: a file where a folder is needed, or a folder where a file is, a name that
# is too long, links in a circle.
_IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, kw_only=True)
class Artifact(Generic[M_co]):
    """A manifest that was read from, or written to, `path`, and whose payload matched."""

    manifest: M_co
    path: Path
    digest: str

    def file(self, name: str) -> Path:
        """The payload file `name`. Raises ArtifactError if the manifest does not list it."""
        if name not in self.manifest.payload:
            raise ArtifactError(f"has no payload '{name}'", where=str(self.path))
        return self.path / name


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of the file's bytes."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def folder_digest(folder: Path) -> str:
    """One digest over the relative names and bytes of all files below `folder`, caches left out."""
    return digest_of({str(path.relative_to(folder)): file_digest(path) for path in files(folder)})


def files(folder: Path) -> list[Path]:
    """Every file below `folder` in a fixed order; compiled Python, hidden files and links left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and "__pycache__" not in path.parts
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read(path: Path, kind: type[M], *, deep: bool = True) -> Artifact[M]:
    """The artefact at `path`, its payload hashed (`deep=False` trusts the payload, for listings only).

    Raises ArtifactMissing, ManifestEdited, PayloadCorrupt, SchemaTooNew or ArtifactError.
    """
    raw = _read_manifest(path)
    manifest = _decode(raw, kind, path)
    digest = digest_of(manifest)
    recorded = _recorded_digest(path)
    if recorded != digest:
        raise ManifestEdited(
            f"was changed after it was written: its recorded digest is {recorded[:19]}..., "
            f"its content has {digest[:19]}...",
            where=str(path / MANIFEST),
            fix="undo the edit, or run the step that makes it again",
        )
    if deep:
        _check_payload(path, manifest)
    return Artifact(manifest=manifest, path=path, digest=digest)


def write(
    draft: Path, manifest: M, *, step: str, parents: dict[str, str], out: Path, knobs: str = ""
) -> Artifact[M]:
    """Commits the payload files in `draft` and `manifest` as the artefact `out`, replacing what was there.

    Afterwards `out` is the whole new artefact; if anything fails, `out` is as it was before.
    Raises DiskFull.
    """
    with disk_errors(out):
        payload = {
            path.relative_to(draft).as_posix(): file_digest(path) for path in _payload(draft)
        }
        full = msgspec.structs.replace(
            manifest,
            producer=Producer(step=step, version=__version__, knobs=knobs),
            parents=dict(sorted(parents.items())),
            payload=payload,
        )
        for name in payload:
            durable.fsync(draft / name)
        digest = digest_of(full)
        write_bytes(draft / DIGEST, digest.encode() + b"\n")
        write_bytes(draft / MANIFEST, msgspec.json.format(canonical(full), indent=2) + b"\n")
        _replace_directory(draft, out)
    return Artifact(manifest=full, path=out, digest=digest)


@contextlib.contextmanager
def drafting(out: Path) -> Iterator[Path]:
    """An empty directory beside `out` to write payload into; gone afterwards unless it was committed."""
    with disk_errors(out):
        durable.make_folder(out.parent)
        sweep(out)
        draft = out.parent / f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}.draft"
        draft.mkdir()
    try:
        yield draft
    except OSError as error:
        raise translate(error, out) from error
    finally:
        _remove(draft)


def check_place(out: Path) -> None:
    """Raises ArtifactError where `out` is a file, or a folder of something that is no artefact."""
    with disk_errors(out):
        if not out.exists() or (out / MANIFEST).is_file():
            return
        if not out.is_dir() or any(out.iterdir()):
            raise ArtifactError(
                "exists and is not an artefact; nothing was changed",
                where=str(out),
                fix="name another --out",
            )


def sweep(out: Path) -> None:
    """Removes what a killed run left beside `out`: the caller holds the folder's lock."""
    for leftover in out.parent.glob(f".{out.name}.*.draft"):
        shutil.rmtree(leftover, ignore_errors=True)
    for old in out.parent.glob(f".{out.name}.*.old"):
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(out)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: a temporary beside it, fsync, rename, fsync of the folder."""
    with disk_errors(path):
        durable.write_file(path, content)


def copy_into(source: Artifact[Manifest], destination: Path) -> None:
    """Copies a whole artefact directory, to be part of another one's payload."""
    with disk_errors(destination):
        for name in (MANIFEST, DIGEST, *source.manifest.payload):
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, target)


def copy_whole(source: Artifact[Manifest], out: Path) -> None:
    """Copies an artefact to `out`: afterwards it is there whole, or `out` is as it was before."""
    with drafting(out) as draft, disk_errors(out):
        copy_into(source, draft)
        for path in _payload(draft):
            durable.fsync(path)
        _replace_directory(draft, out)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns a full disk into DiskFull and other write failures into a RepruneError that names `where`."""
    try:
        yield
    except OSError as error:
        raise translate(error, where) from error


def translate(error: OSError, where: Path) -> Exception:
    """The error that an OSError while writing to `where` means to a user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            "the disk is full; nothing was changed",
            where=str(where),
            fix="free some space and run the same command again",
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return ArtifactError(
            f"cannot be written: {error.strerror}", where=str(error.filename or where)
        )
    if error.errno in _IN_THE_WAY:
        return ArtifactError(
            f"cannot be written: {error.strerror}",
            where=str(error.filename or where),
            fix="correct the path: what stands in it is no folder, or its name cannot be one",
        )
    return (
        error
        if isinstance(error, FileNotFoundError)
        else RepruneError(str(error), where=str(where))
    )


def _payload(folder: Path) -> list[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ArtifactError("a payload may not hold links", where=str(path))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _read_manifest(path: Path) -> bytes:
    try:
        return read_bounded(path / MANIFEST)
    except DocumentError as error:
        raise ArtifactError(error.what, where=error.where, fix=error.fix) from error
    except (FileNotFoundError, NotADirectoryError):
        what = "holds no manifest" if path.is_dir() else "there is no such artefact"
        raise ArtifactMissing(
            what, where=str(path), fix="run the step that makes it, or correct the path"
        ) from None


def _recorded_digest(path: Path) -> str:
    try:
        # Not stripped of whatever white space is: a flipped bit makes another white space of a line's end.
        return read_bounded(path / DIGEST, max_bytes=1000).decode("ascii").removesuffix("\n")
    except (OSError, UnicodeDecodeError, DocumentError):
        raise ArtifactMissing(
            f"{DIGEST} is missing or unreadable", where=str(path), fix="run the step again"
        ) from None


def _decode(raw: bytes, kind: type[M], path: Path) -> M:
    name = str(path / MANIFEST)
    try:
        value = strict_json(raw, name=name)
    except DocumentError as error:
        raise ArtifactError(error.what, where=error.where, fix=error.fix) from error
    if not isinstance(value, dict):
        raise ArtifactError("is not a manifest", where=name)
    found = value.get("kind")
    if found != kind.__name__:
        known = found if found in KINDS else "nothing that Reprune writes"
        raise ArtifactError(
            f"is a {known}, but a {kind.__name__} is needed here",
            where=name,
            fix="check which directory goes to which input",
        )
    schema = value.get("schema")
    if isinstance(schema, int) and schema > kind.SCHEMA:
        raise SchemaTooNew(
            f"has schema {schema}, this Reprune reads up to {kind.SCHEMA}",
            where=name,
            fix="upgrade Reprune (pip install -U reprune)",
        )
    try:
        return _checked(decode_json(raw, kind, name=name), name)
    except DocumentError as error:
        raise ArtifactError(error.what, where=error.where, fix=error.fix) from error


def decode_any(raw: bytes, *, name: str) -> AnyManifest:
    """A manifest of whatever kind it says it is. Raises ArtifactError."""
    try:
        return _checked(decode_json(raw, AnyManifest, name=name), name)  # type: ignore[arg-type]
    except DocumentError as error:
        raise ArtifactError(error.what, where=error.where, fix=error.fix) from error


def _checked(manifest: M, name: str) -> M:
    if not 1 <= manifest.schema <= manifest.SCHEMA:
        raise ArtifactError(f"has schema {manifest.schema}, which there never was", where=name)
    return manifest


def _check_payload(path: Path, manifest: Manifest) -> None:
    for name, digest in manifest.payload.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ArtifactError(f"lists a payload outside itself: '{name}'", where=str(path))
        file = path / name
        if not _is_own_file(path, pure):
            raise PayloadCorrupt(
                "is listed in the manifest but is not there",
                where=str(file),
                fix="run the step again",
            )
        limit = manifest.MAX_PAYLOAD_BYTES
        if limit is not None and file.stat().st_size > limit:
            raise PayloadCorrupt(f"is larger than {limit} bytes", where=str(file))
        if file_digest(file) != digest:
            raise PayloadCorrupt(
                "its bytes are not those that the manifest lists",
                where=str(file),
                fix="restore the file, or run the step that makes it again"
                + (f"; {manifest.INSTEAD_OF_EDITING}" if manifest.INSTEAD_OF_EDITING else ""),
            )


def _is_own_file(folder: Path, name: PurePosixPath) -> bool:
    """Whether `name` is a regular file below `folder`, with no link on the way to it."""
    steps = [folder.joinpath(*name.parts[: count + 1]) for count in range(len(name.parts))]
    try:
        return steps[-1].is_file() and not any(step.is_symlink() for step in steps)
    except (OSError, ValueError):
        # A name that no file can have.
        return False


def _replace_directory(draft: Path, out: Path) -> None:
    check_place(out)
    durable.replace_folder(draft, out)
    _remove(draft)


def _remove(draft: Path) -> None:
    """Afterwards a draft, or what it took the place of, is gone."""
    if draft.is_symlink():
        draft.unlink()
    shutil.rmtree(draft, ignore_errors=True)
