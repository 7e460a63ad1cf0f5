"""What a CI says about the run that we are in, from its environment; nothing is asked of anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reprune.core.marker import Order
from reprune.orchestrate.github import API

Kind: TypeAlias = Literal["github", "gitlab"]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Empty, or None, is what is not known.

    `number` is that of the pull request; where only its branch is known, `branch` and `owner` find it.
    `order` is the run's place among all of its CI, which the forge counts and no clock. `foreign` says that
    what was measured comes from a fork's own run.
    """

    kind: Kind | None = None
    api: str = ""
    repository: str = ""
    number: int | None = None
    branch: str = ""
    owner: str = ""
    head: str = ""
    base: str = ""
    order: Order = ()
    run_link: str = ""
    summary: Path | None = None
    foreign: bool = False


def surroundings(environ: Mapping[str, str], event: Mapping[str, Any]) -> Surroundings:
    """Where `reprune comment` runs. `event` is GitHub's event, decoded; {} elsewhere."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return _github(environ, event)
    if environ.get("GITLAB_CI") == "true":
        return _gitlab(environ)
    return Surroundings()


def _github(environ: Mapping[str, str], event: Mapping[str, Any]) -> Surroundings:
    repository = environ.get("GITHUB_REPOSITORY", "")
    server, run = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_RUN_ID", "")
    summary = environ.get("GITHUB_STEP_SUMMARY", "")
    pull, before = event.get("pull_request"), event.get("workflow_run")
    order = _order(run, environ.get("GITHUB_RUN_ATTEMPT", ""))
    owner, branch = repository.partition("/")[0], environ.get("GITHUB_REF_NAME", "")
    head, base, number, foreign = environ.get("GITHUB_SHA", ""), "", None, False
    if isinstance(pull, dict):
        found = pull.get("number")
        number = found if isinstance(found, int) else None
        head, base = _text(pull, "head", "sha") or head, _text(pull, "base", "ref")
        branch, owner = _text(pull, "head", "ref"), _text(pull, "head", "repo", "owner", "login")
        foreign = _text(pull, "head", "repo", "full_name") not in ("", repository)
    elif isinstance(before, dict):
        # This run only tells what another measured, so the other's place counts.
        run = str(before.get("id", ""))
        order = _order(run, str(before.get("run_attempt", "")))
        head, branch = _text(before, "head_sha"), _text(before, "head_branch")
        owner = _text(before, "head_repository", "owner", "login")
        # Until the pull request is found, which names its own.
        base = _text(event, "repository", "default_branch")
        foreign = True
    return Surroundings(
        kind="github",
        api=environ.get("GITHUB_API_URL") or API,
        repository=repository,
        number=number,
        branch=branch,
        owner=owner,
        head=head,
        base=base,
        order=order,
        run_link=f"{server}/{repository}/actions/runs/{run}" if server and run else "",
        summary=Path(summary) if summary else None,
        foreign=foreign,
    )


def _gitlab(environ: Mapping[str, str]) -> Surroundings:
    number = environ.get("CI_MERGE_REQUEST_IID", "")
    source = environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "")
    return Surroundings(
        kind="gitlab",
        api=environ.get("CI_API_V4_URL", ""),
        repository=environ.get("CI_PROJECT_ID", ""),
        number=int(number) if number.isdecimal() else None,
        branch=environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME")
        or environ.get("CI_COMMIT_REF_NAME", ""),
        # A pipeline for merged results runs on a commit that nobody wrote.
        head=environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or environ.get("CI_COMMIT_SHA", ""),
        base=environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", ""),
        order=_order(environ.get("CI_PIPELINE_ID", ""), environ.get("CI_JOB_ID", "")),
        run_link=environ.get("CI_JOB_URL", ""),
        foreign=source not in ("", environ.get("CI_PROJECT_ID", "")),
    )


def _order(*parts: str) -> Order:
    numbers = [int(part) for part in parts if part.isdecimal() and len(part) <= 18]
    return tuple(numbers) if len(numbers) == len(parts) else ()


def _text(value: Any, *keys: str) -> str:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
