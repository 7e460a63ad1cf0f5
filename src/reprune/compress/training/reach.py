"""When a recovery ends before its last epoch: its bar is out of reach, or nothing is gained any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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


def out_of_reach(losses: Sequence[float], remaining: int, bar: float) -> bool:
    """Whether the bar stays out of reach even if every one of the `remaining` epochs brought twice what
    the best of the last three did. `losses` are those on `tune`, epoch by epoch; never True for fewer
    than three, nor once the bar was reached.
    """
    best = min(losses, default=float("inf"))
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
