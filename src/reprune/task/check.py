"""The checks of a task that was just loaded: what would otherwise fail hours later, or mislead.

Each violation is a TaskError that says what, where and what to do. Splits are not read to their end:
a few batches of each are, twice.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

from reprune.core.errors import TaskError
from reprune.task.check_batches import check_batches
from reprune.task.check_model import check_loss_and_records, check_model
from reprune.task.load import guarded
from reprune.task.protocol import SPLITS, Task
from reprune.task.seal import Sealed


def check_task(task: Task, *, seed: int) -> frozenset[str]:
    """Afterwards `task` keeps the promises of the Task protocol, as far as a few batches show; returns the
    columns that it records, none where no split with examples tells.

    A sealed task is checked in its open splits. torch's global random state is as it was before.
    Raises TaskError; a task that generates sequences is refused.
    """
    import torch

    splits = task.splits if isinstance(task, Sealed) else SPLITS
    # A view's own class says nothing about where the user's code is.
    users = task.task_type if isinstance(task, Sealed) else type(task)
    name, folder = users.__name__, Path(inspect.getfile(users)).resolve().parent
    recorded: frozenset[str] = frozenset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fact in ("data_version", "preprocess_digest"):
            _check_fact(task, fact, folder)
        guarded(lambda: check_model(task, name), folder=folder, doing=f"running {name}'s model")
        for split in splits:
            first = guarded(
                partial(check_batches, task, name, split, seed=seed),
                folder=folder,
                doing=f"reading {name}.batches('{split}')",
            )
            if first is not None and split in ("train", "tune"):
                recorded |= guarded(
                    partial(check_loss_and_records, task, first, name, seed=seed),
                    folder=folder,
                    doing=f"computing the loss and records of {name}",
                )
    return recorded


def _check_fact(task: Task, fact: str, folder: Path) -> None:
    first, second = (
        guarded(lambda: getattr(task, fact), folder=folder, doing=f"reading {fact}")
        for _ in range(2)
    )
    if not isinstance(first, str) or not first or first != second:
        raise TaskError(
            f"{fact} is {first!r}, then {second!r}; it must be one text that stays the same",
            where=str(folder),
            fix="derive it from the data (or the preprocessing) alone, not from a clock or a path",
        )
