"""How far two measurements lie apart, of which each has an interval and neither has its samples here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reprune.judge.numeric import rounded


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with the ends of its interval; an end is None where the interval has none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is an interval at all."""
        return self.low is not None or self.high is not None


def difference(before: Estimate, after: Estimate) -> Estimate:
    """`after - before`, with the interval that the two intervals give (Zou and Donner's MOVER).

    It holds at about the level of the two if they were measured independently; two measurements on the
    same examples agree more than that, so that it is then too wide and never too narrow. An end is None
    where an end that it needs is. Swapping the two mirrors it.
    """
    gap = after.value - before.value
    low = _away(after.value, after.low, before.value, before.high)
    high = _away(after.value, after.high, before.value, before.low)
    return Estimate(
        value=rounded(gap),
        low=None if low is None else rounded(gap - low),
        high=None if high is None else rounded(gap + high),
    )


def factor(before: Estimate, after: Estimate) -> Estimate | None:
    """`after / before` as `difference` gives it for logarithms; None unless both values are above 0."""
    if before.value <= 0 or after.value <= 0:
        return None
    found = difference(_logged(before), _logged(after))
    return Estimate(
        value=rounded(after.value / before.value), low=_raised(found.low), high=_raised(found.high)
    )


def _away(one: float, its_end: float | None, other: float, other_end: float | None) -> float | None:
    if its_end is None or other_end is None:
        return None
    return math.hypot(one - its_end, other - other_end)


def _logged(one: Estimate) -> Estimate:
    return Estimate(
        value=math.log(one.value),
        low=math.log(one.low) if one.low is not None and one.low > 0 else None,
        high=math.log(one.high) if one.high is not None and one.high > 0 else None,
    )


def _raised(end: float | None) -> float | None:
    return None if end is None else rounded(math.exp(end))
