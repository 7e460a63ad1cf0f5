"""A run in the words of the service, and what we take from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reprune.orchestrate.ask import UnusableAnswer, plain
from reprune.orchestrate.endpoint import Endpoint

SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
CANCELED = "CANCELED"
SKIPPED = "SKIPPED"
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELED, SKIPPED})
CANCELING = "CANCELING"
ACTIVE = frozenset({"PENDING", "RUNNING", CANCELING, "PAUSED"})
# What the service says before it knows.
UNKNOWN = "UNKNOWN"
_NOT_YET = frozenset({"", "RUNTIME_STATE_UNSPECIFIED"})


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """One task of a run, the newest try of it; `name` is the one that the UI shows."""

    task_id: str
    name: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the service described it just now. `state` is one of TERMINAL or ACTIVE, UNKNOWN where it
    has none yet, or a word that we do not know. `created_at_s` is None where the service does not say.
    """

    run_id: str
    name: str
    state: str
    created_at_s: float | None
    error: str
    tasks: tuple[TaskState, ...]
    link: str

    @property
    def ended(self) -> bool:
        """Whether the state is one that never changes again; an unknown word is none."""
        return self.state in TERMINAL


def described(endpoint: Endpoint, row: Any) -> Run:
    """The run that one object of an answer describes. Raises UnusableAnswer."""
    if not isinstance(row, dict):
        raise UnusableAnswer("the description of a run is no object", where=endpoint.host)
    run_id = text_of(row, "run_id", endpoint)
    state = row.get("state", "")
    error = row.get("error")
    name = row.get("display_name")
    return Run(
        run_id=run_id,
        name=name if isinstance(name, str) else "",
        state=UNKNOWN if not isinstance(state, str) or state in _NOT_YET else plain(state),
        created_at_s=seconds(row.get("created_at")),
        error=plain(str(error.get("message", ""))) if isinstance(error, dict) else "",
        tasks=_tasks(row.get("run_details")),
        link=endpoint.link(run_id),
    )


def _tasks(details: Any) -> tuple[TaskState, ...]:
    """The tasks that a person put there; drivers and the root are the service's own."""
    rows = details.get("task_details") if isinstance(details, dict) else None
    found: list[TaskState] = []
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict):
            continue
        name = row.get("display_name") or row.get("name")
        state = row.get("state") or row.get("status")
        task_id = row.get("task_id")
        if not isinstance(name, str) or not isinstance(state, str) or not isinstance(task_id, str):
            continue
        if name != "root" and not name.endswith("-driver"):
            found.append(TaskState(task_id=task_id, name=name, state=state))
    return tuple(found)


def text_of(row: dict[str, Any], key: str, endpoint: Endpoint) -> str:
    """What must be there in an answer. Raises UnusableAnswer."""
    value = row.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise UnusableAnswer(f"the answer names no {key}", where=endpoint.host)
    return value


def seconds(value: Any) -> float | None:
    """Unix time of what the service writes for one; None for anything else, and for what it never set."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        return None
    return read.timestamp() if read.tzinfo else None
