"""What a runtime offers: it builds an engine from a module, and opens sessions that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reprune.core.artifacts import OperatorTime
from reprune.core.params import Target
from reprune.core.plugins import lookup

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Array = np.ndarray[Any, np.dtype[Any]]

RUNTIMES: Mapping[str, str] = {"onnxruntime": "reprune.runtimes.onnxruntime:OnnxRuntime"}


class Session(Protocol):
    """A loaded engine, ready to run. Two sessions never share state."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the module's order."""


class Runtime(Protocol):
    """Stateless; importing its module loads no torch (only `build` may)."""

    suffix: str

    def version(self) -> str:
        """The runtime's own version, as recorded beside every engine."""

    def build(
        self,
        module: nn.Module,
        example_inputs: tuple[Tensor, ...],
        input_names: Sequence[str],
        target: Target,
        destination: Path,
    ) -> None:
        """Writes the engine file, batch dimension dynamic. Raises BuildError naming the operator."""

    def open(self, engine: Path, target: Target) -> Session:
        """A fresh session with the target's threads. Raises BuildError for a file it cannot load."""

    def operator_times(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> tuple[OperatorTime, ...]:
        """Median time of each fused operator over `calls` calls, slowest first."""


def get_runtime(name: str) -> Runtime:
    """The runtime called `name`. Raises UnknownName, MissingExtra."""
    found: Runtime = lookup("runtimes", name, RUNTIMES)()
    return found
