"""build: every arm as an engine for every target of this machine, with today's toolchain."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.artifacts import (
    WEIGHTS,
    Arm,
    DataReport,
    EngineFact,
    Engines,
    ModelBundle,
    Previous,
)
from reprune.core.errors import TaskError
from reprune.core.lock import Name
from reprune.core.machine import this_machine
from reprune.core.params import BuildParams, Target
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.runtimes.base import get_runtime
from reprune.steps.arms import ArmModel, open_arms
from reprune.steps.refusals import refuse_failed_data, refuse_strangers

if TYPE_CHECKING:
    from reprune.task.protocol import Batch
    from reprune.task.seal import Sealed


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all engines have in common: where they go, and the examples that parity is taken on."""

    out: Path
    targets: Mapping[str, Target]
    task: Sealed
    batches: tuple[Batch, ...]


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
    # torch is imported here, after the cheap refusals: the command line loads this module for help.
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    arms = open_arms(candidate, dense, previous)
    task = arms["dense"].loaded.task
    bench = Bench(
        out=ctx.out, targets=targets, task=task, batches=_calibration(task, build.parity_examples)
    )
    facts: list[EngineFact] = []
    for name in sorted(targets):
        for arm, model in arms.items():
            facts.append(_build(arm, model, name, bench, _twin(facts, arm, name, targets)))
            ctx.say(f"{arm} for {name}: {facts[-1].bytes} bytes, parity {facts[-1].parity.max_abs}")
    return Engines(machine=this_machine(threads), engines=tuple(facts))


def _calibration(task: Sealed, examples: int) -> tuple[Batch, ...]:
    """Whole batches of `calibration` until there are at least `examples`, or it ends."""
    found: list[Batch] = []
    for batch in task.batches("calibration", epoch=0, seed=0):
        found.append(batch)
        if sum(map(len, found)) >= examples:
            break
    if not found:
        raise TaskError(
            "the calibration split is empty",
            fix="engines are compared with their bundles on it: give it examples",
        )
    return tuple(found)


def _twin(
    facts: Sequence[EngineFact], arm: Arm, name: str, targets: Mapping[str, Target]
) -> EngineFact | None:
    """An engine that was built already and differs only in how it will be run (threads, batch)."""
    wanted = (targets[name].runtime, targets[name].precision)
    same = [fact for fact in facts if fact.arm == arm and (fact.runtime, fact.precision) == wanted]
    return same[0] if same else None


def _build(
    arm: Arm, model: ArmModel, name: str, bench: Bench, twin: EngineFact | None
) -> EngineFact:
    from reprune.measure.parity import take_parity

    target = bench.targets[name]
    runtime = get_runtime(target.runtime)
    file = f"engines/{name}/{arm}{runtime.suffix}"
    path = bench.out / file
    path.parent.mkdir(parents=True, exist_ok=True)
    names = tuple(model.loaded.task.input_names)
    if twin is not None:
        shutil.copyfile(bench.out / twin.file, path)
    else:
        runtime.build(model.loaded.module, model.loaded.task.example_inputs(2), names, target, path)
    parity = take_parity(
        f"{arm}@{name}", runtime.open(path, target), model.loaded.module, bench.task, bench.batches
    )
    return EngineFact(
        arm=arm,
        target=name,
        runtime=target.runtime,
        runtime_version=runtime.version(),
        precision=target.precision,
        file=file,
        bytes=path.stat().st_size,
        bundle=model.bundle.digest,
        weights=model.bundle.manifest.payload[WEIGHTS],
        inputs=names,
        parity=parity,
        cost=model.cost,
    )
