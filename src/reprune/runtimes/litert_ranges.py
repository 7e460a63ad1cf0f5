"""The range of every tensor of a float .tflite on calibration inputs: what static quantisation needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.plugins import require

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

SIGNATURE = "serving_default"
BINS = 2048
# This share of all values lies inside the range; half of the rest beyond either end.
PERCENTILE = 0.9999
TINY = 1e-6


class Range(NamedTuple):
    """Of a tensor with `rank` dimensions. Zero lies in it, and it is never empty."""

    low: float
    high: float
    rank: int


def ranges_of(
    content: bytes, batches: Sequence[Sequence[Array]], how: Literal["minmax", "percentile"]
) -> dict[str, Range]:
    """The range of every computed float tensor, by name, over all `batches`, each of which is one
    call's inputs. By "percentile" the rarest values are left outside, as far as a histogram of 2048
    bins tells.

    Raises BuildError for no batches, and for a model whose values are not finite on them.
    """
    if not batches:
        raise BuildError(
            "int8 needs calibration examples, and there are none",
            fix="give the task a calibration split",
        )
    found: dict[str, Range] = {}
    for name, values in _values(content, batches):
        least, largest = float(values.min()), float(values.max())
        if not np.isfinite(least + largest):
            raise BuildError(
                f"the tensor {name} is not finite on the calibration examples",
                fix="look for overflows in the model, or examples that are not finite",
            )
        low, high, _ = found.get(name, (0.0, 0.0, 0))
        low = min(low, least)
        found[name] = Range(low, max(high, largest, low + TINY), values.ndim)
    return found if how == "minmax" else _clipped(content, batches, found)


def _clipped(
    content: bytes, batches: Sequence[Sequence[Array]], ranges: Mapping[str, Range]
) -> dict[str, Range]:
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for name, values in _values(content, batches):
        counts[name] += np.histogram(values, bins=BINS, range=ranges[name][:2])[0]
    return {name: _tails_cut(counts[name], whole) for name, whole in ranges.items()}


def _tails_cut(counts: Array, whole: Range) -> Range:
    edges = np.linspace(whole.low, whole.high, BINS + 1)
    below = np.cumsum(counts) / counts.sum()
    rest = (1.0 - PERCENTILE) / 2.0
    low = min(float(edges[int(np.searchsorted(below, rest))]), 0.0)
    high = max(float(edges[int(np.searchsorted(below, 1.0 - rest)) + 1]), low + TINY)
    return Range(low, high, whole.rank)


def _values(content: bytes, batches: Sequence[Sequence[Array]]) -> Iterator[tuple[str, Array]]:
    """Each computed float tensor after each call. Every operator runs alone: a delegate hides tensors."""
    module = require("ai_edge_litert.interpreter", "litert")
    interpreter = module.Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    places = input_places(interpreter)
    computed = {
        int(index) for one in interpreter._get_ops_details() for index in one["outputs"]
    } | {place["index"] for place in places}
    read = [
        detail
        for detail in interpreter.get_tensor_details()
        if detail["index"] in computed and detail["dtype"] == np.float32
    ]
    for batch in batches:
        for place, given in zip(places, batch, strict=True):
            interpreter.set_tensor(place["index"], given.astype(place["dtype"]))
        interpreter.invoke()
        for detail in read:
            values = interpreter.get_tensor(detail["index"])
            if values.size:
                yield detail["name"], values


def input_places(interpreter: Any) -> list[dict[str, Any]]:
    """The interpreter's inputs in the order of the module's: they are named args_0, args_1, ..."""
    return _in_order(interpreter.get_input_details(), "inputs", interpreter)


def output_places(interpreter: Any) -> list[dict[str, Any]]:
    """The interpreter's outputs in the order of the module's: they are named output_0, output_1, ..."""
    return _in_order(interpreter.get_output_details(), "outputs", interpreter)


def _in_order(
    details: Sequence[dict[str, Any]], which: str, interpreter: Any
) -> list[dict[str, Any]]:
    runner = interpreter._get_full_signature_list()[SIGNATURE][which]
    by_index = {detail["index"]: detail for detail in details}
    ordered = sorted(runner.items(), key=lambda item: int(item[0].rpartition("_")[2]))
    return [by_index[index] for _, index in ordered]
