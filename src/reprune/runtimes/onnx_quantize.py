"""Static int8 of an ONNX graph: QuantizeLinear and DequantizeLinear put where runtimes fuse them.

Written here because onnxruntime.quantization, given what torch's exporter writes, trusts shapes that are
wrong, puts a pair between a convolution and its ReLU (which TensorRT then cannot fuse), and addresses
nodes, not layers. `onnx_plan` says what is put where. Weights are int8 with a scale an output channel
and no zero point; biases are int32 where the style asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.plugins import require
from reprune.runtimes.onnx_graph import Graph, read_graph
from reprune.runtimes.onnx_names import module_of
from reprune.runtimes.onnx_plan import Plan, Style, make_plan
from reprune.runtimes.onnx_ranges import Range, take_ranges

if TYPE_CHECKING:
    from onnx import NodeProto

    Array = np.ndarray[Any, np.dtype[Any]]

INT8_MAX, INT32_MAX = 127, 2**31 - 1


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
    plan = make_plan(graph, style, float_layers)
    if not plan.layers:
        return content
    measured = sorted(plan.wanted - plan.same.keys())
    found = take_ranges(content, measured, batches, ranges, symmetric=style.symmetric)
    steps = {name: _steps(found[name], style) for name in measured}
    writer = _Writer(graph, plan, steps, style)
    writer.write()
    onnx.checker.check_model(graph.model, full_check=True)
    done: bytes = graph.model.SerializeToString(deterministic=True)
    return done


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

    def __init__(self, graph: Graph, plan: Plan, steps: Mapping[str, _Steps], style: Style) -> None:
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
            if name in self.small and reads and node.name not in self.plan.floats:
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
        by_channel = node.op_type in self.style.by_channel
        axis = channel_axis(self.graph, node) if by_channel else None
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


def channel_axis(graph: Graph, node: NodeProto) -> int | None:
    """The axis of the weight that counts output channels; None where none does."""
    if node.op_type == "Gemm":
        return 0 if graph.attribute(node, "transB", 0) else 1
    # Its weight is (inputs, outputs / groups, ...): channels of two groups would share a scale, and the
    # bias, which counts all outputs, would have too few.
    if node.op_type == "ConvTranspose" and graph.attribute(node, "group", 1) != 1:
        return None
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
