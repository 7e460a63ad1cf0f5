"""Static int8 of an ONNX graph: QuantizeLinear and DequantizeLinear put where runtimes fuse them.

Written here because onnxruntime.quantization, given what torch's exporter writes, trusts shapes that are
wrong, puts a pair between a convolution and its ReLU (which TensorRT then cannot fuse), and addresses
nodes, not layers. What is put where:

- a layer (Conv, Gemm, MatMul with a constant weight) reads its input through a pair and its weight as
  int8, one scale an output channel, no zero point; its bias in int32 where the style asks for it;
- what a convolution gives, after its ReLU or clip, goes through a pair too: all that read it read int8;
- pooling, reshaping and nearest resizing keep their input's steps; a sum or a concatenation all of whose
  inputs are int8 reads those, and so does the sum of a residual block;
- everything else (embeddings, softmax, norms, attention's own products) stays in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.plugins import require
from reprune.runtimes.onnx_graph import Graph, read_graph
from reprune.runtimes.onnx_names import module_of
from reprune.runtimes.onnx_ranges import Range, take_ranges

if TYPE_CHECKING:
    from onnx import NodeProto

    Array = np.ndarray[Any, np.dtype[Any]]

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
INT8_MAX, INT32_MAX = 127, 2**31 - 1


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


def quantise(
    content: bytes,
    batches: Sequence[Sequence[Array]],
    *,
    ranges: str,
    style: Style,
    float_layers: Sequence[str] = (),
) -> bytes:
    """The float model `content` in int8; equal arguments give equal bytes.

    `batches` are calibration inputs in the model's order, `ranges` is one of Target.ranges,
    `float_layers` are dotted names of layers, or patterns of them, that stay in float. Raises BuildError
    without calibration examples and for a layer whose weights or values are not finite.
    """
    onnx = require("onnx", "onnx")
    graph = read_graph(content)
    layers = [node for node in _layers(graph, style) if not matches(module_of(node), float_layers)]
    if not layers:
        return content
    plan = _plan(graph, layers, style)
    measured = sorted(plan.wanted - plan.same.keys())
    found = take_ranges(content, measured, batches, ranges, symmetric=style.symmetric)
    steps = {name: _steps(found[name], style) for name in measured}
    writer = _Writer(graph, plan, steps, style)
    writer.write()
    onnx.checker.check_model(graph.model, full_check=True)
    done: bytes = graph.model.SerializeToString(deterministic=True)
    return done


def layers_of(content: bytes, style: Style) -> tuple[str, ...]:
    """The dotted names of the modules that `quantise` would quantise, in the order they run."""
    nodes = _layers(read_graph(content), style)
    return tuple(dict.fromkeys(module_of(node) for node in nodes))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the dotted `name` is one of `patterns`, or fits one."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """`layers` by node name; `wanted` are tensors that get a pair, `same` those of them that take over
    another's steps; `reading` the nodes other than layers that read int8.
    """

    layers: frozenset[str]
    wanted: frozenset[str]
    same: Mapping[str, str]
    reading: frozenset[str]


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


def _plan(graph: Graph, layers: Sequence[NodeProto], style: Style) -> _Plan:
    wanted = {node.input[0] for node in layers}
    by_layers: set[str] = set()
    for node in layers:
        output = graph.activated(node)
        by_layers |= {node.output[0], output}
        if node.op_type in style.outputs:
            wanted.add(output)
    # Backwards, so that what a wanted sum or concatenation reads is wanted before its own makers come.
    reading: set[str] = set()
    for node in reversed(graph.nodes):
        if (
            _moves(graph, node)
            and node.output[0] in wanted
            and _small(graph, node.input[0], wanted)
        ):
            wanted.add(node.input[0])
        small = node.op_type in JOINS and graph.activated(node) in wanted
        if small and all(_small(graph, name, wanted) for name in node.input):
            wanted |= set(node.input)
            reading.add(node.name)
    same: dict[str, str] = {}
    for node in graph.nodes:
        if _moves(graph, node) and node.output[0] in wanted and node.input[0] in wanted:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            reading.add(node.name)
    for node in graph.nodes:
        made = {name for name in node.input if name in by_layers}
        # A residual sum takes its other side in int8, whoever made that.
        if node.op_type == "Add" and any(_from_conv(graph, name) for name in made):
            reading.add(node.name)
    return _Plan(
        layers=frozenset(node.name for node in layers),
        wanted=frozenset(wanted),
        same=same,
        reading=frozenset(reading),
    )


def _from_conv(graph: Graph, name: str) -> bool:
    return name in graph.makers and graph.makers[name].op_type in {"Conv", "ConvTranspose"}


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


@dataclass(frozen=True, kw_only=True)
class _Steps:
    scale: Array
    zero: Array


def _steps(ends: Range, style: Style) -> _Steps:
    """The scale and zero point that spread 8 bits over a range; one that is empty gets steps of one."""
    low, high = ends
    if style.symmetric:
        scale = max(-low, high) / INT8_MAX or 1.0
        return _Steps(scale=np.array(scale, np.float32), zero=np.array(0, np.int8))
    scale = (high - low) / 255 or 1.0
    # The scale is what is stored: the zero point must be of that.
    scale = float(np.float32(scale))
    zero = min(max(round(-low / scale), 0), 255)
    return _Steps(scale=np.array(scale, np.float32), zero=np.array(zero, np.uint8))


class _Writer:
    """Writes the graph anew with its pairs, node by node. `small` is what to read instead of a tensor."""

    def __init__(
        self, graph: Graph, plan: _Plan, steps: Mapping[str, _Steps], style: Style
    ) -> None:
        self.graph, self.plan, self.style = graph, plan, style
        self.steps = {**steps, **{name: steps[source] for name, source in plan.same.items()}}
        self.small: dict[str, str] = {}
        self.computed_small: set[str] = set()
        self.nodes: list[NodeProto] = []

    def write(self) -> None:
        for name in self.graph.inputs:
            self._pair(name, name)
        for node in self.graph.nodes:
            self._rewrite(node)
        self.graph.replace(self.nodes)

    def _rewrite(self, node: NodeProto) -> None:
        source, outputs = str(node.input[0]) if node.input else "", list(node.output)
        is_layer = node.name in self.plan.layers
        by_int8 = is_layer or node.name in self.plan.reading
        if by_int8:
            self.computed_small |= {outputs[0], self.graph.activated(node)}
        for place, name in enumerate(node.input):
            reads = place == 0 if is_layer else by_int8 or name in self.computed_small
            if name in self.small and reads:
                node.input[place] = self.small[name]
        if is_layer:
            self._weights(node, self.steps[source])
        for place, name in enumerate(outputs):
            # Behind int8 the graph's own output is the rounded one, and keeps its name.
            if {name} <= self.plan.wanted & self.graph.outputs & self.computed_small:
                node.output[place] = f"{name}_float"
        self.nodes.append(node)
        for name, written in zip(outputs, list(node.output), strict=True):
            self._pair(name, written)

    def _pair(self, name: str, written: str) -> None:
        if name not in self.plan.wanted:
            return
        steps, source = self.steps[name], self.plan.same.get(name, name)
        scale, zero = f"{source}_scale", f"{source}_zero_point"
        self.graph.add_constant(scale, steps.scale)
        self.graph.add_constant(zero, steps.zero)
        self.small[name] = name if written != name else f"{name}_dequantized"
        self._node("QuantizeLinear", [written, scale, zero], f"{name}_quantized", name)
        self._node("DequantizeLinear", [f"{name}_quantized", scale, zero], self.small[name], name)

    def _node(
        self, operator: str, inputs: list[str], output: str, name: str, **attributes: int
    ) -> None:
        helper = require("onnx.helper", "onnx")
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=f"{name}_{operator}", **attributes)
        )

    def _weights(self, node: NodeProto, given: _Steps) -> None:
        constants = self.graph.constants
        weight = constants[node.input[1]]
        has_bias = len(node.input) > 2 and bool(node.input[2])
        bias = constants[node.input[2]] if has_bias and self.style.bias else None
        if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
            raise BuildError(
                "its weights are not finite", where=module_of(node), fix="train the model again"
            )
        axis = channel_axis(self.graph, node) if node.op_type in self.style.by_channel else None
        step = float(given.scale)
        scale = weight_scales(weight, axis, bias, step)
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        steps = scale if axis is None else scale.reshape(shape)
        whole = np.clip(np.rint(weight / steps), -INT8_MAX, INT8_MAX)
        name = f"{node.name}.weight"
        node.input[1] = self._constant(name, whole.astype(np.int8), scale, axis)
        if bias is not None:
            steps = scale.astype(np.float64) * step
            rounded = np.clip(np.rint(bias / steps), -INT32_MAX, INT32_MAX).astype(np.int32)
            stored = steps.astype(np.float32)
            along = None if axis is None else 0
            node.input[2] = self._constant(f"{node.name}.bias", rounded, stored, along)

    def _constant(self, name: str, values: Array, scale: Array, axis: int | None) -> str:
        self.graph.add_constant(f"{name}_quantized", values)
        self.graph.add_constant(f"{name}_scale", scale)
        self.graph.add_constant(f"{name}_zero_point", np.zeros(scale.shape, values.dtype))
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        along = {} if axis is None else {"axis": axis}
        self._node("DequantizeLinear", inputs, f"{name}_dequantized", name, **along)
        return f"{name}_dequantized"


def channel_axis(graph: Graph, node: NodeProto) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "Gemm":
        return 0 if graph.attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def weight_scales(weight: Array, axis: int | None, bias: Array | None, given: float) -> Array:
    """One step an output channel (without `axis` one in all), so that the largest weight is 127 of them.

    A channel of zeros takes the layer's largest step; one whose bias would not fit into int32, in
    steps of `given` times its own, takes a larger step.
    """
    others = tuple(place for place in range(weight.ndim) if place != axis)
    scale = np.asarray(np.abs(weight.astype(np.float64)).max(axis=others) / INT8_MAX)
    scale = np.where(scale == 0.0, scale.max() or 1.0, scale)
    if bias is not None:
        least = np.abs(bias) / (given * (INT32_MAX - 1))
        scale = np.maximum(scale, least if axis is not None else least.max())
    stored: Array = scale.astype(np.float32)
    return stored
