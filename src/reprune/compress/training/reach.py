"""When a recovery ends before its last epoch: its bar is out of reach, or nothing is gained any more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

if TYPE_CHECKING:
    from reprune.core.params import DistillParams

# An epoch says little; the last of a cosine fall more steeply than those before them.
MIN_EPOCHS = 3
STEEPER = 2.0
# A gain is at least this share of all that was gained: a curve that flattens out falls a little for ever.
GAIN = 0.01


def bar_of(params: DistillParams, dense_loss: float) -> float | None:
    """The loss on `tune` to reach, the lower of the two that `params` may name; None: there is none."""
    bars = [params.bar] if params.bar > 0.0 else []
    if params.bar_ratio > 0.0:
        bars.append(params.bar_ratio * dense_loss)
    return min(bars, default=None)


def why_stop(
    losses: Sequence[float],
    params: DistillParams,
    *,
    start: float,
    remaining: int,
    bar: float | None,
) -> str:
    """Why nothing is to be hoped of the `remaining` epochs, in words; empty: they are worth taking. `losses`
    are those on `tune` of the epochs that may be judged, `start` that of what training began with.
    """
    if not losses or not remaining:
        return ""
    found = f"the loss on tune was {min(start, *losses):.4f} at best"
    if bar is not None and out_of_reach(losses, remaining, bar, start=start):
        return f"{found}, and the bar of {bar:.4f} out of reach"
    idle = without_gain(losses)
    if params.patience is not UNSET and idle >= params.patience:
        return f"{found}, without a gain in the last {idle} (distill.patience)"
    return ""


def out_of_reach(
    losses: Sequence[float], remaining: int, bar: float, *, start: float = math.inf
) -> bool:
    """Whether the bar stays out of reach even if every one of the `remaining` epochs brought twice what
    the best of the last three did. `losses` are those on `tune`, epoch by epoch; never True for fewer
    than three, nor once the bar was reached, by the model at the `start` if need be.
    """
    best = min([start, *losses])
    if len(losses) < MIN_EPOCHS or best <= bar:
        return False
    recent = losses[-MIN_EPOCHS:]
    # What an epoch brought is measured against the best before it: a bounce back brings nothing.
    first = len(losses) - len(recent)
    gains = [
        min(losses[:index], default=losses[0]) - losses[index]
        for index in range(max(first, 1), len(losses))
    ]
    return best - remaining * STEEPER * max(0.0, *gains) > bar


def without_gain(losses: Sequence[float]) -> int:
    """How many epochs at the end brought no gain. `losses` are those on `tune`, epoch by epoch; the first one
    is a gain.
    """
    best, idle = float("inf"), 0
    for loss in losses:
        gained = best == float("inf") or best - loss > GAIN * (losses[0] - best)
        idle = 0 if gained else idle + 1
        # A small fall is no gain, but many of them in a row add up to one.
        best = loss if gained else best
    return idle
