"""profile: what the dense model costs, counted, and measured where its targets are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType, structs

from reprune.core.artifacts import DataReport, ModelBundle, Previous, Profile
from reprune.core.lock import Name
from reprune.core.machine import this_machine
from reprune.core.params import GenerationsParams, ProfileParams, Target
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.known_times import earlier_table
from reprune.steps.looking import check_reach
from reprune.steps.refusals import refuse_failed_data, refuse_strangers
from reprune.steps.target_demands import refuse_unoffered
from reprune.steps.timing_places import timing_place, why_untimed

if TYPE_CHECKING:
    from pathlib import Path

    from reprune.compress.bundle import LoadedModel
    from reprune.measure.calls import Shape
    from reprune.measure.timing_place import TimingPlace


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

    A target that a command reaches (`run`) is timed on its device. Kits, emulations and what this
    machine cannot run are not timed, and that is said. Raises DataRefused, ChainBroken for data of another
    model, BuildError for a target that it cannot be built for, and for a device what device_call.call raises.
    """
    refuse_failed_data(data)
    refuse_strangers(dense, {"data report": data})
    refuse_unoffered(targets)
    check_reach(targets)
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.compress.bundle import load_bundle
    from reprune.compress.tables.table import TABLES_FILE, write_tables
    from reprune.measure.latency import timed_shapes
    from reprune.measure.profile import count_cost, measure_target
    from reprune.measure.source import CALIBRATION_EXAMPLES, source_of
    from reprune.steps.tabling import Timed, tables_of

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded = load_bundle(dense)
    counted = count_cost(loaded.module, loaded.task.example_inputs(1))
    for name in counted.uncounted:
        ctx.say(f"not counted in the MACs: {name}")
    measured, tables = [], []
    for name, target in sorted(targets.items()):
        why = why_untimed(target)
        if why:
            ctx.say(f"{name} is not timed: {why}")
            continue
        where = timing_place(name, target, threads, ctx.say)
        engine = ctx.work / f"{name}{where.runtime.suffix}"
        source = source_of(loaded.module, loaded.task, target, examples=CALIBRATION_EXAMPLES)
        where.make({engine: source}, target)
        shapes = timed_shapes(loaded.task, target.batch_size)
        measured.append(
            structs.replace(
                measure_target(engine, name, where, shapes, profile),
                over_fp16=_over_fp16(engine, where, loaded, shapes),
                machine=where.machine if target.run else UNSET,
            )
        )
        ctx.say(f"{name}: {measured[-1].latency_us:.0f} us a call of {target.batch_size}")
        if profile.tables:
            subject = Timed(
                name=name,
                where=where,
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
    engine: Path, where: TimingPlace, loaded: LoadedModel, shapes: Sequence[Shape]
) -> float | UnsetType:
    """As TargetProfile.over_fp16. Raises BuildError where there is no engine in fp16 to compare with."""
    from reprune.measure.half import time_over
    from reprune.measure.source import CALIBRATION_EXAMPLES, source_of

    target = where.target
    if target.precision != "int8-fp16":
        return UNSET
    # A named layer is in fp16 in the one; in the other it would be in fp32.
    half = structs.replace(target, precision="fp16", float_layers=())
    other = engine.with_name(f"fp16-{engine.name}")
    source = source_of(loaded.module, loaded.task, half, examples=CALIBRATION_EXAMPLES)
    where.make({other: source}, half)
    return round(time_over(engine, other, where, shapes), 4)
