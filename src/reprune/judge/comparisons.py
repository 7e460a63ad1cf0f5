"""What a comparison of two arms has to answer, whatever the metric's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from reprune.judge.numeric import rounded

MIN_UNITS = 20  # sources, or examples of a ratio metric, below which resampling is not trusted


@dataclass(frozen=True, kw_only=True)
class MarginTest:
    """An interval of the loss against the most that may be lost, and the p-value of 'lost more'.

    A loss is positive where the candidate is worse. A limit that the data cannot give is None. `p_least`
    is the smallest p-value that could have been shown, whatever was lost. `p_plain` is `p_harm` without
    what makes harm harder to show; 1 where there is no such thing.
    """

    kind: Literal["drop", "errors"]
    low: float | None
    high: float | None
    limit: float
    p_harm: float
    p_least: float = 0.0
    p_plain: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether no more than the limit was lost, shown at the tested level."""
        return self.high is not None and self.high <= self.limit

    @property
    def room(self) -> float:
        """How far the upper limit stays below the limit; the smallest one binds."""
        return -1.0 if self.high is None else self.limit - self.high


def margin_test(
    kind: Literal["drop", "errors"],
    interval: tuple[float | None, float | None],
    limit: float,
    p_harm: float,
    *,
    reach: float = 1.0,
) -> MarginTest:
    """A MarginTest with every number rounded, the interval within [-reach, reach]."""
    low, high = (None if end is None else rounded(min(reach, max(-reach, end))) for end in interval)
    return MarginTest(
        kind=kind, low=low, high=high, limit=rounded(limit), p_harm=rounded(min(1.0, p_harm))
    )


class Comparison(Protocol):
    """Two arms on the same examples. `units` are what was drawn independently: examples or sources.

    `baseline` and `candidate` are the metric's values; `lost` and `gained` count examples that got
    worse and better; `changed` counts those with another record where an example of this metric is
    neither (then `lost` and `gained` are 0), else it is None; `spread` is the standard deviation of
    the loss for one unit.
    """

    @property
    def examples(self) -> int: ...
    @property
    def units(self) -> int: ...
    @property
    def trusted(self) -> bool: ...
    @property
    def baseline(self) -> float: ...
    @property
    def candidate(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def lost(self) -> int: ...
    @property
    def gained(self) -> int: ...
    @property
    def changed(self) -> int | None: ...
    @property
    def spread(self) -> float: ...

    def drop_test(self, limit: float, alpha: float) -> MarginTest:
        """Tests 'the metric lost more than `limit`'."""

    def error_test(self, ratio: float, alpha: float) -> MarginTest:
        """Tests 'errors (1 - metric) rose more than `ratio`-fold', in units of the loss."""


class Level(Protocol):
    """One arm's metric on its own, for absolute floors."""

    @property
    def examples(self) -> int: ...
    @property
    def units(self) -> int: ...
    @property
    def trusted(self) -> bool: ...
    @property
    def value(self) -> float: ...

    def interval(self, alpha: float) -> tuple[float | None, float | None]:
        """One-sided limits at `alpha` each."""

    def p_below(self, floor: float) -> float:
        """The p-value against 'the true value is at least `floor`'."""
