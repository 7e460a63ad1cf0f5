"""The Fisher information of a gate on each channel: what switching it off changes, example by example."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reprune.compress.criteria.apart import taken_apart
from reprune.compress.criteria.parts import summed
from reprune.compress.losses import first_batches
from reprune.compress.structure.groups import Group
from reprune.core.params import PruneParams
from reprune.task.protocol import Task

Scores = dict[str, Tensor]


def fisher(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """The mean over examples of (dL/dm)^2, m a gate of 1 on all that reads the channel: the diagonal of
    the empirical Fisher matrix of the mask (Kwon et al. 2022, arXiv:2204.09656, equations 4 to 8).

    The gate's gradient is the sum of weight x gradient, with its sign, over the readers' weights for
    the channel's positions, so that what cancels out inside a head or between readers counts for
    nothing. It is made for one example at a time (a batch of B that stays whole, see apart.taken_apart,
    counts as B times its own), at least `params.examples` of `train`. A dimension of attention scores
    has no reader: the halved sum over both its factors is its gate. `params.reduction` has no meaning
    here: a channel has one gate.
    """
    batches = first_batches(task, "train", examples=params.examples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scored = copy.deepcopy(module).eval()
    for parameter in scored.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    total = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    examples = sum(len(batch) for batch in batches)
    for one in taken_apart(task, module, batches, seed=seed):
        scored.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(task.loss(scored, one, generator))
        for group in groups:
            # The mean gradient of B independent examples has 1/B of their variance.
            total[group.name] += len(one) ** 2 * _gate(scored, group).square()
    return {name: value / examples for name, value in total.items()}


def _gate(module: nn.Module, group: Group) -> Tensor:
    """dL/dm for each channel, from the gradients that lie in `module`."""
    if any(member.axis == "in" for member in group.members):
        return summed(module, group, _signed, readers_only=True).sum(0)
    return summed(module, group, _signed).sum(0) / 2


def _signed(tensor: Tensor) -> Tensor:
    if tensor.grad is None:  # a parameter that the loss does not depend on
        return torch.zeros_like(tensor)
    return tensor * tensor.grad
