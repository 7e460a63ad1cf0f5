"""Observers that choose the range of a quantised tensor. Loads torch and torchao."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

# Of the values that were seen, the share that lies within the range.
PERCENTILE = 0.9999


class PercentileObserver(HistogramObserver):  # type: ignore[misc]  # torchao ships no types
    """The range that holds PERCENTILE of the values seen, an equal share of the others on each side.

    Where a range begins and ends is known to a bin, a 2048th of the widest range seen.
    """

    def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
        """What the base class asks for the range with; its own answer is another one."""
        shares = self.histogram.double().cumsum(0) / self.histogram.double().sum()
        outside = (1.0 - PERCENTILE) / 2.0
        first = int((shares <= outside).sum())
        last = int((shares < 1.0 - outside).sum())
        width = (self.max_val - self.min_val) / self.bins
        return self.min_val + width * first, self.min_val + width * (last + 1)


def observer(ranges: str, *, eps: float) -> Any:
    """Makes observers of that kind: "minmax" or "percentile"."""
    return {"minmax": MinMaxObserver, "percentile": PercentileObserver}[ranges].with_args(eps=eps)
