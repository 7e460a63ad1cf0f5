"""Images or vectors to one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
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

# Logits differ by less than this; it keeps a score within 64 bits.
_FARTHEST = 1e9


class Classification(ArrayTask):
    """Targets are class numbers (int64, shape (N,)); the module's only output is logits (N, classes).

    Loss: cross entropy. Records: `correct`, 0 or 1, and those of the columns below that `recorded` names:
    `answer` and `actual` (agreement, macro_f1, f1[class]), `confidence` (ece: the softmax's largest, in
    millionths), `score` and `label` (auc, average_precision; two classes only: the second one is the
    positive, its score is how far its logit lies above the first's, in millionths).
    """

    recorded: Sequence[str] = ("answer", "actual")

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG002  the loss is not random
        return F.cross_entropy(module(*batch.inputs), cast(Tensor, batch.targets))

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        logits_NC = outputs[0]
        actual_N = cast(Tensor, batch.targets).to(logits_NC.device)
        answer_N = logits_NC.argmax(dim=1)
        found = {"correct": answer_N == actual_N}
        for name in self.recorded:
            found[name] = _column(name, logits_NC, answer_N, actual_N)
        return {name: column.cpu().numpy().astype(np.int64) for name, column in found.items()}


def _column(name: str, logits_NC: Tensor, answer_N: Tensor, actual_N: Tensor) -> Tensor:
    if name == "answer":
        return answer_N
    if name == "actual":
        return actual_N
    if name == "confidence":
        return (logits_NC.double().softmax(dim=1).amax(dim=1) * SCALE).round()
    if name not in ("score", "label") or logits_NC.shape[1] != 2:
        raise TaskError(
            f"names '{name}', which a classification of {logits_NC.shape[1]} classes cannot record",
            where="recorded",
            fix="use some of: answer, actual, confidence; for two classes also score, label",
        )
    if name == "label":
        return (actual_N == 1).long()
    margin_N = logits_NC[:, 1].double() - logits_NC[:, 0].double()
    return (margin_N.clamp(-_FARTHEST, _FARTHEST) * SCALE).round()
