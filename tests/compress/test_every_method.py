"""After every method: a bundle, the same bits when it is opened again, and an engine that agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reprune.compress.bundle import load_bundle, save_bundle, stored_tensors
from reprune.compress.ladder import prune_channels
from reprune.compress.masks.growth import MaskCourse, grow_masks
from reprune.compress.masks.masked import mask_model
from reprune.compress.masks.planning import plan_masks
from reprune.compress.stages import Course
from reprune.compress.structure.architecture import Architecture
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.groups import survey
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.recover import recover
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Surgery, TaskFact
from reprune.core.params import (
    DistillParams,
    LadderParams,
    PlanParams,
    PruneParams,
    ScheduleParams,
    SparseLearningParams,
    Target,
)
from reprune.core.store import Artifact
from reprune.runtimes.base import Source, get_runtime
from reprune.task.load import task_digest
from tests.architectures import Spec, SpecTask, build, inputs
from tests.compress.test_blocks import exported, quiet
from tests.compress.test_generated import same_bits

IMAGES = Spec("pooled", (("residual-b", 4), ("separable", 4), ("normed", 6)))
PATCHES = Spec("vit", (("encoder", 4), ("encoder", 3)))
SHORT = DistillParams(epochs=1, learning_rate=0.01)
STAGES = ScheduleParams(kind="cubic", steps=2, epochs=1.0)
PACKAGE = """
from tests.architectures import Spec, SpecTask


class Task(SpecTask):
    def __init__(self):
        super().__init__({spec!r})
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a method leaves, as a bundle holds it."""

    module: nn.Module
    architecture: Architecture | None = None
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    surgery: Surgery | None = None


Method = Callable[[Path], Made]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def course(
    spec: Spec, *, blocks: bool = False, distill: DistillParams = SHORT, **knobs: Any
) -> Course:
    """Half of everything, head dimensions too; with `blocks` also the last that can go."""
    module = build(spec)
    groups = survey(module, inputs(spec, 2), (), dimensions=True).groups
    return Course(
        task=SpecTask(spec),
        module=module,
        teacher=module,
        digest="sha256:dense",
        groups=groups,
        regroup=lambda now: survey(now, inputs(spec, 2), (), dimensions=True).groups,
        widths={group.name: max(1, group.width // 2) for group in groups},
        blocks=find_blocks(module, inputs(spec, 2), ()).blocks[-1:] if blocks else (),
        prune=PruneParams(examples=24, **knobs),
        distill=distill,
        seed=0,
        say=quiet,
    )


def sliced(spec: Spec, **knobs: Any) -> Method:
    def make(work: Path) -> Made:
        done = prune_channels(course(spec, **knobs), work)
        return Made(module=done.module, architecture=done.architecture, surgery=done.surgery)

    return make


def masked(spec: Spec, plan: PlanParams, **knobs: Any) -> Method:
    def make(work: Path) -> Made:
        task, module, prune = SpecTask(spec), build(spec), PruneParams(examples=24, **knobs)
        sparsity = plan_masks(task, module, plan, prune, (), 0).sparsity
        if prune.schedule.kind == "one-shot":
            done = mask_model(task, module, sparsity, prune, seed=0, say=quiet)
        else:
            growing = MaskCourse(
                task=task,
                module=module,
                digest="sha256:dense",
                plan=sparsity,
                prune=prune,
                distill=SHORT,
                seed=0,
                say=quiet,
            )
            done = grow_masks(growing, work)
        return Made(module=done.module, masks=done.masks, surgery=done.surgery)

    return make


def recovered(spec: Spec, **knobs: Any) -> Method:
    """Cut at once, then an epoch of distillation."""

    def make(work: Path) -> Made:
        plan = course(spec)
        cut = prune_channels(plan, work / "cut")
        lesson = Lesson(
            task=plan.task, student=cut.module, teacher=plan.teacher, teacher_digest=plan.digest
        )
        params = msgspec.structs.replace(SHORT, **knobs)
        done = recover(lesson, params, seed=0, work=work / "learn", say=quiet)
        return Made(module=done.module, architecture=cut.architecture, surgery=cut.surgery)

    return make


WEIGHTS = PlanParams(method="weights", sparsity=0.5)
PATTERN = PlanParams(method="n:m", pattern="2:4")
METHODS: dict[str, tuple[Spec, Method]] = {
    "channels": (IMAGES, sliced(IMAGES)),
    "heads-and-dimensions": (PATCHES, sliced(PATCHES)),
    "blocks": (PATCHES, sliced(PATCHES, blocks=True)),
    "stages": (IMAGES, sliced(IMAGES, schedule=STAGES)),
    "stages-of-dimensions": (PATCHES, sliced(PATCHES, schedule=STAGES, blocks=True)),
    "sparse-learning": (
        IMAGES,
        sliced(IMAGES, sparse_learning=SparseLearningParams(method="group-norm", epochs=1)),
    ),
    "ladder": (
        IMAGES,
        sliced(
            IMAGES,
            ladder=LadderParams(fractions=(0.5,), epochs=1),
            distill=msgspec.structs.replace(SHORT, bar_ratio=1e-3),
        ),
    ),
    "distilled": (IMAGES, recovered(IMAGES)),
    "quantisation-aware": (IMAGES, recovered(IMAGES, quantize="int8")),
    "weights": (IMAGES, masked(IMAGES, WEIGHTS)),
    "2:4": (PATCHES, masked(PATCHES, PATTERN)),
    "2:4-refitted": (PATCHES, masked(PATCHES, PATTERN, criterion="sparsegpt")),
    "weights-grown": (IMAGES, masked(IMAGES, WEIGHTS, schedule=STAGES)),
}


def dense_bundle(spec: Spec, out: Path) -> Artifact[ModelBundle]:
    """The generated network as fetch leaves a model, its task in a package beside it."""
    entry = "generated:Task"
    with store.drafting(out) as draft:
        package = draft / "task" / "generated"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(PACKAGE.format(spec=spec))
        save_file(stored_tensors(build(spec)), draft / "weights.safetensors")
        digest = task_digest(entry, draft / "task")
        manifest = ModelBundle(
            name="generated",
            dense_version="1",
            task=TaskFact(entry=entry, digest=digest, data_version="1"),
        )
        return store.write(draft, manifest, step="fetch-dense", parents={}, out=out)


def bundled(made: Made, dense: Artifact[ModelBundle], out: Path) -> Artifact[ModelBundle]:
    with store.drafting(out) as draft:
        save_bundle(draft, made.module, made.architecture, dense, made.masks)
        manifest = msgspec.structs.replace(dense.manifest, surgery=made.surgery)
        parents = {"dense": dense.digest}
        return store.write(draft, manifest, step="prune", parents=parents, out=out)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_leaves_is_stored_opened_again_and_run(method: str, tmp_path: Path) -> None:
    """Another model than the dense one, bit-equal from its bundle, and in ONNX Runtime as in torch."""
    spec, make = METHODS[method]
    dense = dense_bundle(spec, tmp_path / "dense")
    made = make(tmp_path / "work")
    assert not same_bits(made.module, build(spec))
    opened = load_bundle(bundled(made, dense, tmp_path / "made"))
    assert same_bits(opened.module, made.module)
    assert (opened.architecture or Architecture()) == (made.architecture or Architecture())
    assert opened.masks.keys() == made.masks.keys()
    assert all(torch.equal(mask, made.masks[name]) for name, mask in opened.masks.items())
    given = inputs(spec, 3, seed=5)
    with torch.no_grad():
        expected = made.module(*given)
        assert torch.equal(opened.module(*given), expected)
    assert expected.std() > 0.01
    assert exported(opened.module, given, tmp_path) < 1e-4


@pytest.mark.slow
def test_integers_run_after_a_cut_and_recovery_for_them(tmp_path: Path) -> None:
    """The engine computes in integers, and what it says is the module's own answer but for rounding."""
    made = recovered(IMAGES, quantize="int8")(tmp_path / "work")
    task = SpecTask(IMAGES, examples=64)
    calibration = [one.inputs for one in task.batches("calibration", epoch=0, seed=0)]
    source = Source(
        module=made.module,
        example_inputs=inputs(IMAGES, 2),
        input_names=("given",),
        calibration=calibration,
    )
    runtime, target = get_runtime("onnxruntime"), Target(precision="int8")
    path = tmp_path / f"int8{runtime.suffix}"
    runtime.build(source, target, path)
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    (given,) = inputs(IMAGES, 32, seed=5)
    with torch.no_grad():
        expected = made.module(given).numpy()
    (found,) = runtime.open(path, target).run((given.numpy(),))
    assert np.abs(found - expected).max() < 0.1 * expected.std()
    assert np.abs(found - expected).max() > 0
