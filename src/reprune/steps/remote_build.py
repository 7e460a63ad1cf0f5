"""Engines for a device that is reached by a command: compared with their bundles there, compiled there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from msgspec import structs

from reprune.core.artifacts import Arm, BuildFact, EngineFact
from reprune.core.params import Target
from reprune.core.step import Context
from reprune.core.store import disk_errors, file_digest
from reprune.measure.device_call import Called
from reprune.measure.device_job import Arrays, DeviceJob, ToCompile, add_pass
from reprune.measure.fidelity import Yardstick
from reprune.measure.parity import take_parity
from reprune.measure.precision import judged_once, yardstick_of
from reprune.measure.source import sparsity_pattern
from reprune.runtimes.base import Compiling, Runtime, get_runtime
from reprune.runtimes.isolated import together
from reprune.runtimes.sidecar import Sidecar, write_sidecar
from reprune.runtimes.sparse.words import sparsity_words
from reprune.steps.arms import ArmModel
from reprune.steps.engines import Built, Workshop, engine_fact, made, model_source, source_digest
from reprune.steps.remote import Remote, arrays, take_compiled

# The pass of inputs by which a quantised engine is held to the bounds of `build`.
TUNE = "tune"


def build_remote(
    name: str, target: Target, arms: Mapping[Arm, ArmModel], shop: Workshop, ctx: Context
) -> list[EngineFact]:
    """Afterwards every arm's engine for the target lies below `shop.out`, its sidecar beside it bound to
    the device, and was compared with its bundle on the device's own outputs.

    What runs anywhere is built here; what a runtime must compile on the device (runtimes.base.Compiling)
    is prepared here and compiled there. A quantised one of these is compiled once, and held to the bounds of
    `build` by a note. Raises as build_engine does, and as device_call.call.
    """
    runtime = get_runtime(target.runtime)
    files: dict[Arm, str] = {arm: f"engines/{name}/{arm}{runtime.suffix}" for arm in arms}
    for file in files.values():
        (shop.out / file).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reprune-prepared-")))
        prepared = _prepared(target, arms, runtime, shop, folder)
        sidecars: dict[Arm, Sidecar] = {}
        if not prepared:
            here = structs.replace(target, run="")
            for arm, model in arms.items():
                sidecars[arm] = made(shop.out / files[arm], model, here, runtime, shop)
        held = _yardsticks(target, arms if prepared else {}, runtime, shop)
        remote = Remote(
            name=name,
            target=target,
            engines={} if prepared else {arm: shop.out / file for arm, file in files.items()},
            hang_seconds=shop.params.max_seconds,
            say=ctx.say,
        )

        def fill(job_folder: Path, job: DeviceJob) -> DeviceJob:
            return structs.replace(
                job,
                bound=False,
                to_compile=_put_prepared(job_folder, prepared, folder, runtime),
                passes=_passes(job_folder, held, shop),
            )

        called = stack.enter_context(remote.asking(fill, steps=(3 if held else 2) * len(arms)))
        facts = []
        for arm, model in arms.items():
            path = shop.out / files[arm]
            if prepared:
                sidecar = _fetched(called, arm, model, prepared[arm], target, path, shop)
                if arm in held:
                    notes = judged_once(held[arm], called.session(TUNE, arm), target, shop.params)
                    sidecar = _noted(sidecar, notes)
            else:
                sidecar = _bound(sidecars[arm], called)
            write_sidecar(path, sidecar)
            parity = take_parity(
                f"{arm}@{name}",
                called.session("parity", arm),
                model.loaded.module,
                shop.task,
                shop.batches,
            )
            machine = called.result.machine
            built = Built(path, files[arm], sidecar, parity, machine)
            facts.append(engine_fact(arm, model, name, target, built))
    return facts


def _prepared(
    target: Target,
    arms: Mapping[Arm, ArmModel],
    runtime: Runtime,
    shop: Workshop,
    folder: Path,
) -> dict[Arm, BuildFact]:
    """What each arm's `prepare` said, its files in `folder/<arm>`; empty where nothing is compiled."""
    if not isinstance(runtime, Compiling):
        return {}
    found: dict[Arm, BuildFact] = {}
    for arm, model in arms.items():
        (folder / arm).mkdir()
        source = model_source(model, target, shop.params)
        found[arm] = runtime.prepare(source, target, folder / arm)
    return found


def _yardsticks(
    target: Target, arms: Mapping[Arm, ArmModel], runtime: Runtime, shop: Workshop
) -> dict[Arm, Yardstick]:
    """What each arm's engine is held against on `tune`; empty where nothing is quantised."""
    found = {
        arm: yardstick_of(runtime, model.loaded.module, shop.task, target)
        for arm, model in arms.items()
    }
    return {arm: yardstick for arm, yardstick in found.items() if yardstick is not None}


def _passes(
    job_folder: Path, held: Mapping[Arm, Yardstick], shop: Workshop
) -> dict[str, tuple[Arrays, ...]]:
    found = {"parity": add_pass(job_folder, "parity", arrays(shop.batches))}
    if held:
        # The examples are those of any arm: all are asked the same.
        batches = next(iter(held.values())).batches
        found[TUNE] = add_pass(job_folder, TUNE, arrays(batches))
    return found


def _noted(sidecar: Sidecar, notes: tuple[str, ...]) -> Sidecar:
    built = structs.replace(sidecar.built, notes=(*sidecar.built.notes, *notes))
    return structs.replace(sidecar, built=built)


def _put_prepared(
    job_folder: Path, prepared: Mapping[Arm, BuildFact], folder: Path, runtime: Runtime
) -> dict[str, ToCompile]:
    for arm in prepared:
        with disk_errors(job_folder):
            shutil.copytree(folder / arm, job_folder / "prepared" / arm)
    return {
        arm: ToCompile(folder=f"prepared/{arm}", file=f"engines/{arm}{runtime.suffix}")
        for arm in prepared
    }


def _fetched(
    called: Called,
    arm: Arm,
    model: ArmModel,
    prepared: BuildFact,
    target: Target,
    path: Path,
    shop: Workshop,
) -> Sidecar:
    """Takes the engine that was compiled there."""
    compiled = take_compiled(called, arm, path)
    runtime = get_runtime(target.runtime)
    built = together(prepared, compiled.built)
    pattern = sparsity_pattern(model.bundle.manifest.surgery)
    zeros = sparsity_words(pattern, target.runtime, runtime.capabilities, built)
    return Sidecar(
        engine=file_digest(path),
        runtime=target.runtime,
        runtime_version=called.result.runtime_version,
        precision=target.precision,
        device=target.device,
        batch_size=None if runtime.capabilities.dynamic_batch else target.batch_size,
        binding=called.result.binding,
        bundle=model.bundle.digest,
        source=source_digest(target, runtime, shop),
        built=structs.replace(built, notes=(*built.notes, zeros)) if zeros else built,
    )


def _bound(sidecar: Sidecar, called: Called) -> Sidecar:
    """The same engine, as it may run on the device: with the version of the runtime there."""
    return structs.replace(
        sidecar, runtime_version=called.result.runtime_version, binding=called.result.binding
    )
