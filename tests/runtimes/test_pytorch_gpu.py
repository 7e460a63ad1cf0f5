"""Torch's GPU sessions on a simulated `torch.cuda`: streams, events and graphs; tensors stay on the CPU.

It is a model of what torch documents, not of a GPU's speed. What it catches: calls that are not captured or
captured twice, a capture that fails, a clock that says something else than what is timed, copies that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reprune.core.errors import BuildError
from reprune.measure.calls import Shape, settled_clock, timed_calls
from reprune.runtimes.base import Capturing, Phased
from reprune.runtimes.pytorch import Loaded
from reprune.runtimes.pytorch_gpu import CALL_CLOCK, GRAPH_CLOCK, GpuSession, open_gpu

COMPUTE_MS, REPLAY_MS, COPY_MS = 2.0, 0.5, 0.25
SIGNATURE = [(np.dtype("float32"), (3,))]


class Cuda:
    """The parts of torch.cuda that sessions use. Its clock is made of what was launched and copied."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.capturing: list[Callable[[], object]] | None = None
        self.captures = 0

    def launch(self, work: Callable[[], object]) -> None:
        if self.capturing is None:
            self.clock += COMPUTE_MS
            work()
        else:
            self.capturing.append(work)

    def synchronize(self) -> None:
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    @contextmanager
    def graph(self, made: Any) -> Iterator[None]:
        self.captures += 1
        self.capturing = made.work
        try:
            yield
        finally:
            self.capturing = None

    def new_graph(self) -> Any:
        work: list[Callable[[], object]] = []

        def replay() -> None:
            self.clock += REPLAY_MS
            for each in work:
                each()

        return SimpleNamespace(work=work, replay=replay)

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        made = SimpleNamespace(at=0.0)
        made.record = lambda: setattr(made, "at", self.clock)
        made.elapsed_time = lambda other: other.at - made.at
        return made


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    stream = SimpleNamespace(wait_stream=lambda _: None)
    fakes = {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "synchronize": made.synchronize,
        "CUDAGraph": made.new_graph,
        "graph": made.graph,
        "Event": made.event,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    plain = torch.Tensor.copy_

    def copy(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        made.clock += COPY_MS
        return plain(self, source)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    return made


def opened(cuda: Cuda, *, never: bool = False, most: int = 100) -> GpuSession:
    """A session that doubles; capturing fails `never`, or for more than `most` examples."""

    def twice(x: Tensor) -> list[Tensor]:
        if cuda.capturing is not None and (never or len(x) > most):
            cuda.synchronize()
        out = torch.empty_like(x)
        cuda.launch(partial(torch.mul, x, 2, out=out))
        return [out]

    return open_gpu(Loaded(call=twice, signatures=SIGNATURE), 2, "cpu")


def inputs(count: int = 2) -> tuple[np.ndarray]:
    return (np.arange(3 * count, dtype="float32").reshape(count, 3),)


def shapes(*counts: int) -> list[Shape]:
    return [Shape(inputs=inputs(count), weight=1 / len(counts)) for count in counts]


def test_a_captured_call_is_timed_without_copies_and_computes_the_same(cuda: Cuda) -> None:
    session = opened(cuda)
    assert isinstance(session, Capturing)
    assert isinstance(session, Phased)
    assert session.clock == GRAPH_CLOCK
    assert session.call_ns(inputs(), 5) == [round(REPLAY_MS * 1e6)] * 5
    captured = session._graph_of([torch.from_numpy(inputs()[0])])
    np.testing.assert_array_equal(captured.outputs[0].numpy(), 2 * inputs()[0])
    np.testing.assert_array_equal(session.run(inputs())[0], 2 * inputs()[0])


def test_a_shape_is_captured_once(cuda: Cuda) -> None:
    session = opened(cuda)
    before = cuda.captures
    for _ in range(3):
        assert session.captures(inputs(4))
        session.call_ns(inputs(4), 2)
    assert cuda.captures == before + 1


def test_phases_tell_copies_and_computing_apart(cuda: Cuda) -> None:
    """In microseconds; of a launch where nothing was captured."""
    copy_us = COPY_MS * 1e3
    assert opened(cuda).phase_us(inputs(), 5) == {"h2d": copy_us, "compute": 500.0, "d2h": copy_us}
    launched = opened(cuda, never=True)
    assert launched.phase_us(inputs(), 5) == {"h2d": copy_us, "compute": 2000.0, "d2h": copy_us}


def test_what_one_arm_cannot_capture_no_arm_captures(cuda: Cuda) -> None:
    """The arm that could replay its graph is launched as the other one is, and the clock says so."""
    able, unable = opened(cuda), opened(cuda, never=True)
    assert (able.clock, unable.clock) == (GRAPH_CLOCK, CALL_CLOCK)
    assert settled_clock([able, unable], shapes(2)) == CALL_CLOCK
    launched = (round(COMPUTE_MS * 1e6),) * 3
    assert timed_calls(able, shapes(2), 3) == timed_calls(unable, shapes(2), 3) == launched


def test_one_shape_that_cannot_be_captured_is_enough(cuda: Cuda) -> None:
    """It was captured at the batch size that sessions open with; a larger shape of the traffic is not."""
    able, partly = opened(cuda), opened(cuda, most=4)
    assert settled_clock([able, partly], shapes(2, 3)) == GRAPH_CLOCK
    with pytest.raises(BuildError, match="cannot be captured"):
        partly.call_ns(inputs(8), 2)
    assert settled_clock([able, partly], shapes(2, 8)) == CALL_CLOCK
    assert timed_calls(able, shapes(8), 2) == timed_calls(partly, shapes(8), 2)
    assert settled_clock([able, partly], shapes(2)) == CALL_CLOCK
