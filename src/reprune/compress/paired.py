"""A task's own loss, measured batch by batch, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import fsum, sqrt
from typing import TYPE_CHECKING

import torch

from reprune.compress.structure.coupling import evaluating
from reprune.core.errors import TaskError

if TYPE_CHECKING:
    from torch import nn

    from reprune.task.protocol import Batch, Split, Task

# Seeds of one run times this, plus a count of epochs or batches, never meet.
SEED_STRIDE = 1_000_003


@dataclass(frozen=True, kw_only=True)
class BatchLosses:
    """The mean loss of each batch, and how many examples it has; batches in the split's order."""

    losses: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def examples(self) -> int:
        return sum(self.sizes)

    @property
    def mean(self) -> float:
        """Over examples: batches weigh by their size."""
        weighted = (loss * size for loss, size in zip(self.losses, self.sizes, strict=True))
        return fsum(weighted) / self.examples


def batch_losses(
    task: Task,
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    seed: int,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    part: tuple[int, int] = (0, 1),
) -> BatchLosses:
    """The module's losses in eval mode without gradients; its training flags are as before
    afterwards.

    Batch number i always gets the same random numbers (its generator's and the global ones), so that
    a random loss is paired too. `place` brings a batch to the module's device. Of `part` (i, n) only
    the batches i, i + n, ... are run; the others' losses are 0.
    """
    losses: list[float] = []
    sizes: list[int] = []
    with evaluating(module):
        for index, batch in enumerate(batches):
            sizes.append(len(batch))
            if index % part[1] != part[0]:
                losses.append(0.0)
                continue
            batch_seed = seed * SEED_STRIDE + index
            generator = torch.Generator().manual_seed(batch_seed)
            with seeded(batch_seed, module):
                losses.append(float(task.loss(module, place(batch), generator)))
    return BatchLosses(losses=tuple(losses), sizes=tuple(sizes))


@contextmanager
def seeded(seed: int, module: nn.Module) -> Iterator[None]:
    """The global generators that `module` may draw from (dropout), seeded inside, as before afterwards."""
    devices = {tensor.device for tensor in module.parameters() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        # Not torch.manual_seed: in a process without a GPU it keeps a stack trace of every call.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def at_most(task: Task, split: Split, *, examples: int, seed: int) -> Iterator[Batch]:
    """Whole batches of `split`, in its order, of at most `examples` examples; never less than one batch.

    Raises TaskError for an empty split.
    """
    taken = 0
    for batch in task.batches(split, epoch=0, seed=seed):
        if taken and taken + len(batch) > examples:
            return
        taken += len(batch)
        yield batch
    if not taken:
        raise TaskError(f"the split '{split}' is empty", where="batches()", fix="give it examples")


def paired_increase(after: BatchLosses, before: BatchLosses) -> tuple[float, float]:
    """The mean rise from `before` to `after` over the same batches, and its standard error.

    A task tells the mean loss of a batch, not of an example, so the batch is the unit: with n_b
    examples in batch b, difference d_b and mean D, SE^2 = B/(B-1) sum n_b^2 (d_b - D)^2 / N^2 (the
    ratio estimator, Cochran 1977, 6.4). Examples that are alike inside a batch are thereby allowed
    for. One batch shows no spread: its whole rise is given as the error.
    """
    total = before.examples
    pairs = list(zip(after.losses, before.losses, before.sizes, strict=True))
    mean = fsum((new - old) * size for new, old, size in pairs) / total
    count = len(pairs)
    if count < 2:
        return mean, abs(mean)
    squares = fsum((size * (new - old - mean)) ** 2 for new, old, size in pairs)
    return mean, sqrt(squares * count / (count - 1)) / total
