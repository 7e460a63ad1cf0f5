"""LeNet-300-100 on MNIST as a Task: 60,000 images to learn from, the last 5,000 of them held out or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import data
from reprune.task.protocol import Batch, Split, Work

HELD_OUT = 5_000
DENSE_BYTES = 1_066_440  # 266,610 float32


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(image.flatten(1))))))


class MnistTask:
    """`shifts` moves each training image by up to one pixel in both directions.

    `tune` is always the last 5,000 training images. With `held_out` they are not trained on, and knobs
    may be chosen by them. Without, `train` is all 60,000, and `tune` decides nothing but that a
    training ends with its last epochs. The test images are not in here.
    """

    preprocess_digest = "pixels / 255"
    input_names = ("image",)

    def __init__(
        self,
        *,
        shifts: bool = False,
        held_out: bool = True,
        batch_size: int = 128,
        rate: float = 1e-3,
    ) -> None:
        self.shifts, self.batch_size, self.rate = shifts, batch_size, rate
        self.count = 60_000 - HELD_OUT if held_out else 60_000
        self.data_version = f"mnist-{self.count}-shifts-{shifts}-batch-{batch_size}-adam-{rate}"

    def model(self) -> nn.Module:
        return LeNet()

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.rate)

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return (train_images()[0][:batch_size],)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return F.cross_entropy(module(*batch.inputs), batch.targets)

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,  # noqa: ARG002  one process
        world: int = 1,  # noqa: ARG002  as above
        start: int = 0,
    ) -> Iterator[Batch]:
        images, labels = train_images()
        if split == "train":
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(self.count, generator=generator)
            moves = torch.randint(0, 3, (self.count, 2), generator=generator)
        else:
            order, moves = torch.arange(60_000 - HELD_OUT, 60_000), None
        for part in list(order.split(self.batch_size))[start:]:
            moved = self.shifts and moves is not None
            yield Batch(
                inputs=(shifted(part, moves[part]) if moved else images[part],),
                targets=labels[part],
                ids=_ids()[part.numpy()],
            )

    def records(
        self, outputs: tuple[Tensor, ...], batch: Batch
    ) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        return {"correct": outputs[0].argmax(1).eq(batch.targets).numpy().astype(np.int64)}

    def workload(self) -> Sequence[Work]:
        return [Work(inputs=self.example_inputs(1), weight=1.0)]


@cache
def train_images() -> tuple[Tensor, Tensor]:
    """Images (60,000 x 784, 0 to 1) and labels."""
    with np.load(data("mnist.npz")) as found:
        images, labels = found["train_x"], found["train_y"]
    return torch.from_numpy(images.reshape(-1, 784)).float() / 255, torch.from_numpy(labels).long()


def shifted(rows: Tensor, moves: Tensor) -> Tensor:
    """Training images `rows`, each seen through a window moved by `moves` (0, 1 or 2) on a padded image."""
    padded, window = _padded()
    corners = moves[:, 0] * 30 + moves[:, 1]
    return padded[rows[:, None], window[None] + corners[:, None]]


@cache
def _padded() -> tuple[Tensor, Tensor]:
    images, _ = train_images()
    padded = F.pad(images.view(-1, 28, 28), (1, 1, 1, 1)).reshape(-1, 900)
    window = (torch.arange(28)[:, None] * 30 + torch.arange(28)[None]).reshape(-1)
    return padded, window


@cache
def _ids() -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([str(number) for number in range(60_000)])


def held_out_accuracy(module: nn.Module) -> float:
    """Percent of the last 5,000 training images."""
    images, labels = train_images()
    with torch.no_grad():
        found = module(images[-HELD_OUT:]).argmax(1)
    return 100.0 * float((found == labels[-HELD_OUT:]).float().mean())
