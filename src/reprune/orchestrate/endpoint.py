"""Where the API of Kubeflow Pipelines is, as whom we speak to it, whom we trust, and how patient we are."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from reprune.core.errors import InputError
from reprune.core.http import Backoff, Service, holds_secret, is_address

__all__ = ["Backoff", "Endpoint"]


@dataclass(frozen=True, kw_only=True)
class Endpoint(Service):
    """`host` is the URL below which `/apis/v2beta1` lies; `ui` the one that people open, if another.

    `namespace` is that of a multi-user installation. The rest is as for every service. Raises
    InputError for a host that cannot be one.
    """

    namespace: str = ""
    ui: str = ""

    def __post_init__(self) -> None:
        """Refuses what would only fail later, or would show a password in a link."""
        for what, url in (("host", self.host), ("ui", self.ui)):
            if what == "host" or url:
                _check_url(what, url)

    def link(self, run_id: str) -> str:
        """The page of a run in the UI."""
        return f"{(self.ui or self.host).rstrip('/')}/#/runs/details/{quote(run_id, safe='')}"


def _check_url(what: str, url: str) -> None:
    if not is_address(url):
        raise InputError(
            f"the {what} is no address: it is http:// or https://, a host, and perhaps a path",
            fix=f"such as --{what} https://kubeflow.example.org/pipeline",
        )
    if holds_secret(url):
        raise InputError(
            f"the {what} holds a user name or a password, which logs would show",
            fix="give a token instead: $KF_PIPELINES_SA_TOKEN_PATH names its file",
        )
