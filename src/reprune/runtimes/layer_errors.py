"""Which layers of an engine are farthest from the model's own: for engines that are ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.artifacts import LayerError
from reprune.core.plugins import require
from reprune.runtimes.base import Source
from reprune.runtimes.onnx_names import module_of
from reprune.runtimes.onnx_source import calibration_arrays, float_onnx
from reprune.runtimes.onnxruntime import refusals

if TYPE_CHECKING:
    from onnx import ModelProto

    Array = np.ndarray[Any, np.dtype[Any]]

MOST_EXAMPLES = 32
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOATS = ("float32", "float16")


def worst_layers(source: Source, engine: bytes, *, count: int = 3) -> tuple[LayerError, ...]:
    """The `count` layers with weights whose outputs differ most from those in fp32, the worst first.

    Both graphs are run by ONNX Runtime without its rewrites, on the first calibration examples (the
    example inputs where there are none); a layer is the module that its node is named by. Errors
    add up on the way: of layers that are about equally far off, the first is the one to look at.
    Empty where no layer has the same name in both, and where ONNX Runtime refuses one of them: this
    informs, and stops no build. Raises MissingExtra.
    """
    onnx = require("onnx", "onnx")
    plain, made = (onnx.load_model_from_string(raw) for raw in (float_onnx(source), engine))
    outputs = [_outputs(model) for model in (plain, made)]
    shared = [name for name in outputs[0] if name in outputs[1]]
    if not shared:
        return ()
    pieces = _pieces(_inputs(source), _fixed_batch(made))
    try:
        wanted, found = (
            _run(model, [tensors[name] for name in shared], pieces)
            for model, tensors in zip((plain, made), outputs, strict=True)
        )
    except refusals():
        return ()
    errors = [
        LayerError(layer=name, relative=_relative(one, other))
        for name, one, other in zip(shared, wanted, found, strict=True)
    ]
    return tuple(sorted(errors, key=lambda error: -error.relative)[:count])


def _outputs(model: ModelProto) -> dict[str, str]:
    """By module, the tensor that its last operator with weights makes, in the order they run."""
    return {
        name: node.output[0]
        for node in model.graph.node
        if node.op_type in WEIGHTED and (name := module_of(node))
    }


def _inputs(source: Source) -> list[Array]:
    batches = calibration_arrays(source) or [
        [tensor.detach().cpu().numpy() for tensor in source.example_inputs]
    ]
    return [np.concatenate(arrays)[:MOST_EXAMPLES] for arrays in zip(*batches, strict=True)]


def _fixed_batch(model: ModelProto) -> int:
    """The batch size that the graph was written for; 0 where it takes any."""
    sizes = [
        given.type.tensor_type.shape.dim[0].dim_value
        for given in model.graph.input
        if given.type.tensor_type.shape.dim
    ]
    return int(max(sizes, default=0))


def _pieces(inputs: Sequence[Array], size: int) -> list[list[Array]]:
    """The inputs in calls of exactly `size` examples, those that are left over dropped and too few repeated;
    in one call for 0.
    """
    if not size:
        return [list(inputs)]
    count = max(size, len(inputs[0]) // size * size)
    whole = [array[np.arange(count) % len(array)] for array in inputs]
    return [[array[at : at + size] for array in whole] for at in range(0, count, size)]


def _run(
    model: ModelProto, tensors: Sequence[str], pieces: Sequence[Sequence[Array]]
) -> list[Array]:
    """Each tensor's values on all pieces, one after the other."""
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    have = {output.name for output in asked.graph.output}
    asked.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in have
    )
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        asked.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]
    found = [session.run(list(tensors), dict(zip(names, one, strict=True))) for one in pieces]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _relative(one: Array, other: Array) -> float:
    if one.shape != other.shape or not _all_float((one, other)):
        return 1.0
    norm = float(np.linalg.norm(one.astype(np.float64)))
    gap = float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))
    return float(f"{gap / norm if norm else float(gap > 0):.6g}")


def _all_float(arrays: Sequence[Array]) -> bool:
    return all(array.dtype.name in FLOATS for array in arrays)
