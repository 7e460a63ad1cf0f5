"""A module as the bytes of an ExecuTorch program whose work is handed to XNNPACK. Imports no torch itself."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.runtimes.base import Source, float_patterns
from reprune.runtimes.converters import explained, quiet
from reprune.runtimes.onnx_plan import matches
from reprune.runtimes.torch_program import ROOT, examples_of, export_program

if TYPE_CHECKING:
    from torch import Tensor, fx
    from torch.export import ExportedProgram

INTO = "ExecuTorch"
EXTRA = "executorch"
# The smallest step of a quantised tensor, as XNNPACK's own quantiser has it.
EPS = 2**-12
# What has weights, and what only joins tensors.
WEIGHTED = ("conv1d", "conv2d", "convolution", "conv_transpose1d", "conv_transpose2d", "linear")
JOINING = ("add", "add_", "mul", "mul_", "cat", "adaptive_avg_pool2d")
INT8, FLOAT = "int8", "float"
# Views and numbers that the runtime keeps for itself; no data passes through them.
BOOKKEEPING = "executorch_prim::"


def lowered(source: Source, target: Target) -> tuple[bytes, BuildFact]:
    """The program for exactly `target.batch_size` examples, and what of it XNNPACK does not run.

    The same module gives the same bytes. Raises BuildError naming the operator that cannot be lowered.
    """
    program = _exported(source, target)
    found = BuildFact()
    partitioner = _library("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    exir = _library("executorch.exir")
    try:
        with quiet():
            if target.precision == "int8":
                program, found = _quantised(program, source, target)
            edge = exir.to_edge_transform_and_lower(
                program, partitioner=[partitioner.XnnpackPartitioner()]
            )
            done = edge.to_executorch()
    except BuildError:
        raise
    except Exception as error:  # a converter raises whatever it likes
        raise explained(error, INTO) from error
    return bytes(done.buffer), _fact(done.executorch_program, found)


def quantisable(source: Source, target: Target) -> tuple[str, ...]:
    """The dotted names of the modules whose weights int8 would quantise, in the order they run."""
    prepared = _prepared(_exported(source, target), float_patterns(source, target), target)
    return tuple(dict.fromkeys(_owner(node) for node in _weighted(prepared)))


def _exported(source: Source, target: Target) -> ExportedProgram:
    with quiet():
        return export_program(source, target.batch_size)


def _quantised(
    program: ExportedProgram, source: Source, target: Target
) -> tuple[ExportedProgram, BuildFact]:
    """The program in int8, and what was left in float."""
    import torch

    pt2e = _library("torchao.quantization.pt2e.quantize_pt2e")
    if not source.calibration:
        raise BuildError(
            "int8 needs calibration examples, and there are none",
            fix="give the task's calibration split examples",
        )
    patterns = float_patterns(source, target)
    prepared = _prepared(program, patterns, target)
    inputs = tuple(examples_of(tensor, target.batch_size) for tensor in source.example_inputs)
    with torch.no_grad():
        for batch in source.calibration:
            for part in _parts(batch, target.batch_size):
                prepared(*part)
        converted = pt2e.convert_pt2e(prepared)
        return torch.export.export(converted, inputs), _left(program, patterns)


def _prepared(program: ExportedProgram, patterns: Sequence[str], target: Target) -> fx.GraphModule:
    """The program's graph with observers wherever something will be quantised."""
    with quiet():
        xnnpack = _library("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
        pt2e = _library("torchao.quantization.pt2e.quantize_pt2e")
        ranges = _library("reprune.runtimes.xnnpack_ranges")
        config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        activation = dataclasses.replace(
            config.input_activation,
            observer_or_fake_quant_ctr=ranges.observer(target.ranges, eps=EPS),
        )
        config = dataclasses.replace(
            config, input_activation=activation, output_activation=activation
        )
        quantizer = xnnpack.XNNPACKQuantizer().set_global(config)
        quantizer.set_filter_function(_chooser(patterns))
        module = program.module()
        _keep_whole_numbers(module)
        prepared: fx.GraphModule = pt2e.prepare_pt2e(module, quantizer)
    return prepared


def _chooser(patterns: Sequence[str]) -> Callable[[fx.Node], bool]:
    """Whether a node may be quantised.

    A layer is, unless a pattern keeps it in float. What joins tensors is where it takes what a
    quantised layer gives, by way of nothing but such operators as ReLU, and nothing of a float layer:
    sums of embeddings or of scores and a mask of -3e38 stay in float.
    """
    known: dict[fx.Node, str] = {}

    def may_be(node: fx.Node) -> bool:
        if node not in known:
            for each in node.graph.nodes:
                known[each] = _state(each, known, patterns)
        return known[node] == INT8 or (known[node] != FLOAT and _kind(node) not in JOINING)

    return may_be


def _state(node: fx.Node, known: Mapping[fx.Node, str], patterns: Sequence[str]) -> str:
    """INT8 or FLOAT for a layer, for what joins such and for what only passes one on; "" for the rest."""
    given = [known.get(one, "") for one in node.all_input_nodes if one.op == "call_function"]
    kind = _kind(node)
    if kind in WEIGHTED:
        return FLOAT if matches(_owner(node), patterns) else INT8
    if kind in JOINING:
        if matches(_owner(node), patterns) or FLOAT in given:
            return FLOAT
        return INT8 if INT8 in given else ""
    return given[0] if len(given) == 1 else ""


def _keep_whole_numbers(module: fx.GraphModule) -> None:
    """Numbers that are added to whole numbers (to positions) stay numbers: the quantiser would make them
    tensors of float.
    """
    import torch

    aten = torch.ops.aten
    as_number = {aten.add.Tensor: aten.add.Scalar, aten.mul.Tensor: aten.mul.Scalar}
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if (
            node.target in as_number
            and isinstance(value, torch.Tensor)
            and not value.is_floating_point()
            and not isinstance(node.args[1], type(node))
        ):
            node.target = as_number[node.target]
    module.recompile()


def _weighted(prepared: fx.GraphModule) -> list[fx.Node]:
    """The layers whose weights are observed."""
    return [
        node
        for node in prepared.graph.nodes
        if _kind(node) in WEIGHTED
        and len(node.args) > 1
        and getattr(node.args[1], "op", "") == "call_module"
        and _owner(node)
    ]


def _left(program: ExportedProgram, patterns: Sequence[str]) -> BuildFact:
    """The layers that `patterns` keep in float, in the order of these, and patterns that fit nothing."""
    nodes = [node for node in program.graph.nodes if _owner(node)]
    layers = list(dict.fromkeys(_owner(node) for node in nodes if _kind(node) in WEIGHTED))
    joints = [_owner(node) for node in nodes if _kind(node) in JOINING]
    left = dict.fromkeys(
        name for pattern in patterns for name in layers if matches(name, [pattern])
    )
    return BuildFact(
        float_layers=tuple(left),
        notes=tuple(
            f"'{pattern}' of float_layers fits no layer that would be quantised"
            for pattern in patterns
            if not any(matches(name, [pattern]) for name in (*layers, *joints))
        ),
        details={"quantised layers": f"{len(layers) - len(left)} of {len(layers)}"},
    )


def _kind(node: fx.Node) -> str:
    """The name alone, as in conv2d for aten.conv2d.default; empty for what is no operator."""
    if node.op != "call_function":
        return ""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _owner(node: fx.Node) -> str:
    """The dotted name of the innermost module that the node was written in, as the user's model has it."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(name) for name, _ in stack.values()]
    return names[-1].removeprefix(ROOT).removeprefix(".") if names else ""


def _parts(batch: Sequence[Tensor], batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    """The batch in parts of exactly `batch_size`, the last one begun again where it is short."""
    for start in range(0, len(batch[0]), batch_size):
        yield tuple(examples_of(tensor[start : start + batch_size], batch_size) for tensor in batch)


def _fact(program: Any, found: BuildFact) -> BuildFact:
    """`found` and what the program's plan says: what XNNPACK takes, and what the other kernels run."""
    plan = program.execution_plan[0]
    calls = [call.instr_args for chain in plan.chains for call in chain.instructions]
    names = [operator.name for operator in plan.operators]
    portable = Counter(
        name.removeprefix("aten::")
        for call in calls
        if hasattr(call, "op_index") and not (name := names[call.op_index]).startswith(BOOKKEEPING)
    )
    delegated = sum(hasattr(call, "delegate_index") for call in calls)
    listed = ", ".join(
        f"{name} {count}" if count > 1 else name for name, count in sorted(portable.items())
    )
    strange = (f"not run by XNNPACK but by ExecuTorch's own kernels: {listed}",) if listed else ()
    return BuildFact(
        float_layers=found.float_layers,
        fallbacks=portable.total(),
        notes=(*found.notes, *strange),
        details={**found.details, "xnnpack parts": str(delegated)},
    )


def _library(name: str) -> Any:
    """The converter's module; what it says while it is imported is for nobody."""
    with quiet():
        return require(name, EXTRA)
