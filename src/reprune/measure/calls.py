"""Calls of a session and how long they last, by the host's clock or by the device's own. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.judge.evidence import HOST_CLOCK
from reprune.runtimes.base import Capturing, DeviceTimed, Session

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Inputs of one shape and their share of the traffic; the shares of a workload sum to 1."""

    inputs: tuple[Array, ...]
    weight: float


def commonest(shapes: Sequence[Shape]) -> Shape:
    """The shape with the largest share of the traffic, the first of equal ones."""
    return max(shapes, key=lambda shape: shape.weight)


def settled_clock(sessions: Collection[Session], shapes: Sequence[Shape]) -> str:
    """The convention by which calls of all `sessions` on all `shapes` are timed from now on.

    Where one call of one session cannot be captured into a graph, none of any session is. Raises
    BuildError as common_clock does.
    """
    return settled_clocks([(session, shapes) for session in sessions])


def settled_clocks(calls: Collection[tuple[Session, Sequence[Shape]]]) -> str:
    """As settled_clock, of sessions each with shapes of its own."""
    able = [(one, shapes) for one, shapes in calls if isinstance(one, Capturing)]
    if not all(session.captures(shape.inputs) for session, shapes in able for shape in shapes):
        for session, _ in able:
            session.uncapture()
    return common_clock([session for session, _ in calls])


def common_clock(sessions: Iterable[Session]) -> str:
    """The convention by which all `sessions` are timed, as it stands in Unit.clock.

    Raises BuildError where they differ: times by two clocks are never compared.
    """
    clocks = sorted({_clock_of(session) for session in sessions})
    if len(clocks) != 1:
        raise BuildError(
            f"the arms of a unit are timed by different clocks: {'; '.join(clocks)}",
            fix="build all arms the same way; where one graph cannot be captured, capture none",
        )
    return clocks[0]


def timed_calls(session: Session, shapes: Sequence[Shape], calls: int) -> tuple[int, ...]:
    """The durations of `calls` calls in ns, by the session's own clock where it has one.

    A call runs every shape once; its duration is their mean by traffic share.
    """
    if isinstance(session, DeviceTimed):
        return _device_timed(session, shapes, calls)
    run, clock = session.run, time.perf_counter_ns
    took: list[int] = []
    for _ in range(calls):
        weighted = 0.0
        for shape in shapes:
            begin = clock()
            run(shape.inputs)
            weighted += shape.weight * (clock() - begin)
        took.append(round(weighted))
    return tuple(took)


def run_calls(session: Session, shapes: Sequence[Shape], calls: int) -> None:
    """Runs `calls` calls that are not timed, the way that `timed_calls` would run them."""
    if isinstance(session, DeviceTimed):
        _device_timed(session, shapes, calls)
        return
    for _ in range(calls):
        for shape in shapes:
            session.run(shape.inputs)


def write_inputs(path: Path, inputs: Sequence[Array]) -> None:
    """Writes a call's inputs so that `read_inputs` gives them back in order."""
    with path.open("wb") as stream:
        np.savez(stream, *inputs)


def read_inputs(path: Path) -> tuple[Array, ...]:
    """The inputs that `write_inputs` wrote; arrays of objects (pickles) are refused."""
    with np.load(path, allow_pickle=False) as stored:
        return tuple(stored[f"arr_{index}"] for index in range(len(stored.files)))


def read_shapes(paths: Sequence[str], weights: Sequence[float]) -> tuple[Shape, ...]:
    """The workload that lies in `paths`, each a file that `write_inputs` wrote."""
    return tuple(
        Shape(inputs=read_inputs(Path(path)), weight=weight)
        for path, weight in zip(paths, weights, strict=True)
    )


def write_shapes(folder: Path, shapes: Sequence[Shape]) -> tuple[str, ...]:
    """Writes each shape's inputs into `folder`; the paths, in order, for `read_shapes`."""
    paths = [folder / f"shape-{index}.npz" for index in range(len(shapes))]
    for path, shape in zip(paths, shapes, strict=True):
        write_inputs(path, shape.inputs)
    return tuple(str(path) for path in paths)


def _clock_of(session: Session) -> str:
    return session.clock if isinstance(session, DeviceTimed) else HOST_CLOCK


def _device_timed(session: DeviceTimed, shapes: Sequence[Shape], calls: int) -> tuple[int, ...]:
    by_shape = [session.call_ns(shape.inputs, calls) for shape in shapes]
    short = [len(taken) for taken in by_shape if len(taken) != calls]
    if short:
        raise BuildError(
            f"a session timed {short[0]} calls where {calls} were asked for",
            fix="let call_ns return one duration for each call",
        )
    weights = [shape.weight for shape in shapes]
    return tuple(
        round(sum(weight * ns for weight, ns in zip(weights, each, strict=True)))
        for each in zip(*by_shape, strict=True)
    )
