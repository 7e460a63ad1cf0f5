"""CIFAR-10 (JPEG copy) as a task: decoded once, augmented in whole batches, its test set kept shut.

The data is the file `cifar10_jpeg.npz` of REPRUNE_DATA: the 60,000 public images (Krizhevsky 2009) as
JPEG, so results are of "CIFAR-10 (JPEG copy)", a little below those of the original.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import data
from reprune.measure.outputs import evaluating
from reprune.task.bases import Classification, Examples, epoch_order, hash_ids

if TYPE_CHECKING:
    from reprune.task.protocol import Batch, Split

FILE = "cifar10_jpeg.npz"
WEIGHTS = "cifar10_resnet20.safetensors"
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
PAD = 4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Images:
    """`pixels` (N, 32, 32, 3) uint8 and `labels` (N,) int64: first the training images, then the test's."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    train: int


def load() -> Images:
    """All images, decoded once; the pixels are mapped from a cache, so processes share their memory."""
    source = data(FILE)
    cached = cache_folder() / f"cifar10-{source.stat().st_size}.npy"
    with np.load(source) as stored:
        labels = np.concatenate([stored["train_labels"], stored["test_labels"]]).astype(np.int64)
        train = len(stored["train_labels"])
        if not cached.is_file():
            parts = [
                decoded(stored[f"{part}_jpeg"].tobytes(), stored[f"{part}_offsets"])
                for part in ("train", "test")
            ]
            _write_array(cached, np.concatenate(parts))
    # "c": copy on write; nothing is ever written, but torch wants an array that could be.
    return Images(pixels=np.load(cached, mmap_mode="c"), labels=labels, train=train)


def cache_folder() -> Path:
    """REPRUNE_CACHE, or a folder among the temporary files; emptying it costs only time."""
    named = os.environ.get("REPRUNE_CACHE")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "reprune-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def decoded(joined: bytes, offsets: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The images of JPEGs that lie one behind the other: (N, H, W, 3) uint8."""
    from PIL import Image

    images = []
    for begin, end in itertools.pairwise(offsets):
        with Image.open(io.BytesIO(joined[int(begin) : int(end)])) as image:
            images.append(np.asarray(image.convert("RGB")))
    return np.stack(images)


class CifarTask(Classification):
    """`train` is all training images but the last `tune` + `calibration` ones, cut to `examples` if given;
    `eval` is the test set, which only `accuracy` of a final evaluation may open.

    Batches lie on `device` from the start. The augmentation is the usual one: a mirror image for every
    second example, and a crop at random after 4 pixels of black were added on each side.
    """

    input_names = ("image",)

    def __init__(  # noqa: PLR0913  the sizes of a task and where it lies
        self,
        images: Images,
        build: Callable[[], nn.Module],
        *,
        tune: int = 1000,
        calibration: int = 1000,
        examples: int | None = None,
        batch_size: int = 128,
        device: str = "cpu",
        features: tuple[str, ...] = (),
    ) -> None:
        self._build = build
        self.features = features
        self._device = torch.device(device)
        held = images.train - tune - calibration
        splits: dict[Split, Sequence[int]] = {
            "train": range(min(held, examples or held)),
            "tune": range(held, held + tune),
            "calibration": range(held + tune, images.train),
            "eval": range(images.train, len(images.labels)),
        }
        stored = Examples(
            inputs=(images.pixels,),
            targets=images.labels,
            ids=[f"cifar-{row:05d}" for row in range(len(images.labels))],
        )
        super().__init__(stored, splits, batch_size=batch_size)
        self._id_hashes = hash_ids(stored.ids)
        self._pixels = torch.from_numpy(images.pixels).to(self._device)
        self._labels = torch.from_numpy(images.labels).to(self._device)

    def model(self) -> nn.Module:
        return self._build()

    def transform(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(N, H, W, 3) bytes to (N, 3, H, W) of about unit variance; the memory stays channels-last."""
        pixels = inputs[0]
        mean, deviation = (torch.tensor(v, device=pixels.device) for v in (MEAN, DEVIATION))
        return (((pixels.float() / 255 - mean) / deviation).permute(0, 3, 1, 2),)

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        from reprune.task.protocol import Batch

        rows = self.rows[split]
        if split == "train":
            rows = rows[epoch_order(self._id_hashes[rows], seed=seed, epoch=epoch)]
        rows = rows[rank::world]
        count = -(-len(rows) // self.batch_size)
        crops = self._crops(seed, epoch, rows) if split == "train" else None
        on_device = torch.from_numpy(rows).to(self._device)
        edges = np.linspace(0, len(rows), count + 1).astype(int).tolist()
        for begin, end in list(itertools.pairwise(edges))[start:]:
            part = on_device[begin:end]
            pixels = self._pixels[part]
            if crops is not None:
                pixels = cropped(pixels, *(values[begin:end] for values in crops))
            yield Batch(
                inputs=self.transform((pixels,)),
                targets=self._labels[part],
                ids=[self.examples.ids[row] for row in rows[begin:end].tolist()],
            )

    def _crops(
        self, seed: int, epoch: int, rows: np.ndarray[Any, np.dtype[np.int64]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets down and right, and mirrored or not: drawn for every image there is, so that an
        example's draw depends on (seed, epoch, id) and not on which others are in the split.
        """
        random = np.random.default_rng([seed, epoch])
        count = len(self.examples)
        draws = (
            random.integers(0, 2 * PAD + 1, count),
            random.integers(0, 2 * PAD + 1, count),
            random.random(count) < 0.5,
        )
        down, right, mirrored = (torch.from_numpy(d[rows]).to(self._device) for d in draws)
        return down, right, mirrored


def cropped(pixels_NHWC: Tensor, down_N: Tensor, right_N: Tensor, mirrored_N: Tensor) -> Tensor:
    """Each image moved by (`PAD` - down, `PAD` - right) pixels over black, then mirrored where asked."""
    count, height, width, _ = pixels_NHWC.shape
    device = pixels_NHWC.device
    padded = F.pad(pixels_NHWC, (0, 0, PAD, PAD, PAD, PAD))
    rows_NH = down_N[:, None] + torch.arange(height, device=device)
    columns_W = torch.arange(width, device=device)
    columns_NW = torch.where(mirrored_N[:, None], width - 1 - columns_W, columns_W)
    columns_NW = right_N[:, None] + columns_NW
    place_N = torch.arange(count, device=device)[:, None, None]
    return padded[place_N, rows_NH[:, :, None], columns_NW[:, None, :]]


def accuracy(task: CifarTask, module: nn.Module, split: Split) -> tuple[float, int]:
    """The share of `split` that the module classifies correctly, in %, and how many examples that is of."""
    device = next(module.parameters()).device
    correct = seen = 0
    with evaluating(module), torch.no_grad():
        for batch in task.batches(split, epoch=0, seed=0):
            outputs = module(*(tensor.to(device) for tensor in batch.inputs))
            correct += int(task.records((outputs,), batch)["correct"].sum())
            seen += len(batch)
    return 100.0 * correct / seen, seen


def _write_array(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Whole or not at all, so that processes that start together do not read a half-written cache."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npy", delete=False) as stream:
        np.save(stream, array)
    Path(stream.name).replace(path)
