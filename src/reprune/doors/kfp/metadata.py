"""`metadata.yaml` of a component or pipeline, by the rules of Kubeflow's catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from reprune.core.errors import RepruneError
from reprune.doors.kfp.findings import Finding

METADATA = "metadata.yaml"
ORDER = ("name", "stability", "dependencies", "tags", "lastVerified")
REQUIRED = ("name", "stability", "dependencies", "lastVerified")
STABILITIES = ("experimental", "alpha", "beta", "stable")
PLATFORM = "Pipelines"

_VERSION = re.compile(r"(>=|<=|==)\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
_DEPENDENCIES = ("kubeflow", "external_services")


@dataclass(frozen=True)
class Metadata:
    """`dependencies` and `services` are pairs of a name and the versions that will do."""

    name: str
    stability: str
    dependencies: tuple[tuple[str, str], ...]
    services: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]
    last_verified: datetime


def read_metadata(folder: Path) -> Metadata:
    """The metadata of the entry in `folder`. Raises RepruneError that lists what breaks a rule."""
    path = folder / METADATA
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RepruneError("is missing", where=str(path), fix="write it as beside it") from None
    if found := check_metadata(text, folder.name):
        raise RepruneError("; ".join(each.what for each in found), where=str(path))
    given = yaml.safe_load(text)
    wanted = given["dependencies"]
    return Metadata(
        name=given["name"],
        stability=given["stability"],
        dependencies=_pairs(wanted["kubeflow"]),
        services=_pairs(wanted.get("external_services", [])),
        tags=tuple(given.get("tags", [])),
        last_verified=given["lastVerified"],
    )


def check_metadata(text: str, name: str) -> list[Finding]:
    """What breaks a rule in the metadata of the entry `name`."""
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [Finding(name, f"is no YAML: {error}")]
    if not isinstance(given, dict):
        return [Finding(name, "is no mapping")]
    return [Finding(name, what) for what in _broken(given, name)]


def _broken(given: dict[str, Any], name: str) -> Iterator[str]:
    for field in given:
        if field not in ORDER:
            yield f"'{field}' is no field"
    for field in REQUIRED:
        if field not in given:
            yield f"'{field}' is missing"
    known = [field for field in given if field in ORDER]
    if known != [field for field in ORDER if field in given]:
        yield f"the fields are not in order: {', '.join(ORDER)}"
    if given.get("name") != name:
        yield f"the name is not that of the folder, '{name}'"
    if given.get("stability") not in STABILITIES:
        yield f"stability is none of {', '.join(STABILITIES)}"
    verified = given.get("lastVerified")
    if not isinstance(verified, datetime) or verified.tzinfo is None:
        yield "lastVerified is no time with its zone, as 2026-11-27T00:00:00Z"
    tags = given.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        yield "tags is no list of words"
    yield from _broken_dependencies(given.get("dependencies"))


def _broken_dependencies(given: Any) -> Iterator[str]:
    if not isinstance(given, dict) or not set(given) <= set(_DEPENDENCIES):
        yield f"dependencies holds something else than {' and '.join(_DEPENDENCIES)}"
        return
    for field, entries in given.items():
        if not isinstance(entries, list) or not all(
            isinstance(each, dict) and list(each) == ["name", "version"] for each in entries
        ):
            yield f"{field} is no list of a name and a version"
            return
        for each in entries:
            if not _VERSION.fullmatch(str(each["version"])):
                yield f"'{each['version']}' of {each['name']} is no version, as >=2.17.0"
    if PLATFORM not in [each["name"] for each in given.get("kubeflow", [])]:
        yield f"kubeflow does not name {PLATFORM}"


def _pairs(entries: list[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((each["name"], each["version"]) for each in entries)
