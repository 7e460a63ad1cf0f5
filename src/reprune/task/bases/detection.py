"""Images to boxes. The detector's loss and its decoding are the user's; the records are here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor

from reprune.core.errors import TaskError
from reprune.core.records import BOXES, DETECTIONS, NOTHING, SCALE, column_names, pack_detection
from reprune.task.bases.arrays import ArrayTask
from reprune.task.outputs import Kind
from reprune.task.protocol import Batch

if TYPE_CHECKING:
    from typing import TypeAlias

    Column: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

    from reprune.task.protocol import Records

IOU_MATCH = 0.5


class Detection(ArrayTask):
    """Targets are, for each example, rows of (class, x1, y1, x2, y2).

    The user gives `model`, `loss` and `decode`; and `outputs_are`, where a student is to learn from a
    teacher's outputs: nobody else knows which of the numbers are logits. Records: the parts of each example's
    F1 at the IoU `match_iou`, twice the matched boxes over the boxes found and the boxes there are (f1); and,
    if `most_boxes` is set, the columns of `map` and `ap[class]`: up to so many detections and boxes an
    example (core.records). Boxes are matched greedily, the surest first, each to the free box of its class
    that it overlaps most. Raises TaskError for an example with more boxes, or a score outside 0..1.
    """

    outputs_are: Kind | tuple[Kind, ...] = "undeclared"
    match_iou: float = IOU_MATCH
    most_boxes: int = 0

    @abstractmethod
    def decode(self, outputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """For each example rows of (class, x1, y1, x2, y2, score), best score first, after NMS.

        Average precision also looks at the unsure ones: for `map` keep low scores too. Of more than
        `most_boxes` the surest count.
        """

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        truths = cast(Sequence[Tensor], batch.targets)
        found = [rows.detach().cpu() for rows in self.decode(outputs)]
        hits = [matched(*pair, self.match_iou) for pair in zip(found, truths, strict=True)]
        pairs = zip(found, truths, strict=True)
        columns = {
            "numerator": np.array([2 * sum(each) for each in hits], dtype=np.int64),
            "denominator": np.array([len(a) + len(b) for a, b in pairs], dtype=np.int64),
        }
        if self.most_boxes:
            packed = [_packed(rows, each) for rows, each in zip(found, hits, strict=True)]
            columns |= _spread(
                DETECTIONS, [row[: self.most_boxes] for row in packed], self.most_boxes
            )
            classes = [rows[:, 0].long().tolist() for rows in truths]
            columns |= _spread(BOXES, classes, self.most_boxes)
        return columns


def _packed(rows: Tensor, hits: Sequence[bool]) -> list[int]:
    packed = []
    for kind, score, hit in zip(rows[:, 0].tolist(), rows[:, 5].tolist(), hits, strict=True):
        if not 0.0 <= score <= 1.0:
            raise TaskError(
                f"gives a score of {score:g}", where="decode", fix="give scores between 0 and 1"
            )
        packed.append(pack_detection(int(kind), round(score * SCALE), hit))
    return packed


def _spread(prefix: str, rows: Sequence[Sequence[int]], most: int) -> dict[str, Column]:
    """A row an example as `most` columns, NOTHING behind its end."""
    table = np.full((len(rows), most), NOTHING, dtype=np.int64)
    for place, row in enumerate(rows):
        if len(row) > most:
            raise TaskError(
                f"an example has {len(row)} boxes, more than {most}",
                where="most_boxes",
                fix="raise most_boxes",
            )
        table[place, : len(row)] = row
    return dict(zip(column_names(prefix, most), np.ascontiguousarray(table.T), strict=True))


def matched(found: Tensor, truth: Tensor, least: float = IOU_MATCH) -> list[bool]:
    """Which rows of `found` (best first) get a box of `truth` of their class with IoU >= `least`."""
    if not len(found) or not len(truth):
        return [False] * len(found)
    overlap = iou(found[:, 1:5], truth[:, 1:5])
    overlap[found[:, :1] != truth[None, :, 0]] = 0
    hits = []
    for row in range(len(found)):
        best = int(overlap[row].argmax())
        hits.append(bool(overlap[row, best] >= least))
        if hits[-1]:
            overlap[:, best] = 0
    return hits


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` (A, 4) with every box of `b` (B, 4): (A, B)."""
    low = a[:, None, :2].maximum(b[None, :, :2])
    high = a[:, None, 2:4].minimum(b[None, :, 2:4])
    inside = (high - low).clamp(min=0).prod(dim=2)
    area_a = (a[:, 2:4] - a[:, :2]).prod(dim=1)
    area_b = (b[:, 2:4] - b[:, :2]).prod(dim=1)
    return inside / (area_a[:, None] + area_b[None, :] - inside).clamp(min=1e-9)
