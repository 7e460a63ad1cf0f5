"""N:M patterns: at most n weights that are not zero in every m neighbours along the inputs.

The axis is the one that NVIDIA's sparse kernels take: the input features of a linear layer, and for a
convolution the input channels at each kernel position (the weight is read as K, R, S, C; TensorRT
Developer Guide, "Sparsity"). In torch's layouts (out, in) and (out, in, kh, kw) both are dimension 1.
An axis that is no multiple of m is refused here, and such layers are skipped with a reason by
`maskable`: padding them would be pruned in name and run dense in fact.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from reprune.core.errors import CompressionError

UNSTRUCTURED = "unstructured"
PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


def parse_pattern(pattern: str) -> tuple[int, int]:
    """(n, m) of "n:m", 1 <= n < m. Raises CompressionError for anything else."""
    found = PATTERN.fullmatch(pattern)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= n < m:
        raise CompressionError(
            f"'{pattern}' is no pattern",
            where="params.yaml (plan.pattern)",
            fix="write how many of how many weights stay, fewer than all, as in '2:4'",
        )
    return n, m


def grouped(weight: Tensor, m: int) -> Tensor:
    """(out, in, ...) as (out, ..., in / m, m): groups of m neighbours along the inputs, last.

    Raises CompressionError where the inputs are no multiple of m.
    """
    if weight.ndim < 2 or weight.shape[1] % m:
        raise CompressionError(
            f"a tensor of shape {tuple(weight.shape)} has no groups of {m} along dimension 1",
            fix="use an m that divides the inputs, or leave the layer out",
        )
    last = weight.movedim(1, -1)
    return last.reshape(*last.shape[:-1], -1, m)


def ungrouped(groups: Tensor) -> Tensor:
    """Undoes `grouped`."""
    return groups.flatten(-2).movedim(-1, 1)


def pattern_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """True for the n highest scores of every group of m; of equal ones those that come first."""
    groups = grouped(scores, m)
    order = torch.sort(groups, dim=-1, descending=True, stable=True).indices
    kept = torch.zeros_like(groups, dtype=torch.bool)
    kept.scatter_(-1, order[..., :n], value=True)
    return ungrouped(kept).contiguous()


def verify_pattern(weight: Tensor, n: int, m: int) -> bool:
    """Whether every group of m weights along dimension 1 has at most n that are not zero.

    False too where dimension 1 is no multiple of m: the kernels would not take it.
    """
    if weight.ndim < 2 or weight.shape[1] % m:
        return False
    return bool(((grouped(weight, m) != 0).sum(dim=-1) <= n).all())
