"""The checks of a task's batches: form, ids, order, augmentation, start and ranks."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from reprune.core.errors import TaskError
from reprune.task.check_model import check_inputs
from reprune.task.protocol import Batch, Split, Task
from reprune.task.seal import contents_of

if TYPE_CHECKING:
    from torch import nn

BATCHES = 4


def check_batches(task: Task, name: str, split: Split, *, seed: int) -> Batch | None:
    """The first of the batches, a few of which keep what the protocol says; None for an empty split."""
    where = f"{name}.batches('{split}')"
    first = _take(task, split, seed=seed)
    if not first:
        return None
    module = task.model()
    for batch in first:
        _check_form(batch, module, where)
    ids = [name for batch in first for name in batch.ids]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise TaskError(
            f"the id '{twice[0]}' stands there twice",
            where=where,
            fix="give every example an id of its own, over all splits",
        )
    _check_repeats(task, split, first, where, seed)
    _check_epochs(task, split, first, where, seed)
    _check_start(task, split, first, where, seed)
    _check_ranks(task, split, where, seed)
    return first[0]


def _take(task: Task, split: Split, *, seed: int, epoch: int = 0, start: int = 0) -> list[Batch]:
    batches = task.batches(split, epoch=epoch, seed=seed, start=start)
    return list(islice(batches, BATCHES - start))


def _ids(batches: list[Batch]) -> list[list[str]]:
    return [list(batch.ids) for batch in batches]


def _contents(batches: list[Batch]) -> dict[str, str]:
    return {
        name: content
        for batch in batches
        for name, content in zip(batch.ids, contents_of(batch), strict=True)
    }


def _check_form(batch: Batch, module: nn.Module, where: str) -> None:
    if not isinstance(batch, Batch):
        raise TaskError(
            f"yields {type(batch).__name__}, not reprune.task.protocol.Batch", where=where
        )
    if not len(batch):
        raise TaskError("yields a batch without examples", where=where)
    check_inputs(batch.inputs, module, where=where, size=len(batch))
    if not all(isinstance(name, str) for name in batch.ids):
        raise TaskError(
            f"has an id {batch.ids[0]!r} that is no text", where=where, fix="use str(...)"
        )
    columns = {"source": batch.source, "time": batch.time, "labels": batch.labels}
    columns |= {f"slice '{family}'": values for family, values in batch.slices.items()}
    for column, values in columns.items():
        if values is None:
            continue
        if len(values) != len(batch) or not all(isinstance(value, str) for value in values):
            raise TaskError(
                f"{column} must be {len(batch)} texts, one an example",
                where=where,
                fix="use str(...)",
            )


def _check_repeats(task: Task, split: Split, first: list[Batch], where: str, seed: int) -> None:
    again = _take(task, split, seed=seed)
    if _ids(again) != _ids(first):
        moved = set(_contents(first)) != set(_contents(again))
        what = "other ids, or in another order," if moved else "the examples in another order"
        raise TaskError(
            f"gives {what} the second time, with the same seed and epoch",
            where=where,
            fix="derive ids from the data and the order from (seed, epoch, id): no global random "
            "state, no counter, no hash()",
        )
    if _contents(again) != _contents(first):
        raise TaskError(
            "gives other inputs for the same id, seed and epoch",
            where=where,
            fix="seed augmentation with (seed, epoch, id), not with the global random state",
        )


def _check_epochs(task: Task, split: Split, first: list[Batch], where: str, seed: int) -> None:
    later = _take(task, split, seed=seed, epoch=1)
    same = _ids(later) == _ids(first)
    if split == "train":
        # Of few examples, two honest shuffles may be equal.
        if same and sum(map(len, first)) >= 8:
            raise TaskError(
                "gives the same order in epoch 0 and epoch 1",
                where=where,
                fix="shuffle by (seed, epoch, id); reprune.task.bases.epoch_order does it",
            )
        return
    if not same or _contents(later) != _contents(first):
        raise TaskError(
            "differs between epochs",
            where=where,
            fix="shuffle and augment in `train` only: what is judged must stay the same",
        )


def _check_start(task: Task, split: Split, first: list[Batch], where: str, seed: int) -> None:
    rest = _take(task, split, seed=seed, start=1)
    if _ids(rest) != _ids(first)[1:] or _contents(rest) != _contents(first[1:]):
        raise TaskError(
            "start=1 does not give what follows the first batch",
            where=where,
            fix="skip exactly `start` batches, so that an interrupted epoch can go on",
        )


def _check_ranks(task: Task, split: Split, where: str, seed: int) -> None:
    ranks = [
        {
            name
            for batch in islice(
                task.batches(split, epoch=0, seed=seed, rank=rank, world=2), BATCHES
            )
            for name in batch.ids
        }
        for rank in range(2)
    ]
    both = sorted(ranks[0] & ranks[1])
    if both:
        raise TaskError(
            f"gives '{both[0]}' to rank 0 and to rank 1 of 2",
            where=where,
            fix="give rank r every example whose place in the order is r modulo `world`",
        )
