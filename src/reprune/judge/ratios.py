"""One arm's records of a sum / sum metric (Dice, IoU, F1, mean errors), ready to be compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reprune.judge.bootstrap import Floats, Integers, Mask


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """One arm's numerators and denominators: for each example, and summed over each resample."""

    numerator: Integers
    denominator: Integers
    numerator_sums: Integers
    denominator_sums: Integers
    higher_is_better: bool
    best: float = 1.0
    worst: float = 0.0
    leverage: float = 1.0
    noise: float = 0.0

    @property
    def examples(self) -> int:
        return len(self.numerator)

    @property
    def value(self) -> float:
        """The worst where there is nothing to divide by, as may be of a candidate."""
        whole = int(self.denominator.sum())
        if whole == 0:
            return 0.0 if self.higher_is_better else 1.0
        return int(self.numerator.sum()) / whole

    @property
    def goodness(self) -> float:
        """The value, turned so that more is better."""
        return self.value if self.higher_is_better else 1.0 - self.value

    def replicates(self) -> tuple[Floats, Mask]:
        """Goodness over resamples, and where it is defined (some denominator was drawn)."""
        defined = self.denominator_sums > 0
        value = self.numerator_sums / np.where(defined, self.denominator_sums, 1)
        return (value if self.higher_is_better else 1.0 - value), defined

    def raw(self) -> Floats:
        """Goodness over resamples; NaN where it is not defined."""
        value, defined = self.replicates()
        return np.where(defined, value, np.nan)

    def marks(self) -> Floats:
        """Each example's own ratio; without a denominator it counts as 0."""
        own: Floats = self.numerator / np.maximum(self.denominator, 1)
        return own if self.higher_is_better else -own
