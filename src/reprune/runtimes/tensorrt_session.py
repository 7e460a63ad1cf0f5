"""A TensorRT engine on its GPU: buffers on the device, one stream, calls timed by CUDA events. No torch.

On hardware it has been run: nothing so far. It is written against cuda-python (`cuda.bindings.runtime`)
and the names that TensorRT 10 and 11 share. A session belongs to the thread that opened it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.artifacts import OperatorTime
from reprune.core.errors import BuildError
from reprune.runtimes.cuda import checked, cudart
from reprune.runtimes.tensorrt_build import Log, Options

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

WARMUP_CALLS = 10
NS_A_MS = 1e6


@dataclass(kw_only=True)
class Tensor:
    """One input or output: its memory on the device and, pinned, on the host, for the largest batch."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    example: tuple[int, ...]
    device: int
    host: int
    capacity: int

    def nbytes(self, batch: int) -> int:
        return batch * int(np.prod(self.example, dtype=np.int64)) * self.dtype.itemsize

    def view(self, batch: int) -> Array:
        """The pinned memory of `batch` examples as an array; writing to it writes there."""
        import ctypes

        raw: Any = (ctypes.c_char * self.nbytes(batch)).from_address(self.host)
        memory: Array = np.frombuffer(raw, dtype=self.dtype)
        return memory.reshape((batch, *self.example))


class TensorRTSession:
    """One execution context with a stream and memory of its own; it is DeviceTimed.

    What is timed is a captured CUDA graph of one call, between two events on its stream, without the
    copies of inputs and outputs, or with them (`Options.copies`). Where the graph cannot be captured
    launches are timed one by one, and `clock` says so.
    """

    def __init__(self, trt: Any, loaded: tuple[Any, Any], log: Log, options: Options) -> None:
        # The runtime that loaded the engine must outlive it.
        self._runtime, self._engine = loaded
        self._trt, self._log, self._options = trt, log, options
        engine = self._engine
        self._cuda = cudart()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BuildError(
                f"the engine gives no execution context: {log.errors()}",
                fix="see whether the GPU's memory suffices (nvidia-smi)",
            )
        self._stream = checked(self._cuda.cudaStreamCreate())
        self._events = [checked(self._cuda.cudaEventCreate()) for _ in range(4)]
        self._least, self._usual, self._largest = _batches(trt, engine)
        self._tensors = [self._tensor(place) for place in range(engine.num_io_tensors)]
        self._graph: tuple[int, Any] | None = None
        self._captured = options.graph and self._try_capture(self._usual)

    @property
    def clock(self) -> str:
        """The convention of `call_ns`, as it stands in the evidence."""
        what = "a captured graph" if self._captured else "each launch"
        return f"CUDA events around {what}, {'with' if self._options.copies else 'without'} copies"

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples: more than the engine takes at once are split, fewer
        than it takes at least are filled up with the last one. Raises BuildError for other shapes.
        """
        self._check(inputs)
        count = len(inputs[0])
        parts = []
        for start in range(0, count, self._largest):
            part = [array[start : start + self._largest] for array in inputs]
            parts.append(self._run_part(part))
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def call_ns(self, inputs: Sequence[Array], calls: int) -> Sequence[int]:
        """The durations of `calls` calls by the device's clock, one after the other, in ns."""
        batch = self._prepare(inputs)
        taken = []
        for _ in range(calls):
            self._mark(0)
            if self._options.copies:
                self._copy(batch, inputs=True)
            self._launch(batch)
            if self._options.copies:
                self._copy(batch, inputs=False)
            self._mark(1)
            taken.append(max(1, round(self._between(0, 1) * NS_A_MS)))
        return taken

    def captures(self, inputs: Sequence[Array]) -> bool:
        """As Capturing promises. False for good once a call could not be captured."""
        self._captured = self._captured and self._try_capture(self._timed_batch(inputs))
        return self._captured

    def uncapture(self) -> None:
        """As Capturing promises."""
        self._captured = False
        if self._graph is not None:
            self._cuda.cudaGraphExecDestroy(self._graph[1])
            self._graph = None

    def phase_us(self, inputs: Sequence[Array], calls: int) -> dict[str, float]:
        """Medians in us of what a call is made of: "h2d" (copies in), "compute", "d2h" (copies out)."""
        batch = self._prepare(inputs)
        taken: dict[str, list[float]] = {"h2d": [], "compute": [], "d2h": []}
        for _ in range(calls):
            self._mark(0)
            self._copy(batch, inputs=True)
            self._mark(1)
            self._launch(batch)
            self._mark(2)
            self._copy(batch, inputs=False)
            self._mark(3)
            for place, phase in enumerate(taken):
                taken[phase].append(self._between(place, place + 1) * 1e3)
        return {phase: round(median(values), 3) for phase, values in taken.items()}

    def layer_times(self, inputs: Sequence[Array], calls: int) -> tuple[OperatorTime, ...]:
        """Median time of each layer of the engine over `calls` calls, slowest first.

        TensorRT times layers by events of their own, so that together they take longer than a call.
        """
        batch = self._prepare(inputs)
        trt = self._trt
        taken: dict[str, list[float]] = {}

        class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined]  # the bindings ship no types
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                taken.setdefault(layer_name, []).append(ms * 1e3)

        profiler = Profiler()
        self._context.profiler = profiler
        self._context.enqueue_emits_profile = True
        for _ in range(WARMUP_CALLS + calls):
            self._enqueue(batch)
            self._wait()
        times = {layer: median(values[-calls:]) for layer, values in taken.items()}
        total = sum(times.values()) or 1.0
        return tuple(
            OperatorTime(
                operator=layer,
                type="layer",
                median_us=round(took, 3),
                share=round(took / total, 6),
            )
            for layer, took in sorted(times.items(), key=lambda item: (-item[1], item[0]))
        )

    def inspect(self) -> str:
        """What the engine inspector tells, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Gives the memory, the stream and the events back. Closing twice is closing once."""
        cuda, tensors, self._tensors = self._cuda, self._tensors, []
        if self._graph is not None:
            cuda.cudaGraphExecDestroy(self._graph[1])
            self._graph = None
        for tensor in tensors:
            cuda.cudaFree(tensor.device)
            cuda.cudaFreeHost(tensor.host)
        for event in self._events:
            cuda.cudaEventDestroy(event)
        if self._events:
            cuda.cudaStreamDestroy(self._stream)
        self._events = []
        self._context = self._engine = self._runtime = None

    def __del__(self) -> None:
        if getattr(self, "_events", None):
            self.close()

    def _tensor(self, place: int) -> Tensor:
        engine, trt = self._engine, self._trt
        name = engine.get_tensor_name(place)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(engine.get_tensor_shape(name))
        if any(size < 0 for size in shape[1:]):
            raise BuildError(f"the tensor '{name}' has open dimensions besides the batch: {shape}")
        tensor = Tensor(
            name=name,
            is_input=is_input,
            dtype=np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
            example=shape[1:],
            device=0,
            host=0,
            capacity=self._largest,
        )
        size = max(1, tensor.nbytes(self._largest))
        tensor.device = int(checked(self._cuda.cudaMalloc(size)))
        tensor.host = int(checked(self._cuda.cudaMallocHost(size)))
        self._context.set_tensor_address(name, tensor.device)
        return tensor

    def _check(self, inputs: Sequence[Array]) -> None:
        wanted = [tensor for tensor in self._tensors if tensor.is_input]
        shapes = [tuple(array.shape[1:]) for array in inputs]
        counts = {len(array) for array in inputs}
        if shapes != [tensor.example for tensor in wanted] or len(counts) != 1 or counts == {0}:
            raise BuildError(
                f"the engine does not run on inputs of the shapes {[a.shape for a in inputs]}; it was "
                f"built for {[(tensor.name, ('batch', *tensor.example)) for tensor in wanted]}",
                fix="give it arrays of the shapes that it was exported with",
            )

    def _timed_batch(self, inputs: Sequence[Array]) -> int:
        """How many examples the inputs are. Raises BuildError for more or fewer than one call takes."""
        self._check(inputs)
        batch = len(inputs[0])
        if not self._least <= batch <= self._largest:
            raise BuildError(
                f"the engine runs {self._least} to {self._largest} examples in a call, not {batch}",
                fix="name the batch size in the target (batch_size, throughput_batch_sizes) and build again",
            )
        return batch

    def _prepare(self, inputs: Sequence[Array]) -> int:
        """Brings inputs that are to be timed onto the device and warms up; how many examples they are."""
        batch = self._timed_batch(inputs)
        self._fill(inputs, batch)
        self._copy(batch, inputs=True)
        if self._captured and not self._try_capture(batch):
            raise BuildError(
                f"the call cannot be captured into a CUDA graph at batch {batch}: {self._log.errors()}",
                fix="set the option `graph: false` for this target, for all arms alike",
            )
        self._wait()
        return batch

    def _run_part(self, part: Sequence[Array]) -> list[Array]:
        count = len(part[0])
        batch = max(count, self._least)
        filled = [np.concatenate([a, np.repeat(a[-1:], batch - count, axis=0)]) for a in part]
        self._fill(filled, batch)
        self._copy(batch, inputs=True)
        self._enqueue(batch)
        self._copy(batch, inputs=False)
        self._wait()
        outputs = [tensor for tensor in self._tensors if not tensor.is_input]
        return [tensor.view(batch)[:count].copy() for tensor in outputs]

    def _fill(self, inputs: Sequence[Array], batch: int) -> None:
        wanted = [tensor for tensor in self._tensors if tensor.is_input]
        for tensor, array in zip(wanted, inputs, strict=True):
            tensor.view(batch)[...] = array
            self._context.set_input_shape(tensor.name, (batch, *tensor.example))

    def _copy(self, batch: int, *, inputs: bool) -> None:
        kinds = self._cuda.cudaMemcpyKind
        for tensor in self._tensors:
            if tensor.is_input != inputs:
                continue
            ends = (tensor.device, tensor.host) if inputs else (tensor.host, tensor.device)
            kind = kinds.cudaMemcpyHostToDevice if inputs else kinds.cudaMemcpyDeviceToHost
            size = tensor.nbytes(batch)
            checked(self._cuda.cudaMemcpyAsync(*ends, size, kind, self._stream))

    def _enqueue(self, batch: int) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise BuildError(
                f"the engine does not run at batch {batch}: {self._log.errors()}",
                fix="see `nvidia-smi` for memory and driver errors; build the engine again",
            )

    def _launch(self, batch: int) -> None:
        if self._captured and self._graph is not None:
            checked(self._cuda.cudaGraphLaunch(self._graph[1], self._stream))
        else:
            self._enqueue(batch)

    def _try_capture(self, batch: int) -> bool:
        """Whether the call of `batch` examples is captured now. TensorRT allocates in the first call after
        a change of shapes, which cannot be captured, so it is made once before.
        """
        if self._graph is not None and self._graph[0] == batch:
            return True
        cuda = self._cuda
        for tensor in (tensor for tensor in self._tensors if tensor.is_input):
            self._context.set_input_shape(tensor.name, (batch, *tensor.example))
        self._enqueue(batch)
        self._wait()
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cuda.cudaStreamBeginCapture(self._stream, mode))
        queued = bool(self._context.execute_async_v3(int(self._stream)))
        error, graph = cuda.cudaStreamEndCapture(self._stream)
        if not queued or int(error) != 0:
            return False
        error, executable = cuda.cudaGraphInstantiate(graph, 0)
        cuda.cudaGraphDestroy(graph)
        if int(error) != 0:
            return False
        if self._graph is not None:
            cuda.cudaGraphExecDestroy(self._graph[1])
        self._graph = (batch, executable)
        return True

    def _mark(self, place: int) -> None:
        checked(self._cuda.cudaEventRecord(self._events[place], self._stream))

    def _between(self, first: int, last: int) -> float:
        """Milliseconds between two marks, once both have passed."""
        checked(self._cuda.cudaEventSynchronize(self._events[last]))
        return float(
            checked(self._cuda.cudaEventElapsedTime(self._events[first], self._events[last]))
        )

    def _wait(self) -> None:
        checked(self._cuda.cudaStreamSynchronize(self._stream))


def _batches(trt: Any, engine: Any) -> tuple[int, int, int]:
    """The least, usual and largest batch of the engine's one profile; an input of a fixed batch has one."""
    found = []
    for place in range(engine.num_io_tensors):
        name = engine.get_tensor_name(place)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            found.append(tuple(int(s[0]) for s in engine.get_tensor_profile_shape(name, 0)))
    if not found or len(set(found)) != 1:
        raise BuildError(f"the engine's inputs do not share one range of batch sizes: {found}")
    least, usual, largest = found[0]
    return least, usual, largest
