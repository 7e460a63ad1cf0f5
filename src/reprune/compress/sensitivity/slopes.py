"""The first-order change of the loss under cuts and repairs, by one forward and one backward pass a batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reprune.compress.paired import SEED_STRIDE, BatchLosses, seeded
from reprune.compress.replay import CACHE_BYTES, size_of, watched
from reprune.compress.sensitivity.answers import listened
from reprune.compress.sensitivity.moments import Refit

if TYPE_CHECKING:
    from reprune.task.protocol import Batch, Task

Changes = Mapping[str, Mapping[str, Refit]]
"""For each cut (any key), what it makes of its readers."""


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """By batch: `losses` of the dense model, for each cut `changes[key]`, the first-order change of the
    loss (none for a cut without a closed form), `outputs`, what the modules that were asked for gave, and
    `answers`, what the model gave.
    """

    losses: BatchLosses
    changes: Mapping[str, tuple[float, ...]]
    outputs: Sequence[Mapping[str, Any]]
    answers: Sequence[Sequence[Tensor]]


def slopes(
    task: Task,
    module: nn.Module,
    changes: Changes,
    batches: Sequence[Batch],
    *,
    seed: int,
    keep: Collection[str] = (),
) -> Slopes:
    """One forward and one backward pass a batch: the dense losses, and for each cut <dL/dW, change of W>
    summed over its readers, the first-order change of the batch's loss; none where `changes` has no reader.

    Eval mode; the random numbers are those of `paired.batch_losses`. `module` is not changed. A
    change that is not finite is given as 0. `keep` names modules whose outputs are kept too, up to
    the memory that replay.CACHE_BYTES allows.
    """
    looked = copy.deepcopy(module).eval()
    for parameter in looked.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    moves = {
        key: [
            (parameter, value - parameter.detach())
            for name, refit in made.items()
            for parameter, value in _pairs(looked.get_submodule(name), refit)
        ]
        for key, made in changes.items()
    }
    losses: list[float] = []
    found: dict[str, list[float]] = {key: [] for key in changes}
    outputs: list[Mapping[str, Any]] = []
    answers: list[Sequence[Tensor]] = []
    held = 0
    for index, batch in enumerate(batches):
        names = keep if held <= CACHE_BYTES else ()
        with watched(looked, names) as seen, listened(looked) as heard:
            losses.append(_backward(task, looked, batch, seed * SEED_STRIDE + index))
        outputs.append(seen)
        answers.append(heard)
        held += size_of(seen)
        for key, pairs in moves.items():
            found[key].append(_first_order(pairs))
        looked.zero_grad(set_to_none=True)
    return Slopes(
        losses=BatchLosses(losses=tuple(losses), sizes=tuple(len(batch) for batch in batches)),
        # Zeros would say that the change is known, and known to be nothing.
        changes={key: tuple(values) if moves[key] else () for key, values in found.items()},
        outputs=outputs,
        answers=answers,
    )


def _pairs(layer: nn.Module, refit: Refit) -> list[tuple[Tensor, Tensor]]:
    weight: Tensor = layer.weight  # type: ignore[assignment]  # a convolution or Linear
    bias: Tensor | None = layer.bias  # type: ignore[assignment]  # as above
    pairs = [(weight, refit.weight)]
    return pairs if bias is None or refit.bias is None else [*pairs, (bias, refit.bias)]


def _first_order(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    total = math.fsum(
        float((parameter.grad * move).sum(dtype=torch.float64))
        for parameter, move in pairs
        if parameter.grad is not None
    )
    return total if math.isfinite(total) else 0.0


def _backward(task: Task, module: nn.Module, batch: Batch, batch_seed: int) -> float:
    generator = torch.Generator().manual_seed(batch_seed)
    with torch.enable_grad(), seeded(batch_seed, module):
        loss = task.loss(module, batch, generator)
        torch.autograd.backward(loss)
    return float(loss.detach())
