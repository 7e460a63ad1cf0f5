"""From params to a SparsityPlan: how many weights of which tensors are masked, and what that should cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.masks.choosing import plan_counts, plan_pattern, plan_sparsity, zeros_for
from reprune.compress.masks.maskable import Weights, maskable
from reprune.compress.masks.reconstruct import METHODS
from reprune.compress.masks.scores import IN_TRAINING, magnitude, weight_scores
from reprune.compress.masks.semistructured import UNSTRUCTURED, parse_pattern
from reprune.compress.masks.sensitivity import allocate_zeros, fit_tensors
from reprune.compress.planning.curves import predicted
from reprune.core.errors import ChainBroken, CompressionError

if TYPE_CHECKING:
    from torch import nn

    from reprune.core.artifacts import SparsityPlan, TensorSensitivity
    from reprune.core.params import PlanParams, PruneParams
    from reprune.task.protocol import Task


@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """`loss_increase` is the sum of what the tensors' curves say; None where none were measured."""

    sparsity: SparsityPlan
    weights: Weights
    loss_increase: float | None


def find_weights(task: Task, module: nn.Module, params: PlanParams) -> Weights:
    """The weights that `params.method` may mask. Raises CompressionError, with the reasons, for none."""
    pattern = params.pattern if params.method == "n:m" else UNSTRUCTURED
    if pattern != UNSTRUCTURED:
        parse_pattern(pattern)
    weights = maskable(module, getattr(task, "keep", ()), pattern)
    if not weights.shapes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in weights.skipped.items())
        raise CompressionError(
            f"no weight of this model may be masked ({reasons or 'it has none'})",
            fix="shorten the task's `keep`, or use another plan.pattern or plan.method",
        )
    return weights


def plan_masks(
    task: Task,
    module: nn.Module,
    params: PlanParams,
    prune: PruneParams,
    table: Sequence[TensorSensitivity],
    seed: int,
) -> MaskPlan:
    """The plan for `params.method` "weights" or "n:m": exact counts for each tensor.

    For scope "sensitivity" the counts have the least predicted rise in loss; for "global" they are
    what the criterion's scores of the dense model give (magnitude's, for a criterion that is known only
    in training). Raises ChainBroken for a table of other tensors, CompressionError for a criterion
    that cannot share zeros out between layers, and where nothing may be masked.
    """
    weights = find_weights(task, module, params)
    _refuse_layerwise(params, prune)
    if params.method == "n:m":
        sparsity = plan_pattern(weights.shapes, params.pattern)
    elif params.scope == "local":
        counts = {n: zeros_for(s.numel(), params.sparsity) for n, s in weights.shapes.items()}
        sparsity = plan_counts(weights.shapes, counts)
    elif params.scope == "sensitivity":
        _refuse_other_tensors(weights, table)
        counts = allocate_zeros(fit_tensors(table), zeros_for(weights.size, params.sparsity))
        sparsity = plan_counts(weights.shapes, counts, scope="sensitivity")
    elif prune.criterion in IN_TRAINING:
        sparsity = plan_sparsity(magnitude(module, weights.names), params.sparsity)
    else:
        scores = weight_scores(task, module, weights.names, prune, seed)
        sparsity = plan_sparsity(scores, params.sparsity)
    return MaskPlan(sparsity=sparsity, weights=weights, loss_increase=_predicted(sparsity, table))


def _predicted(sparsity: SparsityPlan, table: Sequence[TensorSensitivity]) -> float | None:
    """None also where a table was measured for masks in no pattern and the plan has one."""
    curves = fit_tensors(table)
    if sparsity.pattern != UNSTRUCTURED or curves.keys() != {t.tensor for t in sparsity.tensors}:
        return None
    return predicted(curves, {item.tensor: item.size - item.zeros for item in sparsity.tensors})


def _refuse_layerwise(params: PlanParams, prune: PruneParams) -> None:
    if params.method == "weights" and params.scope == "global" and prune.criterion in METHODS:
        raise CompressionError(
            f"'{prune.criterion}' goes layer by layer and cannot share zeros out between layers",
            where="params.yaml (plan.scope)",
            fix="set plan.scope to 'local' or 'sensitivity', or use another prune.criterion",
        )


def _refuse_other_tensors(weights: Weights, table: Sequence[TensorSensitivity]) -> None:
    measured = {item.tensor: item.size for item in table}
    if measured != {name: shape.numel() for name, shape in weights.shapes.items()}:
        raise ChainBroken(
            "the sensitivity was measured for other tensors than may be masked now",
            where="sensitivity",
            fix="run `sensitivity` again",
        )
