"""The criterion "fisher": how much the loss would change if a channel's output were switched off."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.groups import Group, Member
from reprune.compress.losses import first_batches
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.task.protocol import Task

Scores = dict[str, Tensor]
Seen = Mapping[str, list[Tensor]]


def fisher(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """The mean over examples of (dL/dm)^2, where m = 1 multiplies a channel wherever it is read: the
    diagonal of the empirical Fisher information of the mask (Kwon et al. 2022, arXiv:2204.09656,
    section 4.1).

    One backward pass a batch over at least `params.examples` training examples, in eval mode. It asks
    what a channel does, not how large its weights are, so that groups of different kinds (heads, FFN
    columns, filters) are comparable, each one's score over its cost. Raises CompressionError for a
    group that no linear or convolution layer reads.
    """
    batches = first_batches(task, "train", examples=params.examples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scored = copy.deepcopy(module).eval()
    for parameter in scored.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    readers = {group.name: _readers(scored, group) for group in groups}
    total = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    for batch in batches:
        with torch.enable_grad(), _inputs_of(scored, readers.values()) as seen:
            loss = task.loss(scored, batch, generator) * len(batch)
            gradients = _gradients(loss, seen)
        for group in groups:
            slopes = sum(
                _slopes(scored.get_submodule(member.module), member, *pair)
                for member in readers[group.name]
                for pair in zip(seen[member.module], gradients[member.module], strict=True)
            )
            if isinstance(slopes, Tensor):
                total[group.name] += slopes.square().sum(dim=0)
    examples = sum(len(batch) for batch in batches)
    return {name: value / examples for name, value in total.items()}


def _readers(module: nn.Module, group: Group) -> list[Member]:
    found = [
        member
        for member in group.members
        if member.axis == "in"
        and isinstance(module.get_submodule(member.module), nn.Linear | _ConvNd)
    ]
    if not found:
        raise CompressionError(
            "no linear or convolution layer reads these channels, so 'fisher' cannot judge them",
            where=group.name,
            fix="use another prune.criterion",
        )
    return found


@contextmanager
def _inputs_of(
    module: nn.Module, readers: Iterable[Sequence[Member]]
) -> Iterator[dict[str, list[Tensor]]]:
    """What each reader is given inside the block, one tensor a call."""
    names = {member.module for members in readers for member in members}
    seen: dict[str, list[Tensor]] = {name: [] for name in sorted(names)}
    handles = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0])
        )
        for name in seen
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _gradients(loss: Tensor, seen: Seen) -> dict[str, list[Tensor | None]]:
    flat = [tensor for tensors in seen.values() for tensor in tensors]
    found = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    return {name: [next(found) for _ in tensors] for name, tensors in seen.items()}


def _slopes(layer: nn.Module, member: Member, given: Tensor, gradient: Tensor | None) -> Tensor:
    """dL/dm by example and channel, float64: the sum of input x gradient over all else."""
    width = len(member.positions)
    if gradient is None:
        return torch.zeros(len(given), width, dtype=torch.float64)
    product = (given.detach() * gradient).double().cpu()
    if not isinstance(layer, nn.Linear):
        product = product.movedim(1, -1)
    rows = product.reshape(len(product), -1, product.shape[-1]).sum(dim=1)
    channels = [c for c, indices in enumerate(member.positions) for _ in indices]
    positions = [index for indices in member.positions for index in indices]
    result = torch.zeros(len(rows), width, dtype=torch.float64)
    return result.index_add_(1, torch.tensor(channels), rows[:, torch.tensor(positions)])
