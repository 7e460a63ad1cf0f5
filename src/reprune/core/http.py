"""Asking a JSON service over plain HTTP: who we are to it, whom we trust, and one bounded request.

Bounded in time and size, and never redirected: a redirect leads to a login page, and would be handed
our request. The token travels in one header, and is taken out of every text that came back before
anybody sees it. What a caller raises for the exceptions here is its own affair; none of them is shown.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

from reprune.core.documents import read_bounded, strict_json
from reprune.core.errors import DocumentError, InputError

MAX_TOKEN_BYTES = 65_536
MAX_REPLY_BYTES = 16_000_000
MAX_SAID = 300
MAX_SAID_BYTES = 65_536
LONGEST_ASKED_S = 60.0
# The service said "not now", or something in front of it did.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class TransientError(Exception):
    """The request may succeed if it is made again: no answer, or one that says "not now".

    `answered` says whether the service did, with `status`; `asked_s` is how long it asked us to wait,
    `after_s` the same but for no more than a minute.
    """

    def __init__(self, what: str, *, status: int = 0, asked_s: float = 0.0) -> None:
        super().__init__(what)
        self.answered = bool(status)
        self.status = status
        self.asked_s = asked_s
        self.after_s = min(asked_s, LONGEST_ASKED_S)


class RefusedError(Exception):
    """An answer other than 2xx that asking again will not change. `said` is what the service said, in
    one line; `value` its answer decoded, None if it is no JSON; `with_token` whether we sent one.
    """

    def __init__(self, status: int, said: str, *, value: Any, with_token: bool) -> None:
        super().__init__(f"answered {status}" + (f": {said}" if said else ""))
        self.status = status
        self.said = said
        self.value = value
        self.with_token = with_token


class GarbledError(Exception):
    """The service answered, but not in its own words: what was asked may have been done."""


class UntrustedError(Exception):
    """The service's certificate is signed by nobody whom we trust."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Pauses between tries double from `first_s` to `longest_s`; after `give_up_s` without any answer
    a wait ends, and after `tries` a single request does.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    tries: int = 5
    give_up_s: float = 900.0

    def pause_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row (at least 1)."""
        doubled: float = self.first_s * 2.0 ** min(failures - 1, 30)
        return min(self.longest_s, doubled)


@dataclass(frozen=True, kw_only=True)
class Service:
    """`host` is the URL below which the API lies.

    The token is what lies in `token_file`, else the value of the environment variable `token_variable`,
    else there is none. `ca_file` holds certificates to trust instead of the system's.
    """

    host: str
    token_file: Path | None = None
    token_variable: str = ""
    ca_file: Path | None = None
    timeout_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def tls(self) -> bool:
        """Whether what we send is encrypted."""
        return urlsplit(self.host).scheme == "https"

    @property
    def near(self) -> bool:
        """Whether the host is this machine or a service of this cluster."""
        name = urlsplit(self.host).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return "." not in name or name.endswith((".svc", ".svc.cluster.local", ".localhost"))

    def token(self) -> str:
        """The token as it is now; empty if none is configured.

        Raises InputError, never showing it, for a file without one, and where it would travel in clear
        text beyond this machine and its cluster.
        """
        where = str(self.token_file or f"${self.token_variable}")
        raw = self._raw_token()
        try:
            token = raw.decode("ascii").strip()
        except UnicodeDecodeError:
            raise InputError("holds no token: it is not ASCII", where=where) from None
        if len(raw) > MAX_TOKEN_BYTES or not token.isprintable() or " " in token:
            raise InputError("holds no token: it is more than one word", where=where)
        if self.token_file is not None and not token:
            raise InputError("the token's file is empty", where=where)
        if token and not self.tls and not self.near:
            raise InputError(
                "the token would travel in clear text",
                where=self.host,
                fix="use https://, or inside a cluster the service's full name (NAME.NAMESPACE.svc)",
            )
        return token

    def trust(self) -> ssl.SSLContext:
        """The certificates that count. Raises InputError for a file that holds none."""
        if self.ca_file is None:
            return ssl.create_default_context()
        try:
            text = read_bounded(self.ca_file.resolve()).decode("ascii")
            return ssl.create_default_context(cadata=text)
        except (OSError, ValueError, DocumentError) as error:
            raise InputError(
                f"holds no certificates: {error}", where=str(self.ca_file), fix="it is a PEM file"
            ) from error

    def _raw_token(self) -> bytes:
        if self.token_file is None:
            return (
                os.environb.get(self.token_variable.encode(), b"") if self.token_variable else b""
            )
        try:
            # Not read_bounded: a mounted token is a link to the newest one.
            with self.token_file.open("rb") as stream:
                return stream.read(MAX_TOKEN_BYTES + 1)
        except OSError as error:
            raise InputError(
                f"the token cannot be read: {error.strerror}",
                where=str(self.token_file),
                fix="mount it again, or name another file",
            ) from error


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request. `path` is below the service's host; `body` is sent as JSON, `raw` as it is."""

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Any = None
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def is_address(url: str) -> bool:
    """Whether `url` is http:// or https://, a host, and perhaps a port and a path, and nothing else."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return fine and not parts.query and not parts.fragment and url.isprintable() and " " not in url


def holds_secret(url: str) -> bool:
    """Whether an address has a user name or a password in it, which logs would show."""
    parts = urlsplit(url)
    return bool(parts.username or parts.password)


def send(service: Service, ask: Ask, *, max_bytes: int = MAX_REPLY_BYTES) -> Any:
    """The decoded answer to one request, made once.

    Raises TransientError, RefusedError, GarbledError or UntrustedError, and InputError for a token
    that cannot be used.
    """
    token = service.token()
    raw = _answer(service, ask, token, lambda reply, until: _read(reply, until, max_bytes))
    try:
        return strict_json(raw or b"{}", name="reply", max_bytes=max_bytes)
    except DocumentError as error:
        raise GarbledError(f"the answer {without(error.what, token)}") from error


def hand_over(service: Service, ask: Ask) -> None:
    """Returns once the service took the request (2xx), whatever it says about it: nothing of that is read.

    Raises as `send`.
    """
    _answer(service, ask, service.token(), lambda _, __: b"")


def _answer(
    service: Service, ask: Ask, token: str, read: Callable[[http.client.HTTPResponse, float], bytes]
) -> bytes:
    """What `read` makes of an answer of 2xx, which it is given with the time (monotonic) to be ready at."""
    request = _request(service, ask)
    deadline = time.monotonic() + service.timeout_s
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with _opener(service).open(request, timeout=service.timeout_s) as reply:
            return read(reply, deadline)
    except urllib.error.HTTPError as error:
        with error:
            _raise_for(error, token, deadline)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise UntrustedError(error.reason.verify_message) from error
        raise TransientError(without(str(error.reason), token)) from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(without(f"{type(error).__name__} {error}", token)) from error


def plain(text: str) -> str:
    """A stranger's words as one short line that a terminal only shows."""
    clean = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return clean if len(clean) <= MAX_SAID else f"{clean[:MAX_SAID]}..."


def without(text: str, token: str) -> str:
    """The same, without the token."""
    return plain(text.replace(token, "***") if token else text)


def _request(service: Service, ask: Ask) -> urllib.request.Request:
    url = f"{service.host.rstrip('/')}{ask.path}"
    if ask.query:
        url += f"?{urlencode(ask.query)}"
    data = ask.raw
    if ask.body is not None:
        data = json.dumps(ask.body, allow_nan=False).encode()
    headers = {"Accept": "application/json", "User-Agent": "reprune", **ask.headers}
    if data is not None:
        headers["Content-Type"] = "application/json"
    return urllib.request.Request(url, data=data, headers=headers, method=ask.method)


def _read(reply: http.client.HTTPResponse, deadline: float, max_bytes: int) -> bytes:
    """The whole body. A service that sends a byte now and then does not hold us for ever."""
    chunks: list[bytes] = []
    size = 0
    while chunk := reply.read1(65_536):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise GarbledError(f"answered with more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise TransientError("its answer takes too long", status=reply.status)
    if reply.length:
        lost = f"the connection was lost with {reply.length} bytes to come"
        raise TransientError(lost, status=reply.status)
    return b"".join(chunks)


def _raise_for(error: urllib.error.HTTPError, token: str, deadline: float) -> NoReturn:
    """What the service said until `deadline` is in the message."""
    said, value = _message(error, token, deadline)
    refused = RefusedError(error.code, said, value=value, with_token=bool(token))
    asked_s = _asked_s(error)
    # Some refuse with 403 who asks too often, and say when to come again.
    if error.code in PASSING or (error.code == 403 and asked_s is not None):
        raise TransientError(str(refused), status=error.code, asked_s=asked_s or 0.0)
    raise refused from error


def _asked_s(error: urllib.error.HTTPError) -> float | None:
    """For how long the service asks to be left alone; None if it says nothing about that."""
    headers = error.headers
    if headers is None:
        return None
    after = headers.get("Retry-After", "")
    if after.isdecimal():
        return float(after[:9])
    for prefix in ("X-RateLimit", "RateLimit"):
        reset = headers.get(f"{prefix}-Reset", "")
        if headers.get(f"{prefix}-Remaining") == "0" and reset.isdecimal():
            return max(0.0, float(reset[:12]) - time.time())
    return None


def _message(error: urllib.error.HTTPError, token: str, deadline: float) -> tuple[str, Any]:
    raw = b""
    try:
        while len(raw) < MAX_SAID_BYTES and time.monotonic() <= deadline:
            chunk = error.read1(MAX_SAID_BYTES - len(raw))
            if not chunk:
                break
            raw += chunk
    except (OSError, http.client.HTTPException):
        # The status alone says enough.
        return "", None
    text = raw.decode("utf-8", errors="replace")
    try:
        value = strict_json(raw, name="reply")
    except DocumentError:
        value = None
    if isinstance(value, dict):
        text = str(value.get("message") or value.get("error_message") or value.get("error") or text)
    return without(text, token), value


def _opener(service: Service) -> urllib.request.OpenerDirector:
    """Nothing but HTTP, with the environment's proxy for what is far away, as everywhere."""
    opener = urllib.request.OpenerDirector()
    if service.tls:
        opener.add_handler(urllib.request.HTTPSHandler(context=service.trust()))
    else:
        opener.add_handler(urllib.request.HTTPHandler())
    if not service.near:
        opener.add_handler(urllib.request.ProxyHandler())
    # No handler of redirects.
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener
