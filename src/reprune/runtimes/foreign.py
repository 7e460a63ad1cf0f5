"""ONNX and TFLite files that we did not make: looked over in a confined process before anything else.

    python -m reprune.runtimes.foreign BOUNDS FILE

Engines are code and are never taken from a registry; this is for what a compiler or a device that is
not ours gives back, and for what people hand to us.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from reprune.core.confined import Bounds, ask_confined, serve
from reprune.core.errors import BuildError
from reprune.core.plugins import require
from reprune.core.sniff import sniff
from reprune.runtimes.tflite_file import read_tflite

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

ONNX, TFLITE = "ONNX model", "TFLite model"
MAX_BYTES = 2**31 - 1
MAX_NODES, MAX_TENSORS, MAX_DEPTH = 100_000, 20_000, 8
_MEMORY_BYTES = 2**29
_SECONDS, _BYTES_A_SECOND = 30, 4 * 2**20
_FIX = "have it made again, and see where it comes from"


class Foreign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file holds, by its own content. `values` are the numbers that were found to be finite."""

    format: Literal["ONNX model", "TFLite model"]
    nodes: int
    tensors: int
    values: int


def inspect_apart(path: Path) -> Foreign:
    """What lies at `path`, parsed in a process that can do nothing else and that may die of it.

    Raises BuildError for what is neither ONNX nor TFLite, is damaged or too much, refers to files
    outside itself, or holds numbers that are not finite.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BuildError(f"is larger than {MAX_BYTES} bytes", where=str(path), fix=_FIX)
    bounds = Bounds(
        memory_bytes=_MEMORY_BYTES + 8 * size, seconds=_SECONDS + size // _BYTES_A_SECOND
    )
    said = ask_confined(
        "reprune.runtimes.foreign",
        [str(path)],
        bounds,
        doing=f"reading {path.name}",
        refusal=BuildError,
    )
    return msgspec.json.decode(said, type=Foreign)


def inspect(content: bytes, kind: str, *, where: str) -> Foreign:
    """As `inspect_apart`, in this process."""
    if kind == ONNX:
        return inspect_onnx(content, where=where)
    if kind == TFLITE:
        return inspect_tflite(content, where=where)
    raise BuildError(f"is no model that is read here: {kind}", where=where, fix=_FIX)


def inspect_onnx(content: bytes, *, where: str) -> Foreign:
    """An ONNX model. Raises BuildError, and what protobuf raises for what is none."""
    onnx = require("onnx", "onnx")
    if len(content) > MAX_BYTES:
        raise _refused(f"is larger than {MAX_BYTES} bytes", where)
    model = onnx.load_model_from_string(content)
    nodes = tensors = values = 0
    graphs = list(_graphs(model.graph, 0, where))
    if model.functions or model.training_info:
        raise _refused("holds functions or training, which are not read here", where)
    for graph in graphs:
        nodes += len(graph.node)
        found = list(_tensors(graph))
        tensors += len(found)
        if nodes > MAX_NODES or tensors > MAX_TENSORS:
            raise _refused(f"holds more than {MAX_NODES} nodes or {MAX_TENSORS} constants", where)
        values += sum(_check_tensor(each, where) for each in found)
    if not nodes:
        raise _refused("holds no nodes", where)
    onnx.checker.check_model(content)
    return Foreign(format="ONNX model", nodes=nodes, tensors=tensors, values=values)


def inspect_tflite(content: bytes, *, where: str) -> Foreign:
    """A TFLite model. Raises BuildError, and what flatbuffers raise for what is none."""
    import numpy as np

    schema = require("ai_edge_litert.schema_py_generated", "litert")
    whole = read_tflite(content, where=where)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    nodes = tensors = values = 0
    for graph in model.subgraphs:
        nodes += len(graph.operators)
        tensors += len(graph.tensors)
        if nodes > MAX_NODES or tensors > MAX_TENSORS:
            raise _refused(f"holds more than {MAX_NODES} operators or {MAX_TENSORS} tensors", where)
        for tensor in graph.tensors:
            buffer = model.buffers[tensor.buffer]
            if getattr(buffer, "offset", 0) > 1 or getattr(buffer, "size", 0) > 1:
                raise _refused("keeps values outside its table", where)
            if buffer.data is None or tensor.type not in (
                schema.TensorType.FLOAT32,
                schema.TensorType.FLOAT16,
            ):
                continue
            kind = np.float32 if tensor.type == schema.TensorType.FLOAT32 else np.float16
            numbers = np.frombuffer(bytes(buffer.data), dtype=kind)
            values += _finite(numbers, where)
    if not whole.operators:
        raise _refused("holds no operators", where)
    return Foreign(format="TFLite model", nodes=nodes, tensors=tensors, values=values)


def _graphs(graph: GraphProto, depth: int, where: str) -> Iterator[GraphProto]:
    """The graph and all that lie in attributes of its nodes."""
    if depth > MAX_DEPTH:
        raise _refused(f"nests graphs deeper than {MAX_DEPTH}", where)
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for below in (attribute.g, *attribute.graphs):
                if below.node:
                    yield from _graphs(below, depth + 1, where)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def _check_tensor(tensor: TensorProto, where: str) -> int:
    """How many numbers were found to be finite. Raises BuildError."""
    import onnx

    if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
        raise _refused("keeps numbers in another file, which is not read", where)
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > MAX_BYTES:
        raise _refused("holds a tensor of an impossible shape", where)
    floats = (tensor.FLOAT, tensor.DOUBLE, tensor.FLOAT16, tensor.BFLOAT16)
    if tensor.data_type not in floats:
        return 0
    return _finite(onnx.numpy_helper.to_array(tensor), where)


def _finite(numbers: Any, where: str) -> int:
    import numpy as np

    if not np.all(np.isfinite(numbers.astype(np.float64, copy=False))):
        raise _refused("holds numbers that are not finite (NaN or infinity)", where)
    return int(numbers.size)


def _refused(what: str, where: str) -> BuildError:
    return BuildError(what, where=where, fix=_FIX)


def _inspect(arguments: Sequence[str]) -> bytes:
    path = Path(arguments[0])
    return msgspec.json.encode(inspect(path.read_bytes(), sniff(path), where=path.name))


if __name__ == "__main__":
    # Loaded before the memory is counted; what is not installed here is named once it is needed.
    for wanted in (
        "onnx",
        "onnx.checker",
        "onnx.numpy_helper",
        "ai_edge_litert.schema_py_generated",
    ):
        try:
            __import__(wanted)
        except ModuleNotFoundError:
            continue
    sys.exit(serve(sys.argv[1:], _inspect))
