"""The first examples of a split, and a model's mean loss on them: the same examples for every candidate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from reprune.core.errors import TaskError
from reprune.measure.outputs import evaluating
from reprune.task.protocol import Batch, Split, Task


def first_batches(task: Task, split: Split, *, examples: int, seed: int) -> list[Batch]:
    """Whole batches of epoch 0 until there are at least `examples`, or the split ends."""
    found = list(until(task.batches(split, epoch=0, seed=seed), examples))
    if not found:
        raise TaskError(f"the split '{split}' is empty", fix="give the task's split some examples")
    return found


def part_of(batch: Batch, places: slice, targets: object) -> Batch:
    """The batch's examples at `places`, of which `targets` are the targets."""
    return replace(
        batch,
        inputs=tuple(tensor[places] for tensor in batch.inputs),
        targets=targets,
        ids=batch.ids[places],
        slices={name: values[places] for name, values in batch.slices.items()},
        source=None if batch.source is None else batch.source[places],
        time=None if batch.time is None else batch.time[places],
        labels=None if batch.labels is None else batch.labels[places],
    )


def mean_loss(task: Task, module: nn.Module, batches: Iterable[Batch], *, seed: int) -> float:
    """The mean over examples of the task's loss in eval mode; `module` is left as it was.

    It may be infinite or NaN for a model that a cut has ruined: the caller decides.
    """
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    count = 0
    with evaluating(module):
        for batch in batches:
            total += float(task.loss(module, batch, generator)) * len(batch)
            count += len(batch)
    return total / count


class Counting:
    """A task that counts the examples that are drawn from it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.examples = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batches(self, split: Split, **order: Any) -> Iterator[Batch]:
        for batch in self._task.batches(split, **order):
            self.examples += len(batch)
            yield batch


def until(batches: Iterator[Batch], examples: int) -> Iterator[Batch]:
    """Whole batches until there are at least `examples`, or no more."""
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch)
        if seen >= examples:
            return
