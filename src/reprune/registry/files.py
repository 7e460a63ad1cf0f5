"""A registry that is a plain folder: for tests, and for people without MLflow.

    registry.json                     says that this folder is a registry
    <name>/<number>/version.json      tags and a stamp
    <name>/<number>/files/**          what the version holds
    <name>/aliases.json               alias to version number

A version is written aside, fsynced and renamed into place: it appears whole or not at all.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from reprune.core import durable, params, store
from reprune.core.addresses import shown
from reprune.core.documents import (
    MAX_DOCUMENT_BYTES,
    canonical,
    decode_json,
    digest_of,
    read_bounded,
)
from reprune.core.errors import (
    DocumentError,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
    nearest,
)
from reprune.registry.bounded import (
    Limits,
    checked_part,
    copy_part,
    limits_of,
    reading,
    survey,
)
from reprune.registry.protocol import VersionInfo

T = TypeVar("T")

MARKER = "registry.json"
ALIASES = "aliases.json"
VERSION = "version.json"
FILES = "files"

# In the file of aliases, where a model's own could not stand.
_CHECK = "#check"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}\Z")
_ATTEMPTS = 100


class _Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str = "reprune-files-registry"
    schema: int = 1


class _Version(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`check` is the digest of the rest, against bits that turn; who edits the file need not keep it."""

    tags: dict[str, str]
    stamp: str
    check: str = ""


def open_files(registry: params.Registry, root: Path) -> FilesRegistry:
    """The folder that `registry.uri` names: a path, or file:// and a path; relative ones start at `root`."""
    text = registry.uri.removeprefix("file://")
    if "://" in text or text.startswith("sqlite:") or not text:
        raise DocumentError(
            f"a registry of kind 'files' needs a folder, not '{shown(registry.uri)}'",
            where="params.yaml (registry.uri)",
            fix="write a path such as .reprune/registry, or use kind: mlflow",
        )
    if registry.workspace != "default":
        # In one folder there is one set of names: what another workspace decided would be read, and written.
        raise DocumentError(
            "a registry of kind 'files' has one workspace, 'default'",
            where="params.yaml (registry.workspace)",
            fix="delete the line, or use another folder",
        )
    return FilesRegistry(
        identity=registry.uri,
        workspace=registry.workspace,
        folder=root / text,
        limits=limits_of(registry),
    )


@dataclass(frozen=True, kw_only=True)
class FilesRegistry:
    """See reprune.registry.protocol.Registry for what each method promises."""

    identity: str
    workspace: str
    folder: Path
    limits: Limits

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        return self.versions_from(name, "1")

    def versions_from(self, name: str, first: str) -> tuple[VersionInfo, ...]:
        """See reprune.registry.remembered.ListsFrom."""
        model = self._model(name)
        with reading(model):
            numbers = sorted(int(path.name) for path in model.iterdir() if _NUMBER.match(path.name))
        wanted = [number for number in numbers if number >= int(first)]
        try:
            return tuple(self._info_in(model, name, str(number)) for number in wanted)
        except VersionNotFound as error:
            # Its folder was there just now: not the same as a model that is not.
            raise RegistryUnreachable(error.what, where=str(model)) from error

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        self._info(name, version)
        what = f"version {version} of '{name}'"
        inside = checked_part(part, what, self.identity)
        source = self._model(name) / version / FILES
        try:
            copy_part(source, inside, destination, self.limits, where=f"{self.identity}: {what}")
        except FileNotFoundError as error:
            raise VersionNotFound(f"{what} holds no '{part}'", where=self.identity) from error

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        self._create()
        model = self.folder / _checked(name)
        with store.disk_errors(model):
            durable.make_folder(model)
            _sweep(model)
            draft = model / f".{secrets.token_hex(8)}.draft"
            try:
                _copy_durably(folder, draft / FILES, self.limits)
                content = _Version(tags=dict(tags), stamp=secrets.token_hex(16))
                store.write_bytes(draft / VERSION, _version_bytes(content))
                # A number that an alias names is not free, whatever became of its version: what is new
                # would serve without anybody having moved the alias.
                named = [int(each) for each in self._aliases(name).values() if _NUMBER.match(each)]
                return _place(draft, model, above=max(named, default=0))
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def alias(self, name: str, alias: str) -> str | None:
        return self._aliases(name).get(alias)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._info(name, version)
        aliases = {**self._aliases(name), alias: version}
        content = canonical({**aliases, _CHECK: digest_of(aliases)}) + b"\n"
        store.write_bytes(self._model(name) / ALIASES, content)
        found = self.alias(name, alias)
        if found != version:
            raise RegistryError(
                f"the alias '{alias}' of '{name}' was set to {version} but reads as {found}",
                where=self.identity,
                fix="somebody else writes it: find out who, then run the command again",
            )

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        known = self._stored(name, version)
        content = msgspec.structs.replace(known, tags={**known.tags, **tags})
        store.write_bytes(self._model(name) / version / VERSION, _version_bytes(content))

    def _create(self) -> None:
        marker = self.folder / MARKER
        with store.disk_errors(self.folder):
            durable.make_folder(self.folder)
            if not marker.exists() and any(
                path for path in self.folder.iterdir() if not path.name.startswith(".")
            ):
                raise RegistryError(
                    "is not empty and is not a registry; nothing was changed",
                    where=str(self.folder),
                    fix="name another folder in params.yaml (registry.uri)",
                )
            if not marker.exists():
                store.write_bytes(marker, canonical(_Marker()) + b"\n")

    def _model(self, name: str) -> Path:
        """The folder of a model that exists, in a registry that is there."""
        found = _decoded(self.folder / MARKER, _Marker)
        if found is None:
            raise RegistryUnreachable(
                "there is no registry here",
                where=str(self.folder),
                fix="correct registry.uri in params.yaml, mount the folder, "
                "or register a first dense version",
            )
        if found != _Marker():
            raise RegistryUnreachable(
                f"is a {found.kind} of schema {found.schema}, which this Reprune does not read",
                where=str(self.folder / MARKER),
            )
        model = self.folder / _checked(name)
        with reading(self.folder):
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        if name not in names:
            raise VersionNotFound(
                f"there is no model '{name}'; {nearest(name, names)}", where=self.identity
            )
        return model

    def _stored(self, name: str, version: str) -> _Version:
        return self._stored_in(self._model(name), name, version)

    def _stored_in(self, model: Path, name: str, version: str) -> _Version:
        path = model / version / VERSION
        raw = _raw(path) if _NUMBER.match(version) else None
        if raw is None:
            raise VersionNotFound(f"there is no version {version} of '{name}'", where=self.identity)
        found = _read(raw, _Version, path)
        # In another form than ours it was edited by somebody, who left the check as it was.
        as_written = raw == canonical(found) + b"\n"
        if as_written and found.check and found.check != _check_of(found):
            raise _damaged(path)
        return found

    def _info(self, name: str, version: str) -> VersionInfo:
        return self._info_in(self._model(name), name, version)

    def _info_in(self, model: Path, name: str, version: str) -> VersionInfo:
        stored = self._stored_in(model, name, version)
        with reading(model):
            # Nothing is written into it afterwards; version.json is, when tags are set.
            registered_s = (model / version / FILES).stat().st_mtime
        return VersionInfo(
            name=name,
            version=version,
            tags=stored.tags,
            stamp=stored.stamp,
            registered_s=registered_s,
        )

    def _aliases(self, name: str) -> dict[str, str]:
        path = self._model(name) / ALIASES
        raw = _raw(path)
        if raw is None:
            return {}
        found = _read(raw, dict[str, str], path)
        as_written = raw == canonical(found) + b"\n"
        check = found.pop(_CHECK, "")
        # A digest under another name is the check, of whose name a bit has turned.
        named = any(value.startswith("sha256:") for value in found.values())
        if as_written and (named or (check and check != digest_of(found))):
            raise _damaged(path)
        return found


def _checked(name: str) -> str:
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{0,249}\Z", name):
        raise VersionNotFound(f"'{name}' is not a model name")
    return name


def _version_bytes(content: _Version) -> bytes:
    return canonical(msgspec.structs.replace(content, check=_check_of(content))) + b"\n"


def _check_of(content: _Version) -> str:
    return digest_of([content.tags, content.stamp])


def _damaged(path: Path) -> RegistryUnreachable:
    return RegistryUnreachable(
        "is damaged: it is not what was written",
        where=str(path),
        fix="restore the registry's folder from a backup",
    )


def _sweep(model: Path) -> None:
    """Removes what killed writers left, as far as none of them can still be at it."""
    for draft in durable.stale(model, ".", ".draft"):
        shutil.rmtree(draft, ignore_errors=True)


def _decoded(path: Path, kind: type[T]) -> T | None:
    """The file's content; None only where the file system says that there is no such file."""
    raw = _raw(path)
    return None if raw is None else _read(raw, kind, path)


def _raw(path: Path) -> bytes | None:
    with reading(path):
        try:
            return read_bounded(path, max_bytes=MAX_DOCUMENT_BYTES)
        except FileNotFoundError:
            return None
        except DocumentError as error:
            raise RegistryUnreachable(error.what, where=error.where) from error


def _read(raw: bytes, kind: type[T], path: Path) -> T:
    try:
        return decode_json(raw, kind, name=str(path))
    except DocumentError as error:
        raise RegistryUnreachable(error.what, where=error.where) from error


def _copy_durably(source: Path, destination: Path, limits: Limits) -> None:
    destination.mkdir(parents=True)
    for path in survey(source, limits, where=str(source)):
        target = destination / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        durable.fsync(target)
    durable.fsync_folders(destination)


def _place(draft: Path, model: Path, *, above: int) -> str:
    """Renames the draft to the next number that is free and larger than `above`; another writer may take
    the same one first.
    """
    for _ in range(_ATTEMPTS):
        numbers = [int(path.name) for path in model.iterdir() if _NUMBER.match(path.name)]
        version = str(max([above, *numbers]) + 1)
        try:
            draft.rename(model / version)
        except OSError:
            if not (model / version).exists():
                raise
            continue
        durable.fsync(model)
        return version
    raise RegistryError("too many writers at once", where=str(model), fix="try again")
