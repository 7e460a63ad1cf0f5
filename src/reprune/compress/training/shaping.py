"""What is done to a model while it trains besides learning: masks held or grown, regularisers added.

A training (compress.training.recover) calls its shapers in order, at two places of every step. Gradual masks,
movement scores, sparse learning and quantisation-aware training are all shapers, so that the training
loop stays one loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a training is: `step` counts optimiser steps from 0 over all epochs, of `steps` in all;
    `steps_per_epoch` makes epochs of them.
    """

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs that are done, as a fraction."""
        return self.step / self.steps_per_epoch


class Shaper(Protocol):
    """Shapes the very module that trains (on its device). Its state goes into the checkpoint.

    It may have four attributes besides. `settled`: whether the module, as the last step left it, may
    be kept as the best. One that is still being pruned or pushed may not. `settings`: what it was made
    with, as text, read before `begin`; a checkpoint of one with other settings is not taken up.
    `recalibrate`: whether the module is to be judged with fresh BatchNorm statistics where those are
    better, because the running ones cannot follow what is done to it. `replicated`: whether what it does
    depends on parameters and gradients alone, so that several processes can each do it.
    A method that draws random numbers finds torch's global generator seeded for the step.
    """

    def begin(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Called once before the first step, and after a resume before `restore`."""

    def after_backward(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, moment: Moment
    ) -> None:
        """Called with fresh gradients (unscaled), before the optimiser's step."""

    def after_step(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, moment: Moment
    ) -> None:
        """Called after the optimiser's step; `moment.step` is the step just taken."""

    def state(self) -> dict[str, Tensor]:
        """All it needs to go on, as tensors by name."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes up what `state` gave."""


def settled(shapers: Iterable[Shaper]) -> bool:
    """Whether all shapers call the module, as it is now, fit to be kept."""
    return all(getattr(shaper, "settled", True) for shaper in shapers)


def recalibrating(shapers: Iterable[Shaper]) -> bool:
    """Whether one of the shapers does more to the module than its running statistics can follow."""
    return any(getattr(shaper, "recalibrate", False) for shaper in shapers)
