"""Runs: find them by name, submit one, look at one, cancel one.

A run's identity at the service is a number that the service draws, and names may occur twice. So a run
is named by what it is about, and is looked up by that name before and after it is submitted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from reprune.core.errors import InputError, OrchestratorError
from reprune.orchestrate.ask import TransientError, UnusableAnswer, get, once, unreachable
from reprune.orchestrate.described import CANCELING, Run, described, text_of
from reprune.orchestrate.endpoint import Endpoint

_EQUALS = 1
_PAGE = 100
_PAGES = 50


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What one run is started with. `parameters` went through `check_parameters`."""

    name: str
    experiment: str
    pipeline_spec: dict[str, Any]
    platform_spec: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    service_account: str = ""
    pipeline_root: str = ""


def find_runs(endpoint: Endpoint, name: str) -> tuple[Run, ...]:
    """All runs called exactly `name`, oldest first, archived ones too. Raises OrchestratorError."""
    rows = _listed(endpoint, "runs", name)
    runs = [described(endpoint, row) for row in rows if row.get("display_name") == name]
    return tuple(sorted(runs, key=_age))


def run_state(endpoint: Endpoint, run_id: str) -> Run:
    """The run as it is now. Raises RunNotFound or OrchestratorError."""
    return described(endpoint, get(endpoint, _path(run_id)))


def look(endpoint: Endpoint, run_id: str) -> Run:
    """As `run_state`, in one try: TransientError where that may pass."""
    return described(endpoint, once(endpoint, "GET", _path(run_id)))


def cancel_run(endpoint: Endpoint, run_id: str) -> Run:
    """Asks the service to end the run, and returns what it then says: mostly CANCELING.

    Asking twice changes nothing; a run that has ended stays as it ended.
    """
    for failures in range(1, endpoint.backoff.tries + 1):
        run = run_state(endpoint, run_id)
        if run.ended or run.state == CANCELING:
            return run
        try:
            once(endpoint, "POST", f"{_path(run_id)}:terminate")
        except TransientError as error:
            if failures == endpoint.backoff.tries:
                raise unreachable(endpoint, error) from error
            time.sleep(max(endpoint.backoff.pause_s(failures), error.after_s))
        else:
            break
    return run_state(endpoint, run_id)


def submit_run(endpoint: Endpoint, submission: Submission, *, known: Iterable[str] = ()) -> Run:
    """A new run; afterwards exactly one more of this name was started by us.

    `known` are the ids of the runs of this name that were there before. Where the answer to a
    submission is lost, the run is looked up by its name before anything is sent again. Raises
    OrchestratorError, or OrchestratorUnreachable when it is not known what became of it.
    """
    experiment = _experiment(endpoint, submission.experiment)
    body = _body(submission, experiment)
    before = set(known)
    for failures in range(1, endpoint.backoff.tries + 1):
        try:
            answer = once(endpoint, "POST", "/runs", body=body)
            return described(endpoint, answer)
        except (TransientError, UnusableAnswer) as error:
            found = _arrived(endpoint, submission.name, before)
            if found is not None:
                return found
            if failures == endpoint.backoff.tries:
                raise _gave_up(endpoint, error) from error
    raise AssertionError("tries is at least 1")


def check_service(endpoint: Endpoint) -> None:
    """Returns if this is Kubeflow Pipelines and the endpoint has a namespace where it needs one.

    Raises InputError, AccessDenied or OrchestratorError.
    """
    health = get(endpoint, "/healthz")
    if not isinstance(health, dict):
        raise OrchestratorError("the answer to /healthz is no object", where=endpoint.host)
    if health.get("multi_user") is True and not endpoint.namespace:
        raise InputError(
            "this installation has many users, so runs need a namespace",
            where=endpoint.host,
            fix="name it with --namespace",
        )


def run_name(name: str, lock: str) -> str:
    """What the run for a lock is called: the model, and the beginning of the digest of the lock."""
    return f"{name}-{lock.removeprefix('sha256:')[:20]}"


def first_of(runs: Iterable[Run]) -> Run:
    """The one of several active runs of a name that goes on: the oldest, whoever asks."""
    return min(runs, key=_age)


def _arrived(endpoint: Endpoint, name: str, before: set[str]) -> Run | None:
    """The run that a submission without an answer made, given the service time to show it."""
    for looks in range(1, 3):
        time.sleep(endpoint.backoff.pause_s(looks))
        new = [run for run in find_runs(endpoint, name) if run.run_id not in before]
        if new:
            return first_of(new)
    return None


def _gave_up(endpoint: Endpoint, error: Exception) -> Exception:
    return unreachable(endpoint, error) if isinstance(error, TransientError) else error


def _experiment(endpoint: Endpoint, name: str) -> str:
    """The id of the experiment called `name`, created if there is none."""
    body = {"display_name": name}
    if endpoint.namespace:
        body["namespace"] = endpoint.namespace
    for failures in range(1, endpoint.backoff.tries + 1):
        rows = _listed(endpoint, "experiments", name)
        found = [row for row in rows if row.get("display_name") == name]
        if found:
            return text_of(found[0], "experiment_id", endpoint)
        try:
            once(endpoint, "POST", "/experiments", body=body)
        except TransientError as error:
            if failures == endpoint.backoff.tries:
                raise unreachable(endpoint, error) from error
            time.sleep(max(endpoint.backoff.pause_s(failures), error.after_s))
        except OrchestratorError as error:
            # Somebody else made it between our look and our request.
            if "answered 409" not in error.what or failures == endpoint.backoff.tries:
                raise
    raise OrchestratorError(
        f"the experiment '{name}' was made, but does not appear", where=endpoint.host
    )


def _listed(endpoint: Endpoint, key: str, name: str) -> list[dict[str, Any]]:
    predicate = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
    query = {"page_size": str(_PAGE), "filter": json.dumps({"predicates": [predicate]})}
    if endpoint.namespace:
        query["namespace"] = endpoint.namespace
    rows: list[dict[str, Any]] = []
    for _ in range(_PAGES):
        answer = get(endpoint, f"/{key}", query)
        page = answer.get(key, []) if isinstance(answer, dict) else None
        if not isinstance(page, list) or not all(isinstance(row, dict) for row in page):
            raise OrchestratorError(f"the list of {key} is none", where=endpoint.host)
        rows += page
        token = answer.get("next_page_token")
        if not isinstance(token, str) or not token:
            return rows
        query["page_token"] = token
    raise OrchestratorError(f"the list of {key} has no end", where=endpoint.host)


def _body(submission: Submission, experiment: str) -> dict[str, Any]:
    spec = submission.pipeline_spec
    if submission.platform_spec:
        spec = {"pipeline_spec": spec, "platform_spec": submission.platform_spec}
    config: dict[str, Any] = {"parameters": submission.parameters}
    if submission.pipeline_root:
        config["pipeline_root"] = submission.pipeline_root
    body: dict[str, Any] = {
        "display_name": submission.name,
        "experiment_id": experiment,
        "pipeline_spec": spec,
        "runtime_config": config,
    }
    if submission.description:
        body["description"] = submission.description
    if submission.service_account:
        body["service_account"] = submission.service_account
    return body


def _age(run: Run) -> tuple[float, str]:
    return (run.created_at_s if run.created_at_s is not None else float("inf"), run.run_id)


def _path(run_id: str) -> str:
    return f"/runs/{quote(run_id, safe='')}"
