"""A batch as its single examples, for what has to be known of each: where that means something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from reprune.compress.losses import first_batches, part_of
from reprune.compress.paired import batch_losses
from reprune.core.params import PruneParams
from reprune.task.protocol import Batch, Task

# The criteria that ask for the gradient of every single example.
BY_EXAMPLE = ("fisher", "hessian")
# Of the larger loss: what rounding in batches of other sizes may make of a mean.
TOLERANCE = 1e-4


def taken_apart(
    task: Task, module: nn.Module, batches: Sequence[Batch], *, seed: int
) -> list[Batch]:
    """The batches' examples one by one; the batches themselves where the first one's loss is no mean of
    its examples' (`mixes_examples`), and each whose targets are not tensors by example.
    """
    if mixes_examples(task, module, batches[0], seed=seed):
        return list(batches)
    return [one for batch in batches for one in singles(batch)]


def keeps_batches_whole(task: Task, module: nn.Module, params: PruneParams, seed: int) -> bool:
    """Whether `params.criterion` wants single examples, and the task's loss is about batches."""
    if params.criterion not in BY_EXAMPLE:
        return False
    (first, *_) = first_batches(task, "train", examples=1, seed=seed)
    return mixes_examples(task, module, first, seed=seed)


def mixes_examples(task: Task, module: nn.Module, batch: Batch, *, seed: int) -> bool:
    """Whether the loss of `batch` is no mean of its examples' losses, as with negatives from the batch:
    of an example alone such a loss says nothing.

    A mean, however it is weighted, lies between those of the batch's two halves, and so on down. False
    for a batch that cannot be taken apart, and for a loss that is random: nobody can tell.
    """

    def loss(part: Batch, seed: int = seed) -> float:
        return batch_losses(task, module, [part], seed=seed).mean

    if not _is_divisible(batch):
        return False
    whole = loss(batch)
    if loss(batch, seed + 1) != whole:
        return False
    while len(batch) > 1:
        middle = len(batch) // 2
        batch, rest = _part(batch, slice(middle)), _part(batch, slice(middle, None))
        first, other = loss(batch), loss(rest)
        slack = TOLERANCE * max(abs(first), abs(other))
        # So written that NaN, as of one example's variance, is no mean either.
        if not min(first, other) - slack <= whole <= max(first, other) + slack:
            return True
        whole = first
    return False


def singles(batch: Batch) -> Iterator[Batch]:
    """The batch's examples one by one; the batch itself where its targets are not tensors by example."""
    if len(batch) > 1 and _is_divisible(batch):
        for index in range(len(batch)):
            yield _part(batch, slice(index, index + 1))
    else:
        yield batch


def _part(batch: Batch, places: slice) -> Batch:
    return part_of(batch, places, _sliced(batch.targets, places))


def _is_divisible(batch: Batch) -> bool:
    count = len(batch)
    return _by_example(batch.targets, count) and _by_example(batch.inputs, count)


def _by_example(value: object, count: int) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 0 and len(value) == count
    if isinstance(value, Mapping):
        return bool(value) and all(_by_example(inner, count) for inner in value.values())
    if isinstance(value, tuple):
        return bool(value) and all(_by_example(inner, count) for inner in value)
    return False


def _sliced(value: object, places: slice) -> object:
    if isinstance(value, Tensor):
        return value[places]
    if isinstance(value, Mapping):
        return {name: _sliced(inner, places) for name, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_sliced(inner, places) for inner in value)
    return value
