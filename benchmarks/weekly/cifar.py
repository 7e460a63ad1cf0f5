"""CIFAR-10 (JPEG copy) as far as one week's file holds it, for ResNet-20."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.cifar import DEVIATION, MEAN
from benchmarks.cifar_models import ResNet20
from reprune.task.protocol import Batch

from .task import WeeklyTask  # noqa: TID252  the package is `weekly` in a bundle, another one here


class WeeklyCifar(WeeklyTask):
    """Images lie in [0, 1] in the file, and are brought to about unit variance in each batch. Nothing is
    augmented, so that the teacher's answers are kept.
    """

    batch_size = 128

    def model(self) -> nn.Module:
        return ResNet20()

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch_size, 3, 32, 32),)

    def batches(
        self, split: str, *, epoch: int, seed: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        found = super().batches(split, epoch=epoch, seed=seed, rank=rank, world=world, start=start)
        for batch in found:
            image = (batch.inputs[0] - mean) / deviation
            yield replace(batch, inputs=(image.contiguous(memory_format=torch.channels_last),))
