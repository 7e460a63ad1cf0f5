"""Where int8 goes in an ONNX graph: what each runtime fuses, and which tensors are rounded for it.

- a layer (Conv, Gemm, MatMul with a constant weight) reads its input in int8;
- what a convolution gives, after its ReLU or clip, is int8 too, and all that read it read that;
- pooling, reshaping and nearest resizing keep their input's steps; a sum or a concatenation all of whose
  inputs are int8 reads those, and so does the sum of a residual block;
- a layer left in float reads what is not rounded;
- everything else (embeddings, softmax, norms, attention's own products) stays in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from reprune.runtimes.onnx_graph import Graph, read_graph
from reprune.runtimes.onnx_names import module_of

if TYPE_CHECKING:
    from onnx import NodeProto

MOVERS = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Identity",
        "Resize",
    }
)
JOINS = frozenset({"Add", "Concat"})


@dataclass(frozen=True, kw_only=True)
class Style:
    """What a runtime fuses. `symmetric`: activations are int8 around zero, else uint8 with a zero point.
    `bias`: in int32. `layers` are the operators that are quantised, `outputs` those of them whose result
    is int8 even if nobody needs it to be, `by_channel` those whose weight has one scale a channel.
    """

    symmetric: bool = False
    bias: bool = True
    layers: frozenset[str] = frozenset({"Conv", "Gemm", "MatMul"})
    outputs: frozenset[str] = frozenset({"Conv"})
    by_channel: frozenset[str] = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


# ONNX Runtime needs int8 on both sides of a convolution; it has no quantised transposed one.
CPU = Style()
# QNN's HTP multiplies matrices with one scale a weight, and gives integers for integers.
QNN = Style(
    layers=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    outputs=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    by_channel=frozenset({"Conv"}),
)
# TensorRT takes no zero points and no quantised bias; a convolution adds its residual before rounding.
TENSORRT = Style(
    symmetric=True,
    bias=False,
    outputs=frozenset(),
    layers=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
)


def layers_of(content: bytes, style: Style) -> tuple[str, ...]:
    """The dotted names of the modules that `quantise` would quantise, in the order they run."""
    nodes = _layers(read_graph(content), style)
    return tuple(dict.fromkeys(module_of(node) for node in nodes))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the dotted `name` is one of `patterns`, or fits one."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`layers` by node name; `wanted` are tensors that get a pair, `same` those of them that take over
    another's steps; `reading` the nodes other than layers that read int8, `floats` those that never do.
    """

    layers: frozenset[str]
    wanted: frozenset[str]
    same: Mapping[str, str]
    reading: frozenset[str]
    floats: frozenset[str]


def _layers(graph: Graph, style: Style) -> list[NodeProto]:
    return [node for node in graph.nodes if node.op_type in style.layers and _is_layer(graph, node)]


def _is_layer(graph: Graph, node: NodeProto) -> bool:
    constants = graph.constants
    if node.input[0] in constants or node.input[1] not in constants:
        return False
    weight = constants[node.input[1]]
    if weight.dtype != np.float32 or weight.ndim < 2:
        return False
    if len(node.input) > 2 and node.input[2] and node.input[2] not in constants:
        return False
    if node.op_type == "Gemm":
        plain = all(graph.attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
        bias = constants[node.input[2]] if len(node.input) > 2 else None
        fits = bias is None or bias.ndim == 1
        return plain and fits and graph.attribute(node, "transA", 0) == 0
    return node.op_type != "MatMul" or weight.ndim == 2


def make_plan(graph: Graph, style: Style, float_layers: Sequence[str] = ()) -> Plan:
    """Where int8 goes in `graph`, with the layers that fit `float_layers` in float."""
    candidates = _layers(graph, style)
    floats = {node.name for node in candidates if matches(module_of(node), float_layers)}
    layers = [node for node in candidates if node.name not in floats]
    whole = _whole(graph, [node for node in candidates if node.name in floats])
    wanted = {node.input[0] for node in layers}
    for node in layers:
        output = graph.activated(node)
        if node.op_type in style.outputs and output not in whole:
            wanted.add(output)
    reading = _joined(graph, wanted)
    same: dict[str, str] = {}
    for node in graph.nodes:
        if _moves(graph, node) and {node.input[0], node.output[0]} <= wanted:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            reading.add(node.name)
    return Plan(
        layers=frozenset(node.name for node in layers),
        wanted=frozenset(wanted),
        same=same,
        reading=frozenset(reading | _residual(graph, layers)),
        floats=frozenset(floats),
    )


def _whole(graph: Graph, floats: Sequence[NodeProto]) -> set[str]:
    """What layers in float read, moved or not: its maker does not round it either."""
    found = {node.input[0] for node in floats}
    for node in reversed(graph.nodes):
        if _moves(graph, node) and node.output[0] in found:
            found.add(node.input[0])
    return found


def _joined(graph: Graph, wanted: set[str]) -> set[str]:
    """The sums and concatenations that read int8; what they read is added to `wanted`."""
    found: set[str] = set()
    # Backwards, so that what a join reads is wanted before its own makers come.
    for node in reversed(graph.nodes):
        if (
            _moves(graph, node)
            and node.output[0] in wanted
            and _small(graph, node.input[0], wanted)
        ):
            wanted.add(node.input[0])
        joins = node.op_type in JOINS and graph.activated(node) in wanted
        if joins and all(_small(graph, name, wanted) for name in node.input):
            wanted |= set(node.input)
            found.add(node.name)
    return found


def _residual(graph: Graph, layers: Sequence[NodeProto]) -> set[str]:
    """The sums of a convolution and something else, which take the other side in int8, whoever made it."""
    made = {
        name
        for node in layers
        if node.op_type in {"Conv", "ConvTranspose"}
        for name in (node.output[0], graph.activated(node))
    }
    return {node.name for node in graph.nodes if node.op_type == "Add" and made & set(node.input)}


def _moves(graph: Graph, node: NodeProto) -> bool:
    if node.op_type == "Resize":
        return bool(graph.attribute(node, "mode", b"nearest") == b"nearest")
    return node.op_type in MOVERS


def _small(graph: Graph, name: str, wanted: set[str]) -> bool:
    """Whether a tensor is int8 already, or moved from what is."""
    if name in wanted or name in graph.constants:
        return name in wanted
    maker = graph.makers.get(name)
    return maker is not None and _moves(graph, maker) and _small(graph, maker.input[0], wanted)
