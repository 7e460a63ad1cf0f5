"""ExecuTorch on the CPU, by XNNPACK, in fp32 and int8: what runs on phones, measured where we are.

Its Python bindings are linked against libtorch and take torch's tensors, so `open` has to load torch. Torch
computes nothing here: the calls that are timed are those of the runtime, with a pool of threads of its own.

An engine runs one batch size. Programs whose batch is open were tried: convolutions lose nothing, but
transformers lose 11 % (views that XNNPACK no longer takes), and the largest batch is not the one asked for.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reprune.core.artifacts import BuildFact, OperatorTime
from reprune.core.errors import BuildError, MissingExtra
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes import xnnpack
from reprune.runtimes.base import Binding, Capabilities, Source
from reprune.runtimes.converters import Said, explained, quiet
from reprune.runtimes.fixed_batch import Signature, in_batches, refuse_others, shareable
from reprune.runtimes.torch_program import examples_of

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

METHOD = "forward"
PROFILE_WARMUP_CALLS = 10
# torch's numbers for types (c10/core/ScalarType.h) that numpy has as well.
TYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
}
# Spans of events that hold others.
SPANS = ("DELEGATE_CALL", "OPERATOR_CALL", "Method::execute")
NATIVE = "native_call_"


class ExecuTorch:
    suffix = ".pte"
    capabilities = Capabilities(
        precisions=("fp32", "int8"),
        extra=xnnpack.EXTRA,
        modules=("executorch",),
        converter=("torchao",),
        dynamic_batch=False,
        alignment={"fp32": 4, "int8": 8},
    )

    def version(self) -> str:
        """The version of the installed executorch."""
        try:
            return version("executorch")
        except PackageNotFoundError as error:
            raise MissingExtra(
                "this needs the package 'executorch', which is not installed",
                fix=f"pip install 'reprune[{xnnpack.EXTRA}]'",
            ) from error

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: XNNPACK chooses its kernels, and packs the weights, when a program is loaded."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination` for exactly `target.batch_size` examples; the same module, the same bytes.

        In int8 weights are quantised by channel and activations by tensor. A module that is named in
        `float_layers` stays in float with all that is in it, and with it the additions, products and
        concatenations that take its output. What XNNPACK does not run is counted in `fallbacks` and
        named. The module is not changed. Raises BuildError that names the operator.
        """
        content, fact = xnnpack.lowered(source, target)
        with tempfile.TemporaryDirectory(prefix="reprune-executorch-") as folder:
            tried = Path(folder, "model.pte")
            tried.write_bytes(content)
            _try(ExecuTorchSession(tried, target.threads), source, target)
        write_bytes(destination, content)
        return fact

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """The dotted names of the modules whose weights it would quantise, in the order they run."""
        return xnnpack.quantisable(source, target)

    def open(self, engine: Path, target: Target) -> ExecuTorchSession:
        """A fresh session. Raises BuildError for a file it cannot load.

        The pool of threads is the process's, not the session's: where another session of this
        process was opened with other threads, the next call of this one loads its program again.
        """
        return ExecuTorchSession(engine, target.threads)

    def operator_times(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> tuple[OperatorTime, ...]:
        """Median time of each operator of XNNPACK and of each other kernel, slowest first.

        XNNPACK's clock ticks in whole microseconds, so the smallest operators may show 0.
        """
        session = ExecuTorchSession(engine, target.threads, tracing=True)
        for _ in range(PROFILE_WARMUP_CALLS + calls):
            session.run(inputs)
        return _operators(session.events(), calls)


class ExecuTorchSession:
    """One loaded method; inputs are positional, outputs in the module's order."""

    # How often the process's pool of threads was made anew: a program keeps a pointer to the old one.
    pools: ClassVar[int] = 0

    def __init__(self, engine: Path, threads: int, *, tracing: bool = False) -> None:
        self._engine, self._threads, self._tracing = engine, threads, tracing
        self._torch = require("torch", "torch")
        self._load()
        about = self._method.metadata
        given = [about.input_tensor_meta(place) for place in range(about.num_inputs())]
        self.batch_size = int(given[0].sizes()[0]) if given else 1
        self._signatures = [_signature(tensor) for tensor in given]
        made = [about.output_tensor_meta(place) for place in range(about.num_outputs())]
        self.outputs = [(TYPES.get(tensor.dtype(), ""), tuple(tensor.sizes())) for tensor in made]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples. Raises BuildError for inputs of other shapes or types."""
        refuse_others(inputs, self._signatures)
        if self._pool != ExecuTorchSession.pools:
            self._load()
        return in_batches(self._call, inputs, self.batch_size)

    def events(self) -> list[Any]:
        """The runtime's own events since the session was opened, if it was opened for tracing."""
        with tempfile.TemporaryDirectory(prefix="reprune-events-") as folder, quiet():
            path = Path(folder, "events.etdp")
            self._program.write_etdump_result_to_file(str(path), str(Path(folder, "debug.bin")))
            inspector = require("executorch.devtools", xnnpack.EXTRA).Inspector(
                etdump_path=str(path)
            )
        return [event for block in inspector.event_blocks for event in block.events]

    def _call(self, inputs: Sequence[Array]) -> list[Array]:
        from_numpy = self._torch.from_numpy
        try:
            outputs = self._method.execute([from_numpy(shareable(array)) for array in inputs])
        except RuntimeError as error:
            raise BuildError(
                f"the engine does not run: {error}",
                where=str(self._engine),
                fix="build the engine again; if it happens again, look for operators that fail",
            ) from error
        return [output.numpy() for output in outputs]

    def _load(self) -> None:
        said = Said()
        try:
            with quiet() as said:
                runtime = require("executorch.runtime", xnnpack.EXTRA).Runtime.get()
                self._pool = _use_threads(self._threads)
                self._program = runtime.load_program(self._engine, enable_etdump=self._tracing)
                self._method = self._program.load_method(METHOD)
        except (RuntimeError, KeyError, ValueError) as error:
            if "perator" in said.text:
                raise explained(error, xnnpack.INTO, said=said.text) from error
            raise BuildError(
                f"ExecuTorch cannot load it: {said.reason() or error}",
                where=str(self._engine),
                fix="build the engine again",
            ) from error


def _use_threads(threads: int) -> int:
    """Afterwards the process's pool has that many threads; how often it was made anew so far."""
    library = require("executorch.extension.pybindings.portable_lib", xnnpack.EXTRA)
    if library._threadpool_get_thread_count() != threads:
        library._unsafe_reset_threadpool(threads)
        ExecuTorchSession.pools += 1
    return ExecuTorchSession.pools


def _signature(tensor: Any) -> Signature:
    return np.dtype(TYPES[tensor.dtype()]), tuple(tensor.sizes()[1:])


def _try(session: ExecuTorchSession, source: Source, target: Target) -> None:
    """Runs the engine once. Raises BuildError for outputs that cannot be told apart by example."""
    if any(not kind for kind, _ in session.outputs):
        raise BuildError(
            "an output of the model has a type that numpy does not know",
            fix="let the model return float32, or another type that numpy has",
        )
    shapes = [list(shape) for _, shape in session.outputs]
    if any(shape[:1] != [target.batch_size] for shape in shapes):
        raise BuildError(
            f"an output of the model does not have the batch as its first dimension: "
            f"{shapes} for {target.batch_size} example(s)",
            fix="return tensors whose first dimension is the example",
        )
    session.run([examples_of(each, target.batch_size).numpy() for each in source.example_inputs])


def _operators(events: Sequence[Any], calls: int) -> tuple[OperatorTime, ...]:
    part = 0
    times: dict[str, float] = {}
    types: dict[str, str] = {}
    found: Counter[str] = Counter()
    for event in events:
        took = event.perf_data.raw if event.perf_data is not None else []
        part += event.name == "DELEGATE_CALL"
        if event.name in SPANS or len(took) < calls:
            continue
        kind = event.name.removeprefix(NATIVE)
        if event.is_delegated_op:
            name, kind = f"xnnpack.{part}: {kind}", kind.partition(" #")[0]
        else:
            found[kind] += 1
            name = f"{kind} #{found[kind]}"
        times[name], types[name] = 1e3 * float(median(took[-calls:])), kind
    total = sum(times.values()) or 1.0
    return tuple(
        OperatorTime(
            operator=name,
            type=types[name],
            median_us=round(took, 3),
            share=round(took / total, 6),
        )
        for name, took in sorted(times.items(), key=lambda item: (-item[1], item[0]))
    )
