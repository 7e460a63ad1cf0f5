"""One request to the API, and who may ask again after what; what comes back as an error says so in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NoReturn

from reprune.core.errors import (
    AccessDenied,
    OrchestratorError,
    OrchestratorUnreachable,
    RunNotFound,
)
from reprune.core.http import (
    MAX_REPLY_BYTES,
    Ask,
    GarbledError,
    RefusedError,
    TransientError,
    UntrustedError,
    plain,
    send,
)
from reprune.orchestrate.endpoint import Endpoint

__all__ = ["API", "TransientError", "UnusableAnswer", "get", "once", "plain", "unreachable"]

API = "/apis/v2beta1"


class UnusableAnswer(OrchestratorError):
    """The service answered, but not in its own words: what was asked may have been done."""


def get(endpoint: Endpoint, path: str, query: Mapping[str, str] | None = None) -> Any:
    """The decoded answer, after at most `backoff.tries` tries.

    Raises OrchestratorUnreachable, AccessDenied, RunNotFound (404) or OrchestratorError.
    """
    for failures in range(1, endpoint.backoff.tries + 1):
        try:
            return once(endpoint, "GET", path, query=query)
        except TransientError as error:
            if failures == endpoint.backoff.tries:
                raise unreachable(endpoint, error) from error
            time.sleep(max(endpoint.backoff.pause_s(failures), error.after_s))
    raise AssertionError("tries is at least 1")


def once(
    endpoint: Endpoint,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Any = None,
) -> Any:
    """One request. Raises TransientError besides the errors of `get`."""
    where = f"{endpoint.host} ({method} {path})"
    ask = Ask(method=method, path=f"{API}{path}", query=query, body=body)
    try:
        return send(endpoint, ask, max_bytes=MAX_REPLY_BYTES)
    except RefusedError as error:
        _raise_for(error, where, of_run=path.startswith("/runs/"))
    except GarbledError as error:
        raise UnusableAnswer(
            str(error),
            where=where,
            fix="is this the address of Kubeflow Pipelines, and not of a login page?",
        ) from error
    except UntrustedError as error:
        raise OrchestratorError(
            f"its certificate is not trusted: {error}",
            where=endpoint.host,
            fix="name the CA that signed it with --ca-file",
        ) from error


def unreachable(endpoint: Endpoint, error: TransientError) -> OrchestratorUnreachable:
    """What to raise when patience has ended."""
    what = "cannot answer now" if error.answered else "does not answer"
    return OrchestratorUnreachable(
        f"Kubeflow Pipelines {what}: {error}",
        where=endpoint.host,
        fix="is the address right, and is it reachable from here?",
        silent=not error.answered,
    )


def _raise_for(error: RefusedError, where: str, *, of_run: bool) -> NoReturn:
    what = str(error)
    if error.status in (401, 403) or 300 <= error.status < 400:
        raise AccessDenied(
            what if error.status >= 400 else f"{what} (a redirect, mostly to a login page)",
            where=where,
            fix="the token is refused: is it for this service, still valid, and for this namespace?"
            if error.with_token
            else "give a token that may use this namespace: $KF_PIPELINES_SA_TOKEN_PATH names its file",
        ) from error
    if error.status == 404:
        kind = RunNotFound if of_run else OrchestratorError
        raise kind(what, where=where, fix="is the address right?") from error
    raise OrchestratorError(what, where=where) from error
