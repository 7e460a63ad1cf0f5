"""Random joint cuts near a budget: whether single cuts add up is measured, not assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from reprune.core.artifacts import JointCheck

if TYPE_CHECKING:
    from reprune.compress.planning.costs import CostModel

# Plans lie around the budget, so that their losses differ and can be ranked.
SPREAD = (0.8, 1.2)
HALVINGS = 30


def random_plans(
    widths: Mapping[str, int],
    least: Mapping[str, int],
    cost: CostModel,
    *,
    count: int,
    fraction: float,
    seed: int,
) -> tuple[dict[str, int], ...]:
    """`count` random widths between `least` and the full ones, each with about `fraction` (0.8 to 1.2
    times it) of the dense MACs, or as near as `least` allows. Deterministic for a seed.
    """
    return tuple(
        _plan(widths, least, cost, fraction, np.random.default_rng([seed, number]))
        for number in range(count)
    )


def _plan(
    widths: Mapping[str, int],
    least: Mapping[str, int],
    cost: CostModel,
    fraction: float,
    rng: np.random.Generator,
) -> dict[str, int]:
    limit = min(0.98, fraction * float(rng.uniform(*SPREAD))) * cost({}).macs
    depth = rng.exponential(1.0, len(widths))

    def at(level: float) -> dict[str, int]:
        return {
            name: max(least[name], round(width - min(1.0, level * share) * (width - least[name])))
            for (name, width), share in zip(widths.items(), depth, strict=True)
        }

    low, high = 0.0, 1.0 / max(float(depth.min()), 1e-6)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if cost(at(middle)).macs <= limit else (middle, high)
    return at(high)


def check(predicted: Sequence[float], measured: Sequence[float]) -> JointCheck:
    """Both side by side with Kendall's tau (0 where it is not defined: all of one side are equal)."""
    tau = float(stats.kendalltau(predicted, measured).statistic) if len(predicted) > 1 else 0.0
    return JointCheck(
        predicted=tuple(predicted),
        measured=tuple(measured),
        rank_correlation=tau if np.isfinite(tau) else 0.0,
    )


def correction(joint: JointCheck) -> Callable[[float], float]:
    """What a predicted sum of rises really came to: never falling, 0 at 0.

    The isotonic regression of measured on predicted, linear between its levels; outside them the
    nearest level's ratio goes on. The identity where nothing was predicted above 0.
    """
    pairs = sorted((x, y) for x, y in zip(joint.predicted, joint.measured, strict=True) if x > 0.0)
    if not pairs:
        return lambda value: value
    x = np.array([pair[0] for pair in pairs])
    y = np.array([pair[1] for pair in pairs])
    levels = np.maximum(np.asarray(isotonic_regression(y).x, dtype=np.float64), 0.0)
    # Pooled levels sit at the middle of their plans; ends of a flat stretch would be overstated.
    knots = [(0.0, 0.0)]
    for level in np.unique(levels):
        knots.append((float(x[levels == level].mean()), float(level)))
    last_x, last_y = knots[-1]

    def corrected(value: float) -> float:
        if value >= last_x:
            return value * last_y / last_x
        return float(np.interp(value, [knot[0] for knot in knots], [knot[1] for knot in knots]))

    return corrected
