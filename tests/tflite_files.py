"""Small .tflite files made by hand, so that what reads and runs them is tested without a converter.

from tests.tflite_files import Tensor, operator, tflite
content = tflite([Tensor("args_0", (2, 4)), ...], [operator("ADD", [0, 1], [2])], inputs=[0], outputs=[2])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {"FLOAT32": np.float32, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str = "FLOAT32"
    scale: tuple[float, ...] = ()
    zero: int = 0
    values: Any = None
    signature: tuple[int, ...] | None = field(default=None, kw_only=True)


def operator(
    name: str,
    inputs: Sequence[int],
    outputs: Sequence[int],
    *,
    version: int = 1,
    options: Any = None,
    custom: str = "",
) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": inputs,
        "outputs": outputs,
        "version": version,
        "options": options,
        "custom": custom,
    }


def tflite(
    tensors: Sequence[Tensor],
    operators: Sequence[dict[str, Any]],
    *,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> bytes:
    """The file, with the signature that litert-torch writes: args_0, ..., output_0, ..."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(one, model.buffers) for one in tensors]
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    model.operatorCodes, graph.operators = [], []
    for one in operators:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, one["name"])
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = one["version"]
        code.customCode = one["custom"] or None
        made = schema.OperatorT()
        made.opcodeIndex = len(model.operatorCodes)
        made.inputs, made.outputs = list(one["inputs"]), list(one["outputs"])
        if one["options"] is not None:
            kind = type(one["options"]).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = one["options"]
        model.operatorCodes.append(code)
        graph.operators.append(made)
    model.subgraphs = [graph]
    model.signatureDefs = [_signature(inputs, outputs)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(one: Tensor, buffers: list[Any]) -> Any:
    made = schema.TensorT()
    made.name, made.shape = one.name, list(one.shape)
    made.type = getattr(schema.TensorType, one.type)
    if one.signature is not None:
        made.shapeSignature = list(one.signature)
    if one.scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = list(one.scale)
        made.quantization.zeroPoint = [one.zero] * len(one.scale)
    made.buffer = len(buffers)
    buffer = schema.BufferT()
    if one.values is not None:
        buffer.data = np.asarray(one.values, TYPES[one.type]).tobytes()
        buffer.data = np.frombuffer(buffer.data, np.uint8)
    buffers.append(buffer)
    return made


def _signature(inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = "serving_default", 0
    for name, word, indices in (("inputs", "args", inputs), ("outputs", "output", outputs)):
        maps = []
        for place, index in enumerate(indices):
            one = schema.TensorMapT()
            one.name, one.tensorIndex = f"{word}_{place}", index
            maps.append(one)
        setattr(made, name, maps)
    return made
