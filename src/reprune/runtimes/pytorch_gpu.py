"""Sessions of torch on an NVIDIA GPU, timed by CUDA events. Loads torch.

A call that is timed replays a captured graph on buffers that stay where they are: what is measured is the
GPU's work, and neither Python nor copies.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def replay(self) -> None:
        """Queues one call."""
        self._graph.replay()


class GpuSession:
    """One loaded program on one GPU; DeviceTimed. `graphs` False: it could not be captured."""

    def __init__(self, loaded: Loaded, device: str, *, graphs: bool) -> None:
        self._loaded, self._device, self._graphs = loaded, device, graphs
        self.clock = GRAPH_CLOCK if graphs else CALL_CLOCK
        self._captured: dict[tuple[tuple[int, ...], ...], Captured] = {}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples, copies to the GPU and back included."""
        refuse_others(inputs, self._loaded.signatures)
        try:
            with torch.cuda.device(self._device), torch.inference_mode():
                outputs = self._loaded.call(*self._there(inputs))
                return [output.cpu().numpy() for output in outputs]
        except (RuntimeError, TypeError) as error:
            raise does_not_run(error) from error

    def call_ns(self, inputs: Sequence[Array], calls: int) -> Sequence[int]:
        """The GPU's time of each of `calls` calls, queued one after the other."""
        refuse_others(inputs, self._loaded.signatures)
        with torch.cuda.device(self._device), torch.inference_mode():
            given = self._there(inputs)
            once = self._replay(given) if self._graphs else lambda: self._loaded.call(*given)
            return event_times(once, calls)

    def _there(self, inputs: Sequence[Array]) -> list[Tensor]:
        return [torch.from_numpy(shareable(array)).to(self._device) for array in inputs]

    def _replay(self, given: Sequence[Tensor]) -> Any:
        key = tuple(tuple(tensor.shape) for tensor in given)
        if key not in self._captured:
            try:
                self._captured[key] = Captured(self._loaded, given)
            except RuntimeError as error:
                raise BuildError(
                    f"the engine's calls on inputs {list(key)} cannot be captured: {error}",
                    fix="give the workload shapes that can be, or take it out of the target",
                ) from error
        captured = self._captured[key]
        for buffer, tensor in zip(captured.inputs, given, strict=True):
            buffer.copy_(tensor)
        return captured.replay


def event_times(once: Any, calls: int) -> list[int]:
    """Queues `once` `calls` times between CUDA events; the time of each on the GPU in ns."""
    pairs = [
        (
            torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
            torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
        )
        for _ in range(calls)
    ]
    torch.cuda.synchronize()
    for begin, end in pairs:
        begin.record()
        once()
        end.record()
    torch.cuda.synchronize()
    return [round(begin.elapsed_time(end) * 1e6) for begin, end in pairs]


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
