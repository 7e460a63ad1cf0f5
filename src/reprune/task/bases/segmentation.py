"""Images to a mask of one positive class."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reprune.task.bases.arrays import ArrayTask
from reprune.task.protocol import Batch

if TYPE_CHECKING:
    from reprune.task.protocol import Records


class Segmentation(ArrayTask):
    """Targets are masks of 0 and 1 (N, H, W); the module's only output is logits (N, 1, H, W).

    Loss: binary cross entropy and soft Dice in equal parts. Records, of the positive class (logit
    above 0): the parts of each example's Dice coefficient, 2|P and T| over |P| + |T|, and of its IoU,
    |P and T| over |P or T|.
    """

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG002  the loss is not random
        logits_NHW: Tensor = module(*batch.inputs)[:, 0]
        mask_NHW = cast(Tensor, batch.targets).to(logits_NHW)
        share_NHW = logits_NHW.sigmoid()
        overlap_N = (share_NHW * mask_NHW).sum(dim=(1, 2))
        total_N = share_NHW.sum(dim=(1, 2)) + mask_NHW.sum(dim=(1, 2))
        dice = 1 - ((2 * overlap_N + 1) / (total_N + 1)).mean()
        return F.binary_cross_entropy_with_logits(logits_NHW, mask_NHW) + dice

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        found_NHW = outputs[0][:, 0] > 0
        mask_NHW = cast(Tensor, batch.targets).to(found_NHW.device) > 0
        overlap_N = (found_NHW & mask_NHW).sum(dim=(1, 2))
        total_N = found_NHW.sum(dim=(1, 2)) + mask_NHW.sum(dim=(1, 2))
        return {
            "numerator": (2 * overlap_N).cpu().numpy().astype(np.int64),
            "denominator": total_N.cpu().numpy().astype(np.int64),
            "intersection": overlap_N.cpu().numpy().astype(np.int64),
            "union": (total_N - overlap_N).cpu().numpy().astype(np.int64),
        }
