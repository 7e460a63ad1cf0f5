"""The learning rate over a training, as a share of its base, and the optimiser it drives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from torch import nn

    from reprune.core.params import DistillParams
    from reprune.task.protocol import Task


def rate_at(progress_epochs: float, params: DistillParams) -> float:
    """The share of the base learning rate after `progress_epochs`: linear warm-up, then a cosine to 0.

    The warm-up takes at most half of the training.
    """
    warm = min(params.warmup_epochs, params.epochs / 2)
    if progress_epochs < warm:
        return progress_epochs / warm
    return 0.5 * (1.0 + math.cos(math.pi * (progress_epochs - warm) / (params.epochs - warm)))


def build_optimizer(task: Task, student: nn.Module, params: DistillParams) -> torch.optim.Optimizer:
    """The task's own optimiser where it has one, else SGD with momentum, over what can be trained.

    Raises CompressionError where nothing can.
    """
    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not trainable:
        raise CompressionError("the student has no parameter that can be trained", where="distill")
    build = getattr(task, "optimizer", None)
    if build is not None:
        found: torch.optim.Optimizer = build(trainable)
        return found
    return torch.optim.SGD(
        trainable,
        lr=params.learning_rate,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
    )
