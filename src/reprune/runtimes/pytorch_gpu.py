"""Sessions of torch on an NVIDIA GPU, timed by CUDA events. Loads torch.

A call that is timed replays a captured graph on buffers that stay where they are: what is measured is the
GPU's work, and neither Python nor copies. Copies are told apart from it by `phase_us`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reprune.core.errors import BuildError
from reprune.runtimes.fixed_batch import Signature, refuse_others, shareable
from reprune.runtimes.pytorch import Loaded, does_not_run

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

GRAPH_CLOCK = "CUDA events around a captured graph, without copies"
CALL_CLOCK = "CUDA events around each call, without copies"
# Libraries choose kernels and allocate in the first calls, which a capture would forbid.
CALLS_BEFORE_CAPTURE = 3


class Captured:
    """A graph of one call on inputs of one shape; `replay` runs it on what lies in `inputs`."""

    def __init__(self, loaded: Loaded, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), torch.inference_mode():
            for _ in range(CALLS_BEFORE_CAPTURE):
                loaded.call(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            # Held, so that nobody else is given the outputs' memory.
            self.outputs = list(loaded.call(*self.inputs))
        torch.cuda.synchronize()

    def replay(self) -> Sequence[Tensor]:
        """Queues one call; the outputs, once it is done."""
        self._graph.replay()
        return self.outputs


@dataclass(frozen=True, kw_only=True)
class Ready:
    """One call, ready to be queued: `once` reads what lies in `inputs` on the GPU."""

    inputs: Sequence[Tensor]
    once: Callable[[], Sequence[Tensor]]


class GpuSession:
    """One loaded program on one GPU; Capturing and Phased. `graphs` False: it could not be captured."""

    def __init__(self, loaded: Loaded, device: str, *, graphs: bool) -> None:
        self._loaded, self._device, self._graphs = loaded, device, graphs
        self._captured: dict[tuple[tuple[int, ...], ...], Captured] = {}

    @property
    def clock(self) -> str:
        """The convention of `call_ns`, as it stands in the evidence."""
        return GRAPH_CLOCK if self._graphs else CALL_CLOCK

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples, copies to the GPU and back included."""
        refuse_others(inputs, self._loaded.signatures)
        try:
            with torch.cuda.device(self._device), torch.inference_mode():
                outputs = self._loaded.call(*self._there(inputs))
                return [output.cpu().numpy() for output in outputs]
        except (RuntimeError, TypeError) as error:
            raise does_not_run(error) from error

    def captures(self, inputs: Sequence[Array]) -> bool:
        """As Capturing promises. False for good once a call could not be captured."""
        refuse_others(inputs, self._loaded.signatures)
        if self._graphs:
            with torch.cuda.device(self._device), torch.inference_mode():
                try:
                    self._graph_of(self._there(inputs))
                except RuntimeError:
                    torch.cuda.synchronize()
                    self.uncapture()
        return self._graphs

    def uncapture(self) -> None:
        """As Capturing promises."""
        self._graphs = False
        self._captured.clear()

    def call_ns(self, inputs: Sequence[Array], calls: int) -> Sequence[int]:
        """The GPU's time of each of `calls` calls, queued one after the other."""
        refuse_others(inputs, self._loaded.signatures)
        with torch.cuda.device(self._device), torch.inference_mode():
            return event_times(self._ready(inputs).once, calls)

    def phase_us(self, inputs: Sequence[Array], calls: int) -> dict[str, float]:
        """Medians in us of what a call is made of: "h2d" (copies in), "compute", "d2h" (copies out).

        Copies are from and to pinned memory, one call after the other.
        """
        refuse_others(inputs, self._loaded.signatures)
        taken: dict[str, list[float]] = {"h2d": [], "compute": [], "d2h": []}
        with torch.cuda.device(self._device), torch.inference_mode():
            host = [torch.from_numpy(shareable(array)).pin_memory() for array in inputs]
            ready = self._ready(inputs)
            back = [torch.empty_like(each, device="cpu").pin_memory() for each in ready.once()]
            for _ in range(calls):
                marks = [_event() for _ in range(4)]
                torch.cuda.synchronize()
                marks[0].record()
                _copy(host, ready.inputs)
                marks[1].record()
                outputs = ready.once()
                marks[2].record()
                _copy(outputs, back)
                marks[3].record()
                torch.cuda.synchronize()
                for place, phase in enumerate(taken):
                    taken[phase].append(marks[place].elapsed_time(marks[place + 1]) * 1e3)
        return {phase: round(median(values), 3) for phase, values in taken.items()}

    def _there(self, inputs: Sequence[Array]) -> list[Tensor]:
        return [torch.from_numpy(shareable(array)).to(self._device) for array in inputs]

    def _ready(self, inputs: Sequence[Array]) -> Ready:
        given = self._there(inputs)
        if not self._graphs:
            return Ready(inputs=given, once=lambda: self._loaded.call(*given))
        try:
            captured = self._graph_of(given)
        except RuntimeError as error:
            raise BuildError(
                f"the engine's calls on inputs of {[list(one.shape) for one in given]} cannot be "
                f"captured: {error}",
                fix="ask `captures` first, as the benchmark does",
            ) from error
        _copy(given, captured.inputs)
        return Ready(inputs=captured.inputs, once=captured.replay)

    def _graph_of(self, given: Sequence[Tensor]) -> Captured:
        """The graph for inputs of these shapes, captured at the first time. Raises RuntimeError."""
        key = tuple(tuple(tensor.shape) for tensor in given)
        if key not in self._captured:
            self._captured[key] = Captured(self._loaded, given)
        return self._captured[key]


def event_times(once: Callable[[], object], calls: int) -> list[int]:
    """Queues `once` `calls` times between CUDA events; the time of each on the GPU in ns."""
    pairs = [(_event(), _event()) for _ in range(calls)]
    torch.cuda.synchronize()
    for begin, end in pairs:
        begin.record()
        once()
        end.record()
    torch.cuda.synchronize()
    return [max(1, round(begin.elapsed_time(end) * 1e6)) for begin, end in pairs]


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _copy(sources: Sequence[Tensor], destinations: Sequence[Tensor]) -> None:
    for source, destination in zip(sources, destinations, strict=True):
        destination.copy_(source, non_blocking=True)


def open_gpu(loaded: Loaded, batch_size: int, device: str) -> GpuSession:
    """A session that has tried whether calls of `batch_size` examples can be captured."""
    with torch.cuda.device(device):
        zeros = [_zeros(signature, batch_size, device) for signature in loaded.signatures]
        try:
            Captured(loaded, zeros)
        except RuntimeError:
            torch.cuda.synchronize()
            return GpuSession(loaded, device, graphs=False)
    return GpuSession(loaded, device, graphs=True)


def _zeros(signature: Signature, batch_size: int, device: str) -> Tensor:
    kind, sizes = signature
    return torch.from_numpy(np.zeros((batch_size, *sizes), kind)).to(device)
