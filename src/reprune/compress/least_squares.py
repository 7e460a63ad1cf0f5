"""Ridge regression of a layer's weights around those it has, with a bound on how large they get."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A fit may lean on inputs that hardly ever vary by giving them huge weights: the calibration loss falls a
# little, and one such weight takes the resolution of every other when the layer is stored in integers.
# 4 is what a removed channel three times as large as its kept twin can ask for.
MAX_GROWTH = 4.0
# How often the penalty is raised tenfold before the layer is left as it is.
RAISES = 6


class Problem:
    """The normal equations of a group's weights (outputs, inputs, ...) and bias, which `solve` replaces."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.now = _matrix(weight, bias)
        self.gram = torch.zeros(self.now.shape[0], self.now.shape[0], dtype=torch.float64)
        self.moment = torch.zeros_like(self.now)
        self.rows = 0

    def add(self, x: Tensor, y: Tensor, roots: Tensor) -> None:
        """Takes up rows of inputs, (R, inputs), of what is wanted of them, (R, outputs), and of the square
        roots of what they count, (R, 1); float64.
        """
        if self.bias is not None:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
        x, y = x * roots, y * roots
        self.gram += x.T @ x
        self.moment += x.T @ y
        self.rows += len(x)

    def solve(self, ridge: float) -> str:
        """Replaces weight and bias by the solution; says why, where there is none."""
        now, gram, rows = self.now, self.gram, self.rows
        columns = now.shape[0] - (self.bias is not None)
        scale = float(gram.diagonal()[:columns].mean()) / max(rows, 1)
        if not math.isfinite(scale) or scale <= 0.0:
            return "its inputs are all zero, or not finite, on the calibration examples"
        # The bias has no penalty to speak of: it is what a removed channel's mean turns into.
        penalty = torch.full((now.shape[0],), ridge * scale, dtype=torch.float64)
        penalty[columns:] *= 1e-6
        residual = (self.moment - gram @ now) / rows
        fitted = fit_within(gram / rows, residual, now, penalty, columns)
        if fitted is None:
            return (
                f"no solution keeps its weights within {MAX_GROWTH:g} times the largest there was"
            )
        self.weight.copy_(fitted.T[:, :columns].reshape(self.weight.shape))
        if self.bias is not None:
            self.bias.copy_(fitted.T[:, columns])
        return ""


def fit_within(
    gram: Tensor, residual: Tensor, now: Tensor, penalty: Tensor, columns: int
) -> Tensor | None:
    """The ridge solution around `now` with the least penalty, of tenfold steps, under which the first
    `columns` rows stay within MAX_GROWTH of the largest there; None where there is none.
    """
    limit = MAX_GROWTH * float(now[:columns].abs().max())
    for raised in range(RAISES + 1):
        system = gram + torch.diag(penalty * 10.0**raised)
        step, singular = torch.linalg.solve_ex(system, residual)
        if int(singular) or not bool(step.isfinite().all()):
            continue
        fitted: Tensor = now + step
        if float(fitted[:columns].abs().max()) <= limit:
            return fitted
    return None


def _matrix(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weights as columns of (inputs, outputs), the bias as the last row, float64."""
    rows = weight.detach().flatten(1).to(device="cpu", dtype=torch.float64).T
    if bias is None:
        return rows.contiguous()
    return torch.cat([rows, bias.detach().to(device="cpu", dtype=torch.float64)[None]])
