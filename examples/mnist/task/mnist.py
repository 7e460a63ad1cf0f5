"""MNIST: 60,000 digits to train on, 10,000 to judge. Source: see README.md."""

import os
from pathlib import Path

import numpy as np
from torch import nn

from reprune.task.bases import Classification, Examples

FILE = Path(os.environ.get("REPRUNE_DATA", "../shared/data")) / "mnist.npz"


class MnistTask(Classification):
    input_names = ("image",)

    def __init__(self):
        if not FILE.is_file():
            raise FileNotFoundError(f"{FILE} is not there: set REPRUNE_DATA, see README.md")
        with np.load(FILE) as data:
            images = np.concatenate([data["train_x"], data["test_x"]])[:, None]
            digits = np.concatenate([data["train_y"], data["test_y"]]).astype(np.int64)
            train = len(data["train_y"])
        ink = images.mean(axis=(1, 2, 3))
        examples = Examples(
            inputs=(images,),
            targets=digits,
            ids=[f"mnist-{row:05d}" for row in range(len(images))],
            slices={
                "digit": [str(digit) for digit in digits],
                "ink": ["thin" if x < 27 else "bold" if x > 38 else "medium" for x in ink],
            },
        )
        splits = {"train": range(train), "eval": range(train, len(images))}
        super().__init__(examples, splits, batch_size=128)

    def transform(self, inputs):
        return (inputs[0].float() / 255,)

    def model(self):
        return nn.Sequential(
            *block(1, 32), nn.MaxPool2d(2), *block(32, 48), nn.MaxPool2d(2), *block(48, 64),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 10),
        )  # fmt: skip


def block(inputs, outputs):
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()
