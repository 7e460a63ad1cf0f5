"""An MLflow registry: embedded (sqlite:///, in this process, no server) or at an http(s) address.

What we register is a folder of files below a run of the experiment `reprune`; no model is logged or
loaded, so nothing is ever unpickled. MLflow's own promises are thin where it matters here: an empty
answer with status 200 reads as an empty object, and moving an alias has no precondition. Both are
checked after the fact.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reprune.core import params, store
from reprune.core.addresses import shown
from reprune.core.errors import (
    DocumentError,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.core.plugins import require
from reprune.registry.bounded import Limits, checked_part, limits_of, reading, survey
from reprune.registry.mlflow_artifacts import Remote, fetch_local, local_folder, source_uri
from reprune.registry.mlflow_versions import NUMBER, garbled, infos, listed
from reprune.registry.protocol import VersionInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

EXPERIMENT = "reprune"
FOLDER = "version"
_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Standard output is ours: with --json there is one document on it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's default of 7 retries makes a wrong address look like a hang of minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # Whatever stands in front of a registry may ask for hours, and would get them.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # A redirect leads to a login page, or wherever a server likes, and would be handed our request.
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
}
# What MLflow's client dies of when an answer has another form than it takes for granted.
_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, RecursionError)
# No model's name has a quote in it.
_NO_WORKSPACE = re.compile(r"\bworkspace '[^']*' (was )?(not found|does not exist)", re.IGNORECASE)
_NOISY = ("mlflow", "alembic", "alembic.runtime.migration")


def open_mlflow(registry: params.Registry, root: Path) -> MlflowRegistry:
    """The registry that `registry.uri` names; a relative SQLite path starts at `root`.

    Raises DocumentError for a URI that is neither sqlite:/// nor http(s)://, or that holds a password.
    """
    where = "params.yaml (registry.uri)"
    limits = limits_of(registry)
    shared = (root / registry.artifacts.removeprefix("file://")) if registry.artifacts else None
    if registry.uri.startswith(_SQLITE):
        if registry.workspace != "default":
            raise DocumentError(
                "an embedded registry has one workspace, 'default'",
                where="params.yaml (registry.workspace)",
                fix="delete the line, or use another database file",
            )
        database = (root / registry.uri.removeprefix(_SQLITE)).resolve()
        return MlflowRegistry(
            identity=registry.uri,
            uri=f"{_SQLITE}{database}",
            database=database,
            workspace=registry.workspace,
            limits=limits,
            shared=shared,
        )
    parts = urlsplit(registry.uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DocumentError(
            f"'{shown(registry.uri)}' is no address of an MLflow registry",
            where=where,
            fix="write sqlite:///PATH, http://HOST:PORT or https://HOST, or use kind: files",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        # It becomes part of locks and receipts, which many read.
        raise DocumentError(
            "holds a user name or a password, or a query",
            where=where,
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        )
    return MlflowRegistry(
        identity=registry.uri,
        uri=registry.uri,
        database=None,
        workspace=registry.workspace,
        limits=limits,
        shared=shared,
    )


@dataclass(frozen=True, kw_only=True)
class MlflowRegistry:
    """See reprune.registry.protocol.Registry for what each method promises."""

    identity: str
    uri: str
    database: Path | None
    workspace: str
    limits: Limits
    # The folder below which a server's versions may lie that it does not serve itself.
    shared: Path | None

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        client = self._client()
        with self._asking(f"there is no model '{name}'"):
            model = _model(client, name)
            found = listed(client, f"name='{_quotable(name)}'", where=self.identity)
        missing = {str(each) for each in model.aliases.values()} - {str(i.version) for i in found}
        if missing:
            raise garbled(
                f"its answer is not whole: '{name}' has aliases on versions that it did not list",
                where=self.identity,
            )
        return infos(name, found, where=self.identity)

    def versions_from(self, name: str, first: str) -> tuple[VersionInfo, ...]:
        """See reprune.registry.remembered.ListsFrom."""
        client = self._client()
        wanted = f"name='{_quotable(name)}' AND version_number >= {_number(first)}"
        with self._asking(f"there is no model '{name}'"):
            found = listed(client, wanted, where=self.identity)
        return infos(name, found, where=self.identity)

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        what = f"version {version} of '{name}'"
        where = f"{self.identity}: {what}"
        inside = checked_part(part, what, self.identity)
        client = self._client()
        with self._asking(f"there is no {what}"):
            source = source_uri(client, name, _number(version), self.uri)
        embedded = self.database is not None
        folder = local_folder(source, self.shared, embedded=embedded, where=where)
        absent = f"{what} holds no '{part}'" if part else f"{what} has no files"
        if folder is None:
            self._fetch_remote(source, inside, destination, where=where, absent=absent)
            return
        try:
            fetch_local(folder, inside, destination, self.limits, where=where)
        except FileNotFoundError as error:
            raise VersionNotFound(absent, where=self.identity) from error

    def _fetch_remote(
        self, source: str, part: PurePosixPath, destination: Path, *, where: str, absent: str
    ) -> None:
        with self._asking(absent):
            remote = Remote(source, self.uri, self.limits, where)
            try:
                paths = remote.listed(part)
            except VersionNotFound as error:
                raise VersionNotFound(absent, where=self.identity) from error
        with store.disk_errors(destination):
            destination.mkdir(parents=True, exist_ok=True)
            # mkdtemp gives a folder that nobody else may enter: nothing is swapped on the way.
            scratch = Path(tempfile.mkdtemp(prefix=".fetch.", dir=destination))
        try:
            with self._asking(absent):
                remote.fetch(paths, scratch)
            with store.disk_errors(destination):
                for path in paths:
                    target = destination / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (scratch / path).replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        survey(folder, self.limits, where=str(folder))
        _quotable(name)
        client = self._client(create=True)
        with self._asking("the experiment or run that was just made is gone"):
            run = client.create_run(self._experiment(client), run_name=name)
            client.log_artifacts(run.info.run_id, str(folder), FOLDER)
            client.set_terminated(run.info.run_id)
            _ensure_model(client, _quotable(name))
            source = f"{run.info.artifact_uri}/{FOLDER}"
            # Last, and with its tags: a reader sees a whole version or none.
            made = client.create_model_version(
                name, source=source, run_id=run.info.run_id, tags=dict(tags)
            )
        return str(made.version)

    def alias(self, name: str, alias: str) -> str | None:
        client = self._client()
        with self._asking(f"there is no model '{name}'"):
            version = _model(client, name).aliases.get(alias)
        return None if version is None else str(version)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        client = self._client()
        with self._asking(f"there is no version {version} of '{name}'"):
            client.set_registered_model_alias(name, alias, _number(version))
        found = self.alias(name, alias)
        if found != version:
            raise RegistryError(
                f"the alias '{alias}' of '{name}' was set to {version} but reads as {found}",
                where=self.identity,
                fix="somebody else writes it: find out who, then run the command again",
            )

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        client = self._client()
        with self._asking(f"there is no version {version} of '{name}'"):
            for key, value in sorted(tags.items()):
                client.set_model_version_tag(name, _number(version), key, value)

    def _client(self, *, create: bool = False) -> MlflowClient:
        """A client that answers to nobody's global settings but this registry's."""
        if self.database is not None and not _is_file(self.database):
            if not create:
                raise RegistryUnreachable(
                    "there is no registry here",
                    where=str(self.database),
                    fix="correct registry.uri in params.yaml, or register a first dense version",
                )
            with store.disk_errors(self.database):
                self.database.parent.mkdir(parents=True, exist_ok=True)
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        # The variable is one for the whole process: the workspace of another registry, asked before this
        # one, is none of this one's.
        if self.workspace not in ("", "default"):
            os.environ["MLFLOW_WORKSPACE"] = self.workspace
        else:
            os.environ.pop("MLFLOW_WORKSPACE", None)
        module = require("mlflow", "mlflow")
        for logger in _NOISY:
            logging.getLogger(logger).setLevel(logging.ERROR)
        with self._asking("it answers, but not as a registry"):
            client: MlflowClient = module.MlflowClient(self.uri, self.uri)
        return client

    def _experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None and found.lifecycle_stage == "deleted":
            # Its name is taken all the same, and no run can be made in it.
            raise RegistryError(
                f"the experiment '{EXPERIMENT}', in which versions are registered, was deleted",
                where=self.identity,
                fix=f"restore it: `mlflow experiments restore --experiment-id {found.experiment_id}`, with "
                "MLFLOW_TRACKING_URI set to this registry",
            )
        if found is not None:
            return str(found.experiment_id)
        location = None if self.database is None else (self.database.parent / "artifacts").as_uri()
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))

    @contextlib.contextmanager
    def _asking(self, absent: str) -> Iterator[None]:
        """Only the registry's own word for "does not exist" becomes VersionNotFound, and that of a
        workspace does not.
        """
        from google.protobuf.json_format import ParseError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                if _NO_WORKSPACE.search(error.message):
                    raise self._no_workspace() from error
                raise VersionNotFound(absent, where=self.identity) from error
            raise self._unreachable(error) from error
        except (SQLAlchemyError, OSError, *_UNREADABLE, ParseError) as error:
            raise self._unreachable(error) from error

    def _no_workspace(self) -> RegistryUnreachable:
        """The server says so in the same code as of a model; nothing is known of the model then."""
        return RegistryUnreachable(
            f"there is no workspace '{self.workspace or 'default'}', or none that we may see",
            where=self.identity,
            fix="correct registry.workspace in params.yaml, or have the workspace created",
        )

    def _unreachable(self, error: Exception) -> RegistryUnreachable:
        first = str(error).partition("\n")[0]
        return RegistryUnreachable(
            f"the registry did not answer as one: {first[:300]}",
            where=self.identity,
            fix="see that it runs and that registry.uri in params.yaml is right, then try again",
            silent=_silent(error),
        )


def _is_file(path: Path) -> bool:
    with reading(path):
        return path.is_file()


def _silent(error: BaseException) -> bool:
    """Whether no answer began to come. MLflow says only in what it was raised for what it died of."""
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import Timeout
    from urllib3.exceptions import ReadTimeoutError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NoConnection | Timeout):
            # In the midst of a body it is this, without the error of having tried too often around it.
            return not (seen.args and isinstance(seen.args[0], ReadTimeoutError))
        seen = seen.__cause__ or seen.__context__
    return False


def _model(client: MlflowClient, name: str) -> RegisteredModel:
    model = client.get_registered_model(_quotable(name))
    if model.name != name:
        # An empty body with status 200 decodes as a model without a name.
        raise RegistryUnreachable(f"answered with '{model.name}' when asked for '{name}'")
    return model


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _quotable(name: str) -> str:
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{0,249}\Z", name):
        raise VersionNotFound(f"'{name}' is not a model name")
    return name


def _number(version: str) -> str:
    if not NUMBER.match(version):
        raise VersionNotFound(f"'{version}' is not a version number")
    return version
