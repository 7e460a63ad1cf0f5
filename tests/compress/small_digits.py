"""A task that trains in a second: a CNN with batch norms on scikit-learn's real 8x8 digits."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reprune.task.protocol import Batch, Work

SIZES = {"train": slice(0, 900), "tune": slice(900, 1200), "calibration": slice(1200, 1400)}


class Cnn(nn.Module):
    """Two convolutions in a row, then a depth-wise one, then a linear layer behind a flatten."""

    def __init__(self, widths=(16, 24)):
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(second)
        self.depth = nn.Conv2d(second, second, 3, padding=1, groups=second)
        self.head = nn.Linear(second * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.max_pool2d(F.relu(self.depth(x)), 2)
        return self.head(x.flatten(1))


class DigitsTask:
    """`batches` honours (seed, epoch); only `train` is shuffled. `eval` is not here at all."""

    data_version = "sklearn-digits"
    preprocess_digest = "sha256:" + "0" * 64
    input_names = ("image",)

    def __init__(self, batch_size=100, model=Cnn):
        self.batch_size = batch_size
        self.factory = model

    def model(self):
        return self.factory()

    def example_inputs(self, batch_size):
        return (torch.zeros(batch_size, 1, 8, 8),)

    def loss(self, module, batch, generator):
        return F.cross_entropy(module(*batch.inputs), batch.targets)

    def batches(self, split, *, epoch, seed, rank=0, world=1, start=0):
        images, labels = digits()
        rows = np.arange(len(labels))[SIZES[split]]
        if split == "train":
            rows = np.random.default_rng([seed, epoch]).permutation(rows)
        for first in range(start * self.batch_size, len(rows), self.batch_size):
            chosen = rows[first : first + self.batch_size]
            yield Batch(
                inputs=(images[chosen],),
                targets=labels[chosen],
                ids=[f"{row}" for row in chosen],
                labels=[f"{label}" for label in labels[chosen].tolist()],
            )

    def records(self, outputs, batch):
        return {"correct": (outputs[0].argmax(1) == batch.targets).numpy().astype(np.int64)}

    def workload(self):
        return [Work(inputs=self.example_inputs(1), weight=1.0)]


@cache
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order] / 16.0, dtype=torch.float32).unsqueeze(1)
    return images, torch.tensor(data.target[order])


def trained(task, *, epochs=8, seed=0):
    """The task's model, trained a little; the same bits every time."""
    torch.manual_seed(seed)
    module = task.model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    module.train()
    for epoch in range(epochs):
        for batch in task.batches("train", epoch=epoch, seed=seed):
            optimizer.zero_grad()
            task.loss(module, batch, torch.Generator()).backward()
            optimizer.step()
    return module.eval()


def accuracy(task, module, split="tune"):
    module.eval()
    with torch.no_grad():
        hits = [
            task.records((module(*batch.inputs),), batch)["correct"]
            for batch in task.batches(split, epoch=0, seed=0)
        ]
    return float(np.concatenate(hits).mean())
