"""How much each single weight matters: the scores that masks are chosen by. The lowest are masked.

A criterion is a function with the signature of `WeightCriterion`, by name: built-ins below, others by
the entry point group `reprune.weight_importance`. `movement` and `magnitude-adam` need a training
that goes on and are taken inside one (`mask_shaper`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from reprune.compress.losses import first_batches
from reprune.core.errors import CompressionError
from reprune.core.plugins import lookup

if TYPE_CHECKING:
    from reprune.core.params import PruneParams
    from reprune.task.protocol import Task

WEIGHT_CRITERIA: dict[str, str] = {
    "l1": "reprune.compress.masks.scores:by_magnitude",
    "l2": "reprune.compress.masks.scores:by_magnitude",
    "magnitude": "reprune.compress.masks.scores:by_magnitude",
    "random": "reprune.compress.masks.scores:by_chance",
    "taylor": "reprune.compress.masks.scores:by_taylor",
}
IN_TRAINING = ("movement", "magnitude-adam")


class WeightCriterion(Protocol):
    def __call__(
        self,
        task: Task,
        module: nn.Module,
        names: Iterable[str],
        *,
        params: PruneParams,
        seed: int,
    ) -> dict[str, Tensor]:
        """A finite score for each weight of the parameters `names`, of the parameter's shape."""


def weight_scores(
    task: Task, module: nn.Module, names: Iterable[str], params: PruneParams, seed: int
) -> dict[str, Tensor]:
    """`params.criterion`'s score of each weight of the parameters `names`, in their order.

    `module` is left as it was. Equal seeds give equal bits. Raises UnknownName for a criterion that
    nobody registered, CompressionError for scores that are missing, misshapen or not finite, or for
    a criterion that needs a training.
    """
    wanted = tuple(names)
    if params.criterion in IN_TRAINING:
        raise CompressionError(
            f"'{params.criterion}' is known only while the model trains",
            where="params.yaml (prune.criterion)",
            fix="use a gradual prune.schedule, or one of: " + ", ".join(sorted(WEIGHT_CRITERIA)),
        )
    criterion: WeightCriterion = lookup("weight_importance", params.criterion, WEIGHT_CRITERIA)
    scores = criterion(task, module, wanted, params=params, seed=seed)
    for name in wanted:
        found, shape = scores.get(name), module.get_parameter(name).shape
        if found is None or found.shape != shape or not bool(found.isfinite().all()):
            raise CompressionError(
                f"the criterion '{params.criterion}' gave no finite score for each weight",
                where=name,
                fix="check the weights and the loss for NaN, or use another prune.criterion",
            )
    return {name: scores[name] for name in wanted}


def magnitude(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """|w|, as detached tensors of their own."""
    return {name: module.get_parameter(name).detach().abs() for name in names}


def magnitude_adam(
    module: nn.Module, optimizer: torch.optim.Optimizer, names: Iterable[str]
) -> dict[str, Tensor]:
    """w^2 sqrt(v), v Adam's mean of squared gradients: the rise in loss w^2 h / 2 of losing a weight
    (LeCun et al. 1990, "Optimal Brain Damage", eq. 5) with the gradients' size for the curvature h.

    A weight that never got a gradient scores 0. Raises CompressionError for an optimiser that keeps
    no `exp_avg_sq` of every weight.
    """
    scores: dict[str, Tensor] = {}
    for name in names:
        parameter = module.get_parameter(name)
        second = optimizer.state.get(parameter, {}).get("exp_avg_sq")
        if second is None or second.shape != parameter.shape:
            raise CompressionError(
                f"{type(optimizer).__name__} keeps no second moment of its gradients",
                where=name,
                fix="train with Adam or AdamW (the task's optimizer), or use another criterion",
            )
        scores[name] = parameter.detach().square() * second.sqrt()
    return scores


def taylor(
    task: Task, module: nn.Module, names: Iterable[str], *, examples: int, seed: int
) -> dict[str, Tensor]:
    """|w g|: the first-order change of the loss when the weight goes (Molchanov et al.,
    arXiv:1906.10771), the mean over batches of at least `examples` of `train`, weighted by size.

    Eval mode; frozen parameters count as if they were not. `module` is left as it was.
    """
    batches = first_batches(task, "train", examples=examples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scored = copy.deepcopy(module).eval()
    for parameter in scored.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    weights = {name: scored.get_parameter(name) for name in names}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in batches:
        scored.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(task.loss(scored, batch, generator))
        for name, weight in weights.items():
            if weight.grad is not None:
                total[name] += (weight * weight.grad).detach().abs() * len(batch)
    count = sum(len(batch) for batch in batches)
    return {name: (value / count).detach() for name, value in total.items()}


def by_magnitude(
    task: Task,  # noqa: ARG001  the signature of every criterion
    module: nn.Module,
    names: Iterable[str],
    *,
    params: PruneParams,  # noqa: ARG001  as above
    seed: int,  # noqa: ARG001  as above
) -> dict[str, Tensor]:
    """|w|; ranks as any norm of a single weight does."""
    return magnitude(module, names)


def by_taylor(
    task: Task, module: nn.Module, names: Iterable[str], *, params: PruneParams, seed: int
) -> dict[str, Tensor]:
    """|w g| over `params.examples` examples."""
    return taylor(task, module, names, examples=params.examples, seed=seed)


def by_chance(
    task: Task,  # noqa: ARG001  the signature of every criterion
    module: nn.Module,
    names: Iterable[str],
    *,
    params: PruneParams,  # noqa: ARG001  as above
    seed: int,
) -> dict[str, Tensor]:
    """Uniform numbers from `seed`: what any criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(module.get_parameter(name).shape, generator=generator) for name in names
    }
