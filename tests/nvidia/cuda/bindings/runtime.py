"""One GPU of the CUDA runtime: work is queued, and done when somebody waits; events read the real clock."""

# ruff: noqa: N802, N816  # the names are CUDA's
from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

UUID = bytes(range(16))
OUTSIDE_CAPTURE_ONLY, CAPTURE_INVALID = 900, 901

memory: dict[int, Any] = {}
queue: list[Callable[[], None]] = []
marks: dict[int, float] = {}
state = SimpleNamespace(capturing=None, refused=False, events=0)

cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)


def do(work: Callable[[], None]) -> None:
    """Queues work of the stream, or puts it into the graph that is being captured."""
    (queue if state.capturing is None else state.capturing).append(work)


def cudaGetDeviceCount() -> tuple[int, int]:
    return 0, 1


def cudaSetDevice(index: int) -> tuple[int]:
    return (0 if index == 0 else 101,)


def cudaGetDeviceProperties(index: int) -> tuple[int, Any]:
    return 0, SimpleNamespace(
        name=b"Simulated GPU", uuid=SimpleNamespace(bytes=UUID), major=9, minor=0
    )


def cudaDriverGetVersion() -> tuple[int, int]:
    return 0, 13000


def cudaMalloc(size: int) -> tuple[int, int]:
    buffer = ctypes.create_string_buffer(size)
    memory[ctypes.addressof(buffer)] = buffer
    return 0, ctypes.addressof(buffer)


cudaMallocHost = cudaMalloc


def cudaFree(address: int) -> tuple[int]:
    del memory[address]
    return (0,)


cudaFreeHost = cudaFree


def cudaStreamCreate() -> tuple[int, int]:
    return 0, 7


def cudaStreamDestroy(stream: int) -> tuple[int]:
    return (0,)


def cudaEventCreate() -> tuple[int, int]:
    state.events += 1
    return 0, state.events


def cudaEventDestroy(event: int) -> tuple[int]:
    return (0,)


def cudaEventRecord(event: int, stream: int) -> tuple[int]:
    do(lambda: marks.__setitem__(event, time.perf_counter()))
    return (0,)


def cudaEventSynchronize(event: int) -> tuple[int]:
    return cudaStreamSynchronize(7)


def cudaEventElapsedTime(first: int, last: int) -> tuple[int, float]:
    return 0, (marks[last] - marks[first]) * 1e3


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    if state.capturing is not None:
        return (OUTSIDE_CAPTURE_ONLY,)
    while queue:
        queue.pop(0)()
    return (0,)


def cudaMemcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
    if size > min(ctypes.sizeof(memory[to]), ctypes.sizeof(memory[source])):
        return (1,)
    do(lambda: ctypes.memmove(to, source, size))
    return (0,)


def cudaStreamBeginCapture(stream: int, mode: int) -> tuple[int]:
    state.capturing, state.refused = [], False
    return (0,)


def cudaStreamEndCapture(stream: int) -> tuple[int, Any]:
    graph, state.capturing = state.capturing, None
    return (CAPTURE_INVALID, None) if state.refused else (0, graph)


def cudaGraphInstantiate(graph: Any, flags: int) -> tuple[int, Any]:
    return 0, list(graph)


def cudaGraphLaunch(graph: Any, stream: int) -> tuple[int]:
    queue.extend(graph)
    return (0,)


def cudaGraphDestroy(graph: Any) -> tuple[int]:
    return (0,)


def cudaGraphExecDestroy(graph: Any) -> tuple[int]:
    return (0,)
