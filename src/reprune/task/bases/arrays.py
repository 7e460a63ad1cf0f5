"""What the bases have in common: splits, batches in their order, versions, a workload."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from reprune.core.documents import digest_of
from reprune.core.errors import TaskError
from reprune.task.bases.examples import Examples
from reprune.task.bases.order import Indices, carve, epoch_order, example_seed, hash_ids
from reprune.task.protocol import SPLITS, Batch, Split, Work

if TYPE_CHECKING:
    from reprune.task.protocol import Records

WORKLOAD_EXAMPLES = 64
CARVED: Mapping[Split, float] = {"tune": 0.12, "calibration": 0.12}


class ArrayTask(ABC):
    """A task over `examples`. `splits` gives the rows of each split: `train` and `eval` at least.

    A missing `tune` or `calibration` is carved from `train` by id (by source where there is one):
    the same examples every time. Batches of one split differ in size by at most one example.
    Subclasses give `model`, `loss` and `records`, and may give `transform` and `augment`.
    Raises TaskError for rows that are not there.
    """

    input_names: Sequence[str] = ("input",)

    def __init__(
        self,
        examples: Examples,
        splits: Mapping[Split, Sequence[int] | Indices],
        *,
        batch_size: int = 64,
    ) -> None:
        self.examples = examples
        self.rows = _all_splits(examples, splits)
        self.batch_size = batch_size
        self._hashes = hash_ids(examples.ids)

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh module without trained weights."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean loss over the batch; it runs `module(*batch.inputs)` itself."""

    @abstractmethod
    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        """int64 columns, one value an example."""

    def transform(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Stored rows to model inputs, the same way in every split; part of `preprocess_digest`."""
        return inputs

    def augment(
        self,
        inputs: tuple[Tensor, ...],
        target: Any,
        generator: torch.Generator,  # noqa: ARG002  for who overrides it
    ) -> tuple[tuple[Tensor, ...], Any]:
        """One example of `train` (no batch dimension), changed at random from `generator` alone."""
        return inputs, target

    @cached_property
    def data_version(self) -> str:
        """Over ids, inputs and targets of every split."""
        return digest_of({split: self.examples.digest(rows) for split, rows in self.rows.items()})

    @cached_property
    def preprocess_digest(self) -> str:
        """Over names, types and shapes of the inputs and the source of `transform`.

        What is done to the arrays before the task gets them is not seen: say it in `transform`.
        """
        shapes = [[str(x.dtype), list(x.shape[1:])] for x in self.example_inputs(1)]
        return digest_of([list(self.input_names), shapes, inspect.getsource(self.transform)])

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """Examples of `calibration`, again from the first where there are too few."""
        return self._inputs(np.resize(self.rows["calibration"], batch_size))

    def workload(self) -> Sequence[Work]:
        """Examples of `calibration`, all of the one shape."""
        rows = self.rows["calibration"][:WORKLOAD_EXAMPLES]
        return (Work(inputs=self._inputs(rows), weight=1.0),)

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        """As Task.batches; the ranks' batches hold every example exactly once between them."""
        rows = self.rows[split]
        train = split == "train"
        if train:
            rows = rows[epoch_order(self._hashes[rows], seed=seed, epoch=epoch)]
        rows = rows[rank::world]
        augmented = train and type(self).augment is not ArrayTask.augment
        for part in self._parts(rows)[start:]:
            batch = self._batch(part)
            yield self._augmented(batch, part, seed=seed, epoch=epoch) if augmented else batch

    def plain(self, split: Split) -> Iterator[Batch]:
        """The split's batches in stored order, never augmented: for the census."""
        for part in self._parts(self.rows[split]):
            yield self._batch(part)

    def _parts(self, rows: Indices) -> list[Indices]:
        # Even parts: a last batch of one example would stop batch normalisation.
        count = -(-len(rows) // self.batch_size)
        return np.array_split(rows, count) if count else []

    def _inputs(self, rows: Indices) -> tuple[Tensor, ...]:
        return self.transform(self.examples.input_rows(rows))

    def _batch(self, rows: Indices) -> Batch:
        examples = self.examples
        return Batch(
            inputs=self._inputs(rows),
            targets=examples.target_rows(rows),
            ids=_column(examples.ids, rows),
            slices={family: _column(values, rows) for family, values in examples.slices.items()},
            source=None if examples.source is None else _column(examples.source, rows),
            time=None if examples.time is None else _column(examples.time, rows),
            labels=examples.label_rows(rows),
        )

    def _augmented(self, batch: Batch, rows: Indices, *, seed: int, epoch: int) -> Batch:
        made = []
        for place, row in enumerate(rows):
            generator = torch.Generator()
            generator.manual_seed(example_seed(self._hashes[row], seed=seed, epoch=epoch))
            inputs = tuple(tensor[place] for tensor in batch.inputs)
            made.append(self.augment(inputs, batch.targets[place], generator))  # type: ignore[index]  # a tensor or a list
        targets = [target for _, target in made]
        return Batch(
            inputs=tuple(map(torch.stack, zip(*(inputs for inputs, _ in made), strict=True))),
            targets=torch.stack(targets) if isinstance(batch.targets, Tensor) else targets,
            ids=batch.ids,
            slices=batch.slices,
            source=batch.source,
            time=batch.time,
            labels=batch.labels,
        )


def _all_splits(
    examples: Examples, splits: Mapping[Split, Sequence[int] | Indices]
) -> dict[Split, Indices]:
    given: dict[Split, Indices] = {
        split: np.asarray(rows, dtype=np.int64) for split, rows in splits.items()
    }
    for split in ("train", "eval"):
        if split not in given:
            raise TaskError(
                f"has no split '{split}'", where="splits", fix="give its rows, see `carve`"
            )
    for split, rows in given.items():
        if split not in SPLITS:
            raise TaskError(
                f"unknown split '{split}'", where="splits", fix=f"use: {', '.join(SPLITS)}"
            )
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(examples):
            raise TaskError(
                f"the split '{split}' names rows outside 0..{len(examples) - 1}", where="splits"
            )
    missing: dict[Split, float] = {
        split: share for split, share in CARVED.items() if split not in given
    }
    if missing:
        train = given["train"]
        together = examples.source or examples.ids
        parts = carve(_column(together, train), missing)
        given |= {split: train[part] for split, part in parts.items()}
    return {split: given[split] for split in SPLITS}


def _column(values: Sequence[str], rows: Indices) -> list[str]:
    return [values[row] for row in rows.tolist()]
