"""Observers that take the range of a quantised tensor as `onnx_ranges` does. Loads torch and torchao."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

from reprune.runtimes.onnx_ranges import INSIDE, entropy_threshold


class PercentileObserver(HistogramObserver):  # type: ignore[misc]  # torchao ships no types
    """The range that holds INSIDE of the values seen, half of the others on each side.

    Where a range begins and ends is known to a bin, a 2048th of the widest range seen.
    """

    def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
        """What the base class asks for the range with; its own answer is another one."""
        shares = self.histogram.double().cumsum(0) / self.histogram.double().sum()
        outside = (1.0 - INSIDE) / 2.0
        first = int((shares <= outside).sum())
        last = int((shares < 1.0 - outside).sum())
        width = (self.max_val - self.min_val) / self.bins
        return self.min_val + width * first, self.min_val + width * (last + 1)


class EntropyObserver(HistogramObserver):  # type: ignore[misc]  # torchao ships no types
    """The range outside of which |value| is cut where its histogram loses least."""

    def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
        low, high = float(self.min_val), float(self.max_val)
        reach = max(-low, high)
        middles = low + (np.arange(self.bins) + 0.5) * (high - low) / self.bins
        counts = np.histogram(
            np.abs(middles), self.bins, (0.0, reach), weights=self.histogram.double().numpy()
        )[0]
        limit = entropy_threshold(counts, reach, 128 if low < 0.0 else 256) if reach else 0.0
        return self.min_val.clamp(min=-limit), self.max_val.clamp(max=limit)


def observer(ranges: str, *, eps: float) -> Any:
    """Makes observers of that kind: "minmax", "percentile" or "entropy"."""
    kinds = {"minmax": MinMaxObserver, "percentile": PercentileObserver, "entropy": EntropyObserver}
    return kinds[ranges].with_args(eps=eps)
