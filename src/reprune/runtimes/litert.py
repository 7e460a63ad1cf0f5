"""LiteRT (TensorFlow Lite) on the CPU: one .tflite file of a fixed batch size, run by XNNPACK.

Conversion needs litert-torch, which brings packages that quarrel with others: it runs in a child process,
in the environment of Target.python. Running needs ai-edge-litert alone, and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError, nearest
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source
from reprune.runtimes.litert_build import check_runs, converted, kept_layers, quantised
from reprune.runtimes.litert_session import LiteRtSession, load

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "io": ("float", "int8"),
    "activations": ("static", "dynamic"),
}


class LiteRt:
    """Target.options: `io` "int8" leaves inputs and outputs as they are stored, and everything between
    them in int8, as accelerators ask; the usual "float" quantises them inside the engine, and leaves in
    float what eight bits would spoil. `activations` "dynamic" takes their ranges anew at every call.
    """

    suffix = ".tflite"
    capabilities = Capabilities(
        precisions=("fp32", "fp16", "int8", "int8-weights"),
        extra="litert",
        modules=("ai_edge_litert",),
        converter=("litert_torch", "ai_edge_quantizer"),
        dynamic_batch=False,
        options=tuple(OPTIONS),
        alignment={"fp32": 8, "int8": 8},
        # 2: the layers that the target names stay in float.
        revision=2,
    )

    def version(self) -> str:
        """The version of the installed ai-edge-litert."""
        require("ai_edge_litert.interpreter", "litert")
        return version("ai-edge-litert")

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same everywhere
        """Nothing: a .tflite file runs wherever LiteRT does."""
        return {}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination` for target.batch_size examples a call. Inputs and outputs are laid out as
        the module's. The module is not changed; the same module gives the same bytes.

        Raises BuildError naming the operator that cannot be converted, or what the converting
        environment lacks; RepruneError where the conversion crashed or hung.
        """
        options = read_options(target, OPTIONS)
        model = converted(source, target)
        if target.precision == "fp32":
            content, fact = model.content, BuildFact(details={"converter": model.converter})
        else:
            content, fact = quantised(model, source, target, options)
        check_runs(content, source, target, where=destination.name)
        write_bytes(destination, content)
        return fact

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """The modules whose products would be computed in int8, in the order they run."""
        model = converted(source, target)
        left, _ = kept_layers(model, source, target)
        return tuple(name for name in model.layers if name not in left)

    def open(self, engine: Path, target: Target) -> LiteRtSession:
        """A fresh session with the target's threads. Raises BuildError for a file it cannot load."""
        try:
            content = engine.read_bytes()
        except OSError as error:
            raise BuildError(
                f"it cannot be read: {error.strerror}",
                where=str(engine),
                fix="build the engine again",
            ) from error
        return LiteRtSession(load(content, target.threads, where=str(engine)))


def read_options(target: Target, known: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The target's options with their usual (first) values filled in. Raises BuildError for others."""
    for name, value in target.options.items():
        if name not in known:
            raise BuildError(
                f"{target.runtime} has no option '{name}'; {nearest(name, known)}",
                where="params.yaml (targets)",
                fix=f"use: {', '.join(sorted(known)) or 'none'}",
            )
        if value not in known[name]:
            raise BuildError(
                f"the option {name} of {target.runtime} is no '{value}'",
                where="params.yaml (targets)",
                fix=f"use one of: {', '.join(known[name])}",
            )
    return {name: str(target.options.get(name, values[0])) for name, values in known.items()}
