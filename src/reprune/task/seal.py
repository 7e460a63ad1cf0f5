"""A task as the house may look at it: some splits open, the others sealed.

Nothing that chooses, trains or tunes a model may see `eval`, or the judgement means nothing: the
best of 27 candidates picked on the judging data turns a 5 % test into 73 % false passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprune.core.documents import digest_of
from reprune.core.errors import EvalIsSealed, TaskError
from reprune.task.protocol import SPLITS, Batch, Split, Task, Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from reprune.task.protocol import Records

OPEN: tuple[Split, ...] = ("train", "tune", "calibration")
OPTIONAL = ("keep", "heads", "blocks", "features", "outputs_are", "optimizer", "shown")


@dataclass(frozen=True, kw_only=True)
class Census:
    """What is known of a split without its inputs; one entry an example, in the split's order.

    `contents` are digests over the bytes, types and shapes of the example's inputs. `augmented` says
    that the inputs differ from epoch to epoch, so that equal examples need not have equal digests.
    """

    ids: tuple[str, ...]
    contents: tuple[str, ...]
    labels: tuple[str, ...] | None
    slices: dict[str, tuple[str, ...]]
    sources: tuple[str, ...] | None
    times: tuple[str, ...] | None
    augmented: bool = False

    @property
    def digest(self) -> str:
        """Over the sorted pairs of id and content."""
        return digest_of(sorted(zip(self.ids, self.contents, strict=True)))


class Sealed:
    """The same task, but `batches` of a split that is not in `splits` raises EvalIsSealed.

    Only `benchmark` constructs it with "eval" among the splits. `census` is open for every split.
    """

    def __init__(self, task: Task, splits: Collection[Split] = OPEN) -> None:
        self._task = task
        self.splits = tuple(splits)

    @property
    def task_type(self) -> type[Task]:
        """The user's class, for messages."""
        return type(self._task)

    @property
    def data_version(self) -> str:
        return self._task.data_version

    @property
    def preprocess_digest(self) -> str:
        return self._task.preprocess_digest

    @property
    def input_names(self) -> Sequence[str]:
        return self._task.input_names

    def model(self) -> nn.Module:
        return self._task.model()

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return self._task.example_inputs(batch_size)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return self._task.loss(module, batch, generator)

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
        """As Task.batches. Raises EvalIsSealed at once, not at the first batch."""
        if split not in SPLITS:
            raise TaskError(f"there is no split '{split}'", fix=f"use one of: {', '.join(SPLITS)}")
        if split not in self.splits:
            raise EvalIsSealed(
                f"the split '{split}' is sealed here",
                where=type(self._task).__name__,
                fix="choose and tune on `tune`, calibrate on `calibration`; only the benchmark "
                "opens `eval`",
            )
        return self._task.batches(
            split, epoch=epoch, seed=seed, rank=rank, world=world, start=start
        )

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        return self._task.records(outputs, batch)

    def workload(self) -> Sequence[Work]:
        return self._task.workload()

    def census(self, split: Split) -> Census:
        """What `validate` may know of any split: no inputs, only their digests. Raises TaskError."""
        return take_census(self._task, split)

    def __getattr__(self, name: str) -> Any:
        # Only what the protocol names: a task's own attributes may hold its eval data.
        if name in OPTIONAL and "_task" in self.__dict__:
            return getattr(self._task, name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


def take_census(task: Task, split: Split) -> Census:
    """One pass over `split`. Where the task has `plain(split)` (batches without augmentation), over that."""
    plain = getattr(task, "plain", None)
    batches = plain(split) if plain else task.batches(split, epoch=0, seed=0)
    ids: list[str] = []
    contents: list[str] = []
    columns: dict[str, list[str]] = {}
    for batch in batches:
        where = f"{type(task).__name__}.batches('{split}')"
        ids.extend(batch.ids)
        contents.extend(contents_of(batch))
        for name, values in _columns(batch).items():
            if len(values) != len(batch):
                raise TaskError(
                    f"{name} has {len(values)} values for {len(batch)} examples", where=where
                )
            columns.setdefault(name, []).extend(values)
    short = sorted(name for name, values in columns.items() if len(values) != len(ids))
    if short:
        raise TaskError(
            f"only some batches have {', '.join(short)}",
            where=f"{type(task).__name__}.batches('{split}')",
            fix="give it in every batch, or in none",
        )
    return Census(
        ids=tuple(ids),
        contents=tuple(contents),
        labels=_column(columns, "labels"),
        slices={
            name.partition("=")[2]: tuple(values)
            for name, values in columns.items()
            if name.startswith("slice=")
        },
        sources=_column(columns, "source"),
        times=_column(columns, "time"),
        augmented=plain is None and split == "train" and _augments(task, ids, contents),
    )


def _augments(task: Task, ids: Sequence[str], contents: Sequence[str]) -> bool:
    """Whether an example of train has other inputs in epoch 1 than in epoch 0."""
    before = dict(zip(ids, contents, strict=True))
    return any(
        before.get(name) != content
        for batch in task.batches("train", epoch=1, seed=0)
        for name, content in zip(batch.ids, contents_of(batch), strict=True)
    )


def contents_of(batch: Batch) -> list[str]:
    """One sha256 an example over its part of every input; rows of padding count as content."""
    arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in batch.inputs]
    found = []
    for index in range(len(batch)):
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape[1:]};".encode())
            digest.update(array[index].tobytes())
        found.append(digest.hexdigest())
    return found


def _columns(batch: Batch) -> dict[str, Sequence[str]]:
    named = {"labels": batch.labels, "source": batch.source, "time": batch.time}
    columns = {name: values for name, values in named.items() if values is not None}
    return columns | {f"slice={family}": values for family, values in batch.slices.items()}


def _column(columns: dict[str, list[str]], name: str) -> tuple[str, ...] | None:
    return tuple(columns[name]) if name in columns else None
