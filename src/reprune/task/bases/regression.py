"""Anything to one number within a declared range."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reprune.core.errors import TaskError
from reprune.core.records import SCALE
from reprune.task.bases.arrays import ArrayTask
from reprune.task.protocol import Batch

if TYPE_CHECKING:
    from reprune.task.protocol import Records


class Regression(ArrayTask):
    """Targets are numbers (floating, shape (N,)); the module's only output is (N,) or (N, 1).

    Loss: the mean square of errors, in units of the range. Records (mae, mse, pearson, spearman):
    `target` and `predicted`, in millionths of `bounds`, the smallest and largest target that there can
    be; predictions are clipped to one range beyond either end. Raises TaskError for a target outside.
    """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The declared range. Margins of the errors are shares of it."""

    @property
    def outputs_are(self) -> float:
        """Values that count in units of the range, for a teacher's as for the targets."""
        low, high = self.bounds
        return high - low

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG002  the loss is not random
        low, high = self.bounds
        found = module(*batch.inputs).reshape(len(batch))
        return F.mse_loss(
            found / (high - low), cast(Tensor, batch.targets).to(found) / (high - low)
        )

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        target = self._in_range(cast(Tensor, batch.targets))
        if ((target < 0) | (target > SCALE)).any():
            raise TaskError(
                f"a target lies outside the declared {self.bounds[0]:g}..{self.bounds[1]:g}",
                where="bounds",
                fix="declare the range that targets can have",
            )
        predicted = self._in_range(outputs[0].reshape(len(batch)))
        return {"target": target, "predicted": predicted.clip(-SCALE, 2 * SCALE)}

    def _in_range(self, values: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        low, high = self.bounds
        share = (values.detach().cpu().double() - low) / (high - low)
        return (share.clamp(-1e6, 1e6) * SCALE).round().long().numpy()
