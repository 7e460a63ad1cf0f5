"""Criteria that need nothing but the weights."""

# ruff: noqa: ARG001  every criterion has the whole signature, whatever it needs of it

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from reprune.compress.criteria.parts import by_channel, fold, folded, summed, vectors
from reprune.compress.importance import at_least
from reprune.compress.structure.groups import Group, Member
from reprune.core.params import PruneParams
from reprune.task.protocol import Task

Scores = dict[str, Tensor]


def l1(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """The sum of absolute weights that make, scale and read the channel (biases left out; Li et al.,
    arXiv:1608.08710, over the whole group). `params.reduction` folds the layers' sums.
    """
    rows = {
        group.name: summed(module, group, lambda w: w.double().abs(), weights_only=True)
        for group in groups
    }
    return folded(rows, groups, params)


def l2(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """The Euclidean norm of the weights that make, scale and read the channel (biases left out).

    The layers' squares are folded, then the root is taken: with "sum" it is the norm of all the
    weights together (the group norm of DepGraph, Fang et al., arXiv:2301.12900, section 3.3), with
    "max" the largest norm of a layer.
    """
    return {name: value.sqrt() for name, value in _squares(module, groups, params).items()}


def lamp(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """Layer-adaptive magnitude (Lee et al., arXiv:2010.07611, equation 4) of whole channels: the
    squared norm over the sum of those that are not smaller. Inside a group the order is that of `l2`;
    between groups the scores are shares of the same kind. Equal channels have equal scores.
    """
    squares = _squares(module, groups, params)
    return {name: value / at_least(value) for name, value in squares.items()}


def bn_scale(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """The absolute scale of the channel in each norm of its group (network slimming, Liu et al.,
    arXiv:1708.06519). `params.reduction` folds several norms.

    A group without such a norm (`without_scale`) is ranked by `l2` instead: scores are compared
    inside a group only.
    """
    scores = l2(task, module, without_scale(module, groups), params=params, seed=seed)
    for group in groups:
        if group.name not in scores:
            rows = torch.stack(
                [
                    by_channel(scale.double().abs(), member)
                    for member, scale in _scales(module, group)
                ]
            )
            scores[group.name] = fold(rows, group, params.reduction)
    return scores


def without_scale(module: nn.Module, groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups in which no norm scales each channel by itself."""
    return tuple(group for group in groups if not _scales(module, group))


def _scales(module: nn.Module, group: Group) -> list[tuple[Member, Tensor]]:
    layers = [(member, module.get_submodule(member.module)) for member in group.members]
    return [
        (member, layer.weight)
        for member, layer in layers
        if isinstance(layer, _NormBase | nn.GroupNorm) and layer.weight is not None
    ]


def fpgm(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """The sum of Euclidean distances from the channel's weights to those of every other channel: small
    near the geometric median, where the others can stand in for it (He et al., arXiv:1811.00250,
    equation 6). Of each layer that makes or reads the channel; `params.reduction` folds them.
    """
    rows = {
        group.name: torch.stack([_distances(vector) for vector in vectors(module, group)])
        for group in groups
    }
    return folded(rows, groups, params)


def random(
    task: Task, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> Scores:
    """Uniform numbers from `seed`: what any criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: torch.rand(group.width, generator=generator, dtype=torch.float64)
        for group in groups
    }


def _squares(module: nn.Module, groups: Sequence[Group], params: PruneParams) -> Scores:
    rows = {
        group.name: summed(module, group, lambda w: w.double().square(), weights_only=True)
        for group in groups
    }
    return folded(rows, groups, params)


def _distances(vectors_: Tensor) -> Tensor:
    """Each row's Euclidean distances to all rows, summed; exact differences, not a matrix product."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(vectors_, vectors_, compute_mode=mode).sum(1)
