"""Where the API is, as whom we speak to it, whom we trust, and how patient we are."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from reprune.core.documents import read_bounded
from reprune.core.errors import DocumentError, InputError

MAX_TOKEN_BYTES = 65_536


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
class Endpoint:
    """`host` is the URL below which `/apis/v2beta1` lies; `ui` the one that people open, if another.

    The token is what lies in `token_file`, else the value of the environment variable `token_variable`,
    else there is none. `namespace` is that of a multi-user installation. `ca_file` holds certificates to
    trust instead of the system's. Raises InputError for a host that cannot be one.
    """

    host: str
    namespace: str = ""
    ui: str = ""
    token_file: Path | None = None
    token_variable: str = ""
    ca_file: Path | None = None
    timeout_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        """Refuses what would only fail later, or would show a password in a link."""
        for what, url in (("host", self.host), ("ui", self.ui)):
            if what == "host" or url:
                _check_url(what, url)

    def link(self, run_id: str) -> str:
        """The page of a run in the UI."""
        return f"{(self.ui or self.host).rstrip('/')}/#/runs/details/{quote(run_id, safe='')}"

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
            return os.environb.get(self.token_variable.encode(), b"")
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


def _check_url(what: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad, parts = True, urlsplit("")
    if bad or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise InputError(
            f"the {what} is no address: it is http:// or https://, a host, and perhaps a path",
            fix=f"such as --{what} https://kubeflow.example.org/pipeline",
        )
    if parts.username or parts.password:
        raise InputError(
            f"the {what} holds a user name or a password, which logs would show",
            fix="give a token instead: $KF_PIPELINES_SA_TOKEN_PATH names its file",
        )
