"""A repository dispatch event: GitHub then runs the workflow that opens a pull request."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from reprune.core.errors import AccessDenied, InputError, OrchestratorError, OrchestratorUnreachable

EVENT = "reprune"
TIMEOUT_S = 20.0


def send(api: str, token_file: Path, repository: str, name: str, version: str) -> None:
    """The repository has been told that `name` has the version. Raises InputError, AccessDenied (401,
    403, 404), OrchestratorUnreachable for what may pass, OrchestratorError. The token is in no message.
    """
    url = f"{api.rstrip('/')}/repos/{repository}/dispatches"
    near = urlsplit(url).hostname in ("127.0.0.1", "localhost")
    if not url.startswith("https://") and not (near and url.startswith("http://")):
        raise InputError("the token would travel in clear text", where=api, fix="use https://")
    payload = {"event_type": EVENT, "client_payload": {"model": name, "version": version}}
    request = urllib.request.Request(
        url,
        data=json.dumps(payload).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "reprune"},
        method="POST",
    )
    request.add_unredirected_header("Authorization", f"Bearer {_token(token_file)}")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        with error:
            code = error.code
    except (OSError, http.client.HTTPException) as error:
        raise OrchestratorUnreachable(
            f"GitHub does not answer: {type(error).__name__}", where=url
        ) from error
    if code in (401, 403, 404):
        raise AccessDenied(
            f"answered {code}", where=url, fix="may the token write this repository's contents?"
        )
    kind = OrchestratorUnreachable if code == 429 or code >= 500 else OrchestratorError
    raise kind(f"answered {code}", where=url)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirect is an error: it would be handed what we send."""


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError("the token cannot be read", where=str(path)) from None
    if not token or not token.isprintable() or " " in token:
        raise InputError("holds no token", where=str(path))
    return token
