"""A whole small task to break in one place at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reprune.task.bases import Classification, Examples


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examples(count: int = 120, **changed: Any) -> Examples:
    """Vectors of three classes; the same for the same count."""
    random = np.random.default_rng(7)
    targets = np.arange(count) % 3
    vectors = random.normal(size=(count, 5)).astype(np.float32) + targets[:, None]
    columns: dict[str, Any] = {
        "inputs": (vectors.astype(np.float32),),
        "targets": targets,
        "ids": [f"v{row}" for row in range(count)],
        "slices": {"parity": [("even", "odd")[row % 2] for row in range(count)]},
    }
    return Examples(**(columns | changed))


class Vectors(Classification):
    def __init__(
        self, changed: Mapping[str, Any] | None = None, count: int = 120, **options: Any
    ) -> None:
        splits = options.pop(
            "splits", {"train": range(count // 2), "eval": range(count // 2, count)}
        )
        super().__init__(examples(count, **(changed or {})), splits, batch_size=8, **options)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def vectors() -> type[Vectors]:
    return Vectors
