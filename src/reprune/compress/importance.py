"""How much each channel of a group matters. The lowest scores go first; ties go by the higher index.

A criterion is a function with the signature of `Criterion`, by name: built-ins in `compress.criteria`,
others by the entry point group `reprune.importance`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reprune.compress.structure.groups import Group
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.core.plugins import lookup
from reprune.task.protocol import Task

Scores = dict[str, Tensor]

CRITERIA: dict[str, str] = {
    "activation": "reprune.compress.criteria.activations:activation",
    "bn-scale": "reprune.compress.criteria.weights:bn_scale",
    "fisher": "reprune.compress.criteria.fisher:fisher",
    "fpgm": "reprune.compress.criteria.weights:fpgm",
    "hessian": "reprune.compress.criteria.gradients:hessian",
    "l1": "reprune.compress.criteria.weights:l1",
    "l2": "reprune.compress.criteria.weights:l2",
    "lamp": "reprune.compress.criteria.weights:lamp",
    "random": "reprune.compress.criteria.weights:random",
    "taylor": "reprune.compress.criteria.gradients:taylor",
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
        """A finite score for each channel of each group, by the group's name: a tensor of its width.

        `module` is not changed. What is made of a group's several layers is the criterion's own;
        built-ins fold them with `params.reduction`. Equal arguments give equal bits.
        """


def channel_scores(
    task: Task, module: nn.Module, groups: Sequence[Group], params: PruneParams, seed: int
) -> Scores:
    """`params.criterion`'s scores, normalised: for each group's name a float64 tensor of its width.

    `module` is left as it was. Equal seeds give equal bits. Raises UnknownName for a criterion that
    nobody registered, CompressionError for scores that are missing, misshapen or not finite.
    """
    criterion: Criterion = lookup("importance", params.criterion, CRITERIA)
    # Somebody else's criterion may forget what it may not do; built-ins keep to it, and a copy is dear.
    given = module if params.criterion in CRITERIA else copy.deepcopy(module)
    scores: Any = criterion(task, given, groups, params=params, seed=seed)
    for group in groups:
        found = scores.get(group.name) if isinstance(scores, Mapping) else None
        if not _is_score(found, group.width):
            raise CompressionError(
                f"the criterion '{params.criterion}' gave no finite score for each of "
                f"{group.width} channels",
                where=group.name,
                fix="check the weights and the loss for NaN (and that the criterion gives a tensor a group), "
                "or use another prune.criterion",
            )
    return {
        group.name: normalized(
            scores[group.name].detach().to("cpu", torch.float64), params.normalizer
        )
        for group in groups
    }


def lowest_removed(scores: Tensor, keep: int) -> tuple[int, ...]:
    """The `keep` channels with the highest scores, ascending; of equal ones those that come first.

    Exactly `keep` are left whatever the scores are, also when all are equal.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[:keep].tolist()))


def normalized(scores: Tensor, normalizer: str) -> Tensor:
    """`scores` of one group on a scale that other groups share; their order stays what it was.

    "none"; divided by the "sum", "mean" or "max" of their sizes; "standardize" to 0 .. 1; "gaussian"
    to mean 0 and standard deviation 1; "lamp": each over the sum of those that are not smaller. Where
    that divides by nothing (all equal, all zero) the scores are 0. Raises CompressionError for
    negative scores with "lamp", and for another word.
    """
    size = scores.abs()
    divisors = {"none": None, "sum": size.sum(), "mean": size.mean(), "max": size.max()}
    if normalizer in divisors:
        by = divisors[normalizer]
        return scores if by is None else _over(scores, by)
    if normalizer == "standardize":
        return _over(scores - scores.min(), scores.max() - scores.min())
    if normalizer == "gaussian":
        return _over(scores - scores.mean(), scores.std(correction=0))
    if normalizer == "lamp" and bool((scores >= 0).all()):
        return scores / at_least(scores)
    raise CompressionError(
        f"the normalizer '{normalizer}' "
        + ("needs scores that are not negative" if normalizer == "lamp" else "is not known"),
        where="params.yaml (prune.normalizer)",
        fix="use one of: gaussian, max, mean, none, standardize, sum",
    )


def at_least(scores: Tensor) -> Tensor:
    """For each score the sum of all that are not smaller, itself included; 1 where that is 0."""
    ordered, order = torch.sort(scores, descending=True, stable=True)
    # Of equal scores the last one's sum holds them all.
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1
    result = torch.empty_like(scores)
    result[order] = ordered.cumsum(0)[last]
    return torch.where(result == 0, torch.ones_like(result), result)


def criterion_label(params: PruneParams) -> str:
    """What decides which channels go, in a word or two: the criterion and how it folds a group."""
    folded = "" if params.reduction == "sum" else f" ({params.reduction})"
    return f"{params.criterion}{folded}"


def _is_score(found: object, width: int) -> bool:
    return (
        isinstance(found, Tensor)
        and found.shape == (width,)
        and not found.is_complex()
        and bool(found.isfinite().all())
    )


def _over(scores: Tensor, by: Tensor) -> Tensor:
    return scores / by if bool(by > 0) else torch.zeros_like(scores)
