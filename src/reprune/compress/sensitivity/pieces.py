"""Batches in small pieces, so that a mean over a few of them shows its spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from reprune.task.protocol import Batch


def pieces(batches: Sequence[Batch], size: int) -> Iterator[Batch]:
    """The batches in nearly equal pieces of at most `size` examples, in order; whole where targets
    cannot be cut.
    """
    for batch in batches:
        count = len(batch)
        if count <= size or not _sliceable(batch.targets, count):
            yield batch
            continue
        parts = -(-count // size)
        for number in range(parts):
            yield _part(batch, slice(count * number // parts, count * (number + 1) // parts))


def _sliceable(value: object, count: int) -> bool:
    if isinstance(value, dict):
        return all(_sliceable(inner, count) for inner in value.values())
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count
    return isinstance(value, list | tuple) and len(value) == count


def _part(batch: Batch, part: slice) -> Batch:
    return Batch(
        inputs=tuple(tensor[part] for tensor in batch.inputs),
        targets=_taken(batch.targets, part),
        ids=batch.ids[part],
        slices={name: values[part] for name, values in batch.slices.items()},
        source=None if batch.source is None else batch.source[part],
        time=None if batch.time is None else batch.time[part],
        labels=None if batch.labels is None else batch.labels[part],
    )


def _taken(value: Any, part: slice) -> Any:
    if isinstance(value, dict):
        return {key: _taken(inner, part) for key, inner in value.items()}
    return value[part]
