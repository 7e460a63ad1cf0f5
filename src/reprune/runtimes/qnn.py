"""Qualcomm's HTP by ONNX Runtime's QNN execution provider: int8, a fixed batch size, nothing on the CPU.

On x86 the provider emulates the HTP, so what is measured here is what it computes, never how fast. The
engine is the ONNX file; the provider prepares its graph anew in each session.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source
from reprune.runtimes.fixed_batch import Signature, in_batches, refuse_others
from reprune.runtimes.onnx_export import BATCH
from reprune.runtimes.onnx_plan import QNN
from reprune.runtimes.onnx_source import int8_onnx, quantisable_layers
from reprune.runtimes.onnxruntime import check_batches, refusals

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

PROVIDER = "QNNExecutionProvider"
TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
# Stay on the CPU beside an operator that QNN does not take, and are not why.
PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
NODES_NAMED = 5


class Qnn:
    suffix = ".onnx"
    capabilities = Capabilities(
        precisions=("int8",),
        extra="qnn",
        modules=("onnxruntime", "onnxruntime_qnn"),
        converter=("onnx", "onnxscript"),
        dynamic_batch=False,
        alignment={"int8": 32},
        latency=False,
    )

    def version(self) -> str:
        """The versions of the installed onnxruntime and its QNN provider."""
        runtime = require("onnxruntime", "qnn")
        require("onnxruntime_qnn", "qnn")
        return f"{runtime.__version__}, qnn {version('onnxruntime-qnn')}"

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: the graph is prepared when a session opens."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination` for target.batch_size examples a call; the same source, the same bytes.

        Raises BuildError that names the operators that QNN does not take, or what fixes the batch size.
        """
        content, fact = int8_onnx(source, target, QNN)
        check_batches(content, source.example_inputs)
        content = _fixed(content, target.batch_size)
        # Only preparing the graph finds an operator that the HTP does not have.
        QnnSession(content, target, where="the exported model")
        write_bytes(destination, content)
        return fact

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """The dotted names of the modules that it would quantise, in the order they run."""
        return quantisable_layers(source, target, QNN)

    def open(self, engine: Path, target: Target) -> QnnSession:
        """A fresh session, all of it on the HTP. Raises BuildError for a file it cannot load."""
        return QnnSession(str(engine), target, where=str(engine))


class QnnSession:
    """Inputs are positional, outputs in the module's order, for any number of examples."""

    def __init__(self, model: str | bytes, target: Target, *, where: str) -> None:
        self._session = _load(model, target, where=where)
        given = self._session.get_inputs()
        self._names = [one.name for one in given]
        self._signatures: list[Signature] = [
            (np.dtype(TYPES.get(one.type, "object")), tuple(one.shape[1:])) for one in given
        ]
        sizes = {one.shape[0] if one.shape else None for one in given}
        size = sizes.pop() if len(sizes) == 1 else None
        if not isinstance(size, int) or size < 1:
            raise BuildError(
                "the engine has no fixed batch size", where=where, fix="build the engine again"
            )
        self.batch_size = size

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for one batch. Raises BuildError for inputs that the engine was not built for."""
        refuse_others(inputs, self._signatures)
        return in_batches(self._call, inputs, self.batch_size)

    def _call(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            outputs: list[Array] = self._session.run(
                None, dict(zip(self._names, inputs, strict=True))
            )
        except refusals() as error:
            raise BuildError(
                f"QNN failed to run the engine: {error}", fix="build the engine again"
            ) from error
        return outputs


@functools.cache
def _provider() -> tuple[Any, str]:
    """The provider's device and the path of its HTP library; the provider is registered once a process."""
    runtime, qnn = require("onnxruntime", "qnn"), require("onnxruntime_qnn", "qnn")
    if not _devices(runtime):
        try:
            runtime.register_execution_provider_library(PROVIDER, qnn.get_library_path())
        except refusals() as error:
            raise BuildError(
                f"ONNX Runtime {runtime.__version__} does not load its QNN provider: {error}",
                fix="install the onnxruntime that onnxruntime-qnn asks for",
            ) from error
    devices = _devices(runtime)
    if not devices:
        raise BuildError(
            "the QNN provider finds no device on this machine",
            fix="use x86_64 Linux, where it emulates the HTP, or a machine with Qualcomm's NPU",
        )
    return devices[0], str(qnn.get_qnn_htp_path())


def _devices(runtime: Any) -> list[Any]:
    return [device for device in runtime.get_ep_devices() if device.ep_name == PROVIDER]


def _options(target: Target, *, falls_back: bool) -> Any:
    device, library = _provider()
    options = require("onnxruntime", "qnn").SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    # Errors are raised, with the nodes' names; the log would repeat them on the terminal.
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(not falls_back)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_provider_for_devices([device], {"backend_path": library})
    return options


def _load(model: str | bytes, target: Target, *, where: str) -> Any:
    runtime = require("onnxruntime", "qnn")
    try:
        return runtime.InferenceSession(model, _options(target, falls_back=False))
    except refusals() as error:
        reason = str(error)
        left = _left_on_cpu(model, target)
        if not left:
            raise BuildError(
                f"QNN cannot load it: {reason}",
                where=where,
                fix="build a damaged file again; a graph that it cannot prepare may fit with a smaller "
                "batch_size, and else needs another runtime",
            ) from error
    more = f" and {len(left) - NODES_NAMED} more" if len(left) > NODES_NAMED else ""
    fix = "replace it in the task's model by supported operators, or move it out of the model"
    if all(name.split()[0] in PAIRS for name in left):
        # An int8 layer cannot give floats to the next one, and its pairs are all that is left over.
        fix = "take float_layers out: the HTP refuses an int8 layer before a layer in float"
    raise BuildError(
        f"QNN's HTP does not take {', '.join(left[:NODES_NAMED])}{more}", where=where, fix=fix
    )


def _left_on_cpu(model: str | bytes, target: Target) -> list[str]:
    """The nodes that only the CPU would run, as "operator (node)"; none for a file that does not load."""
    runtime = require("onnxruntime", "qnn")
    try:
        session = runtime.InferenceSession(model, _options(target, falls_back=True))
    except refusals():
        return []
    nodes = [
        node
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]
    causes = [node for node in nodes if node.op_type not in PAIRS] or nodes
    return [f"{node.op_type} ({node.name})" for node in causes]


def _fixed(content: bytes, batch_size: int) -> bytes:
    """The model with `batch_size` wherever a shape says that it is the batch."""
    model = require("onnx", "qnn").load_model_from_string(content)
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == BATCH:
                dimension.dim_value = batch_size
    return bytes(model.SerializeToString(deterministic=True))
