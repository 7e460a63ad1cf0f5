"""GitLab's API, version 4, as far as a report needs it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reprune.core.errors import OrchestratorError
from reprune.core.http import Ask, Service
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

NEEDS = (
    "set the CI variable GITLAB_TOKEN to a project access token with the scope `api` and the role "
    "Developer; the job's own CI_JOB_TOKEN may not write notes"
)
MAX_DESCRIPTION = 255


@dataclass(frozen=True, kw_only=True)
class GitLab:
    """`project` is a number, or "group/name"; `author` is who our notes are by, if that is known."""

    service: Service
    project: str
    author: str = ""

    def me(self) -> str:
        return self.author or text(
            ask(self.service, Ask(method="GET", path="/user"), needs=NEEDS), "username"
        )

    def comments(self, number: int) -> list[Comment]:
        path = self._path(f"/merge_requests/{number}/notes")
        rows = pages(self.service, path, {"sort": "asc", "order_by": "created_at"}, needs=NEEDS)
        found = [
            Comment(
                id=whole(row, "id"), author=text(row, "author", "username"), body=text(row, "body")
            )
            for row in rows
            if not row.get("system")
        ]
        return sorted(found, key=lambda each: each.id)

    def create(self, number: int, body: str) -> None:
        self._ask("POST", f"/merge_requests/{number}/notes", {"body": body})

    def update(self, number: int, comment: int, body: str) -> None:
        self._ask("PUT", f"/merge_requests/{number}/notes/{comment}", {"body": body})

    def delete(self, number: int, comment: int) -> None:
        try:
            self._ask("DELETE", f"/merge_requests/{number}/notes/{comment}")
        except Refused as error:
            if error.status != 404:
                raise

    def conclude(self, check: Check) -> bool:
        """As a commit status: `action_required` is a failure that says what is to do."""
        to_do = "to do: " if check.conclusion == "action_required" else ""
        status = {
            "state": "success" if check.conclusion == "success" else "failed",
            "name": check.name,
            "description": f"{to_do}{check.title}"[:MAX_DESCRIPTION],
        }
        try:
            self._ask("POST", f"/statuses/{check.head}", status)
        except OrchestratorError as error:
            # It has that state already.
            if "Cannot transition status" not in error.what:
                raise
        return True

    def find(self, branch: str, owner: str) -> list[PullRequest]:  # noqa: ARG002 - GitHub needs it
        query = {"state": "opened", "source_branch": branch}
        rows = pages(self.service, self._path("/merge_requests"), query, needs=NEEDS)
        return [
            _pull(row)
            for row in rows
            if text(row, "source_branch") == branch
            and row.get("source_project_id") == row.get("target_project_id")
        ]

    def pulls(self, base: str) -> list[PullRequest]:
        query = {"state": "opened", "target_branch": base}
        rows = pages(self.service, self._path("/merge_requests"), query, needs=NEEDS)
        return [each for each in map(_pull, rows) if each.base == base]

    def began(self, pull: PullRequest) -> str:
        return text(self._ask("GET", f"/merge_requests/{pull.number}"), "diff_refs", "base_sha")

    def open(self, proposal: Proposal) -> int:
        says = {"title": proposal.title, "description": proposal.body}
        for there in self.find(proposal.branch, ""):
            if there.base == proposal.base:
                self._ask("PUT", f"/merge_requests/{there.number}", says)
                return there.number
        branches = {
            "source_branch": proposal.branch,
            "target_branch": proposal.base,
            "remove_source_branch": True,
        }
        return whole(self._ask("POST", "/merge_requests", says | branches), "iid")

    def file(self, path: str, ref: str) -> bytes | None:
        try:
            found = self._ask(
                "GET", f"/repository/files/{quote(path, safe='')}", query={"ref": ref}
            )
        except Refused as error:
            if error.status == 404:
                return None
            raise
        try:
            return base64.b64decode(text(found, "content"))
        except binascii.Error as error:
            raise OrchestratorError("answered a file that does not decode", where=path) from error

    def _path(self, path: str) -> str:
        return f"/projects/{quote(self.project, safe='')}{path}"

    def _ask(
        self, method: str, path: str, body: Any = None, *, query: dict[str, str] | None = None
    ) -> Any:
        request = Ask(method=method, path=self._path(path), query=query, body=body)
        return ask(self.service, request, needs=NEEDS)


def _pull(row: Any) -> PullRequest:
    return PullRequest(
        number=whole(row, "iid"), head=text(row, "sha"), base=text(row, "target_branch")
    )
