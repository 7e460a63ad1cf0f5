"""A model's versions as MLflow lists them. A list that cannot be right never reads as a shorter one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reprune.core.errors import RegistryUnreachable
from reprune.registry.protocol import VersionInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# So many versions come at once, and so many pages at all: a list without an end is none.
PAGE = 1_000
MAX_PAGES = 1_000
NUMBER = re.compile(r"[1-9][0-9]{0,8}\Z")


def listed(client: MlflowClient, wanted: str, *, where: str) -> list[ModelVersion]:
    """Every page of what fits the filter. Raises RegistryUnreachable for a list that has no end."""
    found: list[ModelVersion] = []
    token: str | None = None
    for _ in range(MAX_PAGES):
        # In order of their numbers, so that what comes meanwhile shifts nothing to another page.
        page = client.search_model_versions(
            wanted, max_results=PAGE, page_token=token, order_by=["version_number ASC"]
        )
        found.extend(page)
        token = page.token
        if not token:
            return found
        if not page:
            break
    raise garbled("its list of versions has no end", where=where)


def infos(name: str, found: list[ModelVersion], *, where: str) -> tuple[VersionInfo, ...]:
    """The versions of `name`, newest last. Raises RegistryUnreachable if some are not, or are there twice."""
    # A version that is still being uploaded is none yet.
    known = [_info(name, each, where) for each in found if each.status == "READY"]
    if len({info.version for info in known}) != len(known):
        raise garbled("it lists a version twice", where=where)
    return tuple(sorted(known, key=lambda info: int(info.version)))


def garbled(what: str, *, where: str) -> RegistryUnreachable:
    """An answer that is none."""
    return RegistryUnreachable(
        what, where=where, fix="try again; if it stays, look at the server's log"
    )


def _info(name: str, version: ModelVersion, where: str) -> VersionInfo:
    number = str(version.version)
    if version.name != name or not NUMBER.match(number):
        # Not VersionNotFound, which would read as "there are none".
        raise garbled(f"it lists what is no version of '{name}'", where=where)
    created_ms = version.creation_timestamp
    return VersionInfo(
        name=name,
        version=number,
        tags=dict(version.tags or {}),
        stamp=f"{created_ms} {version.source}",
        registered_s=created_ms / 1000 if created_ms else None,
    )
