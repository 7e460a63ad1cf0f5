"""What a registry promises, whichever adapter stands behind it.

Two kinds of failure are never mixed: VersionNotFound means that the registry answered and holds no
such model, version or part; RegistryUnreachable means that it did not answer, or not in a way that
could be understood. A read that failed is never taken for "there is none".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reprune.core.errors import VersionNotFound

CHAMPION = "champion"
ANCHOR = "anchor"


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """One registered version. `stamp` differs between two versions that ever had the same number.

    `registered_s` is when it was registered (Unix time); None where the registry does not say.
    """

    name: str
    version: str
    tags: Mapping[str, str]
    stamp: str
    registered_s: float | None = None


class Registry(Protocol):
    """Names, numbered versions that are folders of files, tags on versions, aliases on names."""

    @property
    def identity(self) -> str:
        """Names the registry in a lock and in receipts; holds no password."""

    @property
    def workspace(self) -> str:
        """The part of it that is worked in, as `registry.workspace` in params.yaml says."""

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        """All versions, newest last. Raises VersionNotFound if there is no model of that name."""

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        """Copies the version's files, or those below `part`, into `destination` under the paths that
        they have in the version. Links are refused. Raises VersionNotFound for a version or part that
        is not there.
        """

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        """A new version of `name` that holds the files of `folder` and has `tags` from the start.

        Returns its number. The version appears whole or not at all; the model (and, for a registry on
        this machine, the registry) is created where there is none.
        """

    def alias(self, name: str, alias: str) -> str | None:
        """The version that `alias` names; None if the alias is not set. Raises VersionNotFound if
        there is no model of that name.
        """

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Moves `alias` and reads it back. Raises RegistryError if it then names another version."""

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Adds or replaces tags of a version."""


def known_versions(registry: Registry, name: str) -> tuple[VersionInfo, ...]:
    """As `versions`, but empty where the registry says that there is no such model."""
    try:
        return registry.versions(name)
    except VersionNotFound:
        return ()


def known_alias(registry: Registry, name: str, alias: str) -> str | None:
    """As `alias`, but None where the registry says that there is no such model."""
    try:
        return registry.alias(name, alias)
    except VersionNotFound:
        return None
