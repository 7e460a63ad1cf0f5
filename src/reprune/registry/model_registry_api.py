"""The REST API of the Kubeflow Model Registry (v1alpha3): what is asked, and what counts as an answer.

Nothing it says is believed unless it has the form that the API promises: an empty object, a gateway's
page and a 404 that is not the registry's own word are all "unreachable", never "there is none". The API
has no conditional write; custom properties are replaced as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from reprune.core.errors import RegistryError, RegistryUnreachable, VersionNotFound
from reprune.core.http import (
    Ask,
    GarbledError,
    RefusedError,
    Service,
    TransientError,
    UntrustedError,
    plain,
    send,
)

API = "/api/model_registry/v1alpha3"
PAGE = 100
MAX_PAGES = 1_000
MAX_REPLY_BYTES = 16_000_000

Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,9}\Z")]
Properties: TypeAlias = dict[str, dict[str, Any]]


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """What registered models and versions have in common."""

    id: Id
    name: str
    customProperties: Properties = {}  # noqa: N815  the API's own names
    state: str = "LIVE"
    createTimeSinceEpoch: str = ""  # noqa: N815


class Version(Entity, frozen=True, kw_only=True):
    registeredModelId: Id  # noqa: N815


class File(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact of a version."""

    id: Id
    artifactType: str  # noqa: N815
    name: str = ""
    uri: str = ""
    state: str = "UNKNOWN"


class Page(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Any]
    nextPageToken: str = ""  # noqa: N815


class Conflict(Exception):
    """The registry holds one of this name already."""


T = TypeVar("T", bound=Entity | File)
S = TypeVar("S")


def find_model(service: Service, name: str) -> Entity:
    """The registered model of exactly this name. Raises VersionNotFound or RegistryUnreachable."""
    ask = Ask(method="GET", path=f"{API}/registered_model", query={"name": name})
    found = _converted(service, _get(service, ask, absent=f"there is no model '{name}'"), Entity)
    if found.name != name:
        raise _garbled(service, f"answered with '{plain(found.name)}' when asked for '{name}'")
    return found


def find_version(service: Service, model: Entity, number: str) -> Version:
    """The version with this id. Raises VersionNotFound if it is another model's, or none."""
    absent = f"there is no version {number} of '{model.name}'"
    ask = Ask(method="GET", path=f"{API}/model_versions/{number}")
    found = _converted(service, _get(service, ask, absent=absent), Version)
    if found.id != number:
        raise _garbled(service, f"answered with version {found.id} when asked for {number}")
    if found.registeredModelId != model.id:
        raise VersionNotFound(absent, where=service.host)
    return found


def versions_of(service: Service, model: Entity) -> list[Version]:
    found = _listed(service, f"/registered_models/{model.id}/versions", Version)
    if any(each.registeredModelId != model.id for each in found):
        raise _garbled(service, f"listed versions of another model than '{model.name}'")
    return found


def files_of(service: Service, version: str) -> list[File]:
    """What a version names as its model: artifacts that are there, or that nobody said anything about."""
    found = _listed(service, f"/model_versions/{version}/artifacts", File)
    states = ("LIVE", "UNKNOWN", "REFERENCE")
    return [
        each for each in found if each.artifactType == "model-artifact" and each.state in states
    ]


def make_model(service: Service, name: str) -> Entity:
    """The registered model of this name, made if there is none; two who make it get the same one."""
    body = {"name": name, "description": "Compressed and judged by Reprune.", "state": "LIVE"}

    def look() -> Entity | None:
        try:
            return find_model(service, name)
        except VersionNotFound:
            return None

    return look() or _made(service, "/registered_models", body, Entity, look)


def make_version(service: Service, model: Entity, body: Mapping[str, Any]) -> Version:
    """A new version; its name is new to the registry, so that it is known again if the answer is lost."""

    def look() -> Version | None:
        named = [each for each in versions_of(service, model) if each.name == body["name"]]
        return named[0] if named else None

    whole = {**body, "registeredModelId": model.id}
    return _made(service, "/model_versions", whole, Version, look)


def make_file(service: Service, version: str, body: Mapping[str, Any]) -> File:
    """The artifact of a version, made if the version has none of that name."""

    def look() -> File | None:
        listed = _listed(service, f"/model_versions/{version}/artifacts", File)
        # The server may put the version's id before the name.
        named = [each for each in listed if each.name.endswith(str(body["name"]))]
        return named[0] if named else None

    return look() or _made(service, f"/model_versions/{version}/artifacts", body, File, look)


def set_properties(
    service: Service, path: str, read: Callable[[], Entity], changes: Mapping[str, str]
) -> Entity:
    """Sets custom properties and reads them back; the others are sent back as they were just read.

    Raises RegistryError if somebody else's values are there afterwards.
    """
    ours = {key: text_property(value) for key, value in changes.items()}
    for failures in range(1, service.backoff.tries + 1):
        known = read()
        body = {"customProperties": {**known.customProperties, **ours}}
        try:
            _send(service, Ask(method="PATCH", path=f"{API}{path}", body=body))
        except TransientError as error:
            if failures == service.backoff.tries:
                raise _unreachable(service, error) from error
            _pause(service, failures, error)
            continue
        break
    found = read()
    wrong = [key for key in changes if text_of(found.customProperties.get(key)) != changes[key]]
    if wrong:
        raise RegistryError(
            f"'{wrong[0]}' of '{plain(found.name)}' was set to '{changes[wrong[0]]}' but reads as "
            f"'{plain(str(text_of(found.customProperties.get(wrong[0]))))}'",
            where=service.host,
            fix="somebody else writes it: find out who, then run the command again",
        )
    return found


def text_property(value: str) -> dict[str, str]:
    return {"metadataType": "MetadataStringValue", "string_value": value}


def text_of(value: Mapping[str, Any] | None) -> str | None:
    """A custom property as text; None for one that is not set or is no plain value."""
    for key in ("string_value", "int_value", "double_value", "bool_value"):
        if value is not None and key in value:
            found = value[key]
            return str(found).lower() if isinstance(found, bool) else str(found)
    return None


def _made(
    service: Service,
    path: str,
    body: Mapping[str, Any],
    kind: type[T],
    look: Callable[[], T | None],
) -> T:
    """POSTs, and looks before it does so again: an answer may be lost after the deed."""
    for failures in range(1, service.backoff.tries + 1):
        try:
            answer = _send(service, Ask(method="POST", path=f"{API}{path}", body=body))
            return _converted(service, answer, kind)
        except Conflict as error:
            found = look()
            if found is None:
                raise RegistryError(plain(str(error)), where=service.host) from error
            return found
        except (TransientError, RegistryUnreachable) as error:
            _pause(service, failures, error)
            found = look()
            if found is not None:
                return found
            if isinstance(error, RegistryUnreachable):
                raise
            if failures == service.backoff.tries:
                raise _unreachable(service, error) from error
    raise AssertionError("tries is at least 1")


def _listed(service: Service, path: str, kind: type[T]) -> list[T]:
    query = {"pageSize": str(PAGE), "orderBy": "ID", "sortOrder": "ASC"}
    found: dict[str, T] = {}
    for _ in range(MAX_PAGES):
        answer = _get(service, Ask(method="GET", path=f"{API}{path}", query=dict(query)))
        page = _converted(service, answer, Page)
        rows = [_converted(service, row, kind) for row in page.items]
        if any(row.id in found for row in rows):
            raise _garbled(service, "lists the same thing on two pages")
        found.update((row.id, row) for row in rows)
        if not page.nextPageToken:
            return [found[key] for key in sorted(found, key=int)]
        query["nextPageToken"] = page.nextPageToken
    raise _garbled(service, "its list has no end")


def _get(service: Service, ask: Ask, *, absent: str = "") -> Any:
    """The answer, after at most `backoff.tries` tries; with `absent`, the registry's own 404 means that."""
    for failures in range(1, service.backoff.tries + 1):
        try:
            return _send(service, ask, absent=absent)
        except TransientError as error:
            if failures == service.backoff.tries:
                raise _unreachable(service, error) from error
            _pause(service, failures, error)
    raise AssertionError("tries is at least 1")


def _send(service: Service, ask: Ask, *, absent: str = "") -> Any:
    try:
        return send(service, ask, max_bytes=MAX_REPLY_BYTES)
    except RefusedError as error:
        if absent and error.status == 404 and _own_words(error.value):
            raise VersionNotFound(absent, where=service.host) from error
        if ask.method == "POST" and (error.status == 409 or "already exists" in error.said):
            raise Conflict(str(error)) from error
        raise _refused(service, error) from error
    except GarbledError as error:
        raise _garbled(service, str(error)) from error
    except UntrustedError as error:
        raise RegistryUnreachable(
            f"its certificate is not trusted: {error}",
            where=service.host,
            fix="name the file of the CA that signed it in REPRUNE_REGISTRY_CA_FILE",
        ) from error


def _own_words(value: Any) -> bool:
    """Whether a 404 is about a model or a version, and not about the address."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("code"), str)
        and any(
            each in str(value.get("message", "")).lower()
            for each in ("registered model", "model version")
        )
    )


def _converted(service: Service, answer: Any, kind: type[S]) -> S:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise _garbled(service, f"the answer is not the API's: {error}") from error


def _pause(service: Service, failures: int, error: Exception) -> None:
    after_s = error.after_s if isinstance(error, TransientError) else 0.0
    time.sleep(max(service.backoff.pause_s(failures), after_s))


def _refused(service: Service, error: RefusedError) -> RegistryUnreachable:
    fix = "is registry.uri in params.yaml the address below which /api/model_registry lies?"
    if error.status in (401, 403):
        fix = (
            "the token is refused: is it for this registry, and still valid?"
            if error.with_token
            else "give a token: REPRUNE_REGISTRY_TOKEN_FILE names its file"
        )
    return RegistryUnreachable(f"the registry {error}", where=service.host, fix=fix)


def _garbled(service: Service, what: str) -> RegistryUnreachable:
    return RegistryUnreachable(
        f"the registry did not answer as one: {what}",
        where=service.host,
        fix="is registry.uri the address of the Model Registry, and not of a login page?",
    )


def _unreachable(service: Service, error: TransientError) -> RegistryUnreachable:
    what = "cannot answer now" if error.answered else "does not answer"
    return RegistryUnreachable(
        f"the registry {what}: {error}",
        where=service.host,
        fix="see that it runs and that registry.uri in params.yaml is right, then try again",
        silent=not error.answered,
    )
