"""What is retrained every week: a small net on MNIST, or ResNet-20 on CIFAR-10 (JPEG copy)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common

FOLDER = Path(__file__).parent
Shift = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """`images` gives all of the data's "train" or "test": (N, C, H, W) in [0, 1], and labels. The first week
    has `first` of them, each later one `growth` more; the dense model is trained for `epochs` from `begin()`:
    MNIST's from other random weights each time, ResNet-20 from the public ones. `files` are the task's code,
    `entry` its name in a bundle.
    """

    name: str
    entry: str
    files: tuple[str, ...]
    images: Callable[[str], tuple[Tensor, Tensor]]
    begin: Callable[[], nn.Module]
    first: int
    growth: int
    splits: Mapping[str, int]
    epochs: int
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    knobs: Mapping[str, Any]
    shifts: Mapping[str, Shift]


def noisy(images: Tensor) -> Tensor:
    seeded = torch.Generator().manual_seed(7)
    return (images + 0.4 * torch.randn(images.shape, generator=seeded)).clamp(0.0, 1.0)


def inverted(images: Tensor) -> Tensor:
    return 1.0 - images


def moved(pixels: int) -> Shift:
    return lambda images: torch.roll(images, (pixels, pixels), (2, 3))


@cache
def mnist(split: str) -> tuple[Tensor, Tensor]:
    with np.load(common.data("mnist.npz")) as held:
        images = torch.from_numpy(held[f"{split}_x"]).float().div(255.0)[:, None]
        labels = torch.from_numpy(held[f"{split}_y"]).long()
    return F.avg_pool2d(images, 2), labels


@cache
def cifar(split: str) -> tuple[Tensor, Tensor]:
    from benchmarks.cifar import load

    held = load()
    rows = slice(0, held.train) if split == "train" else slice(held.train, None)
    pixels = torch.from_numpy(held.pixels[rows]).permute(0, 3, 1, 2)
    return pixels.float() / 255.0, torch.from_numpy(held.labels[rows])


def _mnist_net() -> nn.Module:
    from benchmarks.weekly.task import Net

    return Net()


def _resnet20() -> nn.Module:
    from benchmarks.resnet20_jobs import pretrained

    return pretrained()


MNIST = Retrained(
    name="mnist",
    entry="weekly.task:WeeklyTask",
    files=("__init__.py", "task.py"),
    images=mnist,
    begin=_mnist_net,
    first=2000,
    growth=100,
    splits={"tune": 1000, "calibration": 300},
    epochs=4,
    optimizer=lambda module: torch.optim.Adam(module.parameters(), 2e-3),
    knobs={
        "sensitivity": {"examples": 1000},
        "plan": {"fraction": 0.4, "round_to": 4},
        "prune": {"examples": 256},
        "distill": {"epochs": 8, "learning_rate": 0.02, "temperature": 4.0, "weight": 0.5},
    },
    shifts={"noise": noisy, "inverted": inverted, "moved": moved(3)},
)
RESNET20 = Retrained(
    name="resnet20",
    entry="weekly.cifar:WeeklyCifar",
    files=("__init__.py", "task.py", "cifar.py"),
    images=cifar,
    begin=_resnet20,
    first=4000,
    growth=200,
    splits={"tune": 1000, "calibration": 300},
    epochs=2,
    optimizer=lambda module: torch.optim.SGD(
        module.parameters(), 0.01, momentum=0.9, weight_decay=5e-4
    ),
    knobs={
        "sensitivity": {"examples": 500},
        "plan": {"fraction": 0.5, "round_to": 8},
        "prune": {"examples": 256},
        "distill": {
            "epochs": 8,
            "learning_rate": 0.03,
            "temperature": 4.0,
            "weight": 0.9,
            "precision": "bf16",
        },
    },
    shifts={"noise": noisy, "inverted": inverted, "moved": moved(8)},
)
RETRAINED = {one.name: one for one in (MNIST, RESNET20)}
