"""Exact rewrites of an exported graph into operators that a runtime keeps in its own memory layout.

A ResNet shortcut of option A (every second pixel, zeros for the new channels; He et al. 2016, section
3.3) leaves the exporter as Slice, Slice, Pad. ONNX Runtime runs these in the plain layout, so the
tensors on both sides are reordered; the same function as a 1x1 convolution with a fixed weight of
zeros and ones stays in the convolutions' layout and joins their fused addition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.plugins import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    Array = np.ndarray[Any, np.dtype[Any]]

RANK = 4
CHANNELS = 1
FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True, kw_only=True)
class _Shortcut:
    """`slices` and then `pad` make, of the tensor `source` with `channels`, one with `before` new channels
    in front of it and `after` behind, every `strides`-th pixel of it.
    """

    slices: tuple[NodeProto, ...]
    pad: NodeProto
    source: str
    channels: int
    before: int
    after: int
    strides: tuple[int, int]


def rewrite(content: bytes) -> bytes:
    """The same function as the ONNX model `content`, with padded shortcuts as convolutions.

    Each output element is one input element times 1 plus zeros, so finite values keep their bits
    (but for -0.0, which may become 0.0).
    Where no pattern matches wholly (constants, float32, known channels, nobody else reads the parts),
    that part is untouched; without any match the bytes are those given.
    """
    onnx = require("onnx", "onnx")
    proto: ModelProto = onnx.load_model_from_string(content)
    found = _shortcuts(proto.graph)
    if not found:
        return content
    for shortcut in found:
        _replace(proto.graph, shortcut)
    _drop_unread(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    changed: bytes = proto.SerializeToString(deterministic=True)
    return changed


def _shortcuts(graph: GraphProto) -> list[_Shortcut]:
    numpy_helper = require("onnx.numpy_helper", "onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    channels = _float_channels(graph)
    found = []
    for pad in graph.node:
        padding = _channel_padding(pad, constants)
        if padding is None:
            continue
        slices, strides = _strides(pad.input[0], makers, readers, constants)
        source = slices[0].input[0] if slices else ""
        if source in channels:
            found.append(
                _Shortcut(
                    slices=slices,
                    pad=pad,
                    source=source,
                    channels=channels[source],
                    before=padding[0],
                    after=padding[1],
                    strides=strides,
                )
            )
    return found


def _float_channels(graph: GraphProto) -> dict[str, int]:
    """The number of channels of every float32 tensor (N, C, H, W) whose C is known."""
    found = {}
    for value in (*graph.input, *graph.value_info):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.elem_type == FLOAT and len(dims) == RANK and dims[CHANNELS].dim_value > 0:
            found[value.name] = dims[CHANNELS].dim_value
    return found


def _channel_padding(node: NodeProto, constants: Mapping[str, Array]) -> tuple[int, int] | None:
    """Zeros before and after the channels, where the node pads nothing else and with nothing else."""
    if node.op_type != "Pad" or _text(node, "mode", "constant") != "constant":
        return None
    given = [constants.get(name) for name in node.input[1:]]
    if not given or given[0] is None or given[0].size != 2 * RANK:
        return None
    # The value padded with and the axes: absent, or the constant 0 and no axes.
    if len(node.input) > 2 and node.input[2] and (given[1] is None or given[1].any()):
        return None
    if len(node.input) > 3 and node.input[3]:
        return None
    pads = given[0].reshape(2, RANK).astype(int)
    before, after = (int(value) for value in pads[:, CHANNELS])
    others = np.delete(pads, CHANNELS, axis=1)
    if others.any() or before < 0 or after < 0:
        return None
    return before, after


def _strides(
    name: str,
    makers: Mapping[str, NodeProto],
    readers: Mapping[str, int],
    constants: Mapping[str, Array],
) -> tuple[tuple[NodeProto, ...], tuple[int, int]]:
    """The slices that made `name`, the first first, as far as each takes every n-th row or column from
    the first to the last and nobody else reads its result; and n down and across.
    """
    steps = {2: 1, 3: 1}
    slices: list[NodeProto] = []
    while name in makers and readers[name] == 1:
        step = _step(makers[name], constants)
        if step is None or steps[step[0]] != 1:
            break
        steps[step[0]] = step[1]
        slices.insert(0, makers[name])
        name = makers[name].input[0]
    return tuple(slices), (steps[2], steps[3])


def _step(node: NodeProto, constants: Mapping[str, Array]) -> tuple[int, int] | None:
    """The axis (2 or 3) and step of a slice of one axis over its whole length."""
    if node.op_type != "Slice" or len(node.input) != 5:
        return None
    given = [constants.get(name) for name in node.input[1:]]
    if any(value is None or value.size != 1 for value in given):
        return None
    start, end, axis, step = (int(value.item()) for value in given if value is not None)
    whole = start == 0 and end >= np.iinfo(np.int32).max
    return (axis, step) if whole and axis in {2, 3} and step >= 1 else None


def _replace(graph: GraphProto, shortcut: _Shortcut) -> None:
    onnx = require("onnx", "onnx")
    output = shortcut.pad.output[0]
    weight = np.zeros(
        (shortcut.before + shortcut.channels + shortcut.after, shortcut.channels, 1, 1), np.float32
    )
    kept = np.arange(shortcut.channels)
    weight[shortcut.before + kept, kept] = 1
    name = f"{output}_shortcut_weight"
    graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    conv = onnx.helper.make_node(
        "Conv",
        [shortcut.source, name],
        [output],
        name=f"{shortcut.pad.name or output}_shortcut",
        kernel_shape=[1, 1],
        strides=list(shortcut.strides),
    )
    place = list(graph.node).index(shortcut.pad)
    graph.node.insert(place, conv)
    graph.node.remove(shortcut.pad)
    gone = {name for node in shortcut.slices for name in node.output}
    for node in shortcut.slices:
        graph.node.remove(node)
    for value in [value for value in graph.value_info if value.name in gone]:
        graph.value_info.remove(value)


def _drop_unread(graph: GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _text(node: NodeProto, name: str, default: str) -> str:
    values: Sequence[bytes] = [a.s for a in node.attribute if a.name == name]
    return values[0].decode() if values else default
