"""Where the digits are, and which: a one-scale detector."""

import torch
from torch import nn
from torch.nn import functional as F

from reprune.task.bases import Detection, iou
from task.frames import examples

STRIDE, CELLS, CLASSES = 4, 8, 10
SURE, OVERLAP = 0.5, 0.4


class DetectorTask(Detection):
    input_names = ("image",)

    def __init__(self):
        super().__init__(*examples("boxes"))

    def model(self):
        return nn.Sequential(
            *block(1, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 96),
            *block(96, 96), nn.Conv2d(96, 5 + CLASSES, kernel_size=1),
        )  # fmt: skip

    def loss(self, module, batch, generator):  # noqa: ARG002  the loss is not random
        """Each box belongs to the cell of its centre: is it there, where exactly, which class."""
        outputs = module(*batch.inputs)
        example = torch.cat([torch.full((len(b),), n) for n, b in enumerate(batch.targets)])
        boxes = torch.cat(list(batch.targets)).to(outputs)
        centre, size = (boxes[:, 1:3] + boxes[:, 3:5]) / 2, boxes[:, 3:5] - boxes[:, 1:3]
        column, row = (centre / STRIDE).long().T
        there = torch.zeros_like(outputs[:, 0])
        there[example, row, column] = 1
        mine = outputs[example, :, row, column]
        place = torch.cat(
            [centre / STRIDE - torch.stack([column, row], 1), (size / STRIDE).log()], 1
        )
        return (
            10 * F.binary_cross_entropy_with_logits(outputs[:, 0], there)
            + F.smooth_l1_loss(mine[:, 1:5], place)
            + F.cross_entropy(mine[:, 5:], boxes[:, 0].long())
        )

    def decode(self, outputs):
        y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        return [suppress(cells(output.cpu(), x, y)) for output in outputs[0]]


def cells(output, x, y):
    """The cells of one frame that are sure, as rows of (class, x1, y1, x2, y2, score)."""
    centre_x, centre_y = (output[1] + x) * STRIDE, (output[2] + y) * STRIDE
    half_x, half_y = output[3:5].clamp(max=4).exp() * STRIDE / 2
    sides = [centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y]
    rows = torch.stack([output[5:].argmax(0), *sides, output[0].sigmoid()], dim=-1).flatten(0, 1)
    return rows[rows[:, 5] > SURE]


def suppress(rows):
    """Rows from the surest on, without those that overlap a surer one."""
    rows, kept = rows[rows[:, 5].argsort(descending=True, stable=True)], []
    while len(rows):
        kept.append(rows[0])
        rows = rows[iou(rows[:1, 1:5], rows[:, 1:5])[0] < OVERLAP]
    return torch.stack(kept) if kept else torch.zeros(0, 6)


def block(inputs, outputs):
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()
