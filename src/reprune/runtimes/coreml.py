"""Core ML: an ML program in one packed file. It is built anywhere, and runs on macOS alone."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source, float_patterns
from reprune.runtimes.coreml_convert import JOINT, converted, quiet
from reprune.runtimes.coreml_package import MODEL, unpack, write_folder
from reprune.runtimes.litert import read_options

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# The oldest system that may run it, as coremltools calls it; iOS17 is macOS 14.
OPTIONS: Mapping[str, tuple[str, ...]] = {"deployment": ("iOS17", "iOS16", "iOS18")}
UNITS: Mapping[str, str] = {
    "all": "ALL",
    "cpu": "CPU_ONLY",
    "gpu": "CPU_AND_GPU",
    "npu": "CPU_AND_NE",
}


class CoreMl:
    """Target.options: `deployment`, the oldest system that may run it. Target.device: which of the machine's
    processors may take part.
    """

    suffix = ".mlpackage.zip"
    capabilities = Capabilities(
        precisions=("fp16", "fp32", "int8-weights", "palette4"),
        extra="coreml",
        modules=("coremltools",),
        devices=tuple(UNITS),
        dynamic_batch=False,
        options=tuple(OPTIONS),
        stores_sparse=("unstructured", "2:4"),
        alignment={"fp16": 8},
        latency=sys.platform == "darwin",
        latency_elsewhere=sys.platform != "darwin",
        # 2: layers that the target names, to be left in float, are refused where weights are small.
        revision=2,
    )

    def version(self) -> str:
        """The version of the installed coremltools."""
        with quiet():
            require("coremltools", "coreml")
        return version("coremltools")

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: a package runs wherever Core ML is new enough."""
        return {}

    def cannot_run_here(self, target: Target) -> str:  # noqa: ARG002  # whatever the target
        """Core ML is a part of macOS."""
        return "" if sys.platform == "darwin" else "Core ML runs on macOS only"

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination` for target.batch_size examples a call, zeros of masked weights stored in a bit
        each. The module is not changed; the same module gives the same bytes.

        Raises BuildError naming the operator that cannot be converted, or layers that are to stay in
        float where weights are stored small: Core ML's names are not the module's.
        """
        options = read_options(target, OPTIONS)
        kept = float_patterns(source, target)
        if kept and target.precision in ("int8-weights", "palette4"):
            raise BuildError(
                f"coreml stores the weights of all layers small; {kept[0]} cannot stay in float",
                fix="take float_layers out, or set precision: fp16",
            )
        content = converted(source, target.precision, options["deployment"], target.batch_size)
        write_bytes(destination, content)
        stored = source.sparsity and (
            target.precision in ("fp16", "fp32") or options["deployment"] == JOINT
        )
        notes = (
            f"zeros of masked weights are stored beside {target.precision} from {JOINT} on only",
        )
        return BuildFact(
            notes=notes if source.sparsity and not stored else (),
            details={
                "converter": f"coremltools {self.version()}",
                "deployment": options["deployment"],
                **({"zeros": "stored in a bit each"} if stored else {}),
            },
        )

    def open(self, engine: Path, target: Target) -> CoreMlSession:
        """A fresh session on target.device. Raises BuildError for a damaged file, one that Core ML cannot
        load, and everywhere but on macOS.
        """
        try:
            content = engine.read_bytes()
        except OSError as error:
            raise BuildError(
                f"it cannot be read: {error.strerror}",
                where=str(engine),
                fix="build the engine again",
            ) from error
        unpack(content, where=str(engine))
        reason = self.cannot_run_here(target)
        if reason:
            raise BuildError(
                f"the engine cannot run here: {reason}",
                where=str(engine),
                fix="measure it on a Mac: set `run` of the target to the command that reaches one, "
                "or `kit: true`",
            )
        return CoreMlSession(_load(content, target, where=str(engine)), specification(content))


class CoreMlSession:
    """One loaded model; inputs are positional, outputs in the module's order. `model` has predict(dict)."""

    def __init__(self, model: Any, spec: Any) -> None:
        self._model = model
        self._inputs = [(one.name, *_form(one)) for one in spec.description.input]
        outputs = [one.name for one in spec.description.output]
        self._outputs = sorted(outputs, key=lambda name: int(name.rpartition("_")[2]))
        self._size = self._inputs[0][1][0]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples: of a fixed batch size, they are split and the last
        call is filled up with its last example. Raises BuildError for inputs of another form.
        """
        wanted = [shape[1:] for _, shape, _ in self._inputs]
        counts = {len(one) for one in inputs if one.ndim}
        if [one.shape[1:] for one in inputs] != wanted or len(counts) != 1 or counts == {0}:
            raise BuildError(
                f"the engine does not run on these inputs: it takes examples of the shapes {wanted} "
                f"and is given {[one.shape for one in inputs]}",
                fix="give it arrays of the shapes that it was built for",
            )
        count, parts = counts.pop(), []
        for start in range(0, count, self._size):
            rows = np.minimum(np.arange(start, start + self._size), count - 1)
            given = {
                name: one[rows].astype(dtype, copy=False)
                for (name, _, dtype), one in zip(self._inputs, inputs, strict=True)
            }
            found = self._model.predict(given)
            parts.append([np.asarray(found[name]) for name in self._outputs])
        return [np.concatenate(found)[:count] for found in zip(*parts, strict=True)]


def specification(content: bytes) -> Any:
    """The model description inside a package, as coremltools reads it."""
    with quiet():
        proto = require("coremltools.proto.Model_pb2", "coreml")
    spec = proto.Model()
    spec.ParseFromString(unpack(content, where="the engine")[MODEL])
    return spec


def _form(feature: Any) -> tuple[tuple[int, ...], type[np.generic]]:
    array = feature.type.multiArrayType
    is_float = array.dataType == array.ArrayDataType.Value("FLOAT32")
    return tuple(int(size) for size in array.shape), np.float32 if is_float else np.int32


def _load(content: bytes, target: Target, *, where: str) -> Any:
    """The model, compiled by this Mac. What it was unpacked to may go once it is loaded."""
    with quiet():
        tools = require("coremltools", "coreml")
    unit = UNITS[target.device.partition(":")[0] or "all"]
    with tempfile.TemporaryDirectory(prefix="reprune-coreml-") as name:
        package = write_folder(content, Path(name), where=where)
        try:
            return tools.models.MLModel(str(package), compute_units=tools.ComputeUnit[unit])
        except (RuntimeError, ValueError, OSError) as error:
            raise BuildError(
                f"Core ML cannot load it: {error}", where=where, fix="build the engine again"
            ) from error
