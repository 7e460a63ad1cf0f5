"""build: every arm as an engine for every target of this machine, with today's toolchain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.artifacts import Arm, DataReport, EngineFact, Engines, ModelBundle, Previous
from reprune.core.documents import digest_of
from reprune.core.lock import Name
from reprune.core.machine import this_machine
from reprune.core.params import BuildParams, Target
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.steps.arms import open_arms
from reprune.steps.looking import check_reach
from reprune.steps.refusals import refuse_failed_data, refuse_strangers
from reprune.steps.target_demands import refuse_unoffered

if TYPE_CHECKING:
    from reprune.steps.arms import ArmModel
    from reprune.task.protocol import Batch


@step("build")
def build(
    candidate: Artifact[ModelBundle],
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    data: Artifact[DataReport],
    targets: dict[Name, Target],
    build: BuildParams,
    seed: int,
    threads: int,
    ctx: Context,
) -> Engines:
    """Builds candidate, dense model, champion and anchor for each target with today's toolchain.

    Each engine is compared with its bundle on calibration examples. Raises DataRefused, ChainBroken
    for artefacts that do not belong together, BuildError for an arm that cannot be built or cannot
    be compared with the dense model.
    """
    refuse_failed_data(data)
    refuse_strangers(dense, {"data report": data})
    check_reach(targets)
    refuse_unoffered(targets)
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    from reprune.measure.source import calibration_batches
    from reprune.steps.engines import Workshop, build_engine
    from reprune.steps.proofs import demand_proof
    from reprune.steps.remote_build import build_remote
    from reprune.steps.storage import storage_of

    torch.set_num_threads(threads)
    demand_proof(sorted(targets.items()), ctx.say)
    torch.manual_seed(seed)
    arms = open_arms(candidate, dense, previous)
    task = arms["dense"].loaded.task
    shop = Workshop(
        out=ctx.out,
        task=task,
        batches=calibration_batches(task, build.parity_examples),
        params=build,
        examples=digest_of([data.manifest.splits.get(name) for name in ("calibration", "tune")]),
    )
    facts: list[EngineFact] = []
    for name, target in sorted(targets.items()):
        if target.run:
            facts += build_remote(name, target, arms, shop, ctx)
            continue
        for arm, model in arms.items():
            facts.append(build_engine(arm, model, name, target, shop))
            ctx.say(f"{arm} for {name}: {facts[-1].bytes} bytes, parity {facts[-1].parity.max_abs}")
    if build.shown_maps:
        _show_maps(arms, shop.batches, build.shown_maps, ctx)
    return Engines(
        machine=this_machine(threads),
        engines=tuple(facts),
        storage=storage_of(arms, ctx.say) or UNSET,
    )


def _show_maps(
    arms: Mapping[Arm, ArmModel], batches: Sequence[Batch], count: int, ctx: Context
) -> None:
    """Stores what layers make of `count` calibration examples, before and after the cut; for people."""
    from reprune.measure.maps import Compared, write_maps

    candidate = arms["candidate"].loaded
    cuts = candidate.architecture.cuts if candidate.architecture is not None else ()
    pair = Compared(
        dense=arms["dense"].loaded.module,
        candidate=candidate.module,
        kept={cut.module: (cut.size, cut.keep) for cut in cuts if cut.axis == "out"},
    )
    maps = write_maps(ctx.out, pair, batches, count)
    if maps is None:
        ctx.say("no feature maps are stored: no layer with weights makes images")
        return
    told = ", ".join(f"{one.layer} {100 * one.relative:.0f} %" for one in maps.layers)
    ctx.say(f"feature maps of {len(maps.examples)} calibration examples are stored: {told} changed")
