"""TensorRT 10 and 11, and TensorRT-RTX: the model as ONNX in the wanted precision, then a plan built from it.

"tensorrt" builds on the GPU that runs the engine, or its DLA; "tensorrt-rtx" builds ahead of time, without
a GPU too. Precision is written into the ONNX (casts, QuantizeLinear), never asked for by flags, which 11 has
no more. `build` compiles in a child process, and nothing of TensorRT is created before a CUDA device was
found: without a driver its objects crash when they are touched.

What was run: parsing and building with TensorRT-RTX 1.7 without a GPU. With the full library, on a GPU or a
DLA it has been run: nothing so far; the names that are used were compared with those of 10.16 and 11.4.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from reprune.core.artifacts import BuildFact, OperatorTime
from reprune.core.errors import BuildError, MissingExtra
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.core.step import work_root
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Capabilities, Source, float_patterns
from reprune.runtimes.cuda import Gpu, checked, cudart, find_gpu, gpu_count
from reprune.runtimes.isolated import build_within
from reprune.runtimes.jetson import is_jetson, jetson_details, jetson_state
from reprune.runtimes.onnx_half import refuse_overflow, to_half
from reprune.runtimes.onnx_plan import TENSORRT
from reprune.runtimes.onnx_source import (
    calibration_arrays,
    float_onnx,
    int8_onnx,
    quantisable_layers,
)
from reprune.runtimes.tensorrt_build import (
    Options,
    Order,
    build_plan,
    inspected,
    listening,
    made_by,
    read_model,
    read_options,
)
from reprune.runtimes.tensorrt_session import TensorRTSession
from reprune.runtimes.timing_cache import CachePlan, cache_path, pinned_path

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

MODEL, FACTS = "model.onnx", "source.json"
COMPILE_SECONDS = 1800.0
HALF = ("fp16", "int8-fp16")
QUANTISED = ("int8", "int8-fp16")


@dataclass(frozen=True, kw_only=True)
class Library:
    """One of the two: the modules that it may be imported as, and whether it builds without a device."""

    modules: tuple[str, ...]
    extra: str
    ahead_of_time: bool


FULL = Library(modules=("tensorrt",), extra="tensorrt", ahead_of_time=False)
# The wheel "tensorrt-rtx" is a name for the other two, which work without it.
RTX = Library(
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"), extra="tensorrt-rtx", ahead_of_time=True
)


def tensorrt() -> TensorRT:
    """The runtime of the full library."""
    return TensorRT(FULL)


def tensorrt_rtx() -> TensorRT:
    """The runtime of TensorRT-RTX."""
    return TensorRT(RTX)


class TensorRT:
    """A Runtime, Quantising, Compiling and an NvidiaRuntime."""

    suffix = ".engine"

    def __init__(self, library: Library) -> None:
        self._library = library
        self.capabilities = Capabilities(
            precisions=("fp32", "fp16", "int8", "int8-fp16"),
            extra=library.extra,
            modules=(library.modules[-1], "cuda.bindings"),
            converter=("onnx", "onnxscript", "onnxruntime"),
            devices=("gpu",) if library.ahead_of_time else ("gpu", "dla"),
            dynamic_batch=False,
            options=Options.__struct_fields__,
            sparsity=() if library.ahead_of_time else ("2:4",),
            alignment={"fp32": 8, "fp16": 8, "int8": 32, "int8-fp16": 32},
            may_crash=True,
            # 2: TF32 is off in every precision unless it is asked for. 3: transposed convolutions in groups
            # have one scale a weight in int8, and layers kept in fp32 hand fp32 on to each other.
            revision=3,
        )

    def version(self) -> str:
        """The library's version. Creates none of its objects. Raises MissingExtra."""
        return str(self._import().__version__)

    def binding(self, target: Target) -> Binding:
        """The GPU by name, its compute capability, the driver and the system: a plan runs on its like only.

        An ahead-of-time engine of TensorRT-RTX is bound to the system alone. Raises BuildError where
        the full library finds no device.
        """
        system = {"operating system": f"{platform.system()} {platform.machine()}"}
        if self._library.ahead_of_time:
            return system
        gpu = find_gpu(target.device)
        return {
            "GPU": gpu.name,
            "compute capability": gpu.compute_capability,
            "driver": gpu.driver,
            **system,
        }

    def gpu_uuid(self, target: Target) -> str:
        """As NvidiaRuntime promises."""
        return find_gpu(target.device).uuid

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        """`prepare` here, then `compile` in a child process. Raises BuildError, and RepruneError for a
        builder that crashed or hung.
        """
        read_options(target)
        if not self._library.ahead_of_time:
            find_gpu(target.device)
        return build_within(self, source, target, destination, seconds=COMPILE_SECONDS)

    def prepare(self, source: Source, target: Target, folder: Path) -> BuildFact:
        """Writes `model.onnx` in the target's precision and `source.json` into `folder`.

        Inputs and outputs are fp32 (and whole numbers) whatever the precision. Raises BuildError for
        an operator that cannot be exported, and naming the layer of a weight, or of a value that is
        computed on real inputs, that fp16 cannot hold.
        """
        content, fact = float_onnx(source), BuildFact()
        # Quantised, a named layer is in fp16; without quantisation it is in fp32.
        keep = float_patterns(source, target) if target.precision == "fp16" else ()
        details: dict[str, str] = {}
        notes: tuple[str, ...] = ()
        if target.precision in HALF:
            batches = calibration_arrays(source) or [
                [tensor.detach().cpu().numpy() for tensor in source.example_inputs]
            ]
            details["largest value in fp16"] = f"{refuse_overflow(content, batches, keep):.4g}"
        if target.precision in QUANTISED:
            content, fact = int8_onnx(source, target, TENSORRT)
        if target.precision in HALF:
            half = to_half(content, keep)
            content, notes = half.content, half.notes
        write_bytes(folder / MODEL, content)
        write_bytes(folder / FACTS, json.dumps({"sparsity": source.sparsity}).encode())
        return structs.replace(
            fact, notes=(*fact.notes, *notes), details={**fact.details, **details}
        )

    def quantisable(self, source: Source, target: Target) -> tuple[str, ...]:
        """As Quantising promises; empty for a precision that is not quantised."""
        if target.precision not in QUANTISED:
            return ()
        return quantisable_layers(source, target, TENSORRT)

    def compile(self, folder: Path, target: Target, destination: Path) -> BuildFact:
        """Writes the plan from what `prepare` left. May crash where the driver is broken: see `build`.

        Afterwards, where there is a device, the engine was loaded and looked into once. Raises BuildError.
        """
        gpu = self._device(target)
        trt, options = self._import(), read_options(target)
        facts = json.loads(read_model(folder / FACTS))
        order = Order(
            content=read_model(folder / MODEL),
            target=target,
            sparsity=str(facts["sparsity"]),
            cache=self._cache(target, options, gpu),
        )
        plan, fact = build_plan(trt, order)
        details = {"TensorRT": str(trt.__version__), **fact.details}
        if gpu is not None:
            session = self._session(plan, target, options, where=str(destination))
            details |= inspected(session.inspect())
            session.close()
        if is_jetson():
            details |= jetson_details(jetson_state())
        write_bytes(destination, plan)
        return structs.replace(fact, details=details)

    def open(self, engine: Path, target: Target) -> TensorRTSession:
        """A fresh session on the target's GPU. Raises BuildError for a file that it cannot load, and where
        there is no device.
        """
        find_gpu(target.device)
        try:
            plan = engine.read_bytes()
        except OSError as error:
            raise BuildError(
                f"the engine cannot be read: {error.strerror}",
                where=str(engine),
                fix="run build again",
            ) from error
        return self._session(plan, target, read_options(target), where=str(engine))

    def operator_times(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> tuple[OperatorTime, ...]:
        """Median time of each layer of the engine over `calls` calls, slowest first."""
        session = self.open(engine, target)
        try:
            return session.layer_times(inputs, calls)
        finally:
            session.close()

    def phase_us(
        self, engine: Path, target: Target, inputs: Sequence[Array], calls: int
    ) -> dict[str, float]:
        """Medians in us of copying inputs ("h2d"), computing ("compute") and copying outputs ("d2h")."""
        session = self.open(engine, target)
        try:
            return session.phase_us(inputs, calls)
        finally:
            session.close()

    def _import(self) -> Any:
        *others, last = self._library.modules
        for module in others:
            try:
                return require(module, self._library.extra)
            except MissingExtra:
                continue
        return require(last, self._library.extra)

    def _device(self, target: Target) -> Gpu | None:
        """The device, made the current one; None where there is none and none is needed to build."""
        if self._library.ahead_of_time and gpu_count() == 0:
            return None
        gpu = find_gpu(target.device)
        checked(cudart().cudaSetDevice(gpu.index))
        return gpu

    def _cache(self, target: Target, options: Options, gpu: Gpu | None) -> CachePlan | None:
        """None where builds measure anew: TensorRT-RTX has no such cache, and the builds of a target that is
        rebuilt on its device must not be told each other's choices.
        """
        pinned = options.timing_cache.startswith("sha256:")
        if self._library.ahead_of_time or gpu is None or options.timing_cache == "none":
            return None
        if pinned:
            pin = options.timing_cache
            return CachePlan(path=pinned_path(work_root(), pin), pin=pin)
        if target.rebuilt:
            return None
        facts = {
            "library": self.version(),
            "GPU": gpu.name,
            "compute capability": gpu.compute_capability,
            "driver": gpu.driver,
            "level": str(options.builder_optimization_level),
            "workspace": str(options.workspace_mb),
            "device": target.device.partition(":")[0] or "gpu",
            "precision": target.precision,
            "TF32": str(options.tf32),
        }
        return CachePlan(path=cache_path(work_root(), facts))

    def _session(
        self, plan: bytes, target: Target, options: Options, *, where: str
    ) -> TensorRTSession:
        trt = self._import()
        checked(cudart().cudaSetDevice(find_gpu(target.device).index))
        logger, log = listening(trt)
        runtime = made_by(trt.Runtime, logger, log)
        kind, _, number = target.device.partition(":")
        if kind == "dla":
            runtime.DLA_core = int(number or 0)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(
                f"TensorRT cannot load it: {log.errors()}",
                where=where,
                fix="run build on the machine that is to run it",
            )
        return TensorRTSession(trt, (runtime, engine), log, options)
