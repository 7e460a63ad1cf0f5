"""Waiting for a run: through lost connections and words we do not know, never past an end it did not say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reprune.core.errors import StillRunning
from reprune.orchestrate.ask import TransientError, unreachable
from reprune.orchestrate.described import ACTIVE, UNKNOWN, Run
from reprune.orchestrate.endpoint import Endpoint
from reprune.orchestrate.runs import look


@dataclass(frozen=True, kw_only=True)
class Pace:
    """We look every `first_s` at first and every `longest_s` later; `timeout_s` ends the wait."""

    first_s: float = 2.0
    longest_s: float = 15.0
    timeout_s: float | None = None


def wait(
    endpoint: Endpoint,
    run_id: str,
    pace: Pace | None = None,
    *,
    warn: Callable[[str], None] = lambda _: None,
) -> Iterator[Run]:
    """Yields the run whenever its state or a task's has changed; the last one has ended.

    `warn` is told of lost connections and unknown states, each once. Raises StillRunning at the end of
    the time, OrchestratorUnreachable where nothing was heard for `backoff.give_up_s`, RunNotFound where
    the run was deleted, and what a refused request raises. The run itself goes on whatever is raised.
    """
    pace = pace or Pace()
    started = heard = time.monotonic()
    failures = 0
    last: Run | None = None
    strange: set[str] = set()
    while True:
        pause_s = min(pace.longest_s, max(pace.first_s, (time.monotonic() - started) / 20))
        try:
            run = look(endpoint, run_id)
        except TransientError as error:
            failures += 1
            if time.monotonic() - heard > endpoint.backoff.give_up_s:
                raise unreachable(endpoint, error) from error
            if failures == 1:
                warn(f"the connection was lost, trying again: {error}")
            pause_s = max(endpoint.backoff.pause_s(failures), error.after_s)
        else:
            if failures:
                warn("connected again")
            failures, heard = 0, time.monotonic()
            if run.state not in {*ACTIVE, UNKNOWN, *strange} and not run.ended:
                strange.add(run.state)
                warn(f"the run is '{run.state}', which this version does not know: waiting on")
            if last is None or (run.state, run.tasks) != (last.state, last.tasks):
                yield run
            if run.ended:
                return
            last = run
        _sleep(endpoint, run_id, pause_s, started, pace.timeout_s)


def _sleep(
    endpoint: Endpoint, run_id: str, pause_s: float, started: float, timeout_s: float | None
) -> None:
    if timeout_s is not None:
        left_s = started + timeout_s - time.monotonic()
        if left_s <= 0:
            raise StillRunning(
                f"the run has not ended after {timeout_s:g} seconds; it goes on",
                where=endpoint.link(run_id),
                fix="the same command attaches to it again",
            )
        pause_s = min(pause_s, left_s)
    time.sleep(pause_s)
