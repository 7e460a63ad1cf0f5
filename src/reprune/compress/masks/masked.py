"""One-shot masking: scores, masks, repairs without training, and what became of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import UNSET

from reprune.compress.bundle import stored_tensors
from reprune.compress.compensate import batch_norms, recalibrate
from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.masks.choosing import (
    apply_masks,
    choose_masks,
    count_zeros,
    tensor_sparsity,
    verify_masks,
)
from reprune.compress.masks.files import masked_bytes
from reprune.compress.masks.reconstruct import METHODS, reconstruct
from reprune.compress.masks.scores import weight_scores
from reprune.core.artifacts import Surgery
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.core.artifacts import Cost, SparsityPlan
    from reprune.core.params import PruneParams
    from reprune.task.protocol import Task

Repair: TypeAlias = Literal["cut", "compensated", "recalibrated"]


@dataclass(frozen=True, kw_only=True)
class Masked:
    """`module` has the dense model's shapes; its weights are zero where `masks` say so."""

    module: nn.Module
    masks: dict[str, Tensor]
    surgery: Surgery


def mask_model(
    task: Task,
    dense: nn.Module,
    plan: SparsityPlan,
    params: PruneParams,
    *,
    seed: int,
    say: Callable[[str], None],
) -> Masked:
    """A copy of `dense` masked as `plan` says by `params.criterion`, with the least calibration loss.

    Candidates are the plain masked model; for SparseGPT, with `params.compensate`, the one whose kept
    weights are refitted; with `params.recalibrate`, the plain one with fresh BatchNorm statistics. Criteria
    that go layer by layer then renew the statistics on their way, and what is refitted has them.
    Parameters and MACs stay the dense model's: zeros are computed like any other number. `dense` is
    not changed. Raises CompressionError for a plan that masks nothing or does not fit the model.
    """
    if not plan.zeros:
        raise CompressionError("the plan masks nothing", fix="raise plan.sparsity")
    batches = first_batches(task, "calibration", examples=params.examples, seed=seed)
    masks, refitted, unseen = _masks(task, dense, plan, params, seed)
    if unseen:
        say(f"masked by magnitude, their inputs are not seen: {', '.join(unseen)}")
    candidates: dict[Repair, nn.Module] = {"cut": apply_masks(dense, masks)}
    if refitted is not None and params.compensate:
        candidates["compensated"] = refitted
    if params.recalibrate and batch_norms(dense):
        candidates["recalibrated"] = recalibrate(candidates["cut"], batches)
    losses = {name: mean_loss(task, made, batches, seed=seed) for name, made in candidates.items()}
    best = least(losses)
    verify_masks(candidates[best], masks, plan)
    cost = cost_of(task, dense)
    surgery = Surgery(
        criterion=params.criterion,
        groups=(),
        before=cost,
        after=cost,
        equality_max_abs=0.0,
        loss_dense=mean_loss(task, dense, batches, seed=seed),
        loss_cut=losses["cut"],
        loss_compensated=losses.get("compensated"),
        loss_recalibrated=losses.get("recalibrated"),
        kept=best,
        sparsity=tensor_sparsity(masks, plan),
        by_magnitude=unseen or UNSET,
    )
    tell(candidates[best], masks, surgery, say)
    return Masked(module=candidates[best], masks=masks, surgery=surgery)


def least(losses: dict[Repair, float]) -> Repair:
    """The repair with the lowest finite loss, the plainest of equals; others that are not finite are
    dropped from `losses`. Raises CompressionError where the plain one's is not.
    """
    if not math.isfinite(losses["cut"]):
        raise CompressionError(
            f"the loss of the masked model on the calibration split is {losses['cut']}",
            fix="ask for less plan.sparsity, or correct the task's loss()",
        )
    for repair in [name for name, loss in losses.items() if not math.isfinite(loss)]:
        del losses[repair]
    return min(losses, key=lambda repair: losses[repair])


def tell(
    module: nn.Module, masks: Mapping[str, Tensor], surgery: Surgery, say: Callable[[str], None]
) -> None:
    """Says what was masked and what it takes in bytes. Raises CompressionError for a broken dense loss."""
    if not math.isfinite(surgery.loss_dense):
        raise CompressionError(
            f"the dense model's loss on the calibration split is {surgery.loss_dense}",
            fix="correct the task's loss()",
        )
    sizes = masked_bytes(stored_tensors(module), masks)
    total = sum(mask.numel() for mask in masks.values())
    say(
        f"masked {count_zeros(masks)} of {total} weights in {len(masks)} tensors; {sizes.dense} bytes "
        f"as they are stored, {sizes.bitmask} as bits and values, {sizes.compressed} deflated; zeros "
        "alone make nothing faster"
    )
    losses = {
        "dense": surgery.loss_dense,
        "masked": surgery.loss_cut,
        "refitted": surgery.loss_compensated,
        "recalibrated": surgery.loss_recalibrated,
    }
    tried = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None)
    say(f"calibration loss: {tried}; kept the {surgery.kept} model")


def _masks(
    task: Task, dense: nn.Module, plan: SparsityPlan, params: PruneParams, seed: int
) -> tuple[dict[str, Tensor], nn.Module | None, tuple[str, ...]]:
    """The masks; the model with refitted weights, where the criterion refits; what it did not see."""
    for method in METHODS:
        if params.criterion == method:
            batches = first_batches(task, "calibration", examples=params.examples, seed=seed)
            made = reconstruct(dense, batches, plan, method, renew=params.recalibrate)
            refitted = made.module if method == "sparsegpt" else None
            return made.masks, refitted, made.by_magnitude
    names = [item.tensor for item in plan.tensors]
    return choose_masks(weight_scores(task, dense, names, params, seed), plan), None, ()


def cost_of(task: Task, module: nn.Module) -> Cost:
    """What the model costs; zeros are counted in full, for they are computed in full."""
    from reprune.measure.profile import count_cost

    return count_cost(module, task.example_inputs(1)).cost
