"""Samples of one target: units until the policy's rules are decided, other batch sizes, how engines begin."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypedDict

from msgspec import UNSET, UnsetType, structs

from reprune.core.artifacts import BatchSamples, TargetSamples
from reprune.core.documents import canonical
from reprune.core.machine import Machine
from reprune.core.policy import Policy
from reprune.core.step import Context
from reprune.core.store import write_bytes
from reprune.judge.decided import decided, decided_throughput, stops
from reprune.measure.latency import LatencyJob, take_units, timed_shapes
from reprune.measure.starts import take_starts
from reprune.steps.batch_sizes import other_batch_sizes

if TYPE_CHECKING:
    from reprune.judge.evidence import Start, Unit
    from reprune.task.protocol import Task


@dataclass(frozen=True, kw_only=True)
class Demand:
    """By what a benchmark knows when to stop. `batches` counts the other batch sizes of all targets."""

    policy: Policy
    attempt: int
    batches: int


class TakeUnits(Protocol):
    """As measure.latency.take_units; one that cannot stop early may give more units than `total`."""

    def __call__(
        self,
        job: LatencyJob,
        *,
        total: int,
        already: tuple[Unit, ...] = (),
        say: Callable[[str], None],
    ) -> tuple[Unit, ...]:
        """All units so far, `already` among them, in order."""


class TakeStarts(Protocol):
    """As measure.starts.take_starts."""

    def __call__(
        self, job: LatencyJob, *, say: Callable[[str], None]
    ) -> dict[str, tuple[Start, ...]]:
        """How each arm's engine began in each of its processes."""


@dataclass(frozen=True, kw_only=True)
class Taking:
    """How samples of a target are taken. `machine` is where, if that is not the benchmark's own."""

    units: TakeUnits = take_units
    starts: TakeStarts = take_starts
    machine: Machine | UnsetType = UNSET


HERE = Taking()


def take_samples(
    name: str, job: LatencyJob, task: Task, demand: Demand, ctx: Context, taking: Taking = HERE
) -> TargetSamples:
    """Measures the target `name` and writes what was taken below `ctx.out`.

    Units up to each number at which the judge may be able to decide, until it is; the same at each
    other batch size; then load time, first call and memory. Raises as take_units does.
    """
    policy, arms = demand.policy, set(job.engines)
    units = _until(
        lambda found: decided(
            found, policy, arms=arms, attempt=demand.attempt, batches=demand.batches
        ),
        job,
        taking,
        stops(policy, arms) or policy.looks[:1],
        _saying(ctx, name),
    )
    file = f"latency/{name}.json"
    write_bytes(ctx.out / file, canonical(units))
    return TargetSamples(
        target=name,
        batch_size=job.target.batch_size,
        units=len(units),
        file=file,
        throughput=_other_batches(name, job, task, demand, ctx, taking) or UNSET,
        machine=taking.machine,
        **_starts(name, job, policy, ctx, taking),
    )


def _until(
    enough: Callable[[tuple[Unit, ...]], bool],
    job: LatencyJob,
    taking: Taking,
    totals: Collection[int],
    say: Callable[[str], None],
) -> tuple[Unit, ...]:
    units: tuple[Unit, ...] = ()
    for total in totals:
        units = taking.units(job, total=total, already=units, say=say)
        if enough(units):
            break
    return units


def _other_batches(
    name: str, job: LatencyJob, task: Task, demand: Demand, ctx: Context, taking: Taking
) -> tuple[BatchSamples, ...]:
    policy, arms = demand.policy, set(job.engines)
    samples = []
    for size in other_batch_sizes(job.target, policy):
        larger = at_batch_size(job, task, size)
        units = _until(
            lambda found: decided_throughput(
                found, policy, arms=arms, attempt=demand.attempt, batches=demand.batches
            ),
            larger,
            taking,
            policy.looks,
            _saying(ctx, f"{name}, batch {size}"),
        )
        file = f"throughput/{name}-{size}.json"
        write_bytes(ctx.out / file, canonical(units))
        samples.append(BatchSamples(batch_size=size, units=len(units), file=file))
    return tuple(samples)


def at_batch_size(job: LatencyJob, task: Task, size: int) -> LatencyJob:
    """The same at another batch size, with orders of its own."""
    return replace(
        job,
        target=structs.replace(job.target, batch_size=size),
        shapes=timed_shapes(task, size),
        seed=f"{job.seed}/b{size}",
    )


class _StartFiles(TypedDict):
    starts: str
    memory: str | UnsetType


def _starts(
    name: str, job: LatencyJob, policy: Policy, ctx: Context, taking: Taking
) -> _StartFiles:
    """Writes how each arm's engine began, and the memory alone where the policy has a rule about it."""
    taken = taking.starts(job, say=_saying(ctx, name))
    file = f"starts/{name}.json"
    write_bytes(ctx.out / file, canonical(taken))
    if policy.memory is None:
        return _StartFiles(starts=file, memory=UNSET)
    peaks = {arm: [one.peak_bytes for one in found] for arm, found in taken.items()}
    memory = f"memory/{name}.json"
    write_bytes(ctx.out / memory, canonical(peaks))
    return _StartFiles(starts=file, memory=memory)


def _saying(ctx: Context, what: str) -> Callable[[str], None]:
    return lambda text: ctx.say(f"{what}: {text}")
