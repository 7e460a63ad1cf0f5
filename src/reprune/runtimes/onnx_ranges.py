"""The range of each tensor of an ONNX graph on calibration examples: what its int8 steps are spread over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.plugins import require

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

Range: TypeAlias = tuple[float, float]
BINS = 4096
# The share of values that "percentile" leaves inside the range.
INSIDE = 0.9999
# The histogram that "entropy" searches, and the step of the search, in bins.
ENTROPY_BINS, ENTROPY_STEP = 2048, 16
# The divergence knows only shapes: where few values lie near zero it would cut away all the others.
MOST_CUT = 0.01


def take_ranges(
    content: bytes,
    tensors: Sequence[str],
    batches: Sequence[Sequence[Array]],
    method: str,
    *,
    symmetric: bool,
) -> dict[str, Range]:
    """Lower and upper end of each of `tensors` on all `batches`, zero always inside.

    "minmax" are the extremes; "percentile" leaves 99.99 % of the values inside, half of the rest on
    either side; "entropy" cuts |value| where the histogram loses least, and at most 1 % of the values
    (Migacz 2017, "8-bit Inference with TensorRT": the threshold of least Kullback-Leibler divergence).
    `symmetric` says that the steps go both ways even where no value is negative. One thread, so that the
    figures repeat.

    Raises BuildError without batches, for inputs that do not fit, and for values that are not finite.
    """
    if not batches:
        raise BuildError(
            "int8 needs calibration examples, and there are none",
            fix="give the task's calibration split examples",
        )
    wanted = sorted(set(tensors))
    run = _runner(content, wanted)
    extremes = _extremes(run, wanted, batches)
    if method == "minmax":
        return extremes
    if method == "percentile":
        counted = _histograms(run, wanted, batches, extremes)
        return {name: _percentile(counted[name], extremes[name]) for name in wanted}
    reach = {name: (0.0, max(-low, high)) for name, (low, high) in extremes.items()}
    counted = _histograms(run, wanted, batches, reach)
    found = {}
    for name, (low, high) in extremes.items():
        levels = 128 if symmetric or low < 0 else 256
        limit = entropy_threshold(counted[name], reach[name][1], levels)
        found[name] = (max(low, -limit), min(high, limit))
    return found


def _extremes(
    run: Callable[[Sequence[Array]], list[Array]],
    names: Sequence[str],
    batches: Sequence[Sequence[Array]],
) -> dict[str, Range]:
    """The least and the largest value of each tensor, zero always inside. Raises as take_ranges."""
    extremes = dict.fromkeys(names, (0.0, 0.0))
    for batch in batches:
        for name, values in zip(names, run(batch), strict=True):
            ends = float(values.min()), float(values.max())
            # Here, and not once at the end: min and max of Python pass over a NaN that comes second.
            if not np.isfinite(ends).all():
                raise BuildError(
                    "its values on the calibration examples are not finite",
                    where=name,
                    fix="look for an overflow in the model, or build it in fp32",
                )
            low, high = extremes[name]
            extremes[name] = (min(low, ends[0]), max(high, ends[1]))
    return extremes


def entropy_threshold(counts: Array, reach: float, levels: int) -> float:
    """Where to cut values of which `counts` is the histogram over [0, `reach`], for `levels` steps."""
    counts = counts.astype(np.float64)
    # Exact zeros (after a ReLU) have a step of their own, wherever the cut is.
    counts[0] = counts[1]
    first = int(np.searchsorted(np.cumsum(counts), (1.0 - MOST_CUT) * counts.sum())) + 1
    ends = [end for end in range(levels, len(counts) + 1, ENTROPY_STEP) if end >= first]
    ends = ends or [len(counts)]
    losses = [_divergence(counts, end, levels) for end in ends]
    return reach * ends[int(np.argmin(losses))] / len(counts)


def _divergence(counts: Array, end: int, levels: int) -> float:
    """KL(P || Q): P the first `end` bins with all beyond in the last, Q the same in `levels` steps."""
    reference = counts[:end].copy()
    kept = reference.copy()
    reference[-1] += counts[end:].sum()
    step = np.arange(end) * levels // end
    filled = kept > 0
    mass = np.bincount(step, weights=kept, minlength=levels)
    bins = np.bincount(step, weights=filled, minlength=levels)
    rounded = np.where(filled, (mass / np.maximum(bins, 1))[step], 0.0)
    p, q = reference / max(reference.sum(), 1.0), rounded / max(rounded.sum(), 1.0)
    at = p > 0
    # Where Q is empty, mass was clipped into an empty bin: a large but finite loss.
    return float((p[at] * np.log(p[at] / np.maximum(q[at], 1e-12))).sum())


def _percentile(counts: Array, ends: Range) -> Range:
    low, high = ends
    shares = np.cumsum(counts) / counts.sum()
    edges = np.linspace(low, high, len(counts) + 1)
    outside = (1.0 - INSIDE) / 2
    first = int(np.searchsorted(shares, outside, side="right"))
    last = int(np.searchsorted(shares, 1.0 - outside, side="left"))
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)


def _histograms(
    run: Callable[[Sequence[Array]], list[Array]],
    names: Sequence[str],
    batches: Sequence[Sequence[Array]],
    ends: Mapping[str, Range],
) -> dict[str, Array]:
    """Counts over BINS (from `ends`' lower to its upper end), or of |value| where the lower end is 0."""
    found = {name: np.zeros(_bins(ends[name]), np.int64) for name in names}
    for batch in batches:
        for name, values in zip(names, run(batch), strict=True):
            low, high = ends[name]
            magnitudes = np.abs(values) if low == 0.0 else values
            if high > low:
                found[name] += np.histogram(magnitudes, len(found[name]), (low, high))[0]
            else:
                found[name][0] += values.size
    return found


def _bins(ends: Range) -> int:
    return ENTROPY_BINS if ends[0] == 0.0 else BINS


def _runner(content: bytes, tensors: Sequence[str]) -> Callable[[Sequence[Array]], list[Array]]:
    """Runs the model and gives its inner `tensors`."""
    from reprune.runtimes.onnxruntime import open_bytes

    onnx = require("onnx", "onnx")
    model = onnx.load_model_from_string(content)
    given = {value.name for value in model.graph.input}
    inner = [name for name in tensors if name not in given]
    del model.graph.output[:]
    for name in inner:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    order = [value.name for value in model.graph.input]
    if not inner:
        return lambda batch: [np.asarray(batch[order.index(name)]) for name in tensors]
    session = open_bytes(model.SerializeToString(), where="the model with its inner tensors")

    def run(batch: Sequence[Array]) -> list[Array]:
        found = dict(zip(inner, session.run(batch), strict=True)) | dict(
            zip(order, batch, strict=True)
        )
        return [np.asarray(found[name]) for name in tensors]

    return run
