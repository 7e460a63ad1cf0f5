"""Images to boxes. The detector's loss and its decoding are the user's; the records are here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor

from reprune.task.bases.arrays import ArrayTask
from reprune.task.protocol import Batch

if TYPE_CHECKING:
    from reprune.task.protocol import Records

IOU_MATCH = 0.5


class Detection(ArrayTask):
    """Targets are, for each example, rows of (class, x1, y1, x2, y2).

    The user gives `model`, `loss` and `decode`. Records: the parts of each example's F1 at IoU 0.5,
    twice the matched boxes over the boxes found and the boxes there are. Boxes are matched greedily,
    the surest first, each to the free box of its class that it overlaps most.
    """

    @abstractmethod
    def decode(self, outputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """For each example rows of (class, x1, y1, x2, y2, score), best score first, after NMS."""

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        truths = cast(Sequence[Tensor], batch.targets)
        found = [rows.detach().cpu() for rows in self.decode(outputs)]
        pairs = list(zip(found, truths, strict=True))
        return {
            "numerator": np.array([2 * matches(*pair) for pair in pairs], dtype=np.int64),
            "denominator": np.array([len(a) + len(b) for a, b in pairs], dtype=np.int64),
        }


def matches(found: Tensor, truth: Tensor) -> int:
    """How many rows of `found` (best first) get a box of `truth` of their class with IoU >= 0.5."""
    if not len(found) or not len(truth):
        return 0
    overlap = iou(found[:, 1:5], truth[:, 1:5])
    overlap[found[:, :1] != truth[None, :, 0]] = 0
    count = 0
    for row in range(len(found)):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= IOU_MATCH:
            count += 1
            overlap[:, best] = 0
    return count


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` (A, 4) with every box of `b` (B, 4): (A, B)."""
    low = a[:, None, :2].maximum(b[None, :, :2])
    high = a[:, None, 2:4].minimum(b[None, :, 2:4])
    inside = (high - low).clamp(min=0).prod(dim=2)
    area_a = (a[:, 2:4] - a[:, :2]).prod(dim=1)
    area_b = (b[:, 2:4] - b[:, :2]).prod(dim=1)
    return inside / (area_a[:, None] + area_b[None, :] - inside).clamp(min=1e-9)
