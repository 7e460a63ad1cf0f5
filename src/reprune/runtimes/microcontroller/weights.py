"""The weights of one layer in a precision: exactly as they are where they fit it, else rounded to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import CompressionError
from reprune.core.params import Precision
from reprune.runtimes.compact import Quantised, cluster, quantised, recoded, snapped
from reprune.runtimes.compact.header import Entry
from reprune.runtimes.microcontroller.engine import Weights
from reprune.runtimes.sparse.words import int8_rows

Array = NDArray[np.float32]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8-weights", "palette4")
PALETTE = 16


def packed(
    weight: Array,
    scale: Array | None,
    bias: Array | None,
    precision: Precision,
    *,
    transposed_to: int = 0,
) -> Weights:
    """The layer's weights. Zeros stay zeros in every precision, and what holds few values is exact.

    "fp32" keeps each value; "int8-weights" takes 255 levels with a scale for each output channel, which
    are the rows, or, where rows are inputs, one for all `transposed_to` output channels; "palette4" 16
    values, zero among them if there are zeros, with such scales. `scale` and `bias` stay float32:
    they are few, and a batch norm is in them. Raises CompressionError for weights that are not finite.
    """
    whole = weight.astype(np.float32) + np.float32(0)  # no -0.0
    parts = [part for part in (whole, scale, bias) if part is not None]
    if not all(np.isfinite(part).all() for part in parts):
        raise CompressionError("weights that are not finite", where="microcontroller")
    exact = _exact(whole, PALETTE if precision == "palette4" else 256)
    if exact is not None:
        return Weights(weight=exact, scale=scale, bias=bias)
    if precision == "fp32":
        return Weights(weight=whole, scale=scale, bias=bias)
    levels, step = int8_rows(whole.reshape(1, -1) if transposed_to else whole)
    if precision == "palette4":
        # Rows are brought to one size first: 16 values shared by large and small ones fit neither.
        rows = whole.reshape(len(step), -1) / step[:, None]
        values = rows[rows != 0]
        book = snapped(cluster(values, PALETTE if len(values) == whole.size else PALETTE - 1))
        coded = quantised(rows.reshape(whole.shape), book)
    else:
        coded = recoded(levels.reshape(whole.shape).astype(np.float32))
    if transposed_to:
        step = np.full(transposed_to, step[0], np.float32)
    both = (step.astype(np.float64) * (1.0 if scale is None else scale)).astype(np.float32)
    return Weights(weight=coded, scale=both, bias=bias)


def _exact(weight: Array, values: int) -> Quantised | None:
    """The weight in at most `values` values, 0 among them, or None where that would change it."""
    if len(np.unique(weight)) > values:
        return None
    try:
        found = recoded(weight)
        Entry.of("weight", found, plain=True)
    except CompressionError:
        return None
    return found
