"""Masks that look at the inputs: Wanda, and SparseGPT, which also refits the weights that stay.

Layers are taken in the order of the forward pass; each one's inputs come from the model as already
pruned before it, so that later layers see what they will get. Convolutions are read as matrices of
(out, kernel positions x input channels), channels last, so that an n:m pattern runs along channels.

Wanda (Sun et al. 2023, arXiv:2306.11695, section 3): the score of a weight is |w| |x|_2 over its
input; weights compete within a row (one output), weights that stay are not changed.

SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1, sections 3.2-3.4): with
H = X'X + damping, going through the columns of W from left to right, a weight's score is w^2 / d^2
with d the diagonal of the Cholesky factor of the inverse of H; what masking it costs is made good by
the columns to its right. Masks are chosen for a block of columns at a time (for a pattern, for m).
The authors fit each layer to its own outputs on the inputs that it has by then. Here it is first fitted, by
ridge regression on those inputs, to its outputs in the dense model: what was lost before it is made up for
where it can be, and does not add up from layer to layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.compensate import batch_norms, renew_statistics
from reprune.compress.masks.choosing import choose_masks, keep_highest, zero_masked, zeros_for
from reprune.compress.masks.layer_inputs import (
    InputSums,
    input_products,
    order_of_use,
    weight_name,
)
from reprune.compress.masks.semistructured import UNSTRUCTURED, parse_pattern, pattern_mask
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.core.artifacts import SparsityPlan, TensorPlan
    from reprune.task.protocol import Batch

Method: TypeAlias = Literal["wanda", "sparsegpt"]
METHODS: tuple[Method, ...] = ("wanda", "sparsegpt")
BLOCK = 128
# Of the mean of H's diagonal, added to all of it: the authors' own share.
DAMPING = 0.01
# The same of the fit to the dense model's outputs; what compensation has by default (prune.ridge).
RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """`module` is masked by `masks`. `by_magnitude` names tensors whose inputs no layer showed (recurrent
    layers, the projection of what attention makes): they were masked by magnitude.
    """

    module: nn.Module
    masks: dict[str, Tensor]
    by_magnitude: tuple[str, ...]


def reconstruct(
    module: nn.Module,
    batches: Iterable[Batch],
    plan: SparsityPlan,
    method: Method,
    *,
    renew: bool = False,
) -> Reconstructed:
    """A masked copy of `module`, its tensors masked as `plan` says, one layer after the other.

    With `renew` the statistics of each BatchNorm are renewed as soon as something before it is masked: later
    layers see what they get once statistics are renewed. The same inputs give the same bits. Raises
    CompressionError for a plan that binds no tensor (scope "global": these scores are not comparable
    between layers).
    """
    if plan.pattern == UNSTRUCTURED and plan.scope == "global":
        raise CompressionError(
            f"'{method}' goes layer by layer and cannot share zeros out between layers",
            where="params.yaml (plan.scope)",
            fix="set plan.scope to 'local' or 'sensitivity'",
        )
    result = copy.deepcopy(module).eval()
    examples = list(batches)
    items = {item.tensor: item for item in plan.tensors}
    masks: dict[str, Tensor] = {}
    norms = batch_norms(result)
    for name in order_of_use(result, examples):
        layer = result.get_submodule(name)
        tensor = f"{name}.{weight_name(layer)}".removeprefix(".")
        if renew and masks:
            renew_statistics(result, examples, [norm for norm in norms if norm is layer])
        if tensor not in items:
            continue
        # Before anything is masked a layer has the dense model's inputs.
        dense = module if masks and method == "sparsegpt" else None
        sums = _sums(result, tensor, examples, dense)
        if sums is not None:
            masks[tensor] = _prune_layer(layer, sums, items[tensor], plan.pattern, method)
            zero_masked(result, {tensor: masks[tensor]})
    rest = tuple(name for name in items if name not in masks)
    masks |= _by_magnitude(result, plan, rest)
    zero_masked(result, masks)
    return Reconstructed(
        module=result, masks={name: masks[name] for name in items}, by_magnitude=rest
    )


def _sums(
    module: nn.Module, tensor: str, batches: Sequence[Batch], dense: nn.Module | None
) -> InputSums | None:
    """Of all that the weight `tensor` is multiplied with, by every layer that shares it, in both models."""
    weight = module.get_parameter(tensor)
    sharers = [
        name
        for name, layer in module.named_modules()
        if getattr(layer, weight_name(layer), None) is weight
    ]
    found = [
        sums
        for name in sharers
        if (sums := input_products(module, name, batches, dense)) is not None
    ]
    if not found:
        return None
    others = [sums.others for sums in found if sums.others is not None]
    return InputSums(
        own=torch.stack([sums.own for sums in found]).sum(dim=0),
        others=torch.stack(others).sum(dim=0) if len(others) == len(found) else None,
    )


def towards_dense(weight: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """The matrix V (out, in) with the least |ZW' - XV'|^2 + damping |V - W|^2, for the sums X'X of its inputs
    and Z'X of the dense model's with them, in float64. W itself where the inputs are all zero.
    """
    damping = RIDGE * gram.diagonal().mean()
    if float(damping) <= 0.0:
        return weight
    damped = damping * torch.eye(len(gram), dtype=gram.dtype)
    # V (X'X + damping) = W (Z'X + damping), both sides transposed.
    fitted: Tensor = torch.linalg.solve(gram + damped, (cross + damped).T @ weight.T).T
    return fitted


def wanda_scores(weight: Tensor, gram: Tensor) -> Tensor:
    """|w| |x|_2 for a matrix (out, in) and the sums X'X of its inputs (in, in)."""
    return weight.abs() * gram.diagonal().clamp_min(0.0).sqrt()


def wanda_mask(weight: Tensor, gram: Tensor, zeros: int, pattern: str = UNSTRUCTURED) -> Tensor:
    """The mask of a matrix: `zeros` shared evenly between its rows (the first rows take what is over),
    or the pattern.
    """
    scores = wanda_scores(weight, gram)
    if pattern != UNSTRUCTURED:
        return pattern_mask(scores, *parse_pattern(pattern))
    each, over = divmod(zeros, len(scores))
    return torch.stack([keep_highest(row, each + (i < over)) for i, row in enumerate(scores)])


def sparsegpt(
    weight: Tensor, gram: Tensor, zeros: int, pattern: str = UNSTRUCTURED, *, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """(new weights, mask) of a matrix (out, in) for the sums X'X of its inputs (in, in), in float64.

    Exactly `zeros` weights are masked; every block of columns takes its share of them. Masked weights
    are 0 in the result.
    """
    columns = weight.shape[1]
    work = weight.detach().to(torch.float64).clone()
    factor = _inverse_factor(gram)
    kept = torch.ones_like(work, dtype=torch.bool)
    step = block
    if pattern != UNSTRUCTURED:
        m = parse_pattern(pattern)[1]
        step = max(block // m, 1) * m
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        if pattern == UNSTRUCTURED:
            share = zeros_for(zeros, stop / columns) - zeros_for(zeros, start / columns)
            scores = _scores(work[:, start:stop], factor, start)
            kept[:, start:stop] = keep_highest(scores, share)
        _sweep(work, kept, factor, start, stop, pattern)
    return work.masked_fill(~kept, 0.0), kept


def _sweep(work: Tensor, kept: Tensor, factor: Tensor, start: int, stop: int, pattern: str) -> None:
    """Masks the columns [start, stop) of `work` and makes good for it to their right, in place."""
    errors = torch.zeros_like(work[:, start:stop])
    n, m = parse_pattern(pattern) if pattern != UNSTRUCTURED else (0, 0)
    for column in range(start, stop):
        if m and (column - start) % m == 0:
            scores = _scores(work[:, column : column + m], factor, column)
            kept[:, column : column + m] = pattern_mask(scores, n, m)
        gone = work[:, column].masked_fill(kept[:, column], 0.0) / factor[column, column]
        errors[:, column - start] = gone
        work[:, column:stop] -= gone[:, None] * factor[column, column:stop]
    work[:, stop:] -= errors @ factor[start:stop, stop:]


def _scores(work: Tensor, factor: Tensor, start: int) -> Tensor:
    return (work / factor.diagonal()[start : start + work.shape[1]]).square()


def _inverse_factor(gram: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped H; the identity where inputs are all zero."""
    hessian = gram.to(torch.float64)
    mean = float(hessian.diagonal().mean())
    identity = torch.eye(len(hessian), dtype=torch.float64)
    if mean <= 0.0:
        return identity
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian / mean + DAMPING * identity))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _prune_layer(
    layer: nn.Module, sums: InputSums, item: TensorPlan, pattern: str, method: Method
) -> Tensor:
    """Masks the layer's weight in place, and refits it where the method does; returns the mask."""
    weight = layer.get_parameter(weight_name(layer))
    matrix = to_matrix(layer, weight.detach().to("cpu", torch.float64))
    kept = torch.ones_like(matrix, dtype=torch.bool)
    parts = len(sums.own)
    rows = len(matrix) // parts
    for index, gram in enumerate(sums.own):
        part = slice(index * rows, (index + 1) * rows)
        zeros = zeros_for(item.zeros, (index + 1) / parts) - zeros_for(item.zeros, index / parts)
        if method == "wanda":
            kept[part] = wanda_mask(matrix[part], gram, zeros, pattern)
        else:
            if sums.others is not None:
                matrix[part] = towards_dense(matrix[part], gram, sums.others[index])
            matrix[part], kept[part] = sparsegpt(matrix[part], gram, zeros, pattern)
    with torch.no_grad():
        weight.copy_(from_matrix(layer, matrix, weight.shape))
    return from_matrix(layer, kept, weight.shape).to(weight.device)


def to_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """(out, in) of a linear layer as it is; (out, in, *kernel) as (out, kernel x in), channels last."""
    if isinstance(layer, _ConvNd):
        return torch.flatten(weight.movedim(1, -1), 1)
    return weight.clone()


def from_matrix(layer: nn.Module, matrix: Tensor, shape: torch.Size) -> Tensor:
    """Undoes `to_matrix` for a weight of `shape`."""
    if not isinstance(layer, _ConvNd):
        return matrix
    result: Tensor = matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()
    return result


def _by_magnitude(module: nn.Module, plan: SparsityPlan, names: Sequence[str]) -> dict[str, Tensor]:
    """The masks of the plan's tensors `names` alone; the plan binds each by itself."""
    if not names:
        return {}
    from msgspec.structs import replace

    tensors = tuple(item for item in plan.tensors if item.tensor in names)
    part = replace(plan, tensors=tensors, zeros=sum(item.zeros for item in tensors))
    scores = {name: module.get_parameter(name).detach().abs() for name in names}
    return choose_masks(scores, part)
