"""benchmark: the only step that opens the sealed split. Records of all arms, then latency in looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.artifacts import (
    WEIGHTS,
    Benchmark,
    DataReport,
    Engines,
    ModelBundle,
    Previous,
    Recorded,
)
from reprune.core.documents import digest_of
from reprune.core.errors import ChainBroken, nearest
from reprune.core.lock import Name
from reprune.core.machine import Machine, this_machine
from reprune.core.params import BenchmarkParams, Target
from reprune.core.policy import Policy
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.runtimes.sidecar import open_engine
from reprune.steps.arms import PROMOTED
from reprune.steps.refusals import refuse_failed_data, refuse_strangers
from reprune.task.trained_on import TRAINED_ON

if TYPE_CHECKING:
    from reprune.measure.attempts import Look
    from reprune.measure.latency import LatencyJob
    from reprune.runtimes.base import Session
    from reprune.task.protocol import Split, Task


@step("benchmark")
def benchmark(
    engines: Artifact[Engines],
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    data: Artifact[DataReport],
    policy: Policy,
    targets: dict[Name, Target],
    benchmark: BenchmarkParams,
    seed: int,
    threads: int,
    ctx: Context,
) -> Benchmark:
    """Runs all arms over the sealed examples and times them side by side until the policy can decide.

    Each run is an attempt, counted in reprune.attempts.jsonl before the sealed split is opened.
    Raises DataRefused, ChainBroken for engines of another model, machine or registry state,
    BuildError for an engine that does not run, Busy if the host stays occupied.
    """
    refuse_failed_data(data)
    machine = this_machine(threads)
    refuse_strangers(dense, {"data report": data})
    _refuse_unfit(engines, dense, previous, machine)
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.compress.bundle import load_bundle
    from reprune.measure.attempts import ATTEMPTS_FILE, local_uses, next_attempt
    from reprune.steps.batch_sizes import count_batches
    from reprune.steps.sampling import Demand, take_samples

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    # Whatever fails for a dull reason fails here, before a look at the sealed split is spent.
    task = load_bundle(dense).task
    jobs = _jobs(engines, task, targets, benchmark, control=policy.guards.control)
    sessions = _sessions(engines, targets)
    look = _look(engines, dense, data)
    attempt = next_attempt(ctx.root / ATTEMPTS_FILE, look, registered=previous.manifest.attempts)
    ctx.say(f"attempt {attempt} for dense version {look.dense_version}: opening the sealed split")
    recorded = _record(dense, data, sessions, look, _trained_on(previous), ctx)
    del sessions
    run_seed = digest_of([look.dense_version, look.weights, look.eval_digest])
    demand = Demand(policy=policy, attempt=attempt, batches=count_batches(targets, policy))
    samples = [
        take_samples(name, replace(job, seed=f"{run_seed}/{name}"), task, demand, ctx)
        for name, job in jobs.items()
    ]
    return Benchmark(
        machine=machine,
        dense_version=look.dense_version,
        attempt=attempt,
        arms={fact.arm: fact.bundle for fact in engines.manifest.engines},
        engines=engines.manifest.engines,
        targets=tuple(samples),
        recorded=recorded,
        uses=local_uses(ctx.root / ATTEMPTS_FILE, look.eval_digest),
    )


def _refuse_unfit(
    engines: Artifact[Engines],
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    machine: Machine,
) -> None:
    """Raises ChainBroken for engines of other models, of another registry state or another machine."""
    refuse_strangers(dense, {"engines": engines})
    if engines.manifest.parents.get("previous") != previous.digest:
        raise ChainBroken(
            "the engines were built beside another champion",
            where=str(engines.path),
            fix="run build again (dvc repro)",
        )
    if engines.manifest.machine.instance != machine.instance:
        raise ChainBroken(
            f"the engines were built on another machine ({engines.manifest.machine.cpu}, "
            f"{engines.manifest.machine.logical_cpus} cores) than this one ({machine.cpu}, "
            f"{machine.logical_cpus} cores)",
            where=str(engines.path),
            fix="run build and benchmark on one machine, with the same `threads`",
        )


def _jobs(
    engines: Artifact[Engines],
    task: Task,
    targets: Mapping[str, Target],
    params: BenchmarkParams,
    *,
    control: bool,
) -> dict[str, LatencyJob]:
    """What is to be timed, for each target that engines were built for; the seed is still open."""
    from reprune.measure.latency import LatencyJob, timed_shapes

    built: dict[str, dict[str, Path]] = {}
    for fact in engines.manifest.engines:
        if fact.target not in targets:
            raise ChainBroken(
                f"engines were built for '{fact.target}', which params.yaml no longer has; "
                f"{nearest(fact.target, targets)}",
                where=str(engines.path),
                fix="run build again (dvc repro)",
            )
        built.setdefault(fact.target, {})[fact.arm] = engines.file(fact.file)
    return {
        name: LatencyJob(
            target=targets[name],
            engines=files,
            shapes=timed_shapes(task, targets[name].batch_size),
            params=params,
            seed="",
            control=control,
        )
        for name, files in sorted(built.items())
    }


def _sessions(engines: Artifact[Engines], targets: Mapping[str, Target]) -> dict[str, Session]:
    """Every engine, loaded, under its key of QualityEvidence.arms."""
    return {
        f"{fact.arm}@{fact.target}": open_engine(engines.file(fact.file), targets[fact.target])
        for fact in engines.manifest.engines
    }


def _look(
    engines: Artifact[Engines], dense: Artifact[ModelBundle], data: Artifact[DataReport]
) -> Look:
    from reprune.measure.attempts import Look

    candidates = [fact.bundle for fact in engines.manifest.engines if fact.arm == "candidate"]
    if not candidates or "eval" not in data.manifest.splits:
        raise ChainBroken(
            "there is nothing to judge: no candidate among the engines, or no eval split",
            where=str(engines.path),
            fix="run the steps again from fetch on (dvc repro)",
        )
    return Look(
        name=dense.manifest.name,
        dense_version=dense.manifest.dense_version,
        weights=dense.manifest.payload[WEIGHTS],
        eval_digest=data.manifest.splits["eval"].digest,
        candidate=candidates[0],
    )


def _record(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    sessions: Mapping[str, Session],
    look: Look,
    trained_on: Mapping[str, bytes | None],
    ctx: Context,
) -> Recorded:
    """Opens the sealed split, the only place that does, and writes every arm's records of it.

    Examples that the champion or the anchor was made with are left out, and counted.
    """
    from reprune.compress.bundle import load_bundle
    from reprune.measure.records import take_records, without_trained_on, write_records

    sealed: tuple[Split, ...] = ("eval",)
    opened = load_bundle(dense, splits=sealed)
    taken = take_records(opened.task, sessions, opened.module)
    taken = without_trained_on(taken, opened.task.census("eval"), trained_on)
    for arm, count in taken.dropped.items():
        if count:
            ctx.say(f"{count} eval examples are left out: the {arm} was made with them")
    recorded = write_records(ctx.out, taken)
    if recorded.eval_digest != look.eval_digest:
        raise ChainBroken(
            "the eval split is not the one that the data report describes",
            where=str(data.path),
            fix="run validate again; the look that was taken still counts",
        )
    return recorded


def _trained_on(previous: Artifact[Previous]) -> dict[str, bytes | None]:
    """The marks in the champion's and the anchor's bundle; None for one that has none."""
    found: dict[str, bytes | None] = {}
    for arm in PROMOTED:
        if getattr(previous.manifest, arm) is not None:
            name = f"{arm}/{TRAINED_ON}"
            marked = name in previous.manifest.payload
            found[arm] = previous.file(name).read_bytes() if marked else None
    return found
