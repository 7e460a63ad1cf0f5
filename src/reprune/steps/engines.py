"""One arm as one engine: built, or taken from the cache, and compared with its bundle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType, structs

from reprune import __version__
from reprune.core.artifacts import WEIGHTS, Arm, BuildFact, EngineFact, LayerError, Parity
from reprune.core.documents import digest_of
from reprune.core.errors import BuildError, RepruneError
from reprune.core.machine import Machine
from reprune.core.params import BuildParams, Target
from reprune.core.policy import ParityRules
from reprune.core.step import work_root
from reprune.core.store import disk_errors, file_digest
from reprune.runtimes.base import Runtime, Source, cannot_run_here, get_runtime
from reprune.runtimes.isolated import build_within
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
RUN_ONLY = {"threads": 1, "run": "", "kit": False, "machine": ""}
# The same, for an engine that runs any batch size.
ANY_BATCH = {"batch_size": 1, "throughput_batch_sizes": ()}


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
    beside it; of a target that is rebuilt on its device `builds` of them, and the fact tells the worst
    parity of all. Raises BuildError for what cannot be built, or computes another function.
    """
    runtime = get_runtime(target.runtime)
    _refuse_elsewhere(name, runtime, target)
    file = f"engines/{name}/{arm}{runtime.suffix}"
    path = shop.out / file
    path.parent.mkdir(parents=True, exist_ok=True)
    sidecar = made(path, model, target, runtime, shop)
    copies: tuple[str, ...] = ()
    if target.rebuilt:
        copies = tuple(
            f"engines/{name}/{arm}-{number}{runtime.suffix}"
            for number in range(1, shop.params.builds)
        )
        _build_again([shop.out / copy for copy in copies], model, target, sidecar, shop)
    parity = worst_parity(
        [_parity(f"{arm}@{name}", shop.out / one, model, target, shop) for one in (file, *copies)]
    )
    fact = engine_fact(arm, model, name, target, Built(path, file, sidecar, parity))
    worst = _worst_layers(path, parity, model, target, shop)
    return structs.replace(fact, copies=copies or UNSET, worst_layers=worst or UNSET)


def _refuse_elsewhere(name: str, runtime: Runtime, target: Target) -> None:
    reason = cannot_run_here(runtime, target)
    if reason:
        raise BuildError(
            f"{name} can be built here and not measured: {reason}",
            where="params.yaml (targets)",
            fix="give the target a `run:` that reaches a machine which can, or a `kit: true`",
        )


def _worst_layers(
    path: Path, parity: Parity, model: ArmModel, target: Target, shop: Workshop
) -> tuple[LayerError, ...]:
    """The layers to look at where an engine is farther from its model than engines of its precision
    usually are; none for engines that are no ONNX files, nor where the file itself differs in no layer
    (OpenVINO's bf16 and fp16 are made of the fp32 file when it is opened).
    """
    usual = ParityRules().bounds(target.precision)
    near = (
        (usual.max_abs is None or parity.max_abs <= usual.max_abs)
        and parity.cosine >= usual.min_cosine
        and parity.agreement >= usual.min_agreement
    )
    if near or path.suffix != ".onnx":
        return ()
    from reprune.runtimes.layer_errors import worst_layers

    found = worst_layers(model_source(model, target, shop.params), path.read_bytes())
    return tuple(one for one in found if one.relative > 0.0)


def worst_parity(found: Sequence[Parity]) -> Parity:
    """The largest difference, the least cosine and the least agreement of several builds of one model."""
    return Parity(
        examples=found[0].examples,
        max_abs=max(one.max_abs for one in found),
        cosine=min(one.cosine for one in found),
        agreement=min(one.agreement for one in found),
    )


def _parity(key: str, path: Path, model: ArmModel, target: Target, shop: Workshop) -> Parity:
    from reprune.measure.parity import take_parity

    session = open_engine(path, target)
    return take_parity(key, session, model.loaded.module, shop.task, shop.batches)


def _build_again(
    paths: Sequence[Path], model: ArmModel, target: Target, first: Sidecar, shop: Workshop
) -> None:
    """More builds from the same source, with the float layers that the first one was given. None comes
    from the cache: a build that is remembered is no new draw.
    """
    runtime = get_runtime(target.runtime)
    source = replace(
        model_source(model, target, shop.params), float_layers=first.built.float_layers
    )
    for path in paths:
        built = build_within(runtime, source, target, path, seconds=shop.params.max_seconds)
        write_sidecar(path, structs.replace(first, engine=file_digest(path), built=built))


@dataclass(frozen=True)
class Built:
    """An engine that lies at `path`, which is `file` of the payload, and what is known of it."""

    path: Path
    file: str
    sidecar: Sidecar
    parity: Parity
    machine: Machine | UnsetType = UNSET


def engine_fact(arm: Arm, model: ArmModel, name: str, target: Target, built: Built) -> EngineFact:
    """What the manifest says of an engine."""
    return EngineFact(
        arm=arm,
        target=name,
        runtime=target.runtime,
        runtime_version=built.sidecar.runtime_version,
        precision=target.precision,
        file=built.file,
        bytes=built.path.stat().st_size,
        bundle=model.bundle.digest,
        weights=model.bundle.manifest.payload[WEIGHTS],
        inputs=tuple(model.loaded.task.input_names),
        parity=built.parity,
        cost=model.cost,
        built=UNSET if built.sidecar.built == BuildFact() else built.sidecar.built,
        machine=built.machine,
    )


def made(path: Path, model: ArmModel, target: Target, runtime: Runtime, shop: Workshop) -> Sidecar:
    """Writes the engine and its sidecar: from the cache, where the same was built before and the target's
    device does not build its own.
    """
    caching = shop.params.cache and not target.rebuilt
    source = source_digest(target, runtime, shop)
    key = digest_of(
        [model.bundle.digest, source, runtime.version(), runtime.binding(target)]
    ).removeprefix("sha256:")
    cached = work_root() / "engines" / key[:32] / path.name
    if caching and _usable(cached, runtime, target):
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
        source=source,
        built=built,
    )
    write_sidecar(path, sidecar)
    if caching:
        _keep(path, cached)
    return sidecar


def source_digest(target: Target, runtime: Runtime, shop: Workshop) -> str:
    """Over all that an engine is built with besides its bundle (Sidecar.source): our own code's revision
    and what exports and converts here included. What an environment of Target.python holds is not: it
    stands in the engine's details, which must be equal for all arms (EQUAL_DETAILS).
    """
    knobs = structs.replace(shop.params, parity_examples=1, max_seconds=1.0, cache=True)
    code = [__version__, runtime.capabilities.revision]
    tools = _tools(("torch", *runtime.capabilities.converter))
    return digest_of([_essence(target, runtime), shop.examples, knobs, code, tools])


def model_source(model: ArmModel, target: Target, params: BuildParams) -> Source:
    """What an engine of that arm is built from. Raises as source_of does."""
    from reprune.measure.source import source_of

    return source_of(
        model.loaded.module,
        model.loaded.task,
        target,
        examples=params.calibration_examples,
        surgery=model.bundle.manifest.surgery,
    )


def _build(
    path: Path, model: ArmModel, target: Target, runtime: Runtime, shop: Workshop
) -> BuildFact:
    from reprune.measure.precision import with_float_layers

    source = model_source(model, target, shop.params)
    built = with_float_layers(runtime, source, target, model.loaded.task, shop.params, path)
    zeros = sparsity_words(source.sparsity, target.runtime, runtime.capabilities, built)
    return structs.replace(built, notes=(*built.notes, zeros)) if zeros else built


def _tools(names: Iterable[str]) -> dict[str, str]:
    """The installed version of each package; "" for one that is not there."""
    found = dict.fromkeys(sorted(names), "")
    for name in found:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _essence(target: Target, runtime: Runtime) -> Target:
    """The target less what does not change its engine."""
    can = runtime.capabilities
    plain = structs.replace(target, **RUN_ONLY)
    if can.fixed_threads:
        plain = structs.replace(plain, threads=target.threads)
    return structs.replace(plain, **ANY_BATCH) if can.dynamic_batch else plain


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
