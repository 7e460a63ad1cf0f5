"""A quick, paired look at two engines, for choosing between plans. It is no evidence for a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.params import Target
from reprune.judge.evidence import ArmTimes
from reprune.measure.calls import Shape, run_calls, settled_clock, timed_calls
from reprune.measure.hostlock import host_lock
from reprune.measure.unit import Bench, BlockPlan, take_unit
from reprune.runtimes.base import Runtime, Session

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

BLOCKS = BlockPlan(block_ms=5.0, min_calls=5, discard_calls=3, warmup_seconds=0.1)


def quick_ratio(  # noqa: PLR0913  # two engines, where and on what they run, and how long
    runtime: Runtime,
    a: Path,
    b: Path,
    target: Target,
    inputs: Sequence[Array | Tensor],
    *,
    rounds: int = 7,
    seed: int,
) -> float:
    """time(a) / time(b): the median over `rounds` of the log-ratio of two fresh, interleaved sessions.

    Below 1 means that `a` is the faster one. One process only, so trust differences of a few per
    cent at best. Waits while another latency measurement runs on this host.
    Raises BuildError for an engine that does not load.
    """
    with host_lock():
        return interleaved_ratio(runtime, a, b, target, inputs, rounds=rounds, seed=seed)


def interleaved_ratio(  # noqa: PLR0913  # as quick_ratio
    runtime: Runtime,
    a: Path,
    b: Path,
    target: Target,
    inputs: Sequence[Array | Tensor],
    *,
    rounds: int,
    seed: int,
) -> float:
    """As quick_ratio. The caller holds the host's measurement lock."""
    shape = Shape(inputs=tuple(np.asarray(value) for value in inputs), weight=1.0)
    bench = Bench(runtime=runtime, target=target, shapes=[shape], blocks=BLOCKS)
    logs: list[float] = []
    for index in range(rounds):
        taken = take_unit(bench, {"a": a, "b": b}, seed * 1_000_003 + index).arms
        logs.append(log(_block_time(taken["a"]) / _block_time(taken["b"])))
    return exp(median(logs))


def _block_time(arm: ArmTimes) -> float:
    """The geometric mean of the two blocks' medians, so that a linear drift cancels."""
    first, second = (median(block) for block in arm.blocks_ns)
    return exp((log(first) + log(second)) / 2)


def time_call_us(session: Session, inputs: Sequence[Array], calls: int) -> float:
    """The median of `calls` calls, after a tenth as many. The caller holds the host's measurement lock."""
    shape = (Shape(inputs=tuple(inputs), weight=1.0),)
    settled_clock([session], shape)
    return median_call_ns(session, shape, calls) / 1e3


def median_call_ns(session: Session, shapes: Sequence[Shape], calls: int) -> float:
    """As time_call_us, by a clock that is settled."""
    run_calls(session, shapes, calls // 10 + 1)
    return median(timed_calls(session, shapes, calls))
