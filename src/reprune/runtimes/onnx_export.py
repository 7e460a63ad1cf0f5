"""A module as the bytes of one ONNX file: the batch dimension dynamic, nothing in it but the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reprune.core.errors import BuildError
from reprune.core.plugins import require
from reprune.runtimes.converters import explained, quiet
from reprune.runtimes.onnx_names import name_nodes

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

OPSET = 20
BATCH = "batch"
# protobuf's own limit; beyond it a model needs files beside it.
MAX_FILE_BYTES = 2**31 - 1


def export_onnx(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    *,
    open_dimensions: Mapping[int, tuple[str, int, int]] | None = None,
) -> bytes:
    """The checked ONNX model; the same module gives the same bytes, and paths and traces are left out.
    Nodes are called by the modules they came from (onnx_names).

    The batch size is open. `open_dimensions` opens more: of every input that has such a dimension, to
    its name, the least and the largest size, as in {1: ("tokens", 2, 48)}. Outputs come in the order
    of the module's own (a dict's in insertion order). The module is not changed. Raises BuildError
    that names the operator, or what fixes the size.
    """
    proto = _exported(module, example_inputs, input_names, open_dimensions or {})
    name_nodes(proto)
    _strip(proto)
    if proto.ByteSize() > MAX_FILE_BYTES:
        raise BuildError(f"the model needs {proto.ByteSize()} bytes; one ONNX file holds 2 GB")
    require("onnx", "onnx").checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _exported(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    open_dimensions: Mapping[int, tuple[str, int, int]],
) -> ModelProto:
    import torch

    require("onnxscript", "onnx")
    if len(input_names) != len(example_inputs):
        raise BuildError(
            f"the task names {len(input_names)} inputs and gives {len(example_inputs)}",
            fix="make input_names and example_inputs agree",
        )
    # A batch of one would be taken for a constant.
    two = tuple(torch.cat([tensor[:1], tensor[:1]]) for tensor in example_inputs)
    named = {0: torch.export.Dim(BATCH)} | {
        place: torch.export.Dim(name, min=least, max=largest)
        for place, (name, least, largest) in open_dimensions.items()
    }
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                _positional(copy.deepcopy(module).eval()),
                two,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(input_names),
                dynamic_shapes={
                    "inputs": tuple(
                        {place: size for place, size in named.items() if place < tensor.dim()}
                        for tensor in two
                    )
                },
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
        raise explained(error, "ONNX") from error
    if program is None:
        raise BuildError("the exporter gave no model")
    proto: ModelProto = program.model_proto
    return proto


def _positional(module: nn.Module) -> nn.Module:
    """The module behind a `forward(*inputs)`, whatever its own parameters are called."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *inputs: Tensor) -> object:
            return self.model(*inputs)

    return Model().eval()


def _strip(proto: ModelProto) -> None:
    """Removes doc strings, metadata (stack traces with paths) and free orders, so that bytes repeat."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for initializer in graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
    for node in (*graph.node, *(node for function in proto.functions for node in function.node)):
        node.doc_string = ""
        del node.metadata_props[:]
        attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
        del node.attribute[:]
        node.attribute.extend(attributes)
