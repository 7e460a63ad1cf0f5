"""What registries ask for, as their adapters look for it: in the environment, which is one for all threads.

So one registry is spoken to at a time where any has credentials or a workspace, and credentials are there
for so long only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reprune.core.errors import RegistryError
from reprune.registry.model_registry import TOKEN_FILE
from reprune.registry.protocol import Registry, VersionInfo

_VARIABLES = {
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
}
_SPEAKING = threading.RLock()


@contextmanager
def introduced(folder: Path | None, *, given: bool = True) -> Iterator[None]:
    """While the block runs, adapters find what lies in `folder` now, and nothing of another registry; no
    other thread is in such a block. Without `given`, nobody has a folder, and the environment stays.

    Raises RegistryError, showing none of it, for what cannot be read.
    """
    with _SPEAKING:
        if not given:
            yield
            return
        _forget()
        try:
            if folder is not None:
                _know(folder)
            yield
        finally:
            _forget()


@dataclass(frozen=True, kw_only=True)
class Introduced:
    """As `inner` in all, each call made within `introduced`."""

    inner: Registry
    folder: Path | None
    given: bool = True

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def workspace(self) -> str:
        return self.inner.workspace

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        with introduced(self.folder, given=self.given):
            return self.inner.versions(name)

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        with introduced(self.folder, given=self.given):
            self.inner.fetch(name, version, destination, part=part)

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        with introduced(self.folder, given=self.given):
            return self.inner.register(name, folder, tags)

    def alias(self, name: str, alias: str) -> str | None:
        with introduced(self.folder, given=self.given):
            return self.inner.alias(name, alias)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with introduced(self.folder, given=self.given):
            self.inner.set_alias(name, alias, version)

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        with introduced(self.folder, given=self.given):
            self.inner.set_tags(name, version, tags)


def _know(folder: Path) -> None:
    for name, variable in _VARIABLES.items():
        try:
            os.environ[variable] = (folder / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise RegistryError(
                "the registry's credentials cannot be read", where=str(folder / name)
            ) from error
    if _VARIABLES["token"] in os.environ:
        # The Kubeflow adapter reads its file by itself.
        os.environ[TOKEN_FILE] = str(folder / "token")


def _forget() -> None:
    for variable in (*_VARIABLES.values(), TOKEN_FILE):
        os.environ.pop(variable, None)
