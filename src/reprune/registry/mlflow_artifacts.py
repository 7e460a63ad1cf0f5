"""Files of MLflow versions: where they lie, what is there, and bringing them here within limits.

What a registry's address for files may be is narrow: the server that we asked, an object store, or a
folder. MLflow itself would read any file of this machine, or any web address, that a version names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from reprune.core.errors import (
    RegistryError,
    RegistryUnreachable,
    RepruneError,
    VersionNotFound,
)
from reprune.core.store import disk_errors
from reprune.registry.artifact_root import resolved
from reprune.registry.bounded import Budget, Limits, copy_part, reading
from reprune.registry.store_address import (
    SERVED,
    STORES,
    check_address,
    missing_client,
    said,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADDED_BY_MLFLOW = "registered_model_meta"

_CHUNK = 2**20


def source_uri(client: MlflowClient, name: str, version: str, tracking_uri: str) -> str:
    """Where the files of a version lie; runs and logged models are looked up for what they point to."""
    uri = str(client.get_model_version_download_uri(name, version))
    if uri.startswith("models:/"):
        uri = str(client.get_logged_model(uri.removeprefix("models:/")).artifact_location)
    if uri.startswith("runs:/"):
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

        uri = str(RunsArtifactRepository.get_underlying_uri(uri, tracking_uri))
    return uri.rstrip("/")


def local_folder(uri: str, root: Path | None, *, embedded: bool, where: str) -> Path | None:
    """The folder on this machine that `uri` names; None if its files are served or lie in a store.

    An embedded registry's folders are this machine's own; a server's must lie below `root`. Raises
    RegistryError for a folder that must not be read and for every other kind of address.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = unquote(parts.path) if parts.scheme else uri
        if embedded and path.startswith("/") and ".." not in PurePosixPath(path).parts:
            return Path(path)
        if root is not None:
            return resolved(root, Path(path).as_uri() if path.startswith("/") else uri, where=where)
    elif not embedded and parts.scheme in (SERVED, *STORES):
        return None
    raise RegistryError(
        f"its files are said to lie at an address that is not read ({parts.scheme or 'a path'})",
        where=where,
        fix="register files that the server stores; of folders that it shares with this machine, "
        "name the one above them as registry.artifacts in params.yaml",
    )


def fetch_local(
    folder: Path, part: PurePosixPath, destination: Path, limits: Limits, *, where: str
) -> None:
    """Copies from a folder. Raises as `bounded.copy_part` does, and RegistryError for a single file."""
    with reading(folder):
        single = folder.exists() and not folder.is_dir()
    if single:
        raise RegistryError("its files lie in what is no folder", where=where)
    copy_part(folder, part, destination, limits, where=where)
    (destination / ADDED_BY_MLFLOW).unlink(missing_ok=True)


class Remote:
    """The files of one version, at the server or in its store.

    Raises RegistryError for an address that leads elsewhere, before anybody is asked.
    """

    def __init__(self, uri: str, tracking_uri: str, limits: Limits, where: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        check_address(uri, tracking_uri, where=where)
        self._served = uri.startswith(f"{SERVED}:")
        self._uri = uri
        self._tracking_uri = tracking_uri
        self._limits = limits
        self._where = where
        with self._asking_store():
            self._repository: Any = get_artifact_repository(uri, tracking_uri=tracking_uri)

    def listed(self, part: PurePosixPath) -> list[str]:
        """The paths of all files at or below `part`, within the limits by what the listing says.

        Raises VersionNotFound where there are none, RegistryUnreachable where the listing is none.
        """
        budget = Budget(self._limits, self._where)
        whole = str(part) == "."
        pending = [None if whole else str(part.parent)]
        found: list[str] = []
        while pending:
            folder = pending.pop()
            asked = None if folder in (None, ".") else folder
            for each in self._list(asked):
                path = self._inside(str(each.path))
                if not whole and path != part and part not in path.parents:
                    continue
                budget.file(str(path))
                if each.is_dir:
                    pending.append(str(path))
                    continue
                budget.take(max(0, int(each.file_size or 0)))
                if str(path) != ADDED_BY_MLFLOW:
                    found.append(str(path))
        if not found:
            raise VersionNotFound(f"there is no '{part}'", where=self._where)
        return found

    def fetch(self, paths: list[str], destination: Path) -> None:
        """Brings the files here, counted as they come. Raises RegistryError where they are too much."""
        budget = Budget(self._limits, self._where)
        for path in paths:
            target = destination / path
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            if self._served:
                self._stream(path, target, budget)
            else:
                with self._asking_store():
                    self._repository.download_artifacts(path, str(destination))
                budget.take(target.stat().st_size)

    def _list(self, folder: str | None) -> list[Any]:
        """One folder's entries. MLflow reads a server's answer as if it had to be one."""
        try:
            with self._asking_store():
                return list(self._repository.list_artifacts(folder))
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise RegistryUnreachable("its list of files is none", where=self._where) from error

    @contextmanager
    def _asking_store(self) -> Iterator[None]:
        """Whatever a store's client raises is "no answer", never "there is none": to be told that a receipt
        is absent could open what it forbids. The server that we asked itself has its own words for that.

        Raises MissingExtra where the client is not installed, else RegistryUnreachable.
        """
        try:
            yield
        except (ImportError, NameError) as error:
            # MLflow leaves a name unbound where it imports at its own start.
            raise missing_client(self._uri, where=self._where) from error
        except Exception as error:
            if self._served or isinstance(error, RepruneError):
                raise
            raise RegistryUnreachable(
                f"the store of its files did not answer: {said(error)}",
                where=self._where,
                fix="see that this machine reaches the store and has credentials for it, then try again",
            ) from error

    def _stream(self, path: str, target: Path, budget: Budget) -> None:
        """MLflow's own download writes whatever comes; this one stops."""
        stores: Any = import_module("mlflow.store.artifact.mlflow_artifacts_repo")
        rest: Any = import_module("mlflow.utils.rest_utils")
        credentials: Any = import_module("mlflow.utils.credentials")
        url = stores.MlflowArtifactsRepository.resolve_uri(self._uri, self._tracking_uri)
        host = credentials.get_default_host_creds(url)
        asked: Any = {"stream": True, "allow_redirects": False}
        reply = rest.http_request(host, f"/{quote(path)}", "GET", **asked)
        with reply, disk_errors(target), target.open("xb") as out:
            rest.augmented_raise_for_status(reply)
            if reply.status_code != 200:
                raise RegistryError(
                    f"sends a file with {reply.status_code}: it is not looked for elsewhere",
                    where=self._where,
                )
            for chunk in reply.iter_content(chunk_size=_CHUNK):
                budget.take(len(chunk))
                out.write(chunk)

    def _inside(self, listed: str) -> PurePosixPath:
        path = PurePosixPath(listed)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in listed:
            raise RegistryError("lists a file outside the version", where=self._where)
        return path
