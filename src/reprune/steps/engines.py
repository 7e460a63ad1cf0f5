"""One arm as one engine: built, or taken from the cache, and compared with its bundle."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET, structs

from reprune import __version__
from reprune.core.artifacts import WEIGHTS, Arm, BuildFact, EngineFact
from reprune.core.documents import digest_of
from reprune.core.errors import RepruneError
from reprune.core.params import BuildParams, Target
from reprune.core.step import work_root
from reprune.core.store import disk_errors, file_digest
from reprune.runtimes.base import Runtime, get_runtime
from reprune.runtimes.sidecar import (
    Sidecar,
    open_engine,
    read_sidecar,
    sidecar_path,
    strange,
    write_sidecar,
)
from reprune.runtimes.sparse.words import sparsity_words

if TYPE_CHECKING:
    from reprune.steps.arms import ArmModel
    from reprune.task.protocol import Batch, Task

# What of a target decides how an engine runs, and not what it is.
RUN_ONLY = {"threads": 1, "throughput_batch_sizes": (), "run": "", "kit": False}


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all engines have in common: where they go, and the examples that parity is taken on.

    `examples` names those that ranges are taken from and float layers chosen on.
    """

    out: Path
    task: Task
    batches: tuple[Batch, ...]
    params: BuildParams
    examples: str


def build_engine(
    arm: Arm, model: ArmModel, name: str, target: Target, shop: Workshop
) -> EngineFact:
    """Afterwards the engine of `arm` for the target called `name` lies below `shop.out`, its sidecar
    beside it. Raises BuildError for what cannot be built, or computes another function.
    """
    from reprune.measure.parity import take_parity

    runtime = get_runtime(target.runtime)
    file = f"engines/{name}/{arm}{runtime.suffix}"
    path = shop.out / file
    path.parent.mkdir(parents=True, exist_ok=True)
    sidecar = _made(path, model, target, runtime, shop)
    parity = take_parity(
        f"{arm}@{name}", open_engine(path, target), model.loaded.module, shop.task, shop.batches
    )
    return EngineFact(
        arm=arm,
        target=name,
        runtime=target.runtime,
        runtime_version=sidecar.runtime_version,
        precision=target.precision,
        file=file,
        bytes=path.stat().st_size,
        bundle=model.bundle.digest,
        weights=model.bundle.manifest.payload[WEIGHTS],
        inputs=tuple(model.loaded.task.input_names),
        parity=parity,
        cost=model.cost,
        built=UNSET if sidecar.built == BuildFact() else sidecar.built,
    )


def _made(path: Path, model: ArmModel, target: Target, runtime: Runtime, shop: Workshop) -> Sidecar:
    """Writes the engine and its sidecar: from the cache, where the same was built before."""
    knobs = structs.replace(shop.params, parity_examples=1, max_seconds=1.0, cache=True)
    source_digest = digest_of([_essence(target, runtime), shop.examples, knobs, __version__])
    key = digest_of(
        [model.bundle.digest, source_digest, runtime.version(), runtime.binding(target)]
    ).removeprefix("sha256:")
    cached = work_root() / "engines" / key[:32] / path.name
    if shop.params.cache and _usable(cached, runtime, target):
        with disk_errors(path):
            shutil.copyfile(cached, path)
            shutil.copyfile(sidecar_path(cached), sidecar_path(path))
        return read_sidecar(path)
    built = _build(path, model, target, runtime, shop)
    sidecar = Sidecar(
        engine=file_digest(path),
        runtime=target.runtime,
        runtime_version=runtime.version(),
        precision=target.precision,
        device=target.device,
        batch_size=None if runtime.capabilities.dynamic_batch else target.batch_size,
        binding=runtime.binding(target),
        bundle=model.bundle.digest,
        source=source_digest,
        built=built,
    )
    write_sidecar(path, sidecar)
    if shop.params.cache:
        _keep(path, cached)
    return sidecar


def _build(
    path: Path, model: ArmModel, target: Target, runtime: Runtime, shop: Workshop
) -> BuildFact:
    from reprune.measure.precision import with_float_layers
    from reprune.measure.source import source_of

    source = source_of(
        model.loaded.module,
        model.loaded.task,
        target,
        examples=shop.params.calibration_examples,
        surgery=model.bundle.manifest.surgery,
    )
    built = with_float_layers(runtime, source, target, model.loaded.task, shop.params, path)
    zeros = sparsity_words(source.sparsity, target.runtime, runtime.capabilities, built)
    return structs.replace(built, notes=(*built.notes, zeros)) if zeros else built


def _essence(target: Target, runtime: Runtime) -> Target:
    """The target less what does not change its engine."""
    plain = structs.replace(target, **RUN_ONLY)
    return structs.replace(plain, batch_size=1) if runtime.capabilities.dynamic_batch else plain


def _usable(cached: Path, runtime: Runtime, target: Target) -> bool:
    """Whether a whole engine lies there that may run here: what was damaged is built again."""
    try:
        sidecar = read_sidecar(cached)
        whole = file_digest(cached) == sidecar.engine
    except (RepruneError, OSError):
        return False
    return whole and not strange(sidecar, runtime, target)


def _keep(path: Path, cached: Path) -> None:
    """Puts the engine into the cache, whole; a cache that cannot be written costs only time."""
    try:
        cached.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent.parent, prefix=".new-") as folder:
            whole = Path(folder, "whole")
            whole.mkdir()
            shutil.copyfile(path, whole / path.name)
            shutil.copyfile(sidecar_path(path), sidecar_path(whole / path.name))
            shutil.rmtree(cached.parent, ignore_errors=True)
            whole.rename(cached.parent)
    except OSError:
        shutil.rmtree(cached.parent, ignore_errors=True)
