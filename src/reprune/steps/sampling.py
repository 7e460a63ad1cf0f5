"""The samples of one target: units at its own batch size and at others, and the memory of each arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.artifacts import BatchSamples, TargetSamples
from reprune.core.documents import canonical
from reprune.core.params import Target
from reprune.core.policy import Policy
from reprune.core.step import Context
from reprune.core.store import write_bytes

if TYPE_CHECKING:
    from reprune.judge.evidence import Unit
    from reprune.measure.latency import LatencyJob


@dataclass(frozen=True, kw_only=True)
class TargetJobs:
    """What is to be sampled for one target: its own batch size, then those of throughput alone."""

    own: LatencyJob
    throughput: tuple[LatencyJob, ...]


def throughput_sizes(target: Target, policy: Policy) -> tuple[int, ...]:
    """The batch sizes that are measured besides the target's own, in rising order; none without a rule."""
    if policy.throughput is None:
        return ()
    return tuple(sorted({*target.throughput_batch_sizes} - {target.batch_size}))


def stopping_points(policy: Policy) -> tuple[int, ...]:
    """The numbers of units at which some rule about the target's own batch size may be decided."""
    return tuple(sorted({*policy.looks, *_fixed_units(policy)}))


def take_samples(
    name: str, jobs: TargetJobs, seed: str, policy: Policy, attempt: int, ctx: Context
) -> TargetSamples:
    """Takes and writes all samples of the target `name`; orders are functions of `seed`.

    At each batch size units are taken up to a stopping point at which nothing is open any more.
    """
    own = replace(jobs.own, seed=seed)
    units = _own_units(name, own, policy, attempt, ctx)
    file = f"latency/{name}.json"
    write_bytes(ctx.out / file, canonical(units))
    throughput = tuple(
        _batch_samples(name, replace(job, seed=f"{seed}/{job.target.batch_size}"), policy, ctx)
        for job in jobs.throughput
    )
    return TargetSamples(
        target=name,
        batch_size=own.target.batch_size,
        units=len(units),
        file=file,
        throughput=throughput or UNSET,
        memory=_memory(name, own, ctx) if policy.memory is not None else UNSET,
    )


def _own_units(
    name: str, job: LatencyJob, policy: Policy, attempt: int, ctx: Context
) -> tuple[Unit, ...]:
    """Until latency is decided, tails and objectives have their units, and throughput is decided."""
    from reprune.judge.decided import decided

    def done(units: tuple[Unit, ...]) -> bool:
        return (
            decided(units, policy, arms=set(job.engines), attempt=attempt)
            and len(units) >= max(_fixed_units(policy), default=0)
            and _rates_decided(units, policy)
        )

    return _units_until(done, job, stopping_points(policy), lambda text: ctx.say(f"{name}: {text}"))


def _batch_samples(name: str, job: LatencyJob, policy: Policy, ctx: Context) -> BatchSamples:
    size = job.target.batch_size
    units = _units_until(
        lambda units: _rates_decided(units, policy),
        job,
        policy.looks,
        lambda text: ctx.say(f"{name}, batch {size}: {text}"),
    )
    file = f"throughput/{name}-{size}.json"
    write_bytes(ctx.out / file, canonical(units))
    return BatchSamples(batch_size=size, units=len(units), file=file)


def _fixed_units(policy: Policy) -> tuple[int, ...]:
    """The numbers of units of rules that are decided once, at exactly so many."""
    if policy.latency is None:
        return ()
    parts = (policy.latency.tail, policy.latency.objective)
    return tuple(part.units for part in parts if part is not None)


def _rates_decided(units: tuple[Unit, ...], policy: Policy) -> bool:
    """Whether throughput needs no more units: it is looked at until the last look."""
    return policy.throughput is None or len(units) >= policy.looks[-1]


def _units_until(
    done: Callable[[tuple[Unit, ...]], bool],
    job: LatencyJob,
    stops: tuple[int, ...],
    say: Callable[[str], None],
) -> tuple[Unit, ...]:
    """Units up to the first of `stops` at which nothing is open any more, or to the last."""
    from reprune.measure.latency import take_units

    units: tuple[Unit, ...] = ()
    for total in stops:
        units = take_units(job, total=total, already=units, say=say)
        if done(units):
            break
    return units


def _memory(name: str, job: LatencyJob, ctx: Context) -> str:
    from reprune.measure.memory import take_memory

    file = f"memory/{name}.json"
    taken = take_memory(job, say=lambda text: ctx.say(f"{name}: {text}"))
    write_bytes(ctx.out / file, canonical(taken))
    return file
