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
from reprune.core.errors import ChainBroken, CompressionError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from reprune.core.artifacts import SparsityPlan, TensorSensitivity
    from reprune.core.params import PlanParams, PruneParams
    from reprune.task.protocol import Task


BY_HAND = "params.yaml (plan.sparsities)"


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

    `params.sparsities` are obeyed exactly. For scope "sensitivity" the other tensors' counts have the least
    predicted rise in loss under which `params.sparsity` of all weights are masked; for "global" they are
    what the criterion's scores of the dense model give (magnitude's, for a criterion that is known only in
    training).

    Raises ChainBroken for a table of other tensors, CompressionError for a criterion that cannot share
    zeros out between layers, for a share of a tensor that cannot be masked, and where nothing may be.
    """
    weights = find_weights(task, module, params)
    _refuse_layerwise(params, prune)
    fixed = _by_hand(weights, params.sparsities or {})
    if params.method == "n:m":
        sparsity = plan_pattern(weights.shapes, params.pattern)
    elif params.scope == "local":
        counts = {n: zeros_for(s.numel(), params.sparsity) for n, s in weights.shapes.items()}
        sparsity = plan_counts(weights.shapes, counts | fixed)
    elif params.scope == "sensitivity":
        _refuse_other_tensors(weights, table)
        counts = _shared_out(weights, table, params.sparsity, fixed)
        sparsity = plan_counts(weights.shapes, counts | fixed, scope="sensitivity")
    elif prune.criterion in IN_TRAINING:
        sparsity = plan_sparsity(magnitude(module, weights.names), params.sparsity)
    else:
        scores = weight_scores(task, module, weights.names, prune, seed)
        sparsity = plan_sparsity(scores, params.sparsity)
    return MaskPlan(sparsity=sparsity, weights=weights, loss_increase=_predicted(sparsity, table))


def _by_hand(weights: Weights, sparsities: Mapping[str, float]) -> dict[str, int]:
    """Zeros of the tensors that a person set. Raises CompressionError for one that cannot be masked."""
    for name in sparsities:
        if name not in weights.shapes:
            reason = weights.skipped.get(name)
            raise CompressionError(
                f"{name} cannot be masked: {reason}" if reason else f"there is no tensor '{name}'",
                where=BY_HAND,
                fix=f"take {name} out; {nearest(name, weights.shapes)}",
            )
    return {name: zeros_for(weights.shapes[name].numel(), s) for name, s in sparsities.items()}


def _shared_out(
    weights: Weights, table: Sequence[TensorSensitivity], sparsity: float, fixed: Mapping[str, int]
) -> dict[str, int]:
    """Zeros of the other tensors, so that `sparsity` of all weights are masked if any other is there."""
    free = [item for item in table if item.tensor not in fixed]
    total, taken = zeros_for(weights.size, sparsity), sum(fixed.values())
    if free and taken > total:
        raise CompressionError(
            f"the tensors set by hand have {taken} weights masked, and plan.sparsity asks for {total} of all",
            where=BY_HAND,
            fix="raise plan.sparsity, or lower a share",
        )
    room = sum(item.size for item in free)
    if free and total - taken >= room:
        raise CompressionError(
            f"the tensors that are not set by hand have {room} weights, and {total - taken} of them would "
            "have to be masked",
            where=BY_HAND,
            fix="lower plan.sparsity, or raise a share",
        )
    return allocate_zeros(fit_tensors(free), total - taken) if free else {}


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
