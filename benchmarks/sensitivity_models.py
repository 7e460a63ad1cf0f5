"""The models of `benchmarks.sensitivity_cost`: dense by seed, seen from one device, recovered from a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import nn

from reprune.compress.planning.costs import cost_model
from reprune.compress.sensitivity.measure import Subject
from reprune.compress.structure.groups import Group
from reprune.compress.structured import cut
from reprune.compress.training.recover import Lesson, recover
from reprune.core.params import DistillParams, PruneParams
from reprune.measure.profile import count_cost
from reprune.task.protocol import Batch, Split, Task

if TYPE_CHECKING:
    from benchmarks.sst2 import Sst2Task

CALIBRATION = 1000
RESNET_DENSE = DistillParams(
    epochs=2, learning_rate=0.01, warmup_epochs=0.0, weight=0.0, precision="bf16"
)
RESNET_RECOVERY = DistillParams(
    epochs=2,
    learning_rate=0.03,
    warmup_epochs=0.5,
    weight=0.9,
    temperature=4.0,
    features=1.0,
    precision="bf16",
)


@dataclass(frozen=True, kw_only=True)
class Benched:
    """`recovered(widths, params)` is the test accuracy, in %, after the cut and recovery."""

    subject: Subject
    recovered: Callable[[Mapping[str, int], PruneParams], float]


class On:
    """A task whose batches lie on `device`."""

    def __init__(self, task: Any, device: str) -> None:
        self._task, self._device = task, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batches(self, split: Split, **order: Any) -> Iterator[Batch]:
        for batch in self._task.batches(split, **order):
            yield replace(
                batch,
                inputs=tuple(tensor.to(self._device) for tensor in batch.inputs),
                targets=batch.targets.to(self._device),
            )


def prepared(model: str, seed: int, given: Any, work: Path, *, reference: int) -> Benched:
    """The seed's dense model, trained once and kept in `work`."""
    if model == "resnet20":
        return _resnet20(seed, given, work, reference)
    return _minilm(seed, given, work)


def quiet(_: str) -> None:
    """Rows are printed; progress is not."""


def _subject(task: Any, module: nn.Module, groups: tuple[Group, ...], device: str) -> Subject:
    """Costs are counted on the CPU, where example inputs lie; the rest happens on the device."""
    counted = count_cost(module, task.example_inputs(1))
    placed: Task = On(task, device)  # type: ignore[assignment]  # a task but for its type
    return Subject(
        task=placed,
        module=module.to(device),
        groups=groups,
        cost=cost_model(module, groups, counted),
    )


def _resnet20(seed: int, given: Any, work: Path, reference: int) -> Benched:
    from benchmarks.cifar import CifarTask, accuracy, load
    from benchmarks.cifar_models import ResNet20
    from benchmarks.resnet20_jobs import pretrained
    from reprune.compress.structure.groups import find_groups

    images = load()
    sizes: dict[str, Any] = {
        "tune": 2 * reference,
        "calibration": CALIBRATION,
        "examples": 6400 if given.quick else None,
        "features": ("layer1", "layer2", "layer3"),
    }
    here = CifarTask(images, ResNet20, **sizes, batch_size=100)
    there = CifarTask(images, ResNet20, **sizes, device=given.device)

    def train(
        student: nn.Module, teacher: nn.Module, params: DistillParams, name: str
    ) -> nn.Module:
        lesson = Lesson(
            task=there, student=student, teacher=teacher, teacher_digest=f"dense-{seed}"
        )
        return recover(lesson, params, seed=seed, work=work / name, say=quiet).module.cpu()

    dense = _kept(
        work / f"resnet20-{seed}-{2 * reference}-{'quick' if given.quick else 'whole'}.safetensors",
        ResNet20(),
        lambda: train(pretrained(), pretrained(), RESNET_DENSE, f"dense-resnet20-{seed}"),
    )
    groups = find_groups(dense, here.example_inputs(2), ())

    def recovered(widths: Mapping[str, int], params: PruneParams) -> float:
        dense.cpu()
        student = cut(here, dense, groups, widths, params, seed, quiet).module
        name = f"resnet20-{seed}-{'-'.join(str(width) for width in widths.values())}"
        module = train(student, dense, RESNET_RECOVERY, name)
        return accuracy(there, module.to(given.device), "eval")[0]

    return Benched(subject=_subject(here, dense, groups, given.device), recovered=recovered)


def fine_tuned_minilm(seed: int, given: Any, work: Path) -> tuple[Sst2Task, nn.Module]:
    """The task and the seed's dense model, fine-tuned once and kept in `work`."""
    from benchmarks.minilm.training import fine_tuned
    from benchmarks.sst2 import Sst2Task, read_prepared

    task = Sst2Task(read_prepared(given.minilm))
    dense = _kept(
        work / f"minilm-{seed}.safetensors",
        task.model(),
        lambda: fine_tuned(task, task.pretrained(seed), epochs=2, seed=seed, device=given.device),
    )
    return task, dense


def _minilm(seed: int, given: Any, work: Path) -> Benched:
    from benchmarks.minilm.plans import cuttable
    from benchmarks.minilm.recovery import recovered as recover_minilm
    from benchmarks.sst2 import Sst2Task, accuracy, module_answers, read_prepared

    task, dense = fine_tuned_minilm(seed, given, work)
    small = Sst2Task(read_prepared(given.minilm), batch_size=8)
    groups = cuttable(task, dense).groups

    def recovered(widths: Mapping[str, int], params: PruneParams) -> float:
        dense.cpu()
        student = cut(task, dense, groups, widths, params, seed, quiet).module
        name = f"minilm-{seed}-{'-'.join(str(width) for width in widths.values())}"
        found = recover_minilm(
            task, student, dense, seed=seed, device=given.device, work=work / name
        )
        module = found.module.to(given.device)
        answers = module_answers(module, given.device)
        return accuracy(answers, task.batches("eval", epoch=0, seed=0))

    return Benched(subject=_subject(small, dense, groups, given.device), recovered=recovered)


def _kept(path: Path, module: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The module with the weights at `path`, made and stored there first where there are none."""
    if not path.exists():
        made = make().cpu()
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".part")
        save_file({name: t.contiguous() for name, t in made.state_dict().items()}, scratch)
        scratch.replace(path)
    module.load_state_dict(load_file(path))
    return module.eval()
