"""The criterion that looks at what flows: how large a channel's values are where they are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from reprune.compress.criteria.parts import by_channel, folded
from reprune.compress.losses import first_batches
from reprune.compress.structure.architecture import Axis, layout
from reprune.compress.structure.groups import MAKERS, Group, Member
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
    has at several places (after flatten) counts their sum. A channel that no layer reads (a dimension of
    attention scores, a product of two layers' outputs) is measured where layers make it.
    `params.reduction` folds the readers, or the makers.
    """
    batches = first_batches(task, "calibration", examples=params.examples, seed=seed)
    copied = copy.deepcopy(module)
    watched = {group.name: _watched(copied, group) for group in groups}
    seen = {
        (member.module, member.axis): _Mean() for members in watched.values() for member in members
    }
    hooks = [_listen(copied.get_submodule(name), axis, mean) for (name, axis), mean in seen.items()]
    with evaluating(copied):
        for batch in batches:
            copied(*batch.inputs)
    for hook in hooks:
        hook.remove()
    rows = {}
    for name, members in watched.items():
        unseen = [member for member in members if not seen[member.module, member.axis].places]
        if unseen:
            raise CompressionError(
                f"{unseen[0].module} did not run on the calibration split",
                where=name,
                fix="use another prune.criterion, or inputs that reach the layer",
            )
        rows[name] = torch.stack(
            [by_channel(seen[member.module, member.axis].value, member) for member in members]
        )
    return folded(rows, groups, params)


def _watched(module: nn.Module, group: Group) -> list[Member]:
    """The members at which the group's channels are measured."""
    readers = [member for member in group.members if member.axis == "in"]
    makers = [
        member
        for member in group.members
        if isinstance(module.get_submodule(member.module), MAKERS)
    ]
    return readers or makers


def _listen(layer: nn.Module, axis: Axis, mean: _Mean) -> RemovableHandle:
    """Until the handle is removed, `mean` hears what `layer` is given, or gives."""
    if axis == "in":
        return layer.register_forward_pre_hook(
            lambda _, given, named: mean.add(layer, "in", (*given, *named.values())[0]),
            with_kwargs=True,
        )
    return layer.register_forward_hook(
        lambda _, __, made: mean.add(layer, "out", made[0] if type(made) is tuple else made)
    )


class _Mean:
    """The mean absolute value at each position of an axis of a layer, over all that passed there."""

    def __init__(self) -> None:
        self.total = torch.zeros(1, dtype=torch.float64)
        self.places = 0

    @property
    def value(self) -> Tensor:
        return self.total / self.places

    def add(self, layer: nn.Module, axis: Axis, passed: Tensor | PackedSequence) -> None:
        values = passed.data if isinstance(passed, PackedSequence) else passed
        dim = -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else -1
        rows = values.detach().abs().to("cpu", torch.float64).movedim(dim, 0).flatten(1)
        sums = rows.sum(1)
        found = layout(layer, axis)
        # A place in every group of a convolution, a unit in both directions of a recurrent layer.
        if found is not None and len(sums) != found.size:
            sums = sums.reshape(-1, found.size).sum(0)
        self.total = self.total + sums
        self.places += rows.shape[1]
