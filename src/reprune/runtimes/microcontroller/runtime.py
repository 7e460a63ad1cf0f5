"""Microcontrollers: a build that makes one array for flash, and a session that decodes and runs it here.

Weights are stored small and activations are computed in float32. What a call takes here says nothing
about the device, so its latency is never reported; outputs and bytes are the device's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune import __version__
from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source, float_patterns
from reprune.runtimes.microcontroller.csource import CODE_BOUND, ram_bytes
from reprune.runtimes.microcontroller.engine import Weights, flagged, read_engine, write_engine
from reprune.runtimes.microcontroller.graph import TRANSPOSED, check
from reprune.runtimes.microcontroller.run import NumpySession
from reprune.runtimes.microcontroller.weights import PRECISIONS, packed

if TYPE_CHECKING:
    from reprune.runtimes.microcontroller.lowering import Step

    Array = np.ndarray[Any, np.dtype[Any]]

FLASH_BYTES, RAM_BYTES = 1_000_000, 256_000
OPTIONS = {"flash_bytes": FLASH_BYTES, "ram_bytes": RAM_BYTES}


class Microcontroller:
    suffix = ".rpm"
    capabilities = Capabilities(
        precisions=PRECISIONS,
        extra="torch",
        modules=(),
        converter=("torch",),
        sparsity=("unstructured", "2:4"),
        stores_sparse=("unstructured", "2:4"),
        options=tuple(OPTIONS),
        latency=False,
        # 2: layers that the target names, to be left in float, are refused where weights are small.
        revision=2,
    )

    def version(self) -> str:
        """This package's: the format and the code that reads it are its own."""
        return __version__

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: an engine is read by C99 code and by numpy, wherever they run."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination`, the very bytes for flash: the same module gives the same bytes.

        The facts say what the model and, at the most, its code take of `options.flash_bytes` (1,000,000
        unless it is given) and of `options.ram_bytes` (256,000); an engine that is too large for them is
        built all the same, with a note: the policy's size rule decides. Raises BuildError naming the
        layer and the operator that no code is there for, an option that is not one, layers that are to
        stay in float where weights are stored small, weights that are not finite.
        """
        from reprune.runtimes.microcontroller.lowering import lowered

        room = _options(target)
        _refuse_float_layers(source, target)
        graph, steps = lowered(source.module, source.example_inputs, source.input_names)
        try:
            weights = [_packed(step, target) for step in steps]
            graph = flagged(graph, weights)
            check(graph)
            content = write_engine(graph, weights)
        except RepruneError as error:
            raise BuildError(
                f"no engine for a microcontroller can be made of this model: {error.what}",
                fix=error.fix or "make the model smaller, or use another runtime",
            ) from error
        write_bytes(destination, content)
        return _fact(content, source.sparsity, room)

    def open(self, engine: Path, target: Target) -> NumpySession:  # noqa: ARG002  # one core
        """A session on the decoded weights. Raises BuildError for a file that is none or is damaged."""
        try:
            return NumpySession(*read_engine(engine.read_bytes()))
        except (RepruneError, OSError) as error:
            raise BuildError(
                f"it cannot be loaded: {getattr(error, 'what', error)}",
                where=str(engine),
                fix="build the engine again",
            ) from error


def _refuse_float_layers(source: Source, target: Target) -> None:
    kept = float_patterns(source, target)
    if kept and target.precision != "fp32":
        raise BuildError(
            f"a microcontroller's engine stores the weights of all layers small; {kept[0]} cannot stay "
            "in float",
            where="params.yaml (targets)",
            fix="take float_layers out, or set precision: fp32",
        )


def _options(target: Target) -> dict[str, int]:
    for name, value in target.options.items():
        if name not in OPTIONS or not isinstance(value, int) or value <= 0:
            raise BuildError(
                f"'{name}: {value}' is no option of a microcontroller",
                where="params.yaml (targets)",
                fix=f"use whole numbers of bytes for: {', '.join(OPTIONS)}",
            )
    return {**OPTIONS, **{name: int(value) for name, value in target.options.items()}}


def _packed(step: Step, target: Target) -> Weights:
    scale, bias = (
        None if part is None else part.astype(np.float32) for part in (step.scale, step.bias)
    )
    if step.weight is None:
        return Weights(scale=scale, bias=bias)
    outputs = step.output.shape[0] if step.code == TRANSPOSED else 0
    return packed(step.weight, scale, bias, target.precision, transposed_to=outputs)


def _fact(content: bytes, pattern: str, room: dict[str, int]) -> BuildFact:
    # Not what a compiler makes of the code: facts are the same on machines with and without one.
    flash, ram = len(content) + CODE_BOUND, ram_bytes(content)
    notes = [
        f"takes {taken:,} bytes of {kind}, {taken - room[name]:,} more than {name} ({room[name]:,})"
        for kind, name, taken in (("flash", "flash_bytes", flash), ("RAM", "ram_bytes", ram))
        if taken > room[name]
    ]
    return BuildFact(
        sparsity=pattern,
        notes=tuple(notes),
        details={
            "flash": f"{len(content):,} bytes of model and at most {CODE_BOUND:,} of code: {flash:,} of "
            f"{room['flash_bytes']:,}",
            "ram": f"{ram:,} of {room['ram_bytes']:,} bytes, without the stack",
        },
    )
