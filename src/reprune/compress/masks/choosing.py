"""Masks: which weights of a model are kept. Chosen from scores by exact counts, put on, and checked.

A mask is a bool tensor of its weight's shape, True where the weight is kept. What is asked for is a
SparsityPlan; it is always counted from the dense model, so that amounts never compound. Equal scores
go by position (of equal ones those that come first are kept), so that counts are exact whatever the
scores are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from reprune.compress.masks.semistructured import (
    UNSTRUCTURED,
    parse_pattern,
    pattern_mask,
    verify_pattern,
)
from reprune.core.artifacts import SparsityPlan, TensorPlan, TensorSparsity
from reprune.core.errors import CompressionError, nearest

Masks: TypeAlias = Mapping[str, Tensor]
WeightScores: TypeAlias = Mapping[str, Tensor]
Shapes: TypeAlias = Mapping[str, torch.Size]


def zeros_for(size: int, sparsity: float) -> int:
    """How many of `size` weights a sparsity in [0, 1] masks: to the nearest, half up."""
    if not 0.0 <= sparsity <= 1.0:
        raise CompressionError(f"a sparsity is between 0 and 1, not {sparsity}")
    return int(size * sparsity + 0.5)


def plan_sparsity(
    scores: WeightScores, sparsity: float, scope: Literal["global", "local"] = "global"
) -> SparsityPlan:
    """`sparsity` of the scored weights masked: of all of them together, or of each tensor alone.

    With scope "global" the plan's tensors say what these scores would mask of each; other scores may
    mask others. Raises CompressionError where nothing would be kept, or with scope "local" of a tensor.
    """
    shapes = {name: score.shape for name, score in scores.items()}
    if scope == "local":
        counts = {name: zeros_for(shape.numel(), sparsity) for name, shape in shapes.items()}
        return plan_counts(shapes, counts, scope="local")
    total = zeros_for(sum(shape.numel() for shape in shapes.values()), sparsity)
    kept = _kept_globally(_checked(scores), total)
    return plan_counts(shapes, {name: _zeros(mask) for name, mask in kept.items()}, scope="global")


def plan_counts(
    shapes: Shapes,
    zeros: Mapping[str, int],
    scope: Literal["global", "local", "sensitivity"] = "local",
) -> SparsityPlan:
    """Exactly `zeros` weights of each tensor masked, in no pattern."""
    return _plan(UNSTRUCTURED, scope, shapes, zeros)


def plan_pattern(shapes: Shapes, pattern: str) -> SparsityPlan:
    """In each tensor n of every m weights kept, for "n:m".

    Raises CompressionError for a tensor that has no groups of m.
    """
    n, m = parse_pattern(pattern)
    zeros: dict[str, int] = {}
    for name, shape in shapes.items():
        if len(shape) < 2 or shape[1] % m:
            raise CompressionError(f"has no groups of {m} along its inputs", where=name)
        zeros[name] = shape.numel() // m * (m - n)
    return _plan(pattern, "local", shapes, zeros)


def choose_masks(
    scores: WeightScores, plan: SparsityPlan, *, share: float = 1.0, alive: Masks | None = None
) -> dict[str, Tensor]:
    """The masks that `plan` asks for: the lowest scores go, in exact numbers.

    `share` of the whole plan is done (a schedule goes on to 1): that share of its zeros, to the
    nearest. Of a pattern's victims the lowest go first, so that share 1 is the exact pattern. Weights
    that are not in `alive` stay masked, and count; where they are more than the share asks for, no
    other weight goes. Masks lie on the scores' devices.

    Raises CompressionError for scores that are not the plan's tensors or not finite, and where a
    tensor would lose all its weights.
    """
    _check_names(scores, plan)
    ranked = _checked(scores)
    if alive is not None:
        ranked = {
            name: score.masked_fill(~alive[name], -torch.inf) for name, score in ranked.items()
        }
    dead = {name: int((score == -torch.inf).sum()) for name, score in ranked.items()}
    if plan.pattern != UNSTRUCTURED:
        kept = _kept_in_pattern(ranked, plan, share, dead)
    elif plan.scope == "global":
        total = max(zeros_for(plan.zeros, share), sum(dead.values()))
        kept = _kept_globally(ranked, total)
    else:
        kept = {
            item.tensor: keep_highest(
                ranked[item.tensor], max(zeros_for(item.zeros, share), dead[item.tensor])
            )
            for item in plan.tensors
        }
    _refuse_empty(kept)
    return kept


def keep_highest(scores: Tensor, zeros: int) -> Tensor:
    """True for all but exactly `zeros` of the scores: the lowest go, of equal ones the last."""
    if not 0 <= zeros <= scores.numel():
        raise CompressionError(f"cannot mask {zeros} of {scores.numel()} weights")
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = scores.detach().flatten()
    threshold = _lowest(flat, zeros)
    kept = flat > threshold
    room = flat.numel() - zeros - int(kept.sum())
    if room:
        tied = flat == threshold
        kept |= tied & (tied.cumsum(0) <= room)
    return kept.view(scores.shape)


def _lowest(flat: Tensor, count: int) -> float:
    """The `count`-th lowest number."""
    living = flat[flat != -torch.inf]  # selection is slow among thousands of equals
    count -= flat.numel() - living.numel()
    if count <= 0:
        return -torch.inf
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        # NumPy's selection takes half the time of torch's.
        return float(np.partition(living.numpy(), count - 1)[count - 1])
    return float(living.kthvalue(count).values)


def apply_masks(module: nn.Module, masks: Masks) -> nn.Module:
    """A deep copy of `module` whose masked weights are zero.

    Raises CompressionError for masks that do not fit.
    """
    result = copy.deepcopy(module)
    zero_masked(result, masks)
    return result


def zero_masked(module: nn.Module, masks: Masks) -> None:
    """Sets the masked weights of `module` itself to +0.0, in place; the parameters stay the same objects."""
    for name, mask in masks.items():
        parameter = _parameter(module, name, mask)
        with torch.no_grad():
            # Not a product: that would leave -0.0, and NaN where a weight was infinite.
            parameter.masked_fill_(~mask.to(parameter.device), 0.0)


def verify_masks(module: nn.Module, masks: Masks, plan: SparsityPlan | None = None) -> None:
    """Raises CompressionError unless every masked weight is zero, and the masks are what `plan` asks for."""
    for name, mask in masks.items():
        parameter = _parameter(module, name, mask).detach()
        alive = int((parameter.masked_select(~mask.to(parameter.device)) != 0).sum())
        if alive:
            raise CompressionError(f"{alive} masked weights are not zero", where=name)
    if plan is not None:
        _verify_plan(masks, plan)


def tensor_sparsity(masks: Masks, plan: SparsityPlan) -> tuple[TensorSparsity, ...]:
    """What was asked of each of the plan's tensors and what its mask does."""
    return tuple(
        TensorSparsity(
            tensor=item.tensor,
            size=item.size,
            requested=item.zeros,
            zeros=_zeros(masks[item.tensor]),
            pattern=plan.pattern,
        )
        for item in plan.tensors
    )


def count_zeros(masks: Masks) -> int:
    """How many weights are masked, over all tensors."""
    return sum(_zeros(mask) for mask in masks.values())


def _zeros(mask: Tensor) -> int:
    return mask.numel() - int(mask.sum())


def _plan(
    pattern: str,
    scope: Literal["global", "local", "sensitivity"],
    shapes: Shapes,
    zeros: Mapping[str, int],
) -> SparsityPlan:
    total = sum(shape.numel() for shape in shapes.values())
    for name, shape in shapes.items():
        # What a global plan expects of a tensor does not bind: scores may be others by then.
        whole = total if scope == "global" else shape.numel()
        if not 0 <= zeros[name] < whole:
            raise CompressionError(
                f"cannot mask {zeros[name]} of {shape.numel()} weights: at least one has to stay",
                where=name,
                fix="ask for less sparsity, or for another scope",
            )
    return SparsityPlan(
        pattern=pattern,
        scope=scope,
        zeros=sum(zeros[name] for name in shapes),
        tensors=tuple(
            TensorPlan(tensor=name, size=shape.numel(), zeros=zeros[name])
            for name, shape in shapes.items()
        ),
    )


def _kept_globally(scores: WeightScores, zeros: int) -> dict[str, Tensor]:
    if not scores:
        return {}
    device = next(iter(scores.values())).device
    flat = torch.cat([score.flatten().to(device) for score in scores.values()])
    parts = torch.split(keep_highest(flat, zeros), [score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape).to(score.device)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _kept_in_pattern(
    scores: WeightScores, plan: SparsityPlan, share: float, dead: Mapping[str, int]
) -> dict[str, Tensor]:
    n, m = parse_pattern(plan.pattern)
    kept: dict[str, Tensor] = {}
    for item in plan.tensors:
        score = scores[item.tensor]
        living = score != -torch.inf
        stay = pattern_mask(score, n, m) & living
        if share >= 1.0:
            kept[item.tensor] = stay
            continue
        # Weights that the pattern keeps are out of reach of the lowest.
        victims = score.masked_fill(stay, torch.inf)
        kept[item.tensor] = keep_highest(
            victims, max(zeros_for(item.zeros, share), dead[item.tensor])
        )
    return kept


def _checked(scores: WeightScores) -> dict[str, Tensor]:
    for name, score in scores.items():
        # A sum that is finite has only finite parts, and is quicker.
        if not bool(score.sum().isfinite()) and not bool(score.isfinite().all()):
            raise CompressionError(
                "a weight's score is no finite number",
                where=name,
                fix="check the weights and the loss for NaN, or use another criterion",
            )
    return {name: score.detach() for name, score in scores.items()}


def _check_names(scores: WeightScores, plan: SparsityPlan) -> None:
    given = {name: score.numel() for name, score in scores.items()}
    wanted = {item.tensor: item.size for item in plan.tensors}
    if given != wanted:
        differ = sorted(given.items() ^ wanted.items())
        raise CompressionError(
            f"the plan is for other tensors than there are scores for: {differ[:4]}",
            fix="make the plan again for this model",
        )


def _refuse_empty(masks: Masks) -> None:
    empty = [name for name, mask in masks.items() if mask.numel() and not bool(mask.any())]
    if empty:
        raise CompressionError(
            f"every weight would be masked in: {', '.join(empty[:8])}",
            fix="ask for less sparsity, or share it out with plan.scope 'local' or 'sensitivity'",
        )


def _parameter(module: nn.Module, name: str, mask: Tensor) -> Tensor:
    known = dict(module.named_parameters(remove_duplicate=False))
    if name not in known:
        raise CompressionError(
            f"the model has no parameter '{name}' to mask; {nearest(name, known)}"
        )
    if mask.dtype != torch.bool or mask.shape != known[name].shape:
        raise CompressionError(
            f"its mask is {mask.dtype} of shape {tuple(mask.shape)}, the weight's shape is "
            f"{tuple(known[name].shape)}",
            where=name,
        )
    return known[name]


def _verify_plan(masks: Masks, plan: SparsityPlan) -> None:
    _check_names(masks, plan)
    for item in plan.tensors:
        zeros = _zeros(masks[item.tensor])
        if plan.scope != "global" and zeros != item.zeros:
            raise CompressionError(
                f"{zeros} weights are masked, not {item.zeros}", where=item.tensor
            )
        if plan.pattern != UNSTRUCTURED and not verify_pattern(
            masks[item.tensor], *parse_pattern(plan.pattern)
        ):
            raise CompressionError(f"is not in the pattern {plan.pattern}", where=item.tensor)
    if count_zeros(masks) != plan.zeros:
        raise CompressionError(f"{count_zeros(masks)} weights are masked, not {plan.zeros}")
