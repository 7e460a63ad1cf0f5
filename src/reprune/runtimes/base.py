"""What a runtime offers: it builds an engine from a module, and opens sessions that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from reprune.core.artifacts import OperatorTime
from reprune.core.params import Target
from reprune.core.plugins import lookup

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Array = np.ndarray[Any, np.dtype[Any]]

RUNTIMES: Mapping[str, str] = {"onnxruntime": "reprune.runtimes.onnxruntime:OnnxRuntime"}


class Session(Protocol):
    """A loaded engine, ready to run. Two sessions never share state.

    `run` returns when the outputs are there: whoever times it from outside times all of it. A session
    that can time its calls better than that is a DeviceTimed one as well.
    """

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the module's order."""


@runtime_checkable
class DeviceTimed(Session, Protocol):
    """A session whose calls are timed on the device itself, for example by events around a captured graph.

    `clock` names the convention, copies of inputs and outputs included or not, in words that stand in
    the evidence and the report ("CUDA events around a captured graph, without copies"). All arms of
    a unit must have the same: a session that cannot capture its graph says another `clock`, or is
    none of these, and the benchmark refuses to compare it.
    """

    clock: str

    def call_ns(self, inputs: Sequence[Array], calls: int) -> Sequence[int]:
        """Runs `calls` calls, one after the other, and gives the duration of each in ns."""


class Runtime(Protocol):
    """Stateless; importing its module loads no torch (only `build` may).

    One that runs on an NVIDIA GPU offers `gpu_uuid(target) -> str` besides (see NvidiaRuntime): the
    driver is then asked about that GPU at every block.
    """

    suffix: str

    def version(self) -> str:
        """The runtime's own version, as recorded beside every engine. Loads the runtime's library."""

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


@runtime_checkable
class NvidiaRuntime(Protocol):
    """What a Runtime offers besides if its sessions run on an NVIDIA GPU."""

    def gpu_uuid(self, target: Target) -> str:
        """The GPU of `target`'s sessions as the driver names it ("GPU-..."); "" where it has none.

        An index would not do: CUDA_VISIBLE_DEVICES renumbers for CUDA and not for the driver.
        """


def get_runtime(name: str) -> Runtime:
    """The runtime called `name`. Raises UnknownName, MissingExtra."""
    found: Runtime = lookup("runtimes", name, RUNTIMES)()
    return found
