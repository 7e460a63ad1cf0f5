"""ONNX Runtime on the CPU: export through torch.onnx, one file, the batch dimension dynamic.

`open` and everything after it load no torch, so that what is timed is the runtime alone.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from reprune.core.artifacts import BuildFact, OperatorTime
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, LayerTime, Source
from reprune.runtimes.onnx_layers import layer_times
from reprune.runtimes.onnx_operators import caller
from reprune.runtimes.onnx_plan import CPU
from reprune.runtimes.onnx_source import float_onnx, int8_onnx, quantisable_layers

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

PROFILE_WARMUP_CALLS = 10


class OnnxRuntime:
    suffix = ".onnx"
    capabilities = Capabilities(
        precisions=("fp32", "int8"),
        extra="onnx",
        modules=("onnxruntime",),
        converter=("onnx", "onnxscript"),
        alignment={"fp32": 8, "int8": 16},
    )

    def version(self) -> str:
        """The version of the installed onnxruntime."""
        return str(_onnxruntime().__version__)

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: an ONNX file runs wherever ONNX Runtime does."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination`: the same module gives the same bytes, and any batch size runs. What
        `onnx_rewrite` can write exactly in faster operators, it does, whatever the model; in int8 the
        model is quantised as `onnx_quantize` says.

        Outputs come in the order of the module's own (a dict's in insertion order). The module is
        not changed. Raises BuildError that names the operator, or what fixes the batch size.
        """
        if target.precision == "int8":
            content, fact = int8_onnx(source, target, CPU)
        else:
            content, fact = float_onnx(source), BuildFact()
        check_batches(content, source.example_inputs)
        write_bytes(destination, content)
        return fact

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """The dotted names of the modules that it would quantise, in the order they run."""
        return quantisable_layers(source, target, CPU)

    def open(self, engine: Path, target: Target) -> OnnxSession:
        """A fresh session with the target's threads. Raises BuildError for a file it cannot load."""
        return OnnxSession(_load(str(engine), _options(target), where=str(engine)))

    def operator_times(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> tuple[OperatorTime, ...]:
        """Median time of each operator of the optimised graph over `calls` calls, slowest first, called
        `<module>/<type>` where the engine's own graph tells the module, else as ONNX Runtime calls it.

        The runtime's clock ticks in whole microseconds, so the smallest operators may show 0.
        """
        model = require("onnx", "onnx").load(str(engine), load_external_data=False)
        return _operators(_profiled(engine, target, inputs, calls), calls, caller(model))

    def layer_times(
        self,
        engine: Path,
        target: Target,
        inputs: Sequence[Array],
        calls: int,
        layers: Collection[str],
    ) -> tuple[LayerTime, ...]:
        """As `operator_times`, added up by layer of the module (onnx_layers says what belongs where)."""
        events = _profiled(engine, target, inputs, calls)
        return layer_times(engine.read_bytes(), events, layers, calls=calls)


class OnnxSession:
    """One InferenceSession; inputs are positional, outputs in the module's order."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = tuple(given.name for given in session.get_inputs())

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for one batch. Raises BuildError for inputs that the engine was not built for."""
        try:
            outputs: list[Array] = self._session.run(
                None, dict(zip(self._names, inputs, strict=True))
            )
        except refusals() as error:
            raise BuildError(
                f"the engine does not run on these inputs: {error}",
                fix="give it arrays of the shapes and types that it was exported with",
            ) from error
        return outputs

    def end_profiling(self) -> str:
        """Ends profiling and names the file that holds the events."""
        return str(self._session.end_profiling())


def _profiled(
    engine: Path, target: Target, inputs: Sequence[Array], calls: int
) -> list[dict[str, Any]]:
    """The events of a fresh session's warm-up and `calls` calls, by the runtime's own profiler."""
    with tempfile.TemporaryDirectory(prefix="reprune-profile-") as folder:
        options = _options(target)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "calls")
        session = OnnxSession(_load(str(engine), options, where=str(engine)))
        for _ in range(PROFILE_WARMUP_CALLS + calls):
            session.run(inputs)
        events: list[dict[str, Any]] = json.loads(
            Path(session.end_profiling()).read_text(encoding="utf-8")
        )
    return events


def open_bytes(content: bytes, *, where: str) -> OnnxSession:
    """A session of a model in memory, with one thread. Raises BuildError naming `where`."""
    return OnnxSession(_load(content, _options(Target()), where=where))


def _onnxruntime() -> Any:
    return require("onnxruntime", "onnx")


def _options(target: Target) -> Any:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if _saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@functools.cache
def _saturates() -> bool:
    """Whether this CPU's 8-bit products of uint8 and int8 overflow their 16-bit sums: x86 without VNNI.
    There ONNX Runtime must take its slower exact way, or results differ from those of other machines.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx2" in flags and not any(name in flags for name in ("avx512_vnni", "avx_vnni"))


def _load(model: str | bytes, options: Any, *, where: str) -> Any:
    try:
        return _onnxruntime().InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except refusals() as error:
        raise BuildError(
            f"ONNX Runtime cannot load it: {error}", where=where, fix="build the engine again"
        ) from error


def refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its classes have no common base of their own."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
    names = (
        "EPFail Fail InvalidArgument InvalidGraph InvalidProtobuf NoModel NoSuchFile "
        "NotImplemented RuntimeException"
    )
    found = [getattr(state, name, None) for name in names.split()]
    return (RuntimeError, ValueError, *(kind for kind in found if kind is not None))


def check_batches(content: bytes, example_inputs: tuple[Tensor, ...]) -> None:
    """Runs the engine with one example and with three: an output that does not follow is an error."""
    import torch

    session = OnnxSession(_load(content, _options(Target()), where="the exported model"))
    for size in (1, 3):
        inputs = [torch.cat([tensor[:1]] * size).cpu().numpy() for tensor in example_inputs]
        try:
            shapes = [output.shape for output in session.run(inputs)]
        except BuildError as error:
            raise BuildError(
                f"the model's code fixes its batch size; with {size} example(s) {error.what}",
                fix="take the batch size from the input's shape wherever the model needs it",
            ) from error
        if any(not shape or shape[0] != size for shape in shapes):
            raise BuildError(
                f"an output of the model does not have the batch as its first dimension: "
                f"{[list(shape) for shape in shapes]} for {size} example(s)",
                fix="return tensors whose first dimension is the example",
            )


def _operators(
    events: Iterable[dict[str, Any]], calls: int, called: Callable[[str, str], str]
) -> tuple[OperatorTime, ...]:
    durations: dict[tuple[str, str], list[int]] = defaultdict(list)
    types: dict[tuple[str, str], str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kind = str(event["args"]["op_name"])
            own = called(name.removesuffix("_kernel_time"), kind)
            key = (own, str(event["args"].get("node_index", "")))
            durations[key].append(int(event["dur"]))
            types[key] = kind
    # A node inside a loop runs several times a call.
    a_call = {
        key: len(took) // (PROFILE_WARMUP_CALLS + calls) or 1 for key, took in durations.items()
    }
    times = {
        key: float(median(took[-calls * a_call[key] :]) * a_call[key])
        for key, took in durations.items()
    }
    total = sum(times.values()) or 1.0
    named = Counter(name for name, _ in times)
    return tuple(
        OperatorTime(
            operator=name if named[name] == 1 else f"{name}#{index}",
            type=types[name, index],
            median_us=round(took, 3),
            share=round(took / total, 6),
        )
        for (name, index), took in sorted(times.items(), key=lambda item: (-item[1], item[0]))
    )
