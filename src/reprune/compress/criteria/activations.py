"""The criterion that looks at what flows: how large a channel's values are where they are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence

from reprune.compress.criteria.parts import by_channel, folded
from reprune.compress.losses import first_batches
from reprune.compress.structure.architecture import layout
from reprune.compress.structure.groups import Group
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.measure.outputs import evaluating
from reprune.task.protocol import Task


def activation(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> dict[str, Tensor]:
    """The mean absolute value that each reader of the channel is given, over at least
    `params.examples` calibration examples and all places (Polyak and Wolf 2015 use the like).

    Measured after norm, nonlinearity and sums: what is dead there scores 0. A channel that a reader
    has at several places (after flatten) counts their sum. `params.reduction` folds the readers.
    """
    batches = first_batches(task, "calibration", examples=params.examples, seed=seed)
    copied = copy.deepcopy(module)
    readers = {member.module for group in groups for member in group.members if member.axis == "in"}
    seen: dict[str, _Mean] = {name: _Mean() for name in sorted(readers)}
    hooks = [
        copied.get_submodule(name).register_forward_pre_hook(
            lambda layer, given, named, mean=mean: mean.add(layer, (*given, *named.values())[0]),
            with_kwargs=True,
        )
        for name, mean in seen.items()
    ]
    with evaluating(copied):
        for batch in batches:
            copied(*batch.inputs)
    for hook in hooks:
        hook.remove()
    rows = {}
    for group in groups:
        members = [member for member in group.members if member.axis == "in"]
        unseen = [member.module for member in members if not seen[member.module].places]
        if unseen:
            raise CompressionError(
                f"{unseen[0]} did not run on the calibration split",
                where=group.name,
                fix="use another prune.criterion, or inputs that reach the layer",
            )
        rows[group.name] = torch.stack(
            [by_channel(seen[member.module].value, member) for member in members]
        )
    return folded(rows, groups, params)


class _Mean:
    """The mean absolute value at each position of a layer's axis "in", over all that it was given."""

    def __init__(self) -> None:
        self.total = torch.zeros(1, dtype=torch.float64)
        self.places = 0

    @property
    def value(self) -> Tensor:
        return self.total / self.places

    def add(self, layer: nn.Module, given: Tensor | PackedSequence) -> None:
        values = given.data if isinstance(given, PackedSequence) else given
        dim = -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else -1
        rows = values.detach().abs().to("cpu", torch.float64).movedim(dim, 0).flatten(1)
        sums = rows.sum(1)
        found = layout(layer, "in")
        if found is not None and len(sums) != found.size:  # a place in every group of a convolution
            sums = sums.reshape(-1, found.size).sum(0)
        self.total = self.total + sums
        self.places += rows.shape[1]
