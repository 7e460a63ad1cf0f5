"""The loss that a group of channels costs, as a curve over how many of them are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from reprune.core.artifacts import BlockSensitivity, CutPoint, GroupSensitivity, block_key

# A measured point counts by 1/SE^2; a standard error below this share of the largest increase is
# taken as this share, so that one lucky batch does not outvote its neighbours.
ERROR_FLOOR = 0.01


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Never rises with `keep`, is 0 at the full width and nowhere negative.

    `keeps` rise and end at the full width; `increases` and `errors` (standard errors) lie beside.
    """

    keeps: tuple[int, ...]
    increases: tuple[float, ...]
    errors: tuple[float, ...]

    def at(self, keep: int) -> float:
        """The fitted increase with `keep` channels left: linear between the measured widths.

        Below the least measured width nothing is known; the steepest slope of the curve goes on.
        """
        least = self.keeps[0]
        if keep >= least:
            return float(np.interp(keep, self.keeps, self.increases))
        drops = -np.diff(self.increases) / np.diff(self.keeps)
        steepest = float(drops.max()) if drops.size else 0.0
        return self.increases[0] + steepest * (least - keep)

    def error_at(self, keep: int) -> float:
        """The standard error of `at(keep)`, interpolated alike; below the measured widths the last."""
        return float(np.interp(keep, self.keeps, self.errors))


def fit_curve(width: int, cuts: Sequence[CutPoint]) -> Curve:
    """The isotonic fit of `cuts` (weights 1/SE^2), anchored at no increase for the full width.

    Noise below zero is set to zero: bounded isotonic regression is the unbounded one, clipped
    (Barlow et al. 1972), and no cut is predicted to improve the model.
    """
    points = sorted((cut for cut in cuts if cut.keep < width), key=lambda cut: cut.keep)
    raw = np.array([cut.loss_increase for cut in points], dtype=np.float64)
    errors = np.array([cut.standard_error for cut in points], dtype=np.float64)
    fitted = raw
    if points:
        floor = max(ERROR_FLOOR * float(np.abs(raw).max()), 1e-12)
        weights = 1.0 / np.maximum(errors, floor) ** 2
        fit = isotonic_regression(raw, weights=weights, increasing=False)
        fitted = np.maximum(np.asarray(fit.x, dtype=np.float64), 0.0)
    return Curve(
        keeps=(*(cut.keep for cut in points), width),
        increases=(*(float(value) for value in fitted), 0.0),
        errors=(*(float(value) for value in errors), 0.0),
    )


def fit_curves(groups: Sequence[GroupSensitivity]) -> dict[str, Curve]:
    """One curve a group, by its name."""
    return {group.group: fit_curve(group.width, group.cuts) for group in groups}


def fit_blocks(blocks: Sequence[BlockSensitivity]) -> dict[str, Curve]:
    """One curve a block, by its `artifacts.block_key`: the measured rise (never below 0) without it."""
    return {
        block_key(block.block): Curve(
            keeps=(0, 1),
            increases=(max(block.loss_increase, 0.0), 0.0),
            errors=(block.standard_error, 0.0),
        )
        for block in blocks
    }


def predicted(curves: Mapping[str, Curve], widths: Mapping[str, int]) -> float:
    """The sum of the groups' increases at `widths`: cuts are taken to add up."""
    return float(sum(curves[group].at(keep) for group, keep in widths.items()))


def predicted_error(curves: Mapping[str, Curve], widths: Mapping[str, int]) -> float:
    """The standard error of `predicted`, the groups' measurements taken as independent."""
    squares = sum(curves[group].error_at(keep) ** 2 for group, keep in widths.items())
    return float(squares**0.5)
