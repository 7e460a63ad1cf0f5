"""Two inputs: the upper and the lower half of a digit, each through its own tower."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from reprune.task.bases import Classification, Examples, carve


class HalvesTask(Classification):
    input_names = ("upper", "lower")

    def __init__(self):
        digits = load_digits()
        images = digits.images.astype(np.float32)[:, None] / 16
        ids = [f"digit-{row:04d}" for row in range(len(images))]
        examples = Examples(
            inputs=(images[:, :, :4], images[:, :, 4:]),
            targets=digits.target,
            ids=ids,
            slices={"digit": [str(label) for label in digits.target]},
        )
        super().__init__(examples, carve(ids, {"eval": 0.25}))

    def model(self):
        return TwoTowers()


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.upper, self.lower = tower(), tower()
        self.head = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, upper, lower):
        seen = [self.upper(upper), self.lower(lower)]
        return self.head(torch.cat([x.mean(dim=2).flatten(1) for x in seen], dim=1))


def tower():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1, stride=(1, 2), bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.MaxPool2d((1, 4)),
    )  # fmt: skip
