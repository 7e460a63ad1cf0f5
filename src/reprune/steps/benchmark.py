"""benchmark: the only step that opens the sealed split. Records of all arms, then latency in looks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.artifacts import (
    MAPS_FILE,
    Benchmark,
    DataReport,
    Engines,
    ModelBundle,
    Previous,
    Recorded,
)
from reprune.core.errors import ChainBroken
from reprune.core.lock import Name
from reprune.core.machine import this_machine
from reprune.core.params import BenchmarkParams, Target
from reprune.core.policy import Policy
from reprune.core.step import Context, step
from reprune.core.store import Artifact, write_bytes
from reprune.steps.answerable import refuse_unanswerable
from reprune.steps.arms import PROMOTED
from reprune.steps.looking import (
    check_reach,
    device_of,
    look_at,
    refuse_unfit,
    required_here,
    timed_jobs,
)
from reprune.steps.refusals import refuse_failed_data, refuse_strangers
from reprune.steps.target_demands import refuse_untimed
from reprune.task.trained_on import TRAINED_ON

if TYPE_CHECKING:
    from reprune.measure.attempts import Look
    from reprune.measure.latency import LatencyJob
    from reprune.steps.kits import Imported
    from reprune.steps.places import Place
    from reprune.task.protocol import Split
    from reprune.task.seal import Sealed


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
    Raises DataRefused, DocumentError for a policy that nobody can answer, ChainBroken for engines of
    another model, machine or registry state, BuildError for an engine that does not run, Busy if the host
    stays occupied.
    """
    refuse_failed_data(data)
    refuse_unanswerable(policy, data)
    machine = this_machine(threads)
    refuse_strangers(dense, {"data report": data})
    check_reach(targets)
    refuse_untimed(required_here(targets, policy), policy)
    refuse_unfit(engines, dense, previous, machine)
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.compress.bundle import load_bundle
    from reprune.measure.attempts import ATTEMPTS_FILE, local_uses
    from reprune.measure.operator_shares import write_shares
    from reprune.steps.batch_sizes import count_batches
    from reprune.steps.proofs import demand_proof
    from reprune.steps.sampling import Demand, take_samples

    torch.set_num_threads(threads)
    demand_proof(required_here(targets, policy), ctx.say)
    torch.manual_seed(seed)
    # Whatever fails for a dull reason fails here, before a look at the sealed split is spent.
    task = load_bundle(dense).task
    look = look_at(engines, dense, data)
    jobs = timed_jobs(engines, task, targets, benchmark, policy, look)
    kits: list[Imported] = []
    places = {name: _place(name, job, engines, task, kits, ctx) for name, job in jobs.items()}
    attempt = _attempt(ctx.root / ATTEMPTS_FILE, look, kits, previous.manifest.attempts)
    ctx.say(f"attempt {attempt} for dense version {look.dense_version}: opening the sealed split")
    shown = benchmark.shown_examples or 0
    recorded = _record(dense, data, places, look, _trained_on(previous), ctx, shown)
    # Of all machines: the judge adjusts for the rules on every one of them.
    batches = count_batches(ctx.targets, policy)
    demand = Demand(policy=policy, attempt=attempt, batches=batches)
    samples = [
        take_samples(name, job, task, demand, ctx, places[name].taking)
        for name, job in jobs.items()
    ]
    write_shares(ctx.out, jobs, ctx.say)
    if MAPS_FILE in engines.manifest.payload:
        write_bytes(ctx.out / MAPS_FILE, engines.file(MAPS_FILE).read_bytes())
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


def _place(
    name: str,
    job: LatencyJob,
    engines: Artifact[Engines],
    task: Sealed,
    kits: list[Imported],
    ctx: Context,
) -> Place:
    """Where the target is. What cannot be reached, does not load there, or has not come back, raises now;
    what came back in a kit is added to `kits`.
    """
    from reprune.steps.places import behind, carried, here

    if job.target.run:
        return behind(name, job, device_of(engines, name), ctx.say)
    if job.target.kit:
        place, imported = carried(name, job, engines, task, ctx)
        kits.append(imported)
        return place
    return here(job)


def _attempt(ledger: Path, look: Look, kits: list[Imported], registered: int) -> int:
    """The number of this look: that which was counted for the kits, where they belong to it, or a new one."""
    from reprune.measure.attempts import last_attempt, next_attempt
    from reprune.steps.kits import carried_attempt, mark_used

    last = last_attempt(ledger, look)
    carried = carried_attempt(kits, look, last=last, registered=registered) if kits else None
    for imported in kits:
        mark_used(imported)
    return carried if carried is not None else next_attempt(ledger, look, registered=registered)


def _record(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    places: Mapping[str, Place],
    look: Look,
    trained_on: Mapping[str, bytes | None],
    ctx: Context,
    shown: int,
) -> Recorded:
    """Opens the sealed split, the only place that does, and writes every arm's records of it.

    Examples that the champion or the anchor was made with are left out, and counted.
    """
    from reprune.compress.bundle import load_bundle
    from reprune.measure.records import take_records, without_trained_on, write_records
    from reprune.measure.shown import changed_ids, write_shown
    from reprune.steps.places import all_answers

    sealed: tuple[Split, ...] = ("eval",)
    opened = load_bundle(dense, splits=sealed)
    with all_answers(places, opened.task) as sessions:
        taken = take_records(opened.task, sessions, opened.module)
    taken = without_trained_on(taken, opened.task.census("eval"), trained_on)
    for arm, count in taken.dropped.items():
        if count:
            ctx.say(f"{count} eval examples are left out: the {arm} was made with them")
    recorded = write_records(ctx.out, taken)
    if shown:
        write_shown(ctx.out, opened.task, changed_ids(taken, shown))
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
