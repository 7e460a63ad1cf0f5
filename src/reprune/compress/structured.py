"""The cut: choose channels, prove that slicing is masking, repair without training, keep the best."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from msgspec import UNSET
from torch import Tensor, nn

from reprune.compress.compensate import Compensated, batch_norms, compensated, recalibrate
from reprune.compress.criteria.apart import keeps_batches_whole
from reprune.compress.criteria.weights import without_scale
from reprune.compress.importance import channel_scores, criterion_label, lowest_removed
from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.planning.cut_costs import group_cuts
from reprune.compress.structure.architecture import Architecture, apply
from reprune.compress.structure.blocks import Block
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Group, frozen_layers
from reprune.core.artifacts import Cost, Surgery
from reprune.core.errors import CompressionError, Diverged, nearest
from reprune.core.params import PruneParams
from reprune.task.protocol import Batch, Task

__all__ = ["CutResult", "cut", "mask"]

Repair: TypeAlias = Literal["cut", "compensated", "recalibrated"]


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """The cut model in eval mode, how to rebuild its shapes from the factory's, and what was done."""

    module: nn.Module
    architecture: Architecture
    surgery: Surgery


def cut(  # noqa: PLR0913, PLR0917  what a cut depends on, none of it a part of another
    task: Task,
    module: nn.Module,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    params: PruneParams,
    seed: int,
    say: Callable[[str], None],
    *,
    blocks: Sequence[Block] = (),
) -> CutResult:
    """`module` with each group of `widths` cut to that many channels, others whole, and without
    `blocks`; it is not changed. Groups inside a removed block are gone with it, whatever their width.

    Before anything is repaired, the sliced model is proven equal to the masked dense one (with the
    same blocks bypassed): no output on the calibration examples differs by more than
    `params.equality_max_abs`. Of the plain cut, the compensated and the recalibrated one (as far as
    `params` allows them) the one with the lowest calibration loss is returned. Equal inputs and seeds
    give equal bits. What each group's cut takes away is counted by planning.cut_costs.asked_and_done.

    Raises CompressionError for an unknown group, an impossible width, widths that cut nothing, a
    model that is not the same sliced as masked, and one whose loss is not finite.
    """
    _check(groups, widths, blocks)
    dense = copy.deepcopy(module).eval()
    scores = channel_scores(task, dense, groups, params, seed)
    kept = {
        group.name: lowest_removed(scores[group.name], widths.get(group.name, group.width))
        for group in groups
    }
    _say_choices(dense, groups, kept, params, say)
    if keeps_batches_whole(task, dense, params, seed):
        say(
            f"the loss is no mean of its examples': '{params.criterion}' takes the gradients of whole batches"
        )
    _say_ties(scores, kept, say)
    architecture = architecture_of(dense, groups, kept, blocks)
    sliced = apply(dense, architecture)
    batches = first_batches(task, "calibration", examples=params.examples, seed=seed)
    masked = mask(dense, groups, kept, blocks)
    apart = _prove(masked, sliced, batches, params.equality_max_abs)
    say(
        f"cut {len(architecture.cuts)} layers, removed {len(blocks)} blocks; sliced and masked outputs "
        f"differ by {apart:.1e}"
    )
    candidates, repaired = _candidates(dense, sliced, architecture, groups, batches, params)
    if repaired is not None:
        _say_unfitted(repaired, architecture, params, say)
    losses = {
        repair: mean_loss(task, candidate, batches, seed=seed)
        for repair, candidate in candidates.items()
    }
    best = _best(losses, say)
    surgery = Surgery(
        criterion=criterion_label(params),
        groups=group_cuts(groups, widths, kept),
        before=cost_of(task, dense),
        after=cost_of(task, candidates[best]),
        equality_max_abs=apart,
        loss_dense=mean_loss(task, dense, batches, seed=seed),
        loss_cut=losses["cut"],
        loss_compensated=losses.get("compensated"),
        loss_recalibrated=losses.get("recalibrated"),
        kept=best,
        blocks=tuple(removal.module for removal in architecture.removed) or UNSET,
        unfitted=(dict(repaired.unfitted) if repaired else {}) or UNSET,
        left=(dict(repaired.left) if repaired else {}) or UNSET,
    )
    _accept(surgery, say)
    return CutResult(module=candidates[best], architecture=architecture, surgery=surgery)


def _check(groups: Sequence[Group], widths: Mapping[str, int], blocks: Sequence[Block]) -> None:
    known = {group.name: group.width for group in groups}
    for name, keep in widths.items():
        if name not in known:
            raise CompressionError(
                f"the model has no group '{name}' that can be cut; {nearest(name, known)}",
                fix="make the plan again for this model",
            )
        if not 1 <= keep <= known[name]:
            raise CompressionError(
                f"cannot keep {keep} of {known[name]} channels",
                where=name,
                fix=f"ask for 1 to {known[name]}",
            )
    if not blocks and all(keep == known[name] for name, keep in widths.items()):
        raise CompressionError(
            "nothing is cut: every group keeps its full width",
            fix="lower plan.fraction, plan.min_keep or plan.round_to, and make the plan again",
        )


def _say_choices(
    module: nn.Module,
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    params: PruneParams,
    say: Callable[[str], None],
) -> None:
    """Names the groups that the criterion "bn-scale" has to rank by something else, the frozen layers
    that are cut as well, and a normalizer, which only a comparison between groups would heed.
    """
    touched = [group for group in groups if len(kept[group.name]) < group.width]
    if params.criterion == "bn-scale":
        bare = [group.name for group in without_scale(module, touched)]
        if bare:
            say(f"no norm scales the channels of {', '.join(bare)}: ranked by l2")
    if params.normalizer != "none":
        say(
            f"prune.normalizer '{params.normalizer}' changes no choice here: channels are compared inside "
            "their group only, and how many go is the plan's"
        )
    frozen = frozen_layers(module, touched)
    if frozen:
        say(f"cuts layers with frozen parameters too: {', '.join(frozen)}")


def _say_ties(
    scores: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]], say: Callable[[str], None]
) -> None:
    """Names the groups that are cut, and of whose channels the criterion tells no difference."""
    tied = [
        name
        for name, chosen in kept.items()
        if len(chosen) < len(scores[name]) and bool((scores[name] == scores[name][0]).all())
    ]
    if tied:
        say(f"all channels score the same in {', '.join(tied)}: the first ones are kept")


def _prove(masked: nn.Module, sliced: nn.Module, batches: Sequence[Batch], limit: float) -> float:
    apart = difference(masked, sliced, (batch.inputs for batch in batches))
    if not apart <= limit:
        raise CompressionError(
            f"the sliced model is not the masked one: outputs differ by {apart:.3g}, "
            f"{limit:.3g} is allowed",
            fix="forward() depends on the number or position of channels: name the layers in "
            "`keep`, or raise prune.equality_max_abs if outputs are that large",
        )
    return apart


def _candidates(
    dense: nn.Module,
    sliced: nn.Module,
    architecture: Architecture,
    groups: Sequence[Group],
    batches: Sequence[Batch],
    params: PruneParams,
) -> tuple[dict[Repair, nn.Module], Compensated | None]:
    """What may be kept, the plainest first, and what compensation did, where it is on.
    BatchNorm statistics are renewed for the plain cut only: after compensation the old ones fit, and
    renewing them makes it worse.
    """
    candidates: dict[Repair, nn.Module] = {"cut": sliced}
    made = None
    if params.compensate:
        made = compensated(
            dense,
            sliced,
            architecture,
            groups,
            batches,
            params.ridge,
            onwards=params.refit == "onwards",
        )
        candidates["compensated"] = made.module
    if params.recalibrate and batch_norms(sliced):
        candidates["recalibrated"] = recalibrate(sliced, batches)
    return candidates, made


def _say_unfitted(
    made: Compensated,
    architecture: Architecture,
    params: PruneParams,
    say: Callable[[str], None],
) -> None:
    """Names what compensation did not make up for, each with the reason."""
    if made.unfitted:
        say("not refitted: " + "; ".join(f"{name} ({why})" for name, why in made.unfitted.items()))
    for reason in dict.fromkeys(made.left.values()):
        names = [name for name, why in made.left.items() if why == reason]
        say(f"left as they are behind the cut, because {reason}: {', '.join(names)}")
    if architecture.removed and (params.refit == "readers" or not made.attempted):
        gone = ", ".join(removal.module for removal in architecture.removed)
        say(f"no weight makes up for the removed blocks ({gone}); prune.refit is '{params.refit}'")


def _best(losses: dict[Repair, float], say: Callable[[str], None]) -> Repair:
    """The repair with the lowest finite loss, the plainest of equals; the others' losses are dropped,
    and it is said, where they are not finite. Raises Diverged where the plain cut's is not.
    """
    if not math.isfinite(losses["cut"]):
        raise Diverged(
            f"the loss of the cut model on the calibration split is {losses['cut']}",
            fix="cut less, or correct the task's loss()",
        )
    for repair in [name for name, loss in losses.items() if not math.isfinite(loss)]:
        say(f"the {repair} model has no finite loss on the calibration split: not used")
        del losses[repair]
    return min(losses, key=lambda repair: losses[repair])


def cost_of(task: Task, module: nn.Module) -> Cost:
    """Parameters, MACs for one example, and bytes of the module."""
    from reprune.measure.profile import count_cost

    return count_cost(module, task.example_inputs(1)).cost


def _accept(surgery: Surgery, say: Callable[[str], None]) -> None:
    """Says what the cut did. Raises CompressionError if it did nothing, or the dense loss is not finite."""
    if surgery.after.params >= surgery.before.params:
        raise CompressionError(
            f"the cut removed nothing: {surgery.before.params} parameters before and "
            f"{surgery.after.params} after",
        )
    if not math.isfinite(surgery.loss_dense):
        raise CompressionError(
            f"the dense model's loss on the calibration split is {surgery.loss_dense}",
            fix="correct the task's loss()",
        )
    losses = {
        "dense": surgery.loss_dense,
        "cut": surgery.loss_cut,
        "compensated": surgery.loss_compensated,
        "recalibrated": surgery.loss_recalibrated,
    }
    tried = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None)
    say(f"calibration loss: {tried}; kept the {surgery.kept} model")
