"""PyTorch itself, eager and compiled, on the CPU and on an NVIDIA GPU: what others are compared with.

"torch" runs the exported operators one by one. "torch-compiled" runs what AOTInductor made of them: C++
(or Triton) that is compiled when the engine is built, so that `open` takes milliseconds, needs no compiler
and runs the judged code itself; torch.compile at `open` would compile anew on every machine. Without a C++
compiler there is no such engine. The two load torch in `open`, necessarily.

fp32 is fp32: TF32 is switched off for all arms alike. Engines are code, as all engines are: a compiled one
is a library that is loaded, and is never taken as input; a file of "torch" with a pickle in it is refused.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Precision, Target
from reprune.core.plugins import require
from reprune.core.store import disk_errors, write_bytes
from reprune.runtimes.base import Binding, Capabilities, Session, Source
from reprune.runtimes.converters import explained, quiet
from reprune.runtimes.fixed_batch import Signature, refuse_others, shareable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]
    Call: TypeAlias = Callable[..., Sequence[Tensor]]

EXTRA = "torch"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
# Where a package keeps what its inputs are.
INPUTS = "reprune_inputs"


class Torch:
    suffix = ".pt2"
    capabilities = Capabilities(
        precisions=PRECISIONS,
        extra=EXTRA,
        modules=("torch",),
        devices=("cpu", "gpu"),
        alignment={"fp32": 8, "fp16": 8, "bf16": 8},
    )

    def version(self) -> str:
        """The version of the installed torch."""
        return _version()

    def binding(self, target: Target) -> Binding:  # noqa: ARG002  # the same on every device
        """The version of torch, which gives no word that another reads the file."""
        return {"torch": _version()}

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Writes `destination` for any number of examples; the same module gives the same bytes.

        Raises BuildError where the forward pass is no graph or fixes its batch, without the GPU that
        `target` names, and for other precisions than fp32 on the CPU.
        """
        device = _device(target)
        program = require("reprune.runtimes.pytorch_program", EXTRA)
        exported = program.exported(source, target.precision, device)
        write_bytes(destination, program.program_bytes(exported, program.signatures_of(source)))
        return _fact(target)

    def open(self, engine: Path, target: Target) -> Session:
        """A fresh session. Raises BuildError for a file it cannot load."""
        device = _device(target)
        module, signatures = require("reprune.runtimes.pytorch_program", EXTRA).load_program(engine)
        return _session(Loaded(call=module, signatures=signatures), target, device)

    def gpu_uuid(self, target: Target) -> str:
        """The GPU as the driver names it; "" for a target on the CPU."""
        return _gpu_uuid(target)


class TorchCompiled:
    suffix = ".pt2"
    capabilities = Capabilities(
        precisions=PRECISIONS,
        extra=EXTRA,
        modules=("torch",),
        devices=("cpu", "gpu"),
        alignment={"fp32": 16, "fp16": 8, "bf16": 8},
        fixed_threads=True,
        # 2: compiled for the target's threads, no longer for those of the process that builds.
        revision=2,
    )

    def version(self) -> str:
        """The version of the installed torch."""
        return _version()

    def binding(self, target: Target) -> Binding:
        """The version of torch, and the CPU's or the GPU's kind of instructions."""
        torch = require("torch", EXTRA)
        if not _is_gpu(target):
            capability = str(torch.backends.cpu.get_cpu_capability())
            return {"torch": _version(), "CPU's instructions": capability}
        about = torch.cuda.get_device_properties(_device(target))
        return {
            "torch": _version(),
            "GPU": str(about.name),
            "compute capability": f"{about.major}.{about.minor}",
        }

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """Compiles `destination` for any number of examples and the target's threads. Compilers write names
        and times of their own: the bytes differ from build to build.

        Raises BuildError as Torch.build, without a C++ compiler, and naming what cannot be compiled.
        """
        device = _device(target)
        _refuse_without_compiler()
        program = require("reprune.runtimes.pytorch_program", EXTRA)
        exported = program.exported(source, target.precision, device)
        with tempfile.TemporaryDirectory(prefix="reprune-inductor-") as folder:
            made = _compiled(
                exported,
                Path(folder, "model.pt2"),
                program.written(program.signatures_of(source)),
                target.threads,
            )
            with disk_errors(destination):
                aside = destination.with_name(f".{destination.name}.new")
                try:
                    shutil.copyfile(made, aside)
                    aside.replace(destination)
                finally:
                    aside.unlink(missing_ok=True)
        return _fact(target)

    def open(self, engine: Path, target: Target) -> Session:
        """A fresh session; nothing is compiled. Raises BuildError for a file it cannot load."""
        device = _device(target)
        program = require("reprune.runtimes.pytorch_program", EXTRA)
        inductor = require("torch._inductor", EXTRA)
        index = int(device.partition(":")[2] or -1)
        try:
            with quiet():
                # Several runners would guard each other by locks, which a capture forbids.
                package = inductor.aoti_load_package(
                    str(engine), run_single_threaded=True, device_index=index
                )
                signatures = program.read(package.get_metadata()[INPUTS])
        except Exception as error:  # whatever a damaged archive makes torch stumble over
            raise program.unreadable(engine, error) from error
        return _session(Loaded(call=package, signatures=signatures), target, device)

    def gpu_uuid(self, target: Target) -> str:
        """The GPU as the driver names it; "" for a target on the CPU."""
        return _gpu_uuid(target)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What runs an engine: tensors in, tensors out, and what it takes without the batch."""

    call: Call
    signatures: Sequence[Signature]


class CpuSession:
    """One loaded program; it runs with the target's threads, and leaves those of the process as they were."""

    def __init__(self, loaded: Loaded, threads: int) -> None:
        self._torch = require("torch", EXTRA)
        self._loaded, self._threads = loaded, threads

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples. Raises BuildError for inputs of other shapes or types."""
        torch = self._torch
        refuse_others(inputs, self._loaded.signatures)
        before = torch.get_num_threads()
        if before != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                outputs = self._loaded.call(*[torch.from_numpy(shareable(x)) for x in inputs])
                return [output.numpy() for output in outputs]
        except (RuntimeError, TypeError) as error:
            raise does_not_run(error) from error
        finally:
            if before != self._threads:
                torch.set_num_threads(before)


def does_not_run(error: Exception) -> BuildError:
    """What is said of a call that failed."""
    return BuildError(
        f"the engine does not run on these inputs: {error}",
        fix="give it arrays of the shapes and types that it was exported with",
    )


def _session(loaded: Loaded, target: Target, device: str) -> Session:
    if not _is_gpu(target):
        return CpuSession(loaded, target.threads)
    from reprune.runtimes.pytorch_gpu import open_gpu

    return open_gpu(loaded, target.batch_size, device)


def _compiled(exported: Any, path: Path, inputs: str, threads: int) -> str:
    inductor = require("torch._inductor", EXTRA)
    knobs = {
        # One process compiles: torch's own pool of them would outlive the build.
        "compile_threads": 1,
        # Loops are written for so many threads, whatever a session sets: usually for this process's.
        "cpp.threads": threads,
        "aot_inductor.metadata": {INPUTS: inputs},
    }
    try:
        with quiet():
            return str(
                inductor.aoti_compile_and_package(
                    exported, package_path=str(path), inductor_configs=knobs
                )
            )
    except Exception as error:  # a compiler raises whatever it likes
        raise explained(error, "compiled code") from error


def _refuse_without_compiler() -> None:
    builder = require("torch._inductor.cpp_builder", EXTRA)
    try:
        builder.get_cpp_compiler()
    except RuntimeError as error:
        raise BuildError(
            "torch-compiled needs a C++ compiler to build, and there is none",
            fix="install g++ (or name one in the environment variable CXX), or use the runtime torch",
        ) from error


def _device(target: Target) -> str:
    """The target's device in torch's words. Raises BuildError for a GPU that is not there."""
    if not _is_gpu(target):
        if target.precision != "fp32":
            raise BuildError(
                f"{target.runtime} does not build {target.precision} for the CPU",
                where="params.yaml (targets)",
                fix="use fp32, or the device gpu",
            )
        return "cpu"
    torch = require("torch", EXTRA)
    index = int(target.device.partition(":")[2] or 0)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= there:
        raise BuildError(
            f"the target wants the GPU {index}, and torch sees {there or 'none'}",
            fix="run on a machine with that GPU, with a torch that is built for CUDA",
        )
    # Rounding to TF32 is asked for nowhere, and its default differs between operators.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{index}"


def _is_gpu(target: Target) -> bool:
    return target.device.partition(":")[0] == "gpu"


def _gpu_uuid(target: Target) -> str:
    if not _is_gpu(target):
        return ""
    about = require("torch", EXTRA).cuda.get_device_properties(_device(target))
    return f"GPU-{str(about.uuid).removeprefix('GPU-')}"


def _fact(target: Target) -> BuildFact:
    return BuildFact(details={"TF32": "off"}) if _is_gpu(target) else BuildFact()


def _version() -> str:
    return str(require("torch", EXTRA).__version__)
