"""GitHub's REST API, as far as a report needs it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reprune.core.errors import AccessDenied, OrchestratorError
from reprune.core.http import Ask, Service
from reprune.core.marker import Order, order_of
from reprune.orchestrate.forge import (
    Check,
    Comment,
    Proposal,
    PullRequest,
    Refused,
    ask,
    pages,
    text,
    whole,
)

API = "https://api.github.com"
TO_COMMENT = "the job needs `permissions: {pull-requests: write}`"
TO_CHECK = "the job needs `permissions: {checks: write}`"
TO_SEE = "the job needs `permissions: {checks: read}`"
TO_STATUS = "the job needs `permissions: {checks: write}`, or `statuses: write` for a commit status"
TO_READ = "the job needs `permissions: {contents: read}`"
TO_OPEN = (
    "the job needs `permissions: {contents: write, pull-requests: write}`, and the repository's "
    "settings must allow Actions to create pull requests"
)
TO_START = "the job needs `permissions: {actions: write}`"
MAX_DESCRIPTION = 140
# More files than so many a comparison does not list, and does not say so.
MAX_FILES = 300


@dataclass(frozen=True, kw_only=True)
class GitHub:
    """`repository` is "owner/name"; `author` is who our comments are by, if that is known."""

    service: Service
    repository: str
    author: str = ""

    def me(self) -> str:
        """The token's own login; the token of a job has no other way to be told."""
        if self.author:
            return self.author
        # Below /api/v3 on a server of one's own, the other API is beside it and not below it.
        server, old, _ = self.service.host.rstrip("/").partition("/api/v3")
        host = Service(
            host=f"{server}/api" if old else server,
            token_file=self.service.token_file,
            token_variable=self.service.token_variable,
            ca_file=self.service.ca_file,
            timeout_s=self.service.timeout_s,
        )
        request = Ask(method="POST", path="/graphql", body={"query": "{viewer{login}}"})
        found = ask(host, request, needs="name who the comments are by with --author")
        login = text(found, "data", "viewer", "login")
        if not login:
            raise OrchestratorError(
                "does not say whose token this is",
                where=self.service.host,
                fix="name who the comments are by with --author",
            )
        return login

    def comments(self, number: int) -> list[Comment]:
        path = self._path(f"/issues/{number}/comments")
        rows = pages(self.service, path, {}, needs=TO_COMMENT)
        found = [
            Comment(id=whole(row, "id"), author=text(row, "user", "login"), body=text(row, "body"))
            for row in rows
        ]
        return sorted(found, key=lambda each: each.id)

    def create(self, number: int, body: str) -> None:
        self._ask("POST", f"/issues/{number}/comments", {"body": body}, needs=TO_COMMENT)

    def update(self, number: int, comment: int, body: str) -> None:  # noqa: ARG002 - GitLab needs it
        self._ask("PATCH", f"/issues/comments/{comment}", {"body": body}, needs=TO_COMMENT)

    def delete(self, number: int, comment: int) -> None:  # noqa: ARG002 - GitLab needs it
        try:
            self._ask("DELETE", f"/issues/comments/{comment}", needs=TO_COMMENT)
        except Refused as error:
            if error.status != 404:
                raise

    def conclude(self, check: Check) -> bool:
        """As a check run; for a token that may not make one as a commit status, which knows no more than
        success and failure.
        """
        try:
            return self._check_run(check)
        except Refused:
            state = "success" if check.conclusion == "success" else "failure"
            undecided = "" if check.conclusion != "action_required" else "to do: "
            status = {
                "state": state,
                "context": check.name,
                "description": f"{undecided}{check.title}"[:MAX_DESCRIPTION],
            }
            self._ask("POST", f"/statuses/{check.head}", status, needs=TO_STATUS)
            return True

    def _check_run(self, check: Check) -> bool:
        mine = _order(check.order)
        for row in self._check_runs(check.head, check.name, needs=TO_CHECK):
            if _order(text(row, "external_id")) > mine:
                return False
        body = {
            "name": check.name,
            "head_sha": check.head,
            "status": "completed",
            "conclusion": check.conclusion,
            "external_id": check.order,
            "output": {"title": check.title, "summary": check.summary},
        }
        self._ask("POST", "/check-runs", body, needs=TO_CHECK)
        return True

    def _check_runs(self, head: str, name: str, *, needs: str) -> list[Any]:
        found = self._ask(
            "GET",
            f"/commits/{head}/check-runs",
            query={"check_name": name, "per_page": "100"},
            needs=needs,
        )
        rows = found.get("check_runs", []) if isinstance(found, dict) else []
        return [row for row in rows if text(row, "name") == name]

    def find(self, branch: str, owner: str) -> list[PullRequest]:
        query = {"state": "open", "head": f"{owner}:{branch}"}
        rows = pages(self.service, self._path("/pulls"), query, needs=TO_COMMENT)
        return [
            _pull(row)
            for row in rows
            # GitHub leaves the filter out where it does not understand it.
            if text(row, "head", "ref") == branch
            and text(row, "head", "repo", "owner", "login").lower() == owner.lower()
        ]

    def pulls(self, base: str) -> list[PullRequest]:
        rows = pages(
            self.service, self._path("/pulls"), {"state": "open", "base": base}, needs=TO_COMMENT
        )
        return [each for each in map(_pull, rows) if each.base == base]

    def began(self, pull: PullRequest) -> str:
        # The second page: the first one holds the text of every change.
        query = {"per_page": "1", "page": "2"}
        path = f"/compare/{quote(pull.base)}...{pull.head}"
        try:
            found = self._ask("GET", path, query=query, needs=TO_READ)
        except Refused as error:
            if error.status == 404:
                return ""
            raise
        return text(found, "merge_base_commit", "sha")

    def changed(self, base: str, head: str) -> list[str] | None:
        """The files, by their names before and after, that `head` changed since it left `base`; None where
        not all of them are listed.
        """
        # The first page has the files, and all of them, however many commits are asked for.
        query = {"per_page": "1", "page": "1"}
        found = self._ask("GET", f"/compare/{quote(base)}...{head}", query=query, needs=TO_READ)
        rows = found.get("files") if isinstance(found, dict) else None
        if not isinstance(rows, list) or len(rows) >= MAX_FILES:
            return None
        if not all(text(row, "filename") for row in rows):
            return None
        names = [text(row, key) for row in rows for key in ("filename", "previous_filename")]
        return [name for name in names if name]

    def open(self, proposal: Proposal) -> int:
        owner = self.repository.partition("/")[0]
        says = {"title": proposal.title, "body": proposal.body}
        for there in self.find(proposal.branch, owner):
            if there.base == proposal.base:
                self._ask("PATCH", f"/pulls/{there.number}", says, needs=TO_OPEN)
                return there.number
        made = self._ask(
            "POST",
            "/pulls",
            says | {"head": proposal.branch, "base": proposal.base},
            needs=TO_OPEN,
        )
        return whole(made, "number")

    def start(self, workflow: str, branch: str) -> None:
        """The workflow (a file's name) has been asked to run on the branch."""
        path = f"/actions/workflows/{quote(workflow, safe='')}/dispatches"
        self._ask("POST", path, {"ref": branch}, needs=TO_START)

    def unseen(self, workflow: str, head: str, check: str) -> bool:
        """Whether neither a run of the workflow is of the commit, nor the commit has the check."""
        path = f"/actions/workflows/{quote(workflow, safe='')}/runs"
        runs = self._ask("GET", path, query={"head_sha": head, "per_page": "1"}, needs=TO_START)
        if whole(runs, "total_count") > 0:
            return False
        return not self._check_runs(head, check, needs=TO_SEE)

    def file(self, path: str, ref: str) -> bytes | None:
        try:
            found = self._ask("GET", f"/contents/{quote(path)}", query={"ref": ref}, needs=TO_READ)
        except AccessDenied as error:
            if isinstance(error, Refused) and error.status == 404:
                return None
            raise
        try:
            return base64.b64decode(text(found, "content"))
        except binascii.Error as error:
            raise OrchestratorError("answered a file that does not decode", where=path) from error

    def _path(self, path: str) -> str:
        return f"/repos/{quote(self.repository)}{path}"

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        needs: str,
    ) -> Any:
        request = Ask(method=method, path=self._path(path), query=query, body=body)
        return ask(self.service, request, needs=needs)


def _pull(row: Any) -> PullRequest:
    return PullRequest(
        number=whole(row, "number"), head=text(row, "head", "sha"), base=text(row, "base", "ref")
    )


def _order(said: str) -> Order:
    """Of what is no order of ours nothing is known: it is older than anything."""
    try:
        return order_of(said)
    except ValueError:
        return ()
