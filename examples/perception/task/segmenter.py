"""Which pixels are ink: a small U-Net."""

import torch
from torch import nn

from reprune.task.bases import Segmentation
from task.detector import block
from task.frames import examples


class SegmenterTask(Segmentation):
    input_names = ("image",)

    def __init__(self):
        super().__init__(*examples("ink"))

    def model(self):
        return UNet()


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.high, self.low = nn.Sequential(*block(1, 16)), nn.Sequential(*block(16, 32))
        self.middle, self.up_high = nn.Sequential(*block(32, 32)), nn.Sequential(*block(48, 16))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(16, 1, kernel_size=1)

    def forward(self, image):
        high = self.high(image)
        low = self.middle(self.low(self.pool(high)))
        return self.head(self.up_high(torch.cat([self.up(low), high], dim=1)))
