"""Where pull requests live: what the two kinds of forge have in common, and one patient request to either.

`github.GitHub` and `gitlab.GitLab` are the two. Each method makes its requests once; `patiently` asks
again. Nothing here reads a clock or decides what is posted (`commenting` does).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from reprune.core.errors import AccessDenied, OrchestratorError, OrchestratorUnreachable
from reprune.core.http import (
    Ask,
    Backoff,
    GarbledError,
    RefusedError,
    Service,
    TransientError,
    UntrustedError,
    send,
)

T = TypeVar("T")
Conclusion: TypeAlias = Literal["success", "failure", "action_required"]
PAGE = 100
MAX_PAGES = 50


@dataclass(frozen=True, kw_only=True)
class Comment:
    """`id` grows with time; `author` is the login or user name."""

    id: int
    author: str
    body: str


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """An open one. `base` is the branch that it wants to change, `head` its newest commit."""

    number: int
    head: str
    base: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a commit is told: `name` stays the same over runs, `order` says which run it is of."""

    name: str
    head: str
    conclusion: Conclusion
    title: str
    summary: str
    order: str = ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A branch that shall become, or is, a pull request against `base`."""

    branch: str
    base: str
    title: str
    body: str


class Forge(Protocol):
    """Raises TransientError for what may pass, AccessDenied (its fix names the permission that is missing),
    OrchestratorError. What is deleted already counts as deleted.
    """

    @property
    def service(self) -> Service:
        """Where it is and as whom we speak to it."""

    def me(self) -> str:
        """Who our comments are by."""

    def comments(self, number: int) -> list[Comment]:
        """All of a pull request, oldest first."""

    def create(self, number: int, body: str) -> None:
        """One more comment."""

    def update(self, number: int, comment: int, body: str) -> None:
        """The comment says `body`."""

    def delete(self, number: int, comment: int) -> None:
        """The comment is gone."""

    def conclude(self, check: Check) -> bool:
        """The commit has the check. False, having changed nothing, if a newer run's is there."""

    def find(self, branch: str, owner: str) -> list[PullRequest]:
        """The open pull requests that come from this branch of this owner."""

    def pulls(self, base: str) -> list[PullRequest]:
        """The open pull requests against this branch."""

    def began(self, pull: PullRequest) -> str:
        """The commit that its branch left the base at; empty where the forge knows none."""

    def open(self, proposal: Proposal) -> int:
        """The number of the one open pull request for the branch, which says what `proposal` does."""

    def file(self, path: str, ref: str) -> bytes | None:
        """A file as it is on a branch; None if there is none."""


def check_name(model: str) -> str:
    """What the check of this model's verdicts is called where nobody names it."""
    return f"reprune/{model}"[:100]


def ask(service: Service, request: Ask, *, needs: str) -> Any:
    """One request. `needs` says in words what the token must be allowed to do.

    Raises TransientError, AccessDenied for 401, 403, 404 and redirects, OrchestratorError.
    """
    where = f"{service.host} ({request.method} {request.path})"
    try:
        return send(service, request)
    except RefusedError as error:
        if error.status == 403 and "rate limit" in error.said.lower():
            # The secondary limit does not always say for how long.
            raise TransientError(str(error), status=403, asked_s=60.0) from error
        if error.status in (401, 403, 404) or 300 <= error.status < 400:
            raise Refused(str(error), status=error.status, where=where, fix=needs) from error
        raise OrchestratorError(str(error), where=where) from error
    except GarbledError as error:
        raise OrchestratorError(
            str(error), where=where, fix="is this the address of the API, and not of a page?"
        ) from error
    except UntrustedError as error:
        raise OrchestratorError(
            f"its certificate is not trusted: {error}",
            where=service.host,
            fix="name the CA that signed it with --ca-file",
        ) from error


class Refused(AccessDenied):
    """AccessDenied that keeps the status."""

    def __init__(self, what: str, *, status: int, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status


def pages(service: Service, path: str, query: dict[str, str], *, needs: str) -> list[Any]:
    """Every row of a list that comes in pages. Raises OrchestratorError if it has no end."""
    rows: list[Any] = []
    for page in range(1, MAX_PAGES + 1):
        request = Ask(
            method="GET", path=path, query=query | {"per_page": str(PAGE), "page": str(page)}
        )
        found = ask(service, request, needs=needs)
        if not isinstance(found, list):
            raise OrchestratorError("answered something else than a list", where=path)
        rows += found
        if len(found) < PAGE:
            return rows
    raise OrchestratorError(f"has more than {MAX_PAGES * PAGE} entries", where=path)


def patiently(
    work: Callable[[], T], backoff: Backoff, *, pause: Callable[[float], None] = time.sleep
) -> T:
    """What `work` returns, tried at most `backoff.tries` times, and for at most `give_up_s` of pauses.

    `work` has to begin at the beginning each time: what a lost answer did is then seen. Raises
    OrchestratorUnreachable when patience has ended; a service that asks for more of it than we have
    is not waited for at all.
    """
    waited = 0.0
    for failures in range(1, backoff.tries + 1):
        try:
            return work()
        except TransientError as error:
            wait = max(backoff.pause_s(failures), error.asked_s)
            if failures == backoff.tries or waited + wait > backoff.give_up_s:
                what = "cannot answer now" if error.answered else "does not answer"
                asked = f" (it asks for {error.asked_s:.0f} s)" if error.asked_s > 0 else ""
                raise OrchestratorUnreachable(f"the forge {what}: {error}{asked}") from error
            waited += wait
            pause(wait)
    raise AssertionError("tries is at least 1")


def text(value: Any, *keys: str) -> str:
    """A text inside a decoded answer; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def whole(value: Any, key: str) -> int:
    """A whole number inside a decoded answer. Raises OrchestratorError where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, int):
        raise OrchestratorError(f"answered something without '{key}'")
    return found
