"""MNIST at half its size, as far as one week's file holds it: the task code is the same every week."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.task.protocol import Batch, Work

# Names the week's file: one array of images and one of labels for each split.
WEEK = "WEEKLY_DATA"
WIDTHS = (8, 16, 16, 24, 24)
BATCH = 64


class Net(nn.Module):
    """Five convolutions with batch norms and a hidden layer: six groups of channels that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for number, width in enumerate(WIDTHS):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU()]
            if number in {1, 3}:
                layers.append(nn.MaxPool2d(2))
            before = width
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(before * 9, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = F.relu(self.hidden(self.body(x).flatten(1)))
        logits: Tensor = self.head(hidden)
        return logits


class WeeklyTask:
    """`train` is shuffled by (seed, epoch); the other splits come in their file's order."""

    batch_size = BATCH
    data_version = "weekly"
    preprocess_digest = "sha256:" + "0" * 64
    input_names = ("image",)

    def model(self) -> nn.Module:
        return Net()

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch_size, 1, 14, 14),)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        del generator  # nothing is random here
        return F.cross_entropy(module(*batch.inputs), batch.targets)

    def batches(
        self, split: str, *, epoch: int, seed: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        del rank, world  # one process trains
        images, labels = week(os.environ[WEEK])[split]
        rows = np.arange(len(labels))
        if split == "train":
            rows = np.random.default_rng([seed, epoch]).permutation(rows)
        for first in range(start * self.batch_size, len(rows), self.batch_size):
            chosen = rows[first : first + self.batch_size]
            yield Batch(
                inputs=(images[chosen],),
                targets=labels[chosen],
                ids=[f"{split}{row}" for row in chosen],
                labels=[str(label) for label in labels[chosen].tolist()],
            )

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> dict[str, Any]:
        return {"correct": outputs[0].argmax(1).eq(batch.targets).numpy().astype(np.int64)}

    def workload(self) -> list[Work]:
        return [Work(inputs=self.example_inputs(1), weight=1.0)]


@lru_cache(maxsize=2)
def week(path: str) -> dict[str, tuple[Tensor, Tensor]]:
    """By split, images in [0, 1] and labels."""
    with np.load(path) as held:
        splits = sorted({name.partition("_")[0] for name in held.files})
        return {
            split: (torch.from_numpy(held[f"{split}_x"]), torch.from_numpy(held[f"{split}_y"]))
            for split in splits
        }
