"""The Kubeflow Model Registry (Hub): names, versions and properties there, files in a folder of ours.

It has no aliases, no tags, no events and no store of files. An alias is a custom property of the
registered model, tags are custom properties of the version, and the files lie below
`registry.artifacts`. A version's number is its id: names there are free text. A version of ours appears
with its tags and its place in one request; the model artifact that serving looks for follows it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from reprune.core import params
from reprune.core.addresses import shown
from reprune.core.errors import (
    DocumentError,
    PayloadCorrupt,
    RegistryError,
    VersionNotFound,
)
from reprune.core.http import Service, holds_secret, is_address
from reprune.registry import artifact_root
from reprune.registry import model_registry_api as api
from reprune.registry.bounded import (
    Limits,
    checked_part,
    copy_part,
    digest_of_files,
    limits_of,
    reading,
)
from reprune.registry.protocol import VersionInfo
from reprune.registry.tags import BUNDLE, CLOSED, LOCK, PARENT, RECEIPT, RECORD, RUN

TOKEN_FILE = "REPRUNE_REGISTRY_TOKEN_FILE"
TOKEN = "REPRUNE_REGISTRY_TOKEN"
CA_FILE = "REPRUNE_REGISTRY_CA_FILE"

ALIAS = "reprune.alias."
PLACE = "reprune.files"
DIGEST = "reprune.files.digest"
# What a version is called there, which is not its number.
TITLE = "kubeflow.name"
FORMAT = "reprune-version"
# So many of the newest versions of others are asked for their files; one without is still being made.
ASKED = 20
# Whoever has one of these is a record of what was decided, done or given up here.
_OURS = {RECEIPT, RECORD, CLOSED}

_NUMBER = re.compile(r"[1-9][0-9]{0,9}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,249}\Z")


def open_model_registry(registry: params.Registry, root: Path) -> ModelRegistry:
    """The registry at `registry.uri`, with its files below `registry.artifacts` (relative to `root`).

    The token's file is named by REPRUNE_REGISTRY_TOKEN_FILE and read anew for each request, or the token
    is in REPRUNE_REGISTRY_TOKEN. Raises DocumentError for an address or a folder that cannot be one.
    """
    if not is_address(registry.uri):
        raise DocumentError(
            f"'{shown(registry.uri)}' is no address of a Kubeflow Model Registry",
            where="params.yaml (registry.uri)",
            fix="write http://HOST:PORT or https://HOST, below which /api/model_registry lies",
        )
    if holds_secret(registry.uri):
        raise DocumentError(
            "holds a user name or a password",
            where="params.yaml (registry.uri)",
            fix=f"put a token into a file and name it in {TOKEN_FILE}",
        )
    if registry.workspace != "default":
        raise DocumentError(
            "a Kubeflow Model Registry has one workspace, 'default'",
            where="params.yaml (registry.workspace)",
            fix="delete the line, or use another registry's address",
        )
    folder = registry.artifacts.removeprefix("file://")
    if not folder or "://" in folder:
        raise DocumentError(
            "a Kubeflow Model Registry keeps no files, so a folder for them is needed"
            if not folder
            else f"'{registry.artifacts}' is no folder; object stores are not read or written",
            where="params.yaml (registry.artifacts)",
            fix="name a folder that every step can reach, such as a mounted volume",
        )
    token_file, ca_file = os.environ.get(TOKEN_FILE), os.environ.get(CA_FILE)
    return ModelRegistry(
        identity=registry.uri,
        workspace=registry.workspace,
        service=Service(
            host=registry.uri,
            token_file=Path(token_file) if token_file else None,
            token_variable=TOKEN,
            ca_file=Path(ca_file) if ca_file else None,
        ),
        root=root / folder,
        limits=limits_of(registry),
    )


@dataclass(frozen=True, kw_only=True)
class ModelRegistry:
    """See reprune.registry.protocol.Registry for what each method promises."""

    identity: str
    workspace: str
    service: Service
    root: Path
    limits: Limits

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        found = api.versions_of(self.service, self._model(name))
        # What we put on record counts for ever; what somebody else put away is not to be compressed.
        shown = [each for each in found if each.state == "LIVE" or _OURS & {*each.customProperties}]
        unfinished = set()
        others = [each for each in shown if PLACE not in each.customProperties]
        for each in reversed(others[-ASKED:]):
            if api.files_of(self.service, each.id):
                break
            unfinished.add(each.id)
        return tuple(_info(name, each) for each in shown if each.id not in unfinished)

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        what = f"version {version} of '{name}'"
        inside = checked_part(part, what, self.identity)
        where = f"{self.identity}: {what}"
        found = self._version(name, version)
        source = self._source(found, where)
        with reading(source):
            single = source.is_file()
        try:
            digests = copy_part(
                source.parent if single else source,
                _within(source, inside) if single else inside,
                destination,
                self.limits,
                where=where,
            )
        except FileNotFoundError as error:
            if part:
                raise VersionNotFound(f"{what} holds no '{part}'", where=self.identity) from error
            raise VersionNotFound(f"{what} has no files", where=self.identity) from error
        stated = api.text_of(found.customProperties.get(DIGEST))
        if not part and stated is not None and digest_of_files(digests) != stated:
            raise PayloadCorrupt(
                "its files are not those that were registered",
                where=where,
                fix="restore the folder of registry.artifacts from a backup",
            )

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        _checked(name)
        token = secrets.token_hex(8)
        stored = artifact_root.put(self.root, f"{name}/{token}", folder, self.limits)
        try:
            model = api.make_model(self.service, name)
        except BaseException:
            # Nobody was asked for a version yet, so that nothing can name these files.
            artifact_root.drop(self.root, stored.place)
            raise
        properties = {**tags, PLACE: stored.place, DIGEST: stored.digest}
        body = {
            "name": token,
            "author": "reprune",
            "description": "Registered by Reprune.",
            "state": "LIVE",
            "customProperties": {k: api.text_property(v) for k, v in properties.items()},
        }
        # From here on the registry may hold the version, however this ends (an interrupt, a token's file
        # that is gone between two tries): its files stay.
        made = api.make_version(self.service, model, body)
        self._make_file(made)
        return made.id

    def alias(self, name: str, alias: str) -> str | None:
        found = self._model(name).customProperties.get(ALIAS + alias)
        return None if found is None else (api.text_of(found) or "")

    def set_alias(self, name: str, alias: str, version: str) -> None:
        found = self._version(name, version)
        if PLACE in found.customProperties:
            # A registration that was cut short may have left it out.
            self._make_file(found)
        model = self._model(name)
        path = f"/registered_models/{model.id}"
        api.set_properties(self.service, path, lambda: self._model(name), {ALIAS + alias: version})

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        found = self._version(name, version)
        reserved = sorted({PLACE, DIGEST, TITLE} & set(tags))
        if reserved:
            raise RegistryError(
                f"'{reserved[0]}' is not a tag that can be set", where=self.identity
            )
        path = f"/model_versions/{found.id}"
        api.set_properties(self.service, path, lambda: self._version(name, version), tags)

    def _model(self, name: str) -> api.Entity:
        return api.find_model(self.service, _checked(name))

    def _version(self, name: str, version: str) -> api.Version:
        if not _NUMBER.match(version):
            raise VersionNotFound(f"'{version}' is not a version number", where=self.identity)
        return api.find_version(self.service, self._model(name), version)

    def _source(self, version: api.Version, where: str) -> Path:
        """Where the files of a version lie, below the root."""
        if PLACE in version.customProperties:
            place = api.text_of(version.customProperties[PLACE]) or ""
            return artifact_root.below(self.root, place, where=where)
        files = api.files_of(self.service, version.id)
        if not files:
            raise VersionNotFound(f"version {version.id} has no files", where=where)
        if len(files) > 1:
            raise RegistryError(
                f"has {len(files)} model artifacts; it is not clear which to take",
                where=where,
                fix="archive the others, or register a version with exactly one",
            )
        return artifact_root.resolved(self.root, files[0].uri, where=where)

    def _make_file(self, version: api.Version) -> None:
        """The model artifact that serving looks for, with what the version came from."""
        tags = {key: api.text_of(value) or "" for key, value in version.customProperties.items()}
        body: dict[str, Any] = {
            "artifactType": "model-artifact",
            "name": version.name,
            "uri": (self.root / tags[PLACE]).resolve().as_uri(),
            "state": "LIVE",
            "modelFormatName": FORMAT,
            "modelFormatVersion": "1",
        }
        lineage = {
            "modelSourceKind": "reprune" if PARENT in tags else "",
            "modelSourceClass": "model-version" if PARENT in tags else "",
            "modelSourceGroup": tags.get(LOCK, ""),
            "modelSourceId": tags.get(PARENT, ""),
            "modelSourceName": tags.get(RUN, "") or tags.get(BUNDLE, ""),
        }
        body.update({key: value for key, value in lineage.items() if value})
        api.make_file(self.service, version.id, body)


def _info(name: str, version: api.Version) -> VersionInfo:
    texts = {key: api.text_of(value) for key, value in version.customProperties.items()}
    tags = {key: text for key, text in texts.items() if text is not None}
    return VersionInfo(
        name=name,
        version=version.id,
        tags={**tags, TITLE: version.name},
        stamp=f"{version.createTimeSinceEpoch} {version.id} {version.name}",
        registered_s=_registered_s(version),
    )


def _registered_s(version: api.Version) -> float | None:
    """Unix time; None where the registry does not say, or says no whole number of milliseconds."""
    text = version.createTimeSinceEpoch
    return int(text) / 1000 if re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) else None


def _within(source: Path, part: PurePosixPath) -> PurePosixPath:
    """A version that is one file holds that file, and nothing else."""
    if str(part) in (".", source.name):
        return PurePosixPath(source.name)
    raise FileNotFoundError


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise VersionNotFound(f"'{name}' is not a model name")
    return name
