"""The session's own logic on a simulated device: memory, a stream that runs later, graphs, events.

The device is a model of what the CUDA runtime documents, not of TensorRT's speed. What it catches: wrong
sizes, outputs read too early, a wait inside a capture, padding and splitting, memory that is not given back.
"""

# ruff: noqa: N802, N815  # the names are CUDA's
from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reprune.core.errors import BuildError
from reprune.measure.calls import Shape, common_clock, timed_calls
from reprune.runtimes import tensorrt_session
from reprune.runtimes.base import DeviceTimed
from reprune.runtimes.tensorrt_build import Log, Options
from reprune.runtimes.tensorrt_session import TensorRTSession

COPY_MS, COMPUTE_MS = 0.25, 2.0


class Device:
    """The CUDA runtime: work is queued and done when somebody waits; its clock is made of what was done."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, can_capture: bool = True) -> None:
        self.can_capture = can_capture
        self.memory: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.clock, self.marks = 0.0, [0.0] * 8
        self.events = self.graphs = self.launches = 0

    def do(self, work: Callable[[], None], ms: float) -> None:
        def timed() -> None:
            work()
            self.clock += ms

        (self.queue if self.capturing is None else self.capturing).append(timed)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaStreamCreate(self) -> tuple[int, int]:
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaEventCreate(self) -> tuple[int, int]:
        self.events += 1
        return 0, self.events

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        self.events -= 1
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        self.do(lambda: self.marks.__setitem__(event, self.clock), 0.0)
        return (0,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        return self.cudaStreamSynchronize(7)

    def cudaEventElapsedTime(self, first: int, last: int) -> tuple[int, float]:
        return 0, self.marks[last] - self.marks[first]

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        if self.capturing is not None:
            return (900,)  # cudaErrorStreamCaptureUnsupported
        while self.queue:
            self.queue.pop(0)()
        return (0,)

    def cudaMemcpyAsync(
        self, to: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        assert size <= min(self._room(to), self._room(source))
        self.do(lambda: ctypes.memmove(to, source, size), COPY_MS)
        return (0,)

    def _room(self, address: int) -> int:
        return ctypes.sizeof(self.memory[address])

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.capturing = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        graph, self.capturing = self.capturing, None
        return (0, graph) if self.can_capture else (901, None)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        self.graphs += 1
        return 0, list(graph)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[int]:
        self.launches += 1
        self.queue.extend(graph)
        return (0,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[int]:
        return (0,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[int]:
        self.graphs -= 1
        return (0,)


TRT = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), nptype=np.dtype)


class Engine:
    """Doubles an image of 2 x 3 floats and counts its batch into a second output of whole numbers."""

    tensors = (
        ("image", "in", "float32", (2, 3)),
        ("twice", "out", "float32", (2, 3)),
        ("place", "out", "int64", ()),
    )
    num_io_tensors = 3

    def __init__(self, device: Device, sizes: tuple[int, int, int]) -> None:
        self.device, self.sizes = device, sizes
        self.addresses: dict[str, int] = {}
        self.batch = 0
        self.first = True

    def get_tensor_name(self, place: int) -> str:
        return self.tensors[place][0]

    def _of(self, name: str) -> tuple[str, str, str, tuple[int, ...]]:
        return next(tensor for tensor in self.tensors if tensor[0] == name)

    def get_tensor_mode(self, name: str) -> str:
        return self._of(name)[1]

    def get_tensor_dtype(self, name: str) -> str:
        return self._of(name)[2]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self._of(name)[3])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, 2, 3) for size in self.sizes]

    def create_execution_context(self) -> Engine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert self.sizes[0] <= shape[0] <= self.sizes[2]
        self.first = self.first or shape[0] != self.batch
        self.batch = shape[0]

    def execute_async_v3(self, stream: int) -> bool:
        if self.first and self.device.capturing is not None:
            return False  # the first call after a change of shapes allocates
        self.first, batch = False, self.batch
        self.device.do(lambda: self._compute(batch), COMPUTE_MS)
        return True

    def _compute(self, batch: int) -> None:
        image = np.frombuffer(self.device.memory[self.addresses["image"]], np.float32)
        twice = np.frombuffer(self.device.memory[self.addresses["twice"]], np.float32)
        place = np.frombuffer(self.device.memory[self.addresses["place"]], np.int64)
        twice[: batch * 6] = 2 * image[: batch * 6]
        place[:batch] = np.arange(batch)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TensorRTSession]]:
    def start(
        sizes: tuple[int, int, int] = (1, 4, 8), can_capture: bool = True, **options: bool
    ) -> TensorRTSession:
        device = Device(can_capture)
        monkeypatch.setattr(tensorrt_session, "cudart", lambda: device)
        session = TensorRTSession(TRT, (object(), Engine(device, sizes)), Log(), Options(**options))
        sessions.append((session, device))
        return session

    sessions: list[tuple[TensorRTSession, Device]] = []
    yield start
    for session, device in sessions:
        session.close()
        session.close()
        assert (device.memory, device.events, device.graphs) == ({}, 0, 0)


def images(count: int) -> np.ndarray:
    return np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)


@pytest.mark.parametrize("count", [1, 4, 8, 9, 20])
def test_any_number_of_examples_runs(opened: Callable[..., TensorRTSession], count: int) -> None:
    """More than the largest batch are split; outputs are in order and of the right types."""
    twice, place = opened().run([images(count)])
    np.testing.assert_array_equal(twice, 2 * images(count))
    assert place.dtype == np.int64
    assert place.tolist() == [n % 8 for n in range(count)]


def test_an_engine_of_one_batch_size_pads(opened: Callable[..., TensorRTSession]) -> None:
    """As a DLA's: what was filled up does not come back."""
    twice, place = opened(sizes=(4, 4, 4)).run([images(6)])
    np.testing.assert_array_equal(twice, 2 * images(6))
    assert place.tolist() == [0, 1, 2, 3, 0, 1]


def test_outputs_are_copies(opened: Callable[..., TensorRTSession]) -> None:
    """The next call must not change what the last one gave."""
    session = opened()
    first, _ = session.run([images(2)])
    kept = first.copy()
    session.run([images(2) + 5])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("options", "words", "ms"),
    [
        ({}, "CUDA events around a captured graph, without copies", COMPUTE_MS),
        # One input and two outputs.
        (
            {"copies": True},
            "CUDA events around a captured graph, with copies",
            COMPUTE_MS + 3 * COPY_MS,
        ),
        ({"graph": False}, "CUDA events around each launch, without copies", COMPUTE_MS),
    ],
)
def test_calls_are_timed_on_the_device_and_the_clock_says_how(
    opened: Callable[..., TensorRTSession], options: dict[str, bool], words: str, ms: float
) -> None:
    """Copies count only where they were asked for, and then the clock has another name."""
    session = opened(**options)
    assert isinstance(session, DeviceTimed)
    assert session.clock == words
    assert session.call_ns([images(4)], 5) == [round(ms * 1e6)] * 5
    shape = Shape(inputs=(images(2),), weight=1.0)
    assert timed_calls(session, [shape], 3) == (round(ms * 1e6),) * 3


def test_where_no_graph_can_be_captured_the_clock_is_another(
    opened: Callable[..., TensorRTSession],
) -> None:
    """So that two arms of which one was captured are refused."""
    captured, not_captured = opened(), opened(can_capture=False)
    assert "each launch" in not_captured.clock
    assert not_captured.call_ns([images(4)], 3) == [round(COMPUTE_MS * 1e6)] * 3
    with pytest.raises(BuildError, match="different clocks"):
        common_clock([captured, not_captured])


def test_phases_tell_copies_and_computing_apart(opened: Callable[..., TensorRTSession]) -> None:
    """Medians in microseconds."""
    assert opened().phase_us([images(4)], 7) == {
        "h2d": COPY_MS * 1e3,
        "compute": COMPUTE_MS * 1e3,
        "d2h": 2 * COPY_MS * 1e3,
    }


def test_a_batch_that_no_profile_covers_is_not_timed(
    opened: Callable[..., TensorRTSession],
) -> None:
    """Splitting it would time something else."""
    with pytest.raises(BuildError, match="1 to 8 examples in a call, not 9"):
        opened().call_ns([images(9)], 3)


@pytest.mark.parametrize("shape", [(2, 2, 4), (2, 6), (0, 2, 3)])
def test_other_shapes_are_refused(
    opened: Callable[..., TensorRTSession], shape: tuple[int, ...]
) -> None:
    """The error says what the engine was built for."""
    with pytest.raises(BuildError, match=r"image.*'batch', 2, 3"):
        opened().run([np.zeros(shape, np.float32)])
