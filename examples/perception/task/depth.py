"""How far away the nearest digit is: one number a frame."""

from torch import nn

from reprune.task.bases import Regression
from task.detector import block
from task.frames import FAR, NEAR, examples


class DepthTask(Regression):
    input_names = ("image",)
    bounds = (NEAR, FAR)

    def __init__(self):
        super().__init__(*examples("depth"))

    def model(self):
        model = nn.Sequential(
            *block(1, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 64),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 1),
        )  # fmt: skip
        # From 0 the first steps go so far that the neurons before it may never fire again.
        nn.init.constant_(model[-1].bias, (NEAR + FAR) / 2)
        return model
