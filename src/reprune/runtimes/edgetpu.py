"""The Edge TPU: a full-int8 .tflite that its compiler accepts, checked operator by operator.

The engine is the file before edgetpu_compiler, which runs on the CPU as well: its answers can be judged
here, in the same integers, and nothing that it takes means anything for the device.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source, float_patterns
from reprune.runtimes.edgetpu_rules import (
    PARAMETER_CACHE_BYTES,
    Fallback,
    fallbacks,
    parameter_bytes,
)
from reprune.runtimes.litert import LiteRt, read_options
from reprune.runtimes.litert_build import check_runs, converted, quantised
from reprune.runtimes.tflite_file import read_tflite

if TYPE_CHECKING:
    import numpy as np

    from reprune.runtimes.litert_session import LiteRtSession

    Array = np.ndarray[Any, np.dtype[Any]]

COMPILER = "edgetpu_compiler"
COMPILING_SECONDS = 600.0
MAX_FALLBACKS = "max_fallbacks"
MAPPED = "Mapped to Edge TPU"
# "CONV_2D    32    Mapped to Edge TPU", as compilers 14 to 16 print it with -s.
_LINE = re.compile(r"^(?P<name>[A-Z][A-Z0-9_]+) {2,}(?P<count>\d+) {2,}(?P<status>\S.*?)\s*$")


class EdgeTpu:
    """Target.options: `max_fallbacks`, the most operators that may run on the CPU instead."""

    suffix = ".tflite"
    capabilities = Capabilities(
        precisions=("int8",),
        extra="litert",
        modules=("ai_edge_litert",),
        converter=("litert_torch", "ai_edge_quantizer"),
        devices=("tpu",),
        dynamic_batch=False,
        alignment={"int8": 4},
        options=(MAX_FALLBACKS,),
        latency=False,
        # 2: layers that the target names, to be left in float, are refused.
        revision=2,
    )

    def version(self) -> str:
        """The version of the installed ai-edge-litert, which runs it here."""
        return LiteRt().version()

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: the file is not compiled for the device yet."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination`, inputs and outputs in int8 too. `fallbacks` counts the operators that would
        run on the CPU, and `notes` name them: by edgetpu_compiler where it is on PATH, else by what is
        published about it.

        Raises BuildError for another precision, layers to be left in float, more fallbacks than
        max_fallbacks, and a model that the compiler refuses; else as LiteRt.build.
        """
        limit = _limit(target)
        if target.precision != "int8":
            raise BuildError(
                f"the Edge TPU computes in int8 alone, not in {target.precision}",
                where="params.yaml (targets)",
                fix="set precision: int8",
            )
        kept = float_patterns(source, target)
        if kept:
            raise BuildError(
                f"the Edge TPU computes nothing in float, and {kept[0]} is to stay so",
                fix="take float_layers out, or train with quantisation (distill.quantize: int8)",
            )
        model = converted(source, target)
        content, fact = quantised(model, source, target, {"io": "int8", "activations": "static"})
        found, notes = checked(content, where=destination.name)
        if limit is not None and len(found) > limit:
            raise BuildError(
                f"{len(found)} operators would run on the CPU and not on the Edge TPU, "
                f"{limit} may: {_named(found)[0]}",
                where=destination.name,
                fix="replace them in the task's model, or raise the option max_fallbacks",
            )
        check_runs(content, source, target, where=destination.name)
        write_bytes(destination, content)
        return structs.replace(fact, fallbacks=len(found), notes=(*fact.notes, *notes))

    def open(self, engine: Path, target: Target) -> LiteRtSession:
        """A session on the CPU. Raises BuildError for a file it cannot load."""
        return LiteRt().open(engine, target)


def checked(content: bytes, *, where: str) -> tuple[tuple[Fallback, ...], tuple[str, ...]]:
    """The operators of a .tflite that would run on the CPU, and what people should know about them.

    Raises BuildError for a damaged file, one that is not in int8, and one that the compiler refuses.
    """
    model = read_tflite(content, where=where)
    floats = sorted(
        {one.name for one in model.operators for put in one.outputs if put.type == "FLOAT32"}
    )
    if floats or any(one.type == "FLOAT32" for one in model.inputs):
        raise BuildError(
            f"the model computes in float: {', '.join(floats) or 'its inputs'}",
            where=where,
            fix="build it in int8, with inputs and outputs in int8 too",
        )
    compiler = shutil.which(COMPILER)
    if compiler is None:
        found = fallbacks(model)
        said: tuple[str, ...] = (
            f"not compiled: {COMPILER} is not on PATH; what runs where is as published",
        )
    else:
        found, said = compiled(compiler, content, where=where)
    size = parameter_bytes(model)
    over = size - PARAMETER_CACHE_BYTES
    sizes = (
        (f"parameters of {size} bytes do not fit on the chip: {over} are streamed at every call",)
        if over > 0
        else ()
    )
    return found, (*said, *_named(found), *sizes)


def compiled(
    compiler: str, content: bytes, *, where: str
) -> tuple[tuple[Fallback, ...], tuple[str, ...]]:
    """What edgetpu_compiler says of the file. Raises BuildError with its words if it refuses or hangs."""
    with tempfile.TemporaryDirectory(prefix="reprune-edgetpu-") as name:
        (Path(name) / "model.tflite").write_bytes(content)
        try:
            done = subprocess.run(
                [compiler, "-s", "-o", name, str(Path(name) / "model.tflite")],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMPILING_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(
                f"{COMPILER} did not end within {COMPILING_SECONDS:.0f} s",
                where=where,
                fix="make the model smaller",
            ) from error
        written = (Path(name) / "model_edgetpu.tflite").is_file()
    lines = done.stdout.splitlines()
    if done.returncode or not written:
        last = next(
            (line.strip() for line in [*done.stderr.splitlines(), *lines][::-1] if line.strip()), ""
        )
        raise BuildError(
            f"{COMPILER} refuses the model: {last or 'it says nothing'}",
            where=where,
            fix="replace what it names in the task's model",
        )
    version = next((line.strip() for line in lines if "Compiler version" in line), COMPILER)
    return parse_log(lines), (f"compiled by {version}",)


def parse_log(lines: Sequence[str]) -> tuple[Fallback, ...]:
    """The operators that the compiler did not map, each as often as it counts it."""
    rows = [match for line in lines if (match := _LINE.match(line.strip()))]
    left = [row for row in rows if row["status"] != MAPPED]
    each = [row for row in left for _ in range(int(row["count"]))]
    return tuple(
        Fallback(place, row["name"], _lowered(row["status"])) for place, row in enumerate(each)
    )


def _lowered(status: str) -> str:
    return status[0].lower() + status[1:]


def _named(found: Sequence[Fallback]) -> tuple[str, ...]:
    """One sentence for each operator and reason."""
    counts: dict[tuple[str, str], int] = {}
    for one in found:
        key = (one.operator, one.reason)
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        f"on the CPU: {count} x {operator}: {reason}"
        for (operator, reason), count in counts.items()
    )


def _limit(target: Target) -> int | None:
    plain = {name: value for name, value in target.options.items() if name != MAX_FALLBACKS}
    if plain:
        read_options(structs.replace(target, options=plain), {MAX_FALLBACKS: ()})
    limit = target.options.get(MAX_FALLBACKS)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise BuildError(
            f"the option max_fallbacks is no count of operators: {limit}",
            where="params.yaml (targets)",
            fix="set it to 0 or more",
        )
    return limit
