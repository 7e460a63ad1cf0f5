"""Images or vectors to one of several classes."""

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


class Classification(ArrayTask):
    """Targets are class numbers (int64, shape (N,)); the module's only output is logits (N, classes).

    Loss: cross entropy. Records: `correct`, 0 or 1.
    """

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG002  the loss is not random
        return F.cross_entropy(module(*batch.inputs), cast(Tensor, batch.targets))

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        correct = outputs[0].argmax(dim=1) == cast(Tensor, batch.targets).to(outputs[0].device)
        return {"correct": correct.cpu().numpy().astype(np.int64)}
