"""Criteria that ask the loss: first and second order, accumulated over training examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from reprune.compress.criteria.apart import taken_apart
from reprune.compress.criteria.parts import folded, summed
from reprune.compress.losses import first_batches
from reprune.compress.structure.groups import Group
from reprune.core.params import PruneParams
from reprune.task.protocol import Batch, Task

Scores = dict[str, Tensor]


def taylor(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """|weight x gradient| summed over all that a channel has in the group: weights, biases and the
    scales and shifts of its norms (first order, Molchanov et al., arXiv:1906.10771).

    The mean over at least `params.examples` training examples (fewer if there are fewer), with
    BatchNorm in eval mode. Frozen parameters count as if they were not. `params.reduction` folds the
    layers of the group.
    """
    batches = first_batches(task, "train", examples=params.examples, seed=seed)
    return _accumulated(task, module, groups, batches, _product, params=params, seed=seed)


def hessian(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """1/2 h w^2 summed over all that a channel has in the group: what the loss rises when the weights
    go and the gradient is zero (optimal brain damage, LeCun et al. 1990, equation 4).

    h is the mean squared gradient of single examples (the diagonal of the empirical Fisher matrix),
    one backward pass for each of at least `params.examples` training examples. Where batches stay whole
    (apart.taken_apart), the squared gradient of a batch of B examples counts as B of them: the same where
    the examples' gradients are independent and cancel out, as they do after training.
    """
    batches = first_batches(task, "train", examples=params.examples, seed=seed)
    apart = taken_apart(task, module, batches, seed=seed)
    return _accumulated(task, module, groups, apart, _curvature, params=params, seed=seed)


def _accumulated(  # noqa: PLR0913  a criterion's own arguments, and what it does with a gradient
    task: Task,
    module: nn.Module,
    groups: Sequence[Group],
    batches: Sequence[Batch],
    measure: Callable[..., Tensor],
    *,
    params: PruneParams,
    seed: int,
) -> Scores:
    """The mean over examples of `measure(parameter, size=len(batch))`, one backward pass a batch."""
    generator = torch.Generator().manual_seed(seed)
    scored = copy.deepcopy(module).eval()
    for parameter in scored.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    total: Scores = {}
    for batch in batches:
        scored.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(task.loss(scored, batch, generator))
        for group in groups:
            rows = summed(scored, group, partial(measure, size=len(batch))) * len(batch)
            total[group.name] = total.get(group.name, torch.zeros_like(rows)) + rows
    examples = sum(len(batch) for batch in batches)
    return folded({name: rows / examples for name, rows in total.items()}, groups, params)


def _product(tensor: Tensor, size: int) -> Tensor:  # noqa: ARG001  as `_curvature`
    if tensor.grad is None:  # a parameter that the loss does not depend on
        return torch.zeros_like(tensor)
    return (tensor * tensor.grad).abs()


def _curvature(tensor: Tensor, size: int) -> Tensor:
    if tensor.grad is None:
        return torch.zeros_like(tensor)
    # The mean gradient of B independent ones has 1/B of their variance.
    return 0.5 * size * (tensor.double() * tensor.grad.double()).square()
