"""OpenVINO on the CPU, from an ONNX file: fp32, bf16, fp16, and int8 as `onnx_quantize` writes it.

NNCF, OpenVINO's own quantiser, was tried on a CNN, a residual net, a U-Net and MiniLM: outputs as near and
calls as fast as from our pairs, to within what this machine can tell, but it names operators of its
own, not layers, and takes seconds more. So it is not needed.

The engine is the ONNX file itself, one file that runs on any CPU: OpenVINO's own form has two. A session
compiles it for every shape that it meets, when it meets it: MiniLM with an open batch size takes
nearly twice as long a call.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from reprune.core.artifacts import BuildFact, OperatorTime
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source
from reprune.runtimes.onnx_plan import CPU
from reprune.runtimes.onnx_source import float_onnx, int8_onnx, quantisable_layers
from reprune.runtimes.onnxruntime import check_batches

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
PROFILE_WARMUP_CALLS = 10
# What is computed in where the layer is not int8. Without it some CPUs take bf16 for fp32.
HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
STYLE = replace(CPU, layers=CPU.layers | {"ConvTranspose"})
_NO_RULE = re.compile(
    r"(?:No conversion rule found for operations|Conversion is failed for): (\S+)"
)
# Compiled models that a session keeps, one a shape; the oldest goes.
SHAPES_KEPT = 8


class OpenVino:
    suffix = ".onnx"
    capabilities = Capabilities(
        precisions=("fp32", "bf16", "fp16", "int8"),
        extra="openvino",
        modules=("openvino",),
        converter=("onnx", "onnxscript", "onnxruntime"),
        alignment={"fp32": 8, "bf16": 16, "fp16": 16, "int8": 16},
        # 2: transposed convolutions in groups have one scale a weight in int8.
        revision=2,
    )

    def version(self) -> str:
        """The version of the installed openvino."""
        return str(_openvino().__version__)

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: an ONNX file runs wherever OpenVINO does."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination`, the same bytes for the same source; any batch size runs.

        Raises BuildError that names the operator, what fixes the batch size, or the precision that
        this CPU does not compute in.
        """
        _refuse_unable(target)
        if target.precision == "int8":
            content, fact = int8_onnx(source, target, STYLE)
        else:
            content, fact = float_onnx(source), BuildFact()
        check_batches(content, source.example_inputs)
        # Only compiling finds an operator that OpenVINO does not have.
        shapes = tuple((target.batch_size, *x.shape[1:]) for x in source.example_inputs)
        _compile(
            _read(content, "the exported model"), shapes, _settings(target), "the exported model"
        )
        write_bytes(destination, content)
        return fact

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """The dotted names of the modules that it would quantise, in the order they run."""
        return quantisable_layers(source, target, STYLE)

    def open(self, engine: Path, target: Target) -> OpenVinoSession:
        """A fresh session with the target's threads, ready for its batch size. Raises BuildError for
        a file it cannot load, or a precision that this CPU does not compute in.
        """
        return OpenVinoSession(engine, target)

    def operator_times(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> tuple[OperatorTime, ...]:
        """Median time of each operator of the compiled graph over `calls` calls, slowest first, called
        as in the engine: `<module>/<operator>`, and what OpenVINO put in besides by its own name.
        """
        session = OpenVinoSession(engine, target, {"PERF_COUNT": True})
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(PROFILE_WARMUP_CALLS + calls):
            session.run(inputs)
            for one in session.last_profile:
                if one.status.name == "EXECUTED":
                    key = (one.node_name, one.node_type)
                    found[key].append(one.real_time.total_seconds() * 1e6)
        times = {key: median(took[-calls:]) for key, took in found.items()}
        total = sum(times.values()) or 1.0
        made = _makers(engine)
        return tuple(
            OperatorTime(
                operator=_plain(name, made),
                type=kind,
                median_us=round(took, 3),
                share=round(took / total, 6),
            )
            for (name, kind), took in sorted(times.items(), key=lambda item: (-item[1], item[0]))
        )


class OpenVinoSession:
    """Inputs are positional, outputs in the module's order. `last_profile` is of the last call."""

    def __init__(
        self, engine: Path, target: Target, more: Mapping[str, object] | None = None
    ) -> None:
        _refuse_unable(target)
        self._engine = str(engine)
        self._settings = {**_settings(target), **(more or {})}
        model = _read(engine, self._engine)
        self._dimensions = [
            [None if size.is_dynamic else size.get_length() for size in given.partial_shape]
            for given in model.inputs
        ]
        self._types = [given.get_element_type().to_dtype() for given in model.inputs]
        self._model = model
        self._requests: dict[Shapes, Any] = {}
        self._request: Any = None
        if all(None not in sizes[1:] for sizes in self._dimensions):
            self._ready(
                tuple((target.batch_size, *map(int, s[1:])) for s in self._dimensions)  # type: ignore[arg-type]
            )

    @property
    def last_profile(self) -> Sequence[Any]:
        """What OpenVINO told of the operators of the last call, with PERF_COUNT."""
        profile: Sequence[Any] = self._request.get_profiling_info()
        return profile

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for one batch. Raises BuildError for inputs that the engine was not built for."""
        shapes = tuple(given.shape for given in inputs)
        if [given.dtype for given in inputs] != self._types:
            self._refuse(inputs, "")
        self._request = self._requests.get(shapes) or self._ready(shapes)
        try:
            found = self._request.infer(list(inputs), share_inputs=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise self._refusal(inputs, str(error)) from error
        return [np.asarray(found[place]) for place in range(len(found))]

    def _ready(self, shapes: Shapes) -> Any:
        fits = len(shapes) == len(self._dimensions) and all(
            len(shape) == len(sizes)
            and all(size in {None, got} for size, got in zip(sizes, shape, strict=True))
            for shape, sizes in zip(shapes, self._dimensions, strict=True)
        )
        if not fits:
            raise self._refusal(shapes, "")
        while len(self._requests) >= SHAPES_KEPT:
            del self._requests[next(iter(self._requests))]
        compiled = _compile(self._model.clone(), shapes, self._settings, self._engine)
        self._requests[shapes] = compiled.create_infer_request()
        return self._requests[shapes]

    def _refuse(self, inputs: Sequence[Array], reason: str) -> None:
        raise self._refusal([f"{given.dtype}{given.shape}" for given in inputs], reason)

    def _refusal(self, inputs: object, reason: str) -> BuildError:
        wanted = [
            f"{kind}{tuple(sizes)}"
            for kind, sizes in zip(self._types, self._dimensions, strict=True)
        ]
        return BuildError(
            f"the engine does not run on these inputs: {inputs} for {wanted} {reason}".strip(),
            where=self._engine,
            fix="give it arrays of the shapes and types that it was exported with",
        )


def _makers(engine: Path) -> dict[str, str]:
    """By output of the whole engine, the node that makes it: OpenVINO calls that node by the output."""
    graph = require("onnx", "openvino").load(str(engine)).graph
    outputs = {output.name for output in graph.output}
    return {output: node.name for node in graph.node for output in node.output if output in outputs}


def _plain(name: str, makers: Mapping[str, str]) -> str:
    """The node's name in the engine, without what OpenVINO adds when it takes a layer apart."""
    return makers.get(name, name).partition("/WithoutBiases")[0]


def _openvino() -> Any:
    return require("openvino", "openvino")


def _settings(target: Target) -> dict[str, object]:
    """One stream of the target's threads, computed in what is asked for, bound to no core: other
    runtimes are timed in the same process.
    """
    return {
        "INFERENCE_PRECISION_HINT": HINTS[target.precision],
        "INFERENCE_NUM_THREADS": target.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }


def _refuse_unable(target: Target) -> None:
    """OpenVINO takes fp32 without a word where the CPU has not the precision asked for."""
    wanted = {"bf16": "BF16", "fp16": "FP16"}.get(target.precision)
    if wanted is None:
        return
    offered = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted not in offered:
        raise BuildError(
            f"this CPU does not compute in {target.precision}",
            where="params.yaml (targets)",
            fix=f"ask for fp32 or int8; OpenVINO offers here: {', '.join(sorted(offered))}",
        )


def _read(model: Path | bytes, where: str) -> Any:
    if isinstance(model, Path) and not model.is_file():
        raise BuildError("there is no such file", where=where, fix="build the engine again")
    try:
        return _openvino().Core().read_model(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _explained(error, where) from error


def _compile(model: Any, shapes: Shapes, settings: Mapping[str, object], where: str) -> Any:
    try:
        model.reshape({given: list(s) for given, s in zip(model.inputs, shapes, strict=True)})
        compiled = _openvino().Core().compile_model(model, "CPU", dict(settings))
    except (RuntimeError, ValueError, TypeError) as error:
        raise _explained(error, where) from error
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if hint != settings["INFERENCE_PRECISION_HINT"]:
        raise BuildError(
            f"OpenVINO would compute in {hint}, not in {settings['INFERENCE_PRECISION_HINT']}",
            where=where,
            fix="ask for another precision",
        )
    return compiled


def _explained(error: BaseException, where: str) -> BuildError:
    text = str(error)
    operators = _NO_RULE.findall(text)
    if operators:
        return BuildError(
            f"OpenVINO has no operator {', '.join(sorted(set(operators)))}",
            where=where,
            fix="replace it in the task's model by supported operators, or move it out of the model",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return BuildError(
        f"OpenVINO cannot load it: {(lines or ['no reason given'])[-1]}",
        where=where,
        fix="build the engine again",
    )
