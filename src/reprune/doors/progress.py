"""How a person sees a run go on: a line that changes in a terminal, one line a change anywhere else."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reprune.orchestrate.described import Run
from reprune.report.markup import visible


@dataclass(frozen=True)
class Teller:
    """`say` prints a line that stays; `show` is given each new state of the run."""

    say: Callable[[str], None]
    show: Callable[[Run], None]


@contextmanager
def telling() -> Iterator[Teller]:
    """A teller on stderr, for as long as the block lasts."""
    seen: list[Run] = []
    if not sys.stderr.isatty():

        def tell(run: Run) -> None:
            for line in changes(seen[-1] if seen else None, run):
                _line(line)
            seen[:] = [run]

        yield Teller(say=_line, show=tell)
        return
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    with console.status("asking Kubeflow Pipelines") as status:

        def draw(run: Run) -> None:
            for line in changes(seen[-1] if seen else None, run):
                if not line.endswith((": RUNNING", ": PENDING")):
                    console.print(line)
            seen[:] = [run]
            status.update(summary(run))

        yield Teller(say=lambda text: console.print(visible(text)), show=draw)


def changes(before: Run | None, now: Run) -> list[str]:
    """What is new in `now`, a line each: states of tasks, then that of the run."""
    old = {task.task_id: task.state for task in before.tasks} if before else {}
    lines = [
        visible(f"{task.name}: {task.state}")
        for task in now.tasks
        if old.get(task.task_id) != task.state
    ]
    if before is None or before.state != now.state:
        lines.append(visible(f"run: {now.state}"))
    return lines


def summary(run: Run) -> str:
    """One line: what runs now, and how many tasks have ended how."""
    running = ", ".join(task.name for task in run.tasks if task.state == "RUNNING")
    counted = Counter(task.state for task in run.tasks if task.state != "RUNNING")
    ended = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
    return visible("; ".join(filter(None, [f"{run.state} {running}".strip(), ended])))


def _line(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)
