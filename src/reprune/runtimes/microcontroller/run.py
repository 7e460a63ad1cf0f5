"""Running an engine in numpy: the operations in order, on the same areas as on the device.

It shows what the decoded weights give, and that no two areas get into each other's way. In the last
digits sums differ from the device's, which adds in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from reprune.core.errors import BuildError
from reprune.runtimes.microcontroller import graph as g
from reprune.runtimes.microcontroller.engine import Weights

Array = NDArray[np.float32]


class NumpySession:
    """One engine, decoded once. Sessions share nothing."""

    def __init__(self, graph: g.Graph, weights: Sequence[Weights]) -> None:
        self._graph = graph
        self._weights = weights
        self._values = [one.values() for one in weights]

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for any number of examples. Raises BuildError for inputs of another form."""
        graph = self._graph
        forms = [(array.dtype, tuple(array.shape[1:])) for array in inputs]
        sizes = {len(array) if array.ndim else 0 for array in inputs}
        wanted = [(np.dtype(np.float32), port.dims) for port in graph.inputs]
        if forms != wanted or len(sizes) != 1:
            raise BuildError(
                f"the engine takes {[list(dims) for _, dims in wanted]} in float32 for each example, "
                f"not {[(str(dtype), list(dims)) for dtype, dims in forms]}",
                fix="give it arrays of the shapes and types that it was built for",
            )
        count = sizes.pop()
        arena = np.zeros((count, graph.arena), dtype=np.float32)
        for port, array in zip(graph.inputs, inputs, strict=True):
            arena[:, port.offset : port.offset + math.prod(port.dims)] = array.reshape(count, -1)
        for op, weights, values in zip(graph.ops, self._weights, self._values, strict=True):
            given = [_view(arena, area) for area in op.inputs]
            out = _view(arena, op.output)
            with np.errstate(over="ignore"):  # exp of a large number is infinite, as on the device
                if op.code in g.WEIGHTED:
                    out[...] = _scaled(_WEIGHTED[op.code](given[0], values, op), weights)
                elif op.code == g.AFFINE:
                    out[...] = _scaled(given[0], weights)
                elif op.code == g.PLACE:
                    _place(given[0], out, op.numbers)
                else:
                    out[...] = _PLAIN[op.code](given, op)
        return [
            arena[:, port.offset : port.offset + math.prod(port.dims)]
            .reshape(count, *port.dims)
            .copy()
            for port in graph.outputs
        ]


def _view(arena: Array, area: g.Area) -> Array:
    end = area.offset + math.prod(area.shape)
    return arena[:, area.offset : end].reshape(len(arena), *area.shape)


def _scaled(picture: Array, weights: Weights) -> Array:
    for part, combine in ((weights.scale, np.multiply), (weights.bias, np.add)):
        if part is not None:
            picture = combine(picture, part[:, None, None])
    return picture


def _convolved(picture: Array, weight: Array, op: g.Op) -> Array:
    down, across, s_down, s_across, p_down, p_across, d_down, d_across, groups, _ = op.numbers
    rows, columns = op.output.shape[1:]
    # As much behind the picture as its last windows reach.
    behind = [
        max((count - 1) * step + reach * (side - 1) + 1 - size - pad, 0)
        for count, step, reach, side, size, pad in (
            (rows, s_down, d_down, down, picture.shape[2], p_down),
            (columns, s_across, d_across, across, picture.shape[3], p_across),
        )
    ]
    padded = np.pad(picture, ((0, 0), (0, 0), (p_down, behind[0]), (p_across, behind[1])))
    reach = (d_down * (down - 1) + 1, d_across * (across - 1) + 1)
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, ::s_down, ::s_across, ::d_down, ::d_across][:, :, :rows, :columns]
    count, channels = picture.shape[:2]
    windows = windows.reshape(count, groups, channels // groups, rows, columns, down, across)
    kernel = weight.reshape(groups, len(weight) // groups, channels // groups, down, across)
    found = np.einsum("ngcyxij,gocij->ngoyx", windows, kernel, optimize=True)
    whole: Array = found.reshape(count, len(weight), rows, columns).astype(np.float32, copy=False)
    return whole


def _transposed(picture: Array, weight: Array, op: g.Op) -> Array:
    down, across, s_down, s_across, p_down, p_across, d_down, d_across, groups, _ = op.numbers
    count, channels, rows, columns = picture.shape
    outputs, height, width = op.output.shape
    kernel = weight.reshape(groups, channels // groups, outputs // groups, down, across)
    grouped = picture.reshape(count, groups, channels // groups, rows, columns)
    spread = np.einsum("ngcyx,gcoij->ngoyxij", grouped, kernel, optimize=True)
    spread = spread.reshape(count, outputs, rows, columns, down, across)
    whole = np.zeros(
        (
            count,
            outputs,
            max(height + p_down, (rows - 1) * s_down + d_down * (down - 1) + 1),
            max(width + p_across, (columns - 1) * s_across + d_across * (across - 1) + 1),
        ),
        dtype=np.float32,
    )
    for i in range(down):
        for j in range(across):
            y, x = i * d_down, j * d_across
            end_y, end_x = y + (rows - 1) * s_down + 1, x + (columns - 1) * s_across + 1
            whole[:, :, y:end_y:s_down, x:end_x:s_across] += spread[..., i, j]
    return whole[:, :, p_down : p_down + height, p_across : p_across + width]


def _windows(picture: Array, op: g.Op, fill: float) -> Array:
    down, across, s_down, s_across, p_down, p_across = op.numbers[:6]
    rows, columns = op.output.shape[1:]
    height, width = picture.shape[2:]
    ends = ((rows - 1) * s_down + down, (columns - 1) * s_across + across)
    behind = (max(ends[0] - height - p_down, 0), max(ends[1] - width - p_across, 0))
    padded = np.pad(
        picture,
        ((0, 0), (0, 0), (p_down, behind[0]), (p_across, behind[1])),
        constant_values=fill,
    )
    windows = sliding_window_view(padded, (down, across), axis=(2, 3))
    return windows[:, :, ::s_down, ::s_across][:, :, :rows, :columns]


def _max_pool(given: Sequence[Array], op: g.Op) -> Array:
    found: Array = _windows(given[0], op, -np.inf).max(axis=(4, 5))
    return found


def _average(given: Sequence[Array], op: g.Op) -> Array:
    sums = _windows(given[0], op, 0.0).sum(axis=(4, 5), dtype=np.float32)
    counts: Any = np.float32(op.numbers[0] * op.numbers[1])
    if not op.numbers[6]:
        inside = np.ones_like(given[0][:1, :1])
        counts = _windows(inside, op, 0.0).sum(axis=(4, 5), dtype=np.float32)
    found: Array = sums / counts
    return found


def _place(picture: Array, out: Array, numbers: tuple[int, ...]) -> None:
    (c, y, x), (s_down, s_across), (channels, rows, columns) = (
        numbers[:3],
        numbers[3:5],
        numbers[5:8],
    )
    taken = picture[
        :,
        c : c + channels,
        y : y + (rows - 1) * s_down + 1 : s_down,
        x : x + (columns - 1) * s_across + 1 : s_across,
    ].copy()
    if not numbers[11]:
        out[...] = 0
    c, y, x = numbers[8:11]
    out[:, c : c + channels, y : y + rows, x : x + columns] = taken


def _nearest(given: Sequence[Array], op: g.Op) -> Array:
    return given[0].repeat(op.numbers[0], axis=2).repeat(op.numbers[1], axis=3)


def _sigmoid(x: Array) -> Array:
    found: Array = np.float32(1) / (np.float32(1) + np.exp(-x))
    return found


def _shifted(x: Array) -> Array:
    found: Array = x - x.max(axis=1, keepdims=True)
    return found


def _softmax(given: Sequence[Array], _: g.Op) -> Array:
    powers = np.exp(_shifted(given[0]))
    found: Array = powers / powers.sum(axis=1, keepdims=True, dtype=np.float32)
    return found


def _log_softmax(given: Sequence[Array], _: g.Op) -> Array:
    x = _shifted(given[0])
    found: Array = x - np.log(np.exp(x).sum(axis=1, keepdims=True, dtype=np.float32))
    return found


def _clamp(given: Sequence[Array], op: g.Op) -> Array:
    low, high = op.floats
    found: Array = np.clip(given[0], np.float32(low), np.float32(high))
    return found


def _leaky(given: Sequence[Array], op: g.Op) -> Array:
    x = given[0]
    return np.where(x < 0, x * np.float32(op.floats[0]), x)


def _hard(x: Array) -> Array:
    found: Array = np.clip(x + np.float32(3), 0, 6) / np.float32(6)
    return found


_WEIGHTED = {g.CONV: _convolved, g.TRANSPOSED: _transposed}
_PLAIN: dict[int, Callable[[Sequence[Array], g.Op], Array]] = {
    g.MAX_POOL: _max_pool,
    g.AVERAGE: _average,
    g.ADD: lambda given, _: given[0] + given[1],
    g.MULTIPLY: lambda given, _: given[0] * given[1],
    g.CLAMP: _clamp,
    g.LEAKY: _leaky,
    g.SIGMOID: lambda given, _: _sigmoid(given[0]),
    g.TANH: lambda given, _: np.tanh(given[0]),
    g.HARD_SIGMOID: lambda given, _: _hard(given[0]),
    g.HARD_SWISH: lambda given, _: given[0] * _hard(given[0]),
    g.SILU: lambda given, _: given[0] * _sigmoid(given[0]),
    g.NEAREST: _nearest,
    g.SOFTMAX: _softmax,
    g.LOG_SOFTMAX: _log_softmax,
}
