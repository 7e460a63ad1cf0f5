"""Where a training runs and in which precision: Accelerate's choice, with its refusals in our words."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from reprune.core.errors import InputError


def accelerator_of(precision: str) -> Any:
    """Accelerate's choice of device: a GPU where there is one and ACCELERATE_USE_CPU is not set.

    A process keeps the precision that it trained in first. Raises InputError for another, or for one
    that this machine does not have.
    """
    try:
        accelerator = Accelerator(mixed_precision=precision)
    except ValueError as error:
        raise InputError(
            f"cannot train in the precision '{precision}': {error}",
            where="params.yaml (distill.precision)",
            fix="use 'no', another machine, or a new process: Accelerate keeps a process's first",
        ) from error
    if precision == "fp16" and accelerator.scaler is None:
        raise InputError(
            "fp16 needs a GPU: without one, small gradients would be lost",
            where="params.yaml (distill.precision)",
            fix="set it to 'no' or 'bf16'",
        )
    return accelerator


def unscale(accelerator: Any, optimizer: torch.optim.Optimizer) -> None:
    """Takes the loss scale out of the gradients (fp16 only), once a step."""
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(optimizer)


def gradients_are_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Whether no gradient of the optimiser's parameters is infinite or NaN."""
    return all(
        bool(parameter.grad.isfinite().all())
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    )
