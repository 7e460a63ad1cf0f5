"""All runs of one model, by the names that locks give them: what a watch has to know, in few requests."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from reprune.core.errors import OrchestratorError
from reprune.orchestrate.ask import get
from reprune.orchestrate.described import Run, described, seconds
from reprune.orchestrate.endpoint import Endpoint
from reprune.orchestrate.runs import run_name

PAGE = 100
PAGES = 50

_ABOUT = re.compile(r".*, dense version (?P<version>\S+), lock (?P<lock>sha256:[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """A run of a model. `version` and `lock` are what it says itself that it is about; both are empty
    where it does not, or where its name is that of another lock.
    """

    run: Run
    version: str
    lock: str
    ended_at_s: float | None


def about(name: str, version: str, lock: str) -> str:
    """The description of a run, from which `model_runs` reads what the run is about."""
    return f"{name}, dense version {version}, lock {lock}"


def model_runs(endpoint: Endpoint, name: str, *, since_s: float) -> tuple[ModelRun, ...]:
    """The runs that were created since (Unix time) under the name of a lock of this model, oldest first,
    archived ones too. Raises OrchestratorError, also for a list that has no end.
    """
    named = re.compile(re.escape(run_name(name, "sha256:")) + r"[0-9a-f]{20}")
    found: dict[str, ModelRun] = {}
    predicate = {
        "operation": "IS_SUBSTRING",
        "key": "display_name",
        "stringValue": run_name(name, ""),
    }
    query = {
        "page_size": str(PAGE),
        "sort_by": "created_at desc",
        "filter": json.dumps({"predicates": [predicate]}),
    }
    if endpoint.namespace:
        query["namespace"] = endpoint.namespace
    for _ in range(PAGES):
        answer = get(endpoint, "/runs", query)
        rows = answer.get("runs", []) if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise OrchestratorError("the list of runs is none", where=endpoint.host)
        page = [_read(endpoint, name, row) for row in rows]
        for each in page:
            if named.fullmatch(each.run.name) and _created_s(each) >= since_s:
                # A run that began while we turned the page shows the last row once more.
                found.setdefault(each.run.run_id, each)
        token = answer.get("next_page_token")
        old = any(_created_s(each) < since_s for each in page)
        if old or not isinstance(token, str) or not token:
            return tuple(sorted(found.values(), key=_age))
        query["page_token"] = token
    raise OrchestratorError(
        f"the list of runs has no end ({PAGES} pages were read)",
        where=endpoint.host,
        fix="let fewer runs count: a watch's `since` can be later than it was",
    )


def _read(endpoint: Endpoint, name: str, row: Any) -> ModelRun:
    run = described(endpoint, row)
    text = row.get("description")
    said = _ABOUT.fullmatch(text) if isinstance(text, str) else None
    true = said is not None and run_name(name, said["lock"]) == run.name
    return ModelRun(
        run=run,
        version=said["version"] if said and true else "",
        lock=said["lock"] if said and true else "",
        ended_at_s=seconds(row.get("finished_at")) if run.ended else None,
    )


def _created_s(each: ModelRun) -> float:
    """A run that does not say when it was created counts as new."""
    created_s = each.run.created_at_s
    return float("inf") if created_s is None else created_s


def _age(each: ModelRun) -> tuple[float, str]:
    return (_created_s(each), each.run.run_id)
