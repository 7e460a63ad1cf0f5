"""How much each channel of a group matters. The lowest scores go first; ties go by the higher index.

A criterion is a function with the signature of `Criterion`, by name: built-ins below, others by the
entry point group `reprune.importance`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from reprune.compress.architecture import layout
from reprune.compress.groups import Group, Member
from reprune.compress.losses import first_batches
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.core.plugins import lookup
from reprune.task.protocol import Task

Scores = dict[str, Tensor]

CRITERIA: dict[str, str] = {
    "fisher": "reprune.compress.mask_fisher:fisher",
    "l1": "reprune.compress.importance:l1",
    "l2": "reprune.compress.importance:l2",
    "random": "reprune.compress.importance:random",
    "taylor": "reprune.compress.importance:taylor",
}


class Criterion(Protocol):
    def __call__(
        self,
        task: Task,
        module: nn.Module,
        groups: Sequence[Group],
        *,
        params: PruneParams,
        seed: int,
    ) -> Scores:
        """A finite score for each channel of each group, by the group's name."""


def channel_scores(
    task: Task, module: nn.Module, groups: Sequence[Group], params: PruneParams, seed: int
) -> Scores:
    """`params.criterion`'s scores: for each group's name a float64 tensor of its width.

    `module` is left as it was. Equal seeds give equal bits. Raises UnknownName for a criterion that
    nobody registered, CompressionError for scores that are missing, misshapen or not finite.
    """
    criterion: Criterion = lookup("importance", params.criterion, CRITERIA)
    scores = criterion(task, module, groups, params=params, seed=seed)
    for group in groups:
        found = scores.get(group.name)
        if found is None or found.shape != (group.width,) or not bool(found.isfinite().all()):
            raise CompressionError(
                f"the criterion '{params.criterion}' gave no finite score for each of "
                f"{group.width} channels",
                where=group.name,
                fix="check the weights and the loss for NaN, or use another prune.criterion",
            )
    return {group.name: scores[group.name].to(torch.float64) for group in groups}


def lowest_removed(scores: Tensor, keep: int) -> tuple[int, ...]:
    """The `keep` channels with the highest scores, ascending; of equal ones those that come first.

    Exactly `keep` are left whatever the scores are, also when all are equal.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[:keep].tolist()))


def l1(
    task: Task,  # noqa: ARG001  the signature of every criterion
    module: nn.Module,
    groups: Sequence[Group],
    *,
    params: PruneParams,  # noqa: ARG001  as above
    seed: int,  # noqa: ARG001  as above
) -> Scores:
    """The sum of absolute weights that make, scale and read the channel (biases left out)."""
    return _summed(module, groups, lambda weight: weight.abs(), names=("weight",))


def l2(
    task: Task,  # noqa: ARG001  the signature of every criterion
    module: nn.Module,
    groups: Sequence[Group],
    *,
    params: PruneParams,  # noqa: ARG001  as above
    seed: int,  # noqa: ARG001  as above
) -> Scores:
    """The Euclidean norm of the weights that make, scale and read the channel (biases left out)."""
    squares = _summed(module, groups, lambda weight: weight.square(), names=("weight",))
    return {name: value.sqrt() for name, value in squares.items()}


def random(
    task: Task,  # noqa: ARG001  the signature of every criterion
    module: nn.Module,  # noqa: ARG001  as above
    groups: Sequence[Group],
    *,
    params: PruneParams,  # noqa: ARG001  as above
    seed: int,
) -> Scores:
    """Uniform numbers from `seed`: what any criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: torch.rand(group.width, generator=generator, dtype=torch.float64)
        for group in groups
    }


def taylor(
    task: Task,
    module: nn.Module,
    groups: Sequence[Group],
    *,
    params: PruneParams,
    seed: int,
) -> Scores:
    """|weight x gradient| summed over all that a channel has in the group: weights, biases and the
    scales and shifts of its norms (first order, Molchanov et al., arXiv:1906.10771).

    The mean over at least `params.examples` training examples (fewer if there are fewer), with
    BatchNorm in eval mode. Frozen parameters count as if they were not.
    """
    batches = first_batches(task, "train", examples=params.examples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scored = copy.deepcopy(module).eval()
    for parameter in scored.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    total: Scores = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    for batch in batches:
        scored.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(task.loss(scored, batch, generator))
        for name, value in _summed(scored, groups, _gradient_product, names=None).items():
            total[name] += value * len(batch)
    examples = sum(len(batch) for batch in batches)
    return {name: value / examples for name, value in total.items()}


def _gradient_product(tensor: Tensor) -> Tensor:
    if tensor.grad is None:  # a buffer, or a parameter that the loss does not depend on
        return torch.zeros_like(tensor)
    return (tensor * tensor.grad).abs()


def _summed(
    module: nn.Module,
    groups: Sequence[Group],
    measure: Callable[[Tensor], Tensor],
    *,
    names: tuple[str, ...] | None,
) -> Scores:
    """For each group, `measure` of its members' tensors (those in `names`), summed by channel."""
    layers: Mapping[str, nn.Module] = dict(module.named_modules())
    result: Scores = {}
    for group in groups:
        score = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            layer = layers[member.module]
            found = layout(layer, member.axis)
            for name, dim in found.tensors.items() if found else ():
                tensor: Tensor | None = getattr(layer, name, None)
                if isinstance(tensor, nn.Parameter) and (names is None or name in names):
                    score += _by_channel(measure(tensor), dim, member)
        result[group.name] = score
    return result


def _by_channel(values: Tensor, dim: int, member: Member) -> Tensor:
    """`values` summed over everything but `dim`, then over each channel's positions."""
    rows = values.detach().to(device="cpu", dtype=torch.float64).movedim(dim, 0)
    sums = rows.reshape(len(rows), -1).sum(dim=1)
    channels = [c for c, indices in enumerate(member.positions) for _ in indices]
    positions = [index for indices in member.positions for index in indices]
    result = torch.zeros(len(member.positions), dtype=torch.float64)
    return result.index_add_(0, torch.tensor(channels), sums[torch.tensor(positions)])
