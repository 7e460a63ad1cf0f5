"""profile: what the dense model costs, counted, and measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType, structs

from reprune.core.artifacts import DataReport, ModelBundle, Previous, Profile
from reprune.core.lock import Name
from reprune.core.machine import this_machine
from reprune.core.params import BuildParams, GenerationsParams, ProfileParams, Target
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.runtimes.base import Runtime, cannot_run_here
from reprune.steps.known_times import earlier_table
from reprune.steps.refusals import refuse_failed_data, refuse_strangers
from reprune.steps.target_demands import refuse_unoffered

if TYPE_CHECKING:
    from pathlib import Path

    from reprune.compress.bundle import LoadedModel
    from reprune.measure.calls import Shape


@step("profile")
def profile(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    previous: Artifact[Previous],
    targets: dict[Name, Target],
    profile: ProfileParams,
    generations: GenerationsParams | UnsetType,
    seed: int,
    threads: int,
    ctx: Context,
) -> Profile:
    """Counts parameters and MACs of the dense model, and times it and its operators on each target.

    With `profile.tables` it builds the model at other widths as well, and measures what each of its layers
    takes there: `tables.json`. With `generations.reuse` the champion's tables are used again where machine,
    runtime and architecture are the same and a few of their cuts, timed again, come out as they did; the
    manifest says which happened and why. A killed run goes on where it was.

    Targets that this machine is not (`run`, `kit`, an emulation) are not timed, and that is said.
    Raises DataRefused, ChainBroken for data of another model, BuildError for a target that it
    cannot be built for.
    """
    refuse_failed_data(data)
    refuse_strangers(dense, {"data report": data})
    refuse_unoffered(targets)
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.compress.bundle import load_bundle
    from reprune.compress.tables.table import TABLES_FILE, write_tables
    from reprune.measure.latency import timed_shapes
    from reprune.measure.profile import count_cost, measure_target
    from reprune.measure.source import CALIBRATION_EXAMPLES, source_of
    from reprune.runtimes.base import get_runtime
    from reprune.runtimes.isolated import build_within
    from reprune.steps.tabling import Timed, tables_of

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded = load_bundle(dense)
    counted = count_cost(loaded.module, loaded.task.example_inputs(1))
    for name in counted.uncounted:
        ctx.say(f"not counted in the MACs: {name}")
    measured, tables = [], []
    for name, target in sorted(targets.items()):
        runtime = get_runtime(target.runtime)
        elsewhere = _elsewhere(runtime, target)
        if elsewhere:
            ctx.say(f"{name} is not timed here: {elsewhere}")
            continue
        engine = ctx.work / f"{name}{runtime.suffix}"
        source = source_of(loaded.module, loaded.task, target, examples=CALIBRATION_EXAMPLES)
        build_within(runtime, source, target, engine, seconds=BuildParams().max_seconds)
        shapes = timed_shapes(loaded.task, target.batch_size)
        found = measure_target(engine, name, target, shapes, profile)
        measured.append(
            structs.replace(found, over_fp16=_over_fp16(engine, target, loaded, shapes))
        )
        ctx.say(f"{name}: {measured[-1].latency_us:.0f} us a call of {target.batch_size}")
        if profile.tables:
            subject = Timed(
                name=name,
                target=target,
                shapes=shapes,
                profile=measured[-1],
                earlier=earlier_table(previous, dense, name, generations),
            )
            table = tables_of(dense, subject, profile.tables, seed=seed, threads=threads, ctx=ctx)
            tables += [table] if table else []
    if profile.tables:
        write_tables(ctx.out / TABLES_FILE, [one.table for one in tables])
    return Profile(
        cost=counted.cost,
        layers=counted.layers,
        uncounted=counted.uncounted,
        machine=this_machine(threads),
        targets=tuple(measured),
        tables=tuple(one.fact for one in tables) if profile.tables else UNSET,
    )


def _over_fp16(
    engine: Path, target: Target, loaded: LoadedModel, shapes: Sequence[Shape]
) -> float | UnsetType:
    """As TargetProfile.over_fp16. Raises BuildError where there is no engine in fp16 to compare with."""
    from reprune.measure.half import time_over
    from reprune.measure.source import CALIBRATION_EXAMPLES, source_of
    from reprune.runtimes.base import get_runtime
    from reprune.runtimes.isolated import build_within

    if target.precision != "int8-fp16":
        return UNSET
    # A named layer is in fp16 in the one; in the other it would be in fp32.
    half = structs.replace(target, precision="fp16", float_layers=())
    runtime = get_runtime(target.runtime)
    other = engine.with_name(f"fp16-{engine.name}")
    source = source_of(loaded.module, loaded.task, half, examples=CALIBRATION_EXAMPLES)
    build_within(runtime, source, half, other, seconds=BuildParams().max_seconds)
    return round(time_over(engine, other, target, shapes), 4)


def _elsewhere(runtime: Runtime, target: Target) -> str:
    """Why times taken here would not be the target's; "" where they are."""
    if target.run or target.kit:
        return "it is another machine, on which build and benchmark measure it"
    if not runtime.capabilities.latency:
        return f"what {target.runtime} takes here means nothing for the device"
    return cannot_run_here(runtime, target)
