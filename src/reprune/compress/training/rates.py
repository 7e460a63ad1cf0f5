"""What drives a training: the optimiser, what it may train, and the learning rate over time."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from msgspec.structs import replace
from torch import nn

from reprune.core.errors import CompressionError, InputError, nearest

if TYPE_CHECKING:
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Task


# Where the search for a learning rate begins, by optimiser; what is trained before there is a search, in
# cuts of several stages, takes these.
USUAL = {"sgd": 0.01, "adam": 3e-4, "adamw": 3e-4}


def base_rate(params: DistillParams) -> float:
    """The learning rate of the params; the usual one of their optimiser for "auto"."""
    return USUAL[params.optimizer] if params.learning_rate == "auto" else params.learning_rate


def rate_at(progress_epochs: float, params: DistillParams) -> float:
    """The share of the base learning rate after `progress_epochs`: linear warm-up, hold, cosine to 0.

    The warm-up takes at most half of the training; the rate is held from its end to `hold_epochs`,
    for ever where the `rate` is "constant".
    """
    warm = min(params.warmup_epochs, params.epochs / 2)
    if progress_epochs < warm:
        return progress_epochs / warm
    start = max(warm, params.hold_epochs)
    if params.rate == "constant" or progress_epochs < start or start >= params.epochs:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (progress_epochs - start) / (params.epochs - start)))


def for_epochs(params: DistillParams, epochs: int) -> DistillParams:
    """`params` for a training of `epochs`, of which the rate is held for the same share."""
    share = params.hold_epochs / params.epochs if params.epochs else 0.0
    return replace(params, epochs=epochs, hold_epochs=share * epochs)


def freeze(student: nn.Module, patterns: tuple[str, ...]) -> None:
    """No parameter whose name fits a shell pattern is trained."""
    for name, parameter in student.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def cut_away(patterns: tuple[str, ...], student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    """The patterns that freeze nothing in the student, because the cut took all that fits them: there is
    such a parameter in the teacher. Raises InputError for one that fits none in either.
    """
    names, whole = ([name for name, _ in one.named_parameters()] for one in (student, teacher))
    gone = []
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        if not any(fnmatchcase(name, pattern) for name in whole):
            raise InputError(
                f"no parameter's name fits '{pattern}'; {nearest(pattern, whole)}",
                where="params.yaml (distill.freeze)",
                fix="use names of model.named_parameters(), with * for anything",
            )
        gone.append(pattern)
    return tuple(gone)


def build_optimizer(task: Task, student: nn.Module, params: DistillParams) -> torch.optim.Optimizer:
    """The task's own optimiser where it has one, else that of the params, over what can be trained.

    Raises CompressionError where nothing can.
    """
    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not trainable:
        raise CompressionError("the student has no parameter that can be trained", where="distill")
    build = getattr(task, "optimizer", None)
    if build is not None:
        found: torch.optim.Optimizer = build(trainable)
        return found
    rate, decay = base_rate(params), params.weight_decay
    if params.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=decay)
    if params.optimizer == "adam":
        return torch.optim.Adam(trainable, lr=rate, weight_decay=decay)
    return torch.optim.SGD(trainable, lr=rate, momentum=params.momentum, weight_decay=decay)


def without_dropout(module: nn.Module) -> None:
    """Sets every dropout probability of `module` to 0: of dropout layers, and of the attributes by
    which attention and recurrent layers hold theirs. Nothing else of train mode changes.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
        for name, value in vars(layer).items():
            if "dropout" in name and isinstance(value, float):
                setattr(layer, name, 0.0)
