"""An ONNX model whose floats are fp16 inside and fp32 at its inputs and outputs, and what does not fit.

TensorRT from version 11 on takes every precision from the model itself, so that mixed precision is
written here: an operator whose schema has no fp16 keeps its floats between two casts, and so do the
layers that are named. A quantised part (QuantizeLinear, DequantizeLinear) gets fp16 scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.plugins import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    Array = np.ndarray[Any, np.dtype[Any]]

FLOAT, FLOAT16 = 1, 10  # onnx.TensorProto.FLOAT and .FLOAT16
LARGEST = float(np.finfo(np.float16).max)
# From here on a number is rounded to infinity (IEEE 754: half a unit above the largest one).
OVERFLOWS = 65520.0
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
# Masks add the lowest number of fp32, or close to it, where they mean minus infinity.
MEANS_INFINITY = 1e30
# What such a number becomes: as good as infinite to a softmax, with room for what is added to it.
STAND_IN = LARGEST / 2
# As one wrapper puts the task's module into the exported one (runtimes.onnx_export).
PREFIX = "model."
EXAMPLES_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Half:
    """A converted model and, for people, what was changed besides the type."""

    content: bytes
    notes: tuple[str, ...]


def to_half(content: bytes, keep: Sequence[str] = ()) -> Half:
    """The same function in fp16; inputs and outputs keep their types and names.

    `keep` are names of modules or ONNX nodes, or patterns of them, that compute in fp32. Numbers that
    stand for infinity become half the largest of fp16. Raises BuildError for a weight that has no fp16,
    naming its layer, for control flow, and for a pattern in `keep` that fits nothing.
    """
    onnx = require("onnx", "onnx")
    proto: ModelProto = onnx.load_model_from_string(content)
    graph = proto.graph
    _refuse_control_flow(graph)
    kept = kept_nodes(graph, keep)
    conversion = _conversion(proto, kept)
    notes = [*_convert_initializers(graph, kept, conversion)]
    nodes = [new for node in graph.node for new in conversion.rewritten(node, key(node) in kept)]
    _join_ends(graph, nodes, conversion)
    graph.initializer.extend(conversion.whole)
    _drop_unread(graph)
    del graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    return Half(content=proto.SerializeToString(deterministic=True), notes=tuple(notes))


def refuse_overflow(
    content: bytes, batches: Iterable[Sequence[Array]], keep: Sequence[str] = ()
) -> float:
    """The largest finite number that `content`, in fp32, computes on `batches` (inputs in the model's
    order) outside of the layers in `keep`, or hands from these to others. Raises BuildError naming the layers
    that compute, or are handed, a number which has no fp16, the one that comes first at the head.
    """
    onnx = require("onnx", "onnx")
    proto: ModelProto = onnx.load_model_from_string(content)
    _tame(proto.graph)
    kept = kept_nodes(proto.graph, keep)
    computed = _float_names(proto) - {value.name for value in proto.graph.input}
    nodes = [node for node in proto.graph.node if key(node) not in kept]
    handed = {name: layer_name(node) for node in reversed(nodes) for name in node.input}
    watched: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type not in {"Constant", "Identity"}:
            named = {name: layer_name(node) for name in node.output}
            # What a kept layer makes is in fp16 only where another one reads it: that one is to blame.
            named = handed if key(node) in kept else named
            watched |= {n: named[n] for n in node.output if n in computed and n in named}
    largest = dict.fromkeys(watched, 0.0)
    for name, value in _activations(proto, sorted(watched), batches):
        finite = np.abs(value[np.isfinite(value)])
        largest[name] = max(largest[name], float(finite.max(initial=0.0)))
    bad = [name for name in watched if largest[name] >= OVERFLOWS]
    if bad:
        layers = list(dict.fromkeys(f"{watched[name]}: {largest[name]:.4g}" for name in bad))
        raise BuildError(
            f"{len(bad)} tensor(s) have values on real inputs that fp16 cannot hold (its largest number "
            f"is {LARGEST:.0f}): {'; '.join(layers[:5])}",
            fix="name these layers in `float_layers` of the target, which keeps them in fp32",
        )
    return max(largest.values(), default=0.0)


def kept_nodes(graph: GraphProto, keep: Sequence[str]) -> set[str]:
    """The keys of the nodes whose module or own name fits a pattern in `keep`, and of those inside such a
    module. Raises BuildError for a pattern that fits none.
    """
    found: set[str] = set()
    for pattern in keep:
        fits = {
            key(node)
            for node in graph.node
            if any(
                fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
                for name in (node.name, *_modules(node))
            )
        }
        if not fits:
            raise BuildError(
                f"no layer of the exported model is called '{pattern}'",
                where="params.yaml (float_layers of the target)",
                fix="name a module with weights of its own, or an ONNX node as errors name it",
            )
        found |= fits
    return found


def key(node: NodeProto) -> str:
    """What tells a node from all others: the tensor that it makes first."""
    return str(next(name for name in node.output if name))


def layer_name(node: NodeProto) -> str:
    """A node as errors name it: the module whose weights it reads, its operator and its own name."""
    modules = [name for name in _modules(node) if name]
    own = f"{node.op_type} {node.name}".strip()
    return f"{modules[0]} ({own})" if modules else own


def _modules(node: NodeProto) -> Iterator[str]:
    """The dotted names of the module that the node came from and of those whose parameters it reads."""
    owner, slash, _ = node.name.rpartition("/")
    if slash:
        yield owner
    for name in node.input:
        owner, _, parameter = name.partition("::")[0].rpartition(".")
        if name.startswith(PREFIX) and parameter:
            yield owner.removeprefix(PREFIX.removesuffix(".")).removeprefix(".")


@dataclass(kw_only=True)
class _Conversion:
    """`floats` are the fp32 tensors of the model before; `whole` initializers that stay in fp32; `wide` what
    tensors are called in fp32, where they are there in it; `halved` what is read in fp16; `outputs` the
    model's; `renamed` what its inputs and outputs are called in fp16.
    """

    floats: set[str]
    opset: int
    halved: set[str]
    outputs: set[str]
    renamed: dict[str, str]
    wide: dict[str, str]
    whole: list[TensorProto] = field(default_factory=list)
    originals: dict[str, TensorProto] = field(default_factory=dict)
    made: int = 0

    def rewritten(self, node: NodeProto, kept: bool) -> Iterator[NodeProto]:
        """The node in fp16, or between casts where it, or one of its slots, stays in fp32."""
        before = [*node.input]
        if not kept:
            _convert_attributes(node)
        into, out_of = self._float_slots(node, kept)
        after: list[NodeProto] = []
        for place, name in enumerate(before):
            half = self.renamed.get(name, name)
            if name in self.floats and place in into:
                known = self.wide.get(name) or self._copied(name)
                node.input[place] = known or self._fresh(half)
                if not known:
                    yield _cast(half, node.input[place], FLOAT)
            else:
                node.input[place] = half
        for place, name in enumerate([*node.output]):
            half = self.renamed.get(name, name)
            if name in self.floats and place in out_of:
                # It goes on in fp32 to whoever computes in it: a cast there and back could overflow.
                wide = name if name in self.outputs else self._fresh(half)
                self.wide[name] = node.output[place] = wide
                if name in self.halved:
                    after.append(_cast(wide, half, FLOAT16))
            else:
                node.output[place] = half
        yield node
        yield from after

    def _copied(self, name: str) -> str:
        """The name of that weight's copy in fp32; empty for what is no weight."""
        if name not in self.originals:
            return ""
        copy = f"{name}_fp32"
        if copy not in {tensor.name for tensor in self.whole}:
            tensor = require("onnx", "onnx").TensorProto()
            tensor.CopyFrom(self.originals[name])
            tensor.name = copy
            self.whole.append(tensor)
        return copy

    def _fresh(self, name: str) -> str:
        self.made += 1
        return f"{name}_fp32_{self.made}"

    def _float_slots(self, node: NodeProto, kept: bool) -> tuple[set[int], set[int]]:
        """The places of inputs and outputs that must be fp32: all of a kept node's, else those whose
        type in the operator's schema leaves out fp16.
        """
        if kept:
            return set(range(len(node.input))), set(range(len(node.output)))
        onnx = require("onnx", "onnx")
        if node.op_type == "Cast":
            return set(), set()
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except onnx.defs.SchemaError as error:
            raise BuildError(
                f"the operator {node.op_type} of {layer_name(node)} is none of ONNX's own, so nothing "
                "says whether it computes in fp16",
                fix="build the target in fp32, or replace the operator",
            ) from error
        allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        return (
            _without_half(schema.inputs, allowed, len(node.input)),
            _without_half(schema.outputs, allowed, len(node.output)),
        )


def _conversion(proto: ModelProto, kept: set[str]) -> _Conversion:
    graph, floats = proto.graph, _float_names(proto)
    inputs, outputs = (
        {value.name for value in values} & floats for values in (graph.input, graph.output)
    )
    return _Conversion(
        floats=floats,
        opset=_opset(proto),
        halved={name for node in graph.node if key(node) not in kept for name in node.input},
        outputs=outputs,
        renamed={name: f"{name}_fp16" for name in inputs | outputs},
        wide={name: name for name in inputs},
    )


def _without_half(
    parameters: Sequence[Any], allowed: Mapping[str, Sequence[str]], count: int
) -> set[int]:
    found = set()
    for place in range(count if parameters else 0):
        # The last parameter may be variadic: it stands for all that follow.
        kind = parameters[min(place, len(parameters) - 1)].type_str
        if "tensor(float16)" not in allowed.get(kind, (kind,)):
            found.add(place)
    return found


def _float_names(proto: ModelProto) -> set[str]:
    onnx = require("onnx", "onnx")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    found = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    return found | {t.name for t in inferred.initializer if t.data_type == FLOAT}


def _opset(proto: ModelProto) -> int:
    versions = [one.version for one in proto.opset_import if one.domain in {"", "ai.onnx"}]
    return int(versions[0])


def _refuse_control_flow(graph: GraphProto) -> None:
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise BuildError(
                f"the operator {node.op_type} ({node.name}) holds a graph of its own, which is not "
                "converted to fp16",
                fix="build the target in fp32, or keep control flow out of the model",
            )


def _convert_initializers(
    graph: GraphProto, kept: set[str], conversion: _Conversion
) -> Iterator[str]:
    """Turns every fp32 initializer into fp16, and says what became of extreme ones."""
    numpy_helper = require("onnx.numpy_helper", "onnx")
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    masks = raised = 0
    for tensor in graph.initializer:
        if tensor.data_type != FLOAT:
            continue
        original = require("onnx", "onnx").TensorProto()
        original.CopyFrom(tensor)
        conversion.originals[tensor.name] = original
        reading = readers.get(tensor.name, [])
        if reading and all(key(node) in kept for node in reading):
            continue
        value, infinite = _tamed(numpy_helper.to_array(tensor))
        masks += infinite
        _refuse_large(value, tensor.name, reading)
        half = value.astype(np.float16)
        scale = any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in reading)
        if scale and bool(((half == 0) & (value != 0)).any()):
            half = np.where((half == 0) & (value != 0), np.float16(SMALLEST), half)
            raised += 1
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(half), tensor.name))
    if masks:
        yield f"{masks} constant(s) that stand for infinity became {STAND_IN:.0f} in fp16"
    if raised:
        yield f"{raised} tensor(s) of scales below {SMALLEST:.2g} were raised to it"


def _tamed(value: Array) -> tuple[Array, int]:
    """Finite numbers that stand for infinity as half the largest of fp16, and whether there were any."""
    stands = np.isfinite(value) & (np.abs(value) >= MEANS_INFINITY)
    if not stands.any():
        return value, 0
    return np.where(stands, np.sign(value) * STAND_IN, value).astype(np.float32), 1


def _refuse_large(value: Array, name: str, reading: Sequence[NodeProto]) -> None:
    finite = np.abs(value[np.isfinite(value)])
    if np.isnan(value).any() or float(finite.max(initial=0.0)) >= OVERFLOWS:
        of = f" of {layer_name(reading[0])}" if reading else ""
        largest = "NaN" if np.isnan(value).any() else f"{float(finite.max()):.4g}"
        raise BuildError(
            f"the weight '{name}'{of} holds {largest}, which fp16 cannot (its largest number is "
            f"{LARGEST:.0f})",
            fix="name the layer in `float_layers` of the target, which keeps it in fp32",
        )


def _convert_attributes(node: NodeProto) -> None:
    """Constants held by nodes, and the types that nodes are told to make."""
    numpy_helper = require("onnx.numpy_helper", "onnx")
    for attribute in node.attribute:
        if attribute.HasField("t") and attribute.t.data_type == FLOAT:
            value, _ = _tamed(numpy_helper.to_array(attribute.t))
            _refuse_large(value, node.name, [node])
            half = np.asarray(value.astype(np.float16))
            attribute.t.CopyFrom(numpy_helper.from_array(half, attribute.t.name))
        elif attribute.name in {"to", "dtype", "output_dtype"} and attribute.i == FLOAT:
            attribute.i = FLOAT16
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1, np.float16))
        node.attribute.append(require("onnx", "onnx").helper.make_attribute("value", zero))
    if node.op_type == "Constant" and any(a.name.startswith("value_float") for a in node.attribute):
        raise BuildError(f"the constant {node.name} is written in a form that is not converted")


def _join_ends(graph: GraphProto, nodes: list[NodeProto], conversion: _Conversion) -> None:
    """Casts the model's inputs to fp16 where that is read, and its outputs back where they are fp16, under
    their own names.
    """
    half, read = conversion.renamed, {name for node in nodes for name in node.input}
    inputs = [value.name for value in graph.input if half.get(value.name) in read]
    outputs = [v.name for v in graph.output if v.name in half and v.name not in conversion.wide]
    first = [_cast(name, half[name], FLOAT16) for name in inputs]
    last = [_cast(half[name], name, FLOAT) for name in outputs]
    del graph.node[:]
    graph.node.extend([*first, *nodes, *last])


def _drop_unread(graph: GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _cast(source: str, result: str, to: int) -> NodeProto:
    helper = require("onnx", "onnx").helper
    made: NodeProto = helper.make_node(
        "Cast", [source], [result], name=f"cast_{source}_to_{result}", to=to
    )
    return made


def _tame(graph: GraphProto) -> None:
    """Numbers that stand for infinity as they will be in fp16: what is computed from them must fit."""
    numpy_helper = require("onnx.numpy_helper", "onnx")
    held = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    for tensor in (*graph.initializer, *held):
        if tensor.data_type == FLOAT:
            value, found = _tamed(numpy_helper.to_array(tensor))
            if found:
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _activations(
    proto: ModelProto, names: Sequence[str], batches: Iterable[Sequence[Array]]
) -> Iterator[tuple[str, Array]]:
    """Every tensor in `names`, by ONNX Runtime without any fusion, a few examples at a time."""
    runtime = require("onnxruntime", "onnx")
    helper = require("onnx", "onnx").helper
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, FLOAT, None) for name in names if name not in there
    )
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = [given.name for given in session.get_inputs()]
    for batch in batches:
        for start in range(0, len(batch[0]), EXAMPLES_AT_ONCE):
            part = [array[start : start + EXAMPLES_AT_ONCE] for array in batch]
            found = session.run(list(names), dict(zip(inputs, part, strict=True)))
            yield from zip(names, found, strict=True)
