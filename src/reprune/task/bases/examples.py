"""All examples of a task as arrays in memory, one row an example."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from reprune.core.errors import TaskError
from reprune.task.bases.order import Indices

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """`inputs`: one array (numpy or torch) for each model input, row = example. `targets`: an array, or
    a list of one array an example (boxes). `ids` must stay with their examples when data is added.

    `slices`, `source`, `time` and `labels` are as in Batch. Raises TaskError if lengths differ.
    """

    inputs: tuple[Array | Tensor, ...]
    targets: Array | Tensor | Sequence[Array]
    ids: Sequence[str]
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source: Sequence[str] | None = None
    time: Sequence[str] | None = None
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        columns: dict[str, Sequence[object] | Array | Tensor | None] = {
            **{f"inputs[{place}]": array for place, array in enumerate(self.inputs)},
            "targets": self.targets,
            **{f"slices['{family}']": values for family, values in self.slices.items()},
            "source": self.source,
            "time": self.time,
            "labels": self.labels,
        }
        for name, column in columns.items():
            if column is not None and len(column) != len(self.ids):
                raise TaskError(
                    f"{name} has {len(column)} rows, but there are {len(self.ids)} ids",
                    where="Examples",
                    fix="give every column one row an example",
                )

    def __len__(self) -> int:
        return len(self.ids)

    def input_rows(self, rows: Indices) -> tuple[Tensor, ...]:
        return tuple(_tensor(array)[rows] for array in self.inputs)

    def target_rows(self, rows: Indices) -> Tensor | list[Tensor]:
        if isinstance(self.targets, np.ndarray | Tensor):
            return _tensor(self.targets)[rows]
        return [_tensor(self.targets[row]) for row in rows.tolist()]

    def label_rows(self, rows: Indices) -> list[str] | None:
        """`labels` if given, else the targets as text where there is one whole number an example."""
        if self.labels is not None:
            return [self.labels[row] for row in rows.tolist()]
        targets = self.target_rows(rows)
        if isinstance(targets, list) or targets.ndim != 1 or targets.is_floating_point():
            return None
        return [str(value) for value in targets.tolist()]

    def digest(self, rows: Indices) -> str:
        """sha256 over ids, inputs and targets of these examples, in this order."""
        digest = hashlib.sha256("\n".join(self.ids[row] for row in rows.tolist()).encode())
        targets = self.target_rows(rows)
        for tensor in [
            *self.input_rows(rows),
            *(targets if isinstance(targets, list) else [targets]),
        ]:
            array = tensor.contiguous().numpy()
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def _tensor(array: Array | Tensor) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
