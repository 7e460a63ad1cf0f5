"""Neuron membranes (ISBI 2012): a small U-Net on tiles; tiles of one image belong together."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reprune.task.bases import Examples, Segmentation

FILE = Path(os.environ.get("REPRUNE_DATA", "../shared/data")) / "isbi2012_membrane.npz"
TILE = 128
# By image, so that no tile's neighbour is on the other side.
IMAGES = {
    "train": range(18),
    "tune": range(18, 21),
    "calibration": range(21, 24),
    "eval": range(24, 30),
}


class MembraneTask(Segmentation):
    input_names = ("tile",)

    def __init__(self):
        images, masks = (tiles(pixels) for pixels in self.read())
        each = len(images) // 30
        image = np.arange(len(images)) // each
        share = masks.mean(axis=(1, 2))
        examples = Examples(
            inputs=(images[:, None],),
            targets=masks,
            ids=[f"image-{n:02d}-tile-{row % each:02d}" for row, n in enumerate(image)],
            slices={"membrane": ["dense" if x > 0.22 else "sparse" for x in share]},
            source=[f"image-{n:02d}" for n in image],
        )
        splits = {split: np.flatnonzero(np.isin(image, list(n))) for split, n in IMAGES.items()}
        super().__init__(examples, splits, batch_size=8)

    def read(self):
        """Images and membranes (1), each (30, 512, 512)."""
        if not FILE.is_file():
            raise FileNotFoundError(f"{FILE} is not there: set REPRUNE_DATA, see README.md")
        with np.load(FILE) as data:
            return data["image"], 1 - data["mask"]

    def transform(self, inputs):
        return (inputs[0].float() / 255 - 0.5,)

    def augment(self, inputs, target, generator):
        """One of the eight ways to turn and mirror a tile."""
        turns, mirror = (
            torch.randint(0, 4, (), generator=generator),
            torch.rand((), generator=generator),
        )
        tile, mask = torch.rot90(inputs[0], int(turns), (1, 2)), torch.rot90(target, int(turns))
        if mirror < 0.5:
            tile, mask = tile.flip(2), mask.flip(1)
        return (tile,), mask

    def model(self):
        return UNet()


def tiles(pixels):
    """(30, H, W) to (N, 128, 128), in the order of images."""
    count, height, width = pixels.shape
    cut = pixels.reshape(count, height // TILE, TILE, width // TILE, TILE)
    return np.ascontiguousarray(cut.swapaxes(2, 3).reshape(-1, TILE, TILE))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.high, self.middle, self.low = block(1, 16), block(16, 32), block(32, 64)
        self.up_middle, self.up_high = block(96, 32), block(48, 16)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(16, 1, kernel_size=1)

    def forward(self, tile):
        high = self.high(tile)
        middle = self.middle(self.pool(high))
        low = self.low(self.pool(middle))
        middle = self.up_middle(torch.cat([self.up(low), middle], dim=1))
        return self.head(self.up_high(torch.cat([self.up(middle), high], dim=1)))


def block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip
