"""One request to the API: bounded in time and size, no redirects, and who may ask again after what.

The token travels in one header, and is taken out of every text that came back before anybody sees it.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlencode

from reprune.core.documents import strict_json
from reprune.core.errors import (
    AccessDenied,
    DocumentError,
    OrchestratorError,
    OrchestratorUnreachable,
    RunNotFound,
)
from reprune.orchestrate.endpoint import Endpoint

API = "/apis/v2beta1"
MAX_REPLY_BYTES = 16_000_000
MAX_SAID = 300
# The service said "not now", or something in front of it did.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class UnusableAnswer(OrchestratorError):
    """The service answered, but not in its own words: what was asked may have been done."""


class TransientError(Exception):
    """The request may succeed if it is made again: no answer, or one that says "not now".

    `answered` says whether the service did; `after_s` is how long it asked us to wait.
    """

    def __init__(self, what: str, *, answered: bool = False, after_s: float = 0.0) -> None:
        super().__init__(what)
        self.answered = answered
        self.after_s = after_s


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
    token = endpoint.token()
    request = _request(endpoint, method, path, query, body)
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    deadline = time.monotonic() + endpoint.timeout_s
    where = f"{endpoint.host} ({method} {path})"
    try:
        with _opener(endpoint).open(request, timeout=endpoint.timeout_s) as reply:
            raw = _read(reply, deadline, where)
    except urllib.error.HTTPError as error:
        with error:
            _raise_for(error, token, where, of_run=path.startswith("/runs/"))
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise OrchestratorError(
                f"its certificate is not trusted: {error.reason.verify_message}",
                where=endpoint.host,
                fix="name the CA that signed it with --ca-file",
            ) from error
        raise TransientError(_said(str(error.reason), token)) from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(_said(f"{type(error).__name__} {error}", token)) from error
    try:
        return strict_json(raw or b"{}", name=where, max_bytes=MAX_REPLY_BYTES)
    except DocumentError as error:
        raise UnusableAnswer(
            f"the answer {_said(error.what, token)}",
            where=where,
            fix="is this the address of Kubeflow Pipelines, and not of a login page?",
        ) from error


def unreachable(endpoint: Endpoint, error: TransientError) -> OrchestratorUnreachable:
    """What to raise when patience has ended."""
    what = "cannot answer now" if error.answered else "does not answer"
    return OrchestratorUnreachable(
        f"Kubeflow Pipelines {what}: {error}",
        where=endpoint.host,
        fix="is the address right, and is it reachable from here?",
    )


def _request(
    endpoint: Endpoint, method: str, path: str, query: Mapping[str, str] | None, body: Any
) -> urllib.request.Request:
    url = f"{endpoint.host.rstrip('/')}{API}{path}"
    if query:
        url += f"?{urlencode(query)}"
    data = None if body is None else json.dumps(body, allow_nan=False).encode()
    headers = {"Accept": "application/json", "User-Agent": "reprune"}
    if data is not None:
        headers["Content-Type"] = "application/json"
    return urllib.request.Request(url, data=data, headers=headers, method=method)


def _read(reply: http.client.HTTPResponse, deadline: float, where: str) -> bytes:
    """The whole body. A service that sends a byte now and then does not hold us for ever."""
    chunks: list[bytes] = []
    size = 0
    while chunk := reply.read1(65_536):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            raise UnusableAnswer(f"answered with more than {MAX_REPLY_BYTES} bytes", where=where)
        if time.monotonic() > deadline:
            raise TransientError("its answer takes too long")
    if reply.length:
        raise TransientError(f"the connection was lost with {reply.length} bytes to come")
    return b"".join(chunks)


def _raise_for(error: urllib.error.HTTPError, token: str, where: str, *, of_run: bool) -> NoReturn:
    """What the service said is in the message."""
    said = _message(error, token)
    what = f"answered {error.code}" + (f": {said}" if said else "")
    if error.code in PASSING:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        after_s = min(float(after), 60.0) if after.isdecimal() else 0.0
        raise TransientError(what, answered=True, after_s=after_s)
    if error.code in (401, 403) or 300 <= error.code < 400:
        raise AccessDenied(
            what if error.code >= 400 else f"{what} (a redirect, mostly to a login page)",
            where=where,
            fix="give a token that may use this namespace: $KF_PIPELINES_SA_TOKEN_PATH names its file"
            if not token
            else "the token is refused: is it for this service, still valid, and for this namespace?",
        ) from error
    if error.code == 404:
        kind = RunNotFound if of_run else OrchestratorError
        raise kind(what, where=where, fix="is the address right?") from error
    raise OrchestratorError(what, where=where) from error


def _message(error: urllib.error.HTTPError, token: str) -> str:
    try:
        raw = error.read(65_536)
    except (OSError, http.client.HTTPException):
        return ""
    text = raw.decode("utf-8", errors="replace")
    try:
        value = strict_json(raw, name="reply")
    except DocumentError:
        value = None
    if isinstance(value, dict):
        text = str(value.get("message") or value.get("error_message") or value.get("error") or text)
    return _said(text, token)


def plain(text: str) -> str:
    """A stranger's words as one short line that a terminal only shows."""
    clean = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return clean if len(clean) <= MAX_SAID else f"{clean[:MAX_SAID]}..."


def _said(text: str, token: str) -> str:
    """The same, without the token."""
    return plain(text.replace(token, "***") if token else text)


def _opener(endpoint: Endpoint) -> urllib.request.OpenerDirector:
    """Nothing but HTTP, with the environment's proxy for what is far away, as everywhere."""
    opener = urllib.request.OpenerDirector()
    if endpoint.tls:
        opener.add_handler(urllib.request.HTTPSHandler(context=endpoint.trust()))
    else:
        opener.add_handler(urllib.request.HTTPHandler())
    if not endpoint.near:
        opener.add_handler(urllib.request.ProxyHandler())
    # No handler of redirects: one leads to a login page, and would be handed our request.
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener
