"""Batches in small pieces, so that a mean over a few of them shows its spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from reprune.compress.losses import part_of
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
            places = slice(count * number // parts, count * (number + 1) // parts)
            yield part_of(batch, places, _taken(batch.targets, places))


def _sliceable(value: object, count: int) -> bool:
    if isinstance(value, dict):
        return all(_sliceable(inner, count) for inner in value.values())
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count
    return isinstance(value, list | tuple) and len(value) == count


def _taken(value: Any, part: slice) -> Any:
    if isinstance(value, dict):
        return {key: _taken(inner, part) for key, inner in value.items()}
    return value[part]
