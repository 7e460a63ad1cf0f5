"""From sums of layers' times to whole calls: how much of a call follows its layers' times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# How much of a call may follow its layers' times: all of it where they were scaled to calls, less where
# layers were called alone. Beyond these limits it is noise in a few calls.
FOLLOWS = (0.6, 1.4)
# Looks that save less than this share say nothing about how savings add up.
SAVES = 0.02


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """latency = `constant` + `factor` x sum; `error` is the median share by which it misses the calls."""

    constant: float
    factor: float
    error: float


def fitted(looks: Sequence[tuple[float, float]], dense_sum: float, dense_us: float) -> Fitted:
    """The fit through the dense model's point. A look is (its layers' sum over the dense model's, its
    whole call over the dense model's), both measured side by side, so that no drift is in them.
    """
    told = [(1.0 - summed, 1.0 - whole) for summed, whole in looks if 1.0 - summed > SAVES]
    weight = sum(saved * saved for saved, _ in told)
    follows = sum(saved * whole for saved, whole in told) / weight if weight else 1.0
    follows = min(max(follows, FOLLOWS[0]), FOLLOWS[1])
    misses = [abs((1.0 - follows * saved) / (1.0 - whole) - 1.0) for saved, whole in told]
    return Fitted(
        constant=dense_us * (1.0 - follows),
        factor=follows * dense_us / dense_sum if dense_sum else 0.0,
        error=median(misses) if misses else 0.0,
    )
