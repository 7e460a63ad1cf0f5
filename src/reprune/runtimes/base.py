"""What a runtime offers: it builds an engine from a module, and opens sessions that run it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import msgspec

from reprune.core.artifacts import BuildFact, Fact, OperatorTime
from reprune.core.params import Precision, Target
from reprune.core.plugins import lookup

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Array = np.ndarray[Any, np.dtype[Any]]

RUNTIMES: Mapping[str, str] = {
    "onnxruntime": "reprune.runtimes.onnxruntime:OnnxRuntime",
    "executorch": "reprune.runtimes.executorch:ExecuTorch",
    "torch": "reprune.runtimes.pytorch:Torch",
    "torch-compiled": "reprune.runtimes.pytorch:TorchCompiled",
    "tensorrt": "reprune.runtimes.tensorrt:tensorrt",
    "tensorrt-rtx": "reprune.runtimes.tensorrt:tensorrt_rtx",
    "openvino": "reprune.runtimes.openvino:OpenVino",
    "litert": "reprune.runtimes.litert:LiteRt",
    "edgetpu": "reprune.runtimes.edgetpu:EdgeTpu",
    "coreml": "reprune.runtimes.coreml:CoreMl",
    "qnn": "reprune.runtimes.qnn:Qnn",
    "microcontroller": "reprune.runtimes.microcontroller.runtime:Microcontroller",
}

# Words of BuildFact.details that must be the same for all arms of a target, where they are told.
EQUAL_DETAILS = ("TF32", "profile", "converter", "quantiser")
# What an engine file is bound to on this machine, by name ("GPU", "driver"): all equal, or it is refused.
Binding: TypeAlias = dict[str, str]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a runtime can do, for `plan`, `build` and `doctor` to read.

    `sparsity` names the patterns ("2:4") whose zeros it can skip, so that they may save time;
    `stores_sparse` those that it stores in fewer bytes. `alignment` maps precision to the number that
    channel counts should be a multiple of. `dynamic_batch` False: an engine runs the batch size that it was
    built for. `fixed_threads`: nor other threads. `options` are the names that Target.options may have.
    `latency` False: what it takes here means nothing for the device (an emulation, a file for another
    machine); `latency_elsewhere`: on a machine of another kind it would. `devices` are the words that
    Target.device may begin with, its usual one first. `modules` are what must be installed, from `extra`;
    `converter` those that only `build` needs, in the environment of Target.python where that is named.
    `may_crash`: its library has been seen to end the process, so that steps run it in one of its own
    (runtimes.guarded). `revision` is raised with every change of our own code that makes another engine of
    the same source: older ones are built again.
    """

    precisions: tuple[Precision, ...]
    extra: str
    modules: tuple[str, ...]
    converter: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    dynamic_batch: bool = True
    fixed_threads: bool = False
    sparsity: tuple[str, ...] = ()
    stores_sparse: tuple[str, ...] = ()
    alignment: dict[Precision, int] = {}
    options: tuple[str, ...] = ()
    latency: bool = True
    latency_elsewhere: bool = False
    may_crash: bool = False
    revision: int = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an engine is built from. `example_inputs` hold two examples or more.

    `calibration` are batches of inputs for the ranges of quantised tensors; empty where the precision
    needs none. `float_layers` are the dotted names of modules that stay in float, beside those that the
    target names (see float_patterns).
    `sparsity` is the pattern of the model's masked weights ("2:4", "unstructured"), "" without masks.
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    input_names: Sequence[str]
    calibration: Sequence[tuple[Tensor, ...]] = ()
    float_layers: Sequence[str] = field(default=())
    sparsity: str = ""


def float_patterns(source: Source, target: Target) -> tuple[str, ...]:
    """All that stays in float, by name or pattern: what was chosen for `source`, then what `target` names."""
    return tuple(dict.fromkeys((*source.float_layers, *target.float_layers)))


class Session(Protocol):
    """A loaded engine, ready to run. Two sessions never share state.

    `run` returns when the outputs are there: whoever times it from outside times all of it. A session
    that can time its calls better than that is a DeviceTimed one as well.
    """

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the module's order, for any number of examples: an engine of a fixed batch
        size pads or splits what it is given. Raises BuildError for inputs that it was not built for.
        """


@runtime_checkable
class DeviceTimed(Session, Protocol):
    """A session whose calls are timed on the device itself, for example by events around a captured graph.

    `clock` names the convention, copies of inputs and outputs included or not, in words that stand in
    the evidence and the report ("CUDA events around a captured graph, without copies"). All arms of
    a unit must have the same, or the benchmark refuses to compare them (see Capturing).
    """

    clock: str

    def call_ns(self, inputs: Sequence[Array], calls: int) -> Sequence[int]:
        """Runs `calls` calls, one after the other, and gives the duration of each in ns."""


@runtime_checkable
class Capturing(DeviceTimed, Protocol):
    """A DeviceTimed session that replays captured graphs, and can do without.

    Where the calls of one arm cannot be captured, those of no arm are: what would be compared is how
    calls are launched, and not the models.
    """

    def captures(self, inputs: Sequence[Array]) -> bool:
        """Whether calls on such inputs are replayed from a graph, which is captured now."""

    def uncapture(self) -> None:
        """From now on calls are launched one by one, and `clock` says so."""


@runtime_checkable
class Phased(DeviceTimed, Protocol):
    """A DeviceTimed session that tells copies of inputs and outputs from computing."""

    def phase_us(self, inputs: Sequence[Array], calls: int) -> Mapping[str, float]:
        """Medians in us over `calls` calls: "h2d" (inputs to the device), "compute", "d2h" (outputs back)."""


class Runtime(Protocol):
    """Stateless; importing its module loads no torch (only `build` may), nor the runtime's library.

    One that runs on an NVIDIA GPU offers `gpu_uuid(target) -> str` besides (see NvidiaRuntime): the
    driver is then asked about that GPU at every block.
    """

    suffix: str
    capabilities: Capabilities

    def version(self) -> str:
        """The runtime's own version, as recorded beside every engine. Loads the runtime's library."""

    def binding(self, target: Target) -> Binding:
        """What an engine for `target` is bound to here; empty for files that run anywhere."""

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes the engine as one file, whole or not at all. The module is not changed.

        Raises BuildError naming the operator, or the layer, that cannot be built and what to do.
        """

    def open(self, engine: Path, target: Target) -> Session:
        """A fresh session with the target's threads. Raises BuildError for a file it cannot load."""


@runtime_checkable
class OperatorTimed(Protocol):
    """A Runtime that tells how long each operator of its own, fused graph takes."""

    def operator_times(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> tuple[OperatorTime, ...]:
        """Median time of each fused operator over `calls` calls, slowest first."""


class LayerTime(Fact, kw_only=True):
    """What one layer of the module takes in a call, with all that was fused into it or follows it to the
    next layer. `kinds` are its operators as exported, whatever the widths.
    """

    layer: str
    us: float
    kinds: tuple[str, ...]


@runtime_checkable
class LayerTimed(Protocol):
    """A Runtime that tells which layer of the module each operator of its own graph came from."""

    def layer_times(
        self,
        engine: Path,
        target: Target,
        inputs: Sequence[Array],
        calls: int,
        layers: Collection[str],
    ) -> tuple[LayerTime, ...]:
        """The median time of `layers` (dotted names) over `calls` calls, in the order they run; all of
        the graph's time is in one of them.
        """


@runtime_checkable
class Quantising(Protocol):
    """A Runtime that can leave single layers in float when it quantises."""

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """The dotted names of the modules that it would quantise, in the order they run."""


@runtime_checkable
class Compiling(Protocol):
    """A Runtime whose engines must be made on the very device: `build` is `prepare`, here, in which
    torch may be loaded, then `compile`, there, which loads none of it and may crash or hang.
    """

    def prepare(self, source: Source, target: Target, folder: Path) -> BuildFact:
        """Writes files into `folder` that `compile` needs, the same for the same source."""

    def compile(self, folder: Path, target: Target, destination: Path) -> BuildFact:
        """Writes the engine from what `prepare` left in `folder`. Raises as build."""


@runtime_checkable
class RunsElsewhere(Protocol):
    """A Runtime whose engines some machines can build and not run."""

    def cannot_run_here(self, target: Target) -> str:
        """Why `open` would refuse any engine for `target` on this machine; "" where it would not."""


@runtime_checkable
class NvidiaRuntime(Protocol):
    """What a Runtime offers besides if its sessions run on an NVIDIA GPU."""

    def gpu_uuid(self, target: Target) -> str:
        """The GPU of `target`'s sessions as the driver names it ("GPU-..."); "" where it has none.

        An index would not do: CUDA_VISIBLE_DEVICES renumbers for CUDA and not for the driver.
        """


def cannot_run_here(runtime: Runtime, target: Target) -> str:
    """Why engines for `target` cannot run on this machine, whoever built them; "" where they can.

    Who measures or compares engines asks this first: what it tells is no fault of the engine, and a
    required target is then measured on another machine or not at all.
    """
    return runtime.cannot_run_here(target) if isinstance(runtime, RunsElsewhere) else ""


def get_runtime(name: str) -> Runtime:
    """The runtime called `name`. Raises UnknownName, MissingExtra."""
    found: Runtime = lookup("runtimes", name, RUNTIMES)()
    return found
