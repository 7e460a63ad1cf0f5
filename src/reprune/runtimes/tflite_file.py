"""What a .tflite file holds: its operators, their tensors and how they are quantised. No TensorFlow.

Read through the schema that comes with ai-edge-litert (schema_py_generated, "TFL3").
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import msgspec

from reprune.core.errors import BuildError
from reprune.core.plugins import require

IDENTIFIER = b"TFL3"
# Axes, strides and paddings of tensors with up to eight dimensions.
NUMBERS = 16
# Operators that hold trained weights, and at which place of their inputs; the bias follows.
WEIGHTED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}


class TfliteTensor(msgspec.Struct, frozen=True, kw_only=True):
    """`constant_bytes` is 0 for what is computed; `scales` counts quantisation scales, 0 for a float.
    `shape` is None where no rank is written down; a dimension of -1 is dynamic. `numbers` are the values
    of a short int32 constant (axes, strides, paddings), flat.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    constant_bytes: int
    scales: int
    numbers: tuple[int, ...] = ()


class TfliteOperator(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs` and `outputs` leave out optional tensors that are not there. `knobs` are the operator's
    numbers and flags ("stride_h", "fused_activation_function").
    """

    name: str
    version: int
    inputs: tuple[TfliteTensor, ...]
    outputs: tuple[TfliteTensor, ...]
    knobs: dict[str, int | float | bool]


class TfliteModel(msgspec.Struct, frozen=True, kw_only=True):
    """The main graph, operators in the order they run; `graphs` counts those that operators call too."""

    inputs: tuple[TfliteTensor, ...]
    outputs: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    graphs: int


def read_tflite(content: bytes, *, where: str) -> TfliteModel:
    """The model in `content`. Raises BuildError for what is no whole .tflite file."""
    schema = require("ai_edge_litert.schema_py_generated", "litert")
    if content[4:8] != IDENTIFIER:
        raise BuildError("this is no .tflite file", where=where, fix="build the engine again")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[0]
        tensors = [_tensor(tensor, model.buffers) for tensor in graph.tensors]
        return TfliteModel(
            inputs=tuple(tensors[index] for index in graph.inputs),
            outputs=tuple(tensors[index] for index in graph.outputs),
            operators=tuple(
                _operator(one, model.operatorCodes, tensors) for one in graph.operators
            ),
            graphs=len(model.subgraphs),
        )
    except (struct.error, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BuildError(
            f"this .tflite file is damaged: {type(error).__name__}",
            where=where,
            fix="build the engine again",
        ) from error


def _tensor(tensor: Any, buffers: Any) -> TfliteTensor:
    data = buffers[tensor.buffer].data
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    kind = _names("TensorType")[tensor.type]
    is_short = data is not None and kind == "INT32" and len(data) <= 4 * NUMBERS
    return TfliteTensor(
        name=_text(tensor.name),
        type=kind,
        shape=None if shape is None else tuple(int(size) for size in shape),
        constant_bytes=0 if data is None else len(data),
        scales=0 if scales is None else len(scales),
        numbers=struct.unpack(f"<{len(data) // 4}i", bytes(data)) if is_short else (),
    )


def _operator(one: Any, codes: Any, tensors: list[TfliteTensor]) -> TfliteOperator:
    code = codes[one.opcodeIndex]
    # Numbers up to 127 used to stand in a byte of their own; the larger of the two is the right one.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _names("BuiltinOperator")[number]
    if name == "CUSTOM":
        name = f"CUSTOM {_text(code.customCode)}"
    knobs = vars(one.builtinOptions) if one.builtinOptions is not None else {}
    return TfliteOperator(
        name=name,
        version=int(code.version),
        inputs=tuple(tensors[index] for index in _indices(one.inputs)),
        outputs=tuple(tensors[index] for index in _indices(one.outputs)),
        knobs={
            key: value for key, value in sorted(knobs.items()) if isinstance(value, int | float)
        },
    )


def _indices(found: Any) -> list[int]:
    return [] if found is None else [int(index) for index in found if index >= 0]


def _text(found: bytes | str | None) -> str:
    return found.decode("utf-8") if isinstance(found, bytes) else found or ""


@cache
def _names(enumeration: str) -> dict[int, str]:
    kind = getattr(require("ai_edge_litert.schema_py_generated", "litert"), enumeration)
    return {number: name for name, number in vars(kind).items() if isinstance(number, int)}
