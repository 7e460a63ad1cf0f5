"""How an engine begins, each time in a fresh process: load time, first call, peak memory. Imports no torch.

On an accelerator also what a call is made of: copies in, computing, copies out.

Memory is the host's, as the kernel counts it for the process: pages of the engine file that were
read, buffers of the runtime, weights in the form that it keeps them. What lies on a GPU is not in it.

    python -m reprune.measure.starts SPEC.json OUT.json
"""

from __future__ import annotations

import gc
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from reprune.core.children import answer, ask, refuse_orphan
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.judge.evidence import Phases, Start
from reprune.measure.calls import Shape, read_shapes, run_calls, settled_clock, write_shapes
from reprune.measure.hostlock import host_lock, to_stderr
from reprune.measure.latency import LatencyJob
from reprune.runtimes.base import DeviceTimed, Phased, Session, get_runtime

# The first call allocates; later ones may still grow a runtime's pools.
CALLS = 5
PHASE_CALLS = 50
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class StartSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process is told: one engine, and the workload as files of `write_inputs`."""

    parent: int
    target: Target
    engine: str
    shapes: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Resident bytes of this process: `now` (None where the system does not tell), and the most so far."""

    now: int | None
    peak: int


def take_starts(
    job: LatencyJob, *, say: Callable[[str], None] = to_stderr
) -> dict[str, tuple[Start, ...]]:
    """For each arm how its engine began in `memory_processes` fresh processes, in order.

    Arms take turns, in an order that is a function of the job's seed. Waits for the host's measurement
    lock, so that latency is not disturbed. Raises as `take_units` does.
    """
    taken: dict[str, list[Start]] = {arm: [] for arm in sorted(job.engines)}
    with host_lock(say), tempfile.TemporaryDirectory(prefix="reprune-starts-") as folder:
        shapes = write_shapes(Path(folder), job.shapes)
        for turn in range(job.params.memory_processes):
            for arm in starting_order(list(taken), job.seed, turn):
                taken[arm].append(
                    _in_fresh_process(job, arm, shapes, Path(folder, f"{arm}-{turn}"))
                )
    say(f"{len(taken)} arms started in {job.params.memory_processes} processes each")
    return {arm: tuple(found) for arm, found in taken.items()}


def starting_order(arms: Sequence[str], seed: str, turn: int) -> list[str]:
    """The order of the arms in one turn: a function of seed, turn and the set of arms."""
    order = sorted(arms)
    random.Random(f"memory {seed} {turn}").shuffle(order)
    return order


def resident() -> Resident:
    """What the system tells about this process's resident memory.

    On Linux VmRSS and VmHWM of this process's own address space; elsewhere the peak alone.
    (ru_maxrss would not do on Linux: a child inherits its parent's across fork and exec.)
    """
    try:
        fields = dict(
            line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines()
        )
        return Resident(now=_bytes(fields["VmRSS"]), peak=_bytes(fields["VmHWM"]))
    except (OSError, KeyError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Resident(now=None, peak=peak if sys.platform == "darwin" else peak * 1024)


def reset_peak() -> bool:
    """Makes the peak start again from what is resident now (Linux, 4.0 or later); whether it could be."""
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def needed(before: Resident, after: Resident, *, was_reset: bool) -> int:
    """The bytes of the peak between two readings, beyond what was resident at the first.

    Where the peak could not be reset and an earlier one was higher, only what has stayed resident is
    known, or, where the system tells the peak alone, nothing: 0 then.
    """
    if before.now is None or after.now is None:
        return max(0, after.peak - before.peak)
    if was_reset or after.peak > before.peak:
        return max(0, after.peak - before.now)
    return max(0, after.now - before.now)


def _in_fresh_process(job: LatencyJob, arm: str, shapes: tuple[str, ...], stem: Path) -> Start:
    spec = StartSpec(
        parent=os.getpid(),
        target=job.target,
        engine=str(job.engines[arm].resolve()),
        shapes=shapes,
        weights=tuple(shape.weight for shape in job.shapes),
    )
    return ask(
        "reprune.measure.starts",
        spec,
        Start,
        stem,
        threads=job.target.threads,
        hang_seconds=job.hang_seconds,
    )


def _measure(spec: StartSpec) -> Start:
    refuse_orphan(spec.parent)
    runtime = get_runtime(spec.target.runtime)
    # The runtime's library is in memory before the count begins: it is the same for every arm.
    runtime.version()
    shapes = read_shapes(spec.shapes, spec.weights)
    main = max(shapes, key=lambda shape: shape.weight)
    engine = Path(spec.engine)
    engine.read_bytes()
    gc.collect()
    was_reset = reset_peak()
    before = resident()
    begin = time.perf_counter_ns()
    session = runtime.open(engine, spec.target)
    loaded = time.perf_counter_ns()
    session.run(main.inputs)
    answered = time.perf_counter_ns()
    clock = settled_clock([session], shapes)
    run_calls(session, shapes, CALLS)
    return Start(
        load_ns=loaded - begin,
        first_call_ns=answered - loaded,
        peak_bytes=needed(before, resident(), was_reset=was_reset),
        phases=_phases(session, main),
        clock=clock if isinstance(session, DeviceTimed) else UNSET,
    )


def _phases(session: Session, shape: Shape) -> Phases | UnsetType:
    """Of calls of the shape that most of the traffic has. Raises BuildError for phases left out."""
    if not isinstance(session, Phased):
        return UNSET
    told = session.phase_us(shape.inputs, PHASE_CALLS)
    try:
        return Phases(h2d_us=told["h2d"], compute_us=told["compute"], d2h_us=told["d2h"])
    except KeyError as error:
        raise BuildError(
            f"a session tells no phase {error}", fix="let phase_us return h2d, compute and d2h"
        ) from error


def _bytes(field: str) -> int:
    number, unit = field.split()
    if unit != "kB":
        raise ValueError(unit)
    return int(number) * 1024


def main(arguments: Sequence[str]) -> int:
    """Starts the engine of SPEC.json and writes what was seen to OUT.json."""
    return answer(arguments, StartSpec, _measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
