"""The training jobs of `benchmarks.mobilenetv2_cifar10`: a dense model a seed, its cuts one after another,
and the control that trains as long without a cut.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.cifar import CifarTask, accuracy, load
from benchmarks.cifar_models import MobileNetV2
from benchmarks.jobs import Job, work_folder
from reprune.compress.importance import channel_scores
from reprune.compress.planning.allocate import Problem, allocate, ladder
from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.architecture import apply, read_architecture, write_architecture
from reprune.compress.structure.groups import Group, find_groups
from reprune.compress.structured import cut
from reprune.compress.training.recover import Lesson, recover
from reprune.core.params import DistillParams, PruneParams
from reprune.measure.profile import count_cost

CONFIG = Path(__file__).parent / "configs" / "mobilenetv2.json"
ARMS = ("pruned", "control")
SIZES = ("width", "tune", "calibration", "batch_size")
DENSE_KNOBS = (*SIZES, "dense")
KNOBS = (*DENSE_KNOBS, "recipe", "cut", "round_to", "min_keep")


def read_config(path: Path = CONFIG) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def jobs_of(
    config: Mapping[str, Any], *, device: str, judge: str, examples: int | None
) -> list[Job]:
    """Every job: the dense models first, then both arms stage by stage, seed by seed."""
    shared = {"device": device, "judge": judge, "examples": examples}
    dense = {**shared, "config": _read_by(config, DENSE_KNOBS), "arm": "dense", "stage": 0}
    found = [
        Job(name=f"dense-{seed}", given={**dense, "seed": seed}) for seed in range(config["seeds"])
    ]
    for seed in range(config["seeds"]):
        for stage in range(1, len(config["fractions"]) + 1):
            # Each stage goes on from those before it.
            own = _read_by(config, KNOBS) | {"fractions": config["fractions"][:stage]}
            for arm in ARMS:
                given = {**shared, "config": own, "arm": arm, "stage": stage, "seed": seed}
                name, before = f"{arm}-{stage}-{seed}", before_it(arm, stage, seed)
                found.append(Job(name=name, given=given, needs=(before,)))
    return found


def _read_by(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What a job reads of the configuration."""
    return {name: config[name] for name in names}


def before_it(arm: str, stage: int, seed: int) -> str:
    """The job whose model this stage goes on with."""
    return f"{arm}-{stage - 1}-{seed}" if stage > 1 else f"dense-{seed}"


def work(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One training: the dense model from scratch, or one stage of an arm; leaves weights and shapes."""
    began = time.monotonic()
    seed, arm, stage, config = given["seed"], given["arm"], given["stage"], given["config"]
    torch.manual_seed(seed)
    sizes = json.dumps(_read_by(config, SIZES))
    here, there = _tasks(given["device"], sizes, given["examples"])
    if arm == "dense":
        name, student = f"dense-{seed}", here.model()
        teacher, params = student, DistillParams(**config["dense"])
    else:
        name = f"{arm}-{stage}-{seed}"
        teacher, params = (
            rebuilt(config, "dense", 0, seed, folder),
            DistillParams(**config["recipe"]),
        )
        student = rebuilt(config, arm, stage - 1, seed, folder)
        if arm == "pruned":
            limit = (
                config["fractions"][stage - 1]
                * count_cost(teacher, here.example_inputs(1)).cost.macs
            )
            student = cut_to(
                student, limit, here, config, seed, folder / f"{name}.architecture.json"
            )
    cut_seconds = time.monotonic() - began
    recovered = recover(
        Lesson(
            task=there,
            student=student.to(memory_format=torch.channels_last),
            teacher=teacher.to(memory_format=torch.channels_last),
            teacher_digest=f"dense-{seed}",
        ),
        params,
        # Another order of the data in every stage, the same for both arms.
        seed=seed * 100 + stage,
        work=work_folder(folder, name),
        say=_quiet,
    )
    module = recovered.module
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, folder / f"{name}.safetensors"
    )
    cost = count_cost(module, here.example_inputs(1)).cost
    module = module.to(given["device"])
    found = accuracy(there, module, given["judge"])
    return {
        "arm": arm,
        "stage": stage,
        "seed": seed,
        "accuracy": found[0],
        "judged_on": given["judge"],
        "judged_examples": found[1],
        "tune_accuracy": accuracy(there, module, "tune")[0],
        "macs": cost.macs,
        "params": cost.params,
        "examples": recovered.recovery.examples,
        "best_epoch": recovered.recovery.best_epoch,
        "cut_seconds": round(cut_seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
        "device": given["device"],
        "note": f"{found[0]:.2f} % on {given['judge']}, {cost.macs / 1e6:.2f} M, cut {cut_seconds:.0f} s",
    }


def cut_to(
    student: nn.Module,
    limit: float,
    task: CifarTask,
    config: Mapping[str, Any],
    seed: int,
    path: Path,
) -> nn.Module:
    """The student with at most `limit` MACs, where its own gradients say that it hurts least; what was
    kept is written to `path`.
    """
    params = PruneParams(**config["cut"])
    groups = find_groups(student, task.example_inputs(2), ())
    widths = least_hurtful(student, groups, limit, task, params, seed, config)
    result = cut(task, student, groups, widths, params, seed, _quiet)
    write_architecture(path, result.architecture)
    return result.module


def least_hurtful(  # noqa: PLR0913, PLR0917  as cut_to
    student: nn.Module,
    groups: Sequence[Group],
    limit: float,
    task: CifarTask,
    params: PruneParams,
    seed: int,
    config: Mapping[str, Any],
) -> dict[str, int]:
    """Widths for at most `limit` MACs: the product's allocator, with the Taylor scores of what goes as the
    predicted rise in loss.
    """
    scores = channel_scores(task, student, groups, params, seed)
    rungs = {
        group.name: ladder(group.width, round_to=config["round_to"], min_keep=config["min_keep"])
        for group in groups
    }
    rises = {}
    for group in groups:
        lost = [0.0, *accumulate(sorted(scores[group.name].tolist()))]
        rises[group.name] = tuple(lost[group.width - keep] for keep in rungs[group.name])
    cost = cost_model(student, groups, count_cost(student, task.example_inputs(1)))
    problem = Problem(
        rungs=rungs, rises=rises, cost=lambda widths: float(cost(widths).macs), limit=limit
    )
    return allocate("sensitivity", problem)


def rebuilt(config: Mapping[str, Any], arm: str, stage: int, seed: int, folder: Path) -> nn.Module:
    """The model that a job left: the factory's, cut as all stages before said, with its weights."""
    name = f"{arm}-{stage}-{seed}" if stage else f"dense-{seed}"
    module = shaped(config, arm, stage, seed, folder)
    module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return module.eval()


def shaped(config: Mapping[str, Any], arm: str, stage: int, seed: int, folder: Path) -> nn.Module:
    """The architecture of that model, with weights of no meaning."""
    module: nn.Module = MobileNetV2(config["width"])
    for earlier in range(1, stage + 1) if arm == "pruned" else ():
        path = folder / f"pruned-{earlier}-{seed}.architecture.json"
        module = apply(module, read_architecture(path))
    return module.eval()


@functools.cache
def _tasks(device: str, wanted: str, examples: int | None) -> tuple[CifarTask, CifarTask]:
    """The task on the CPU, where models are cut, and on the device, where they learn; once a process."""
    given = json.loads(wanted)
    images = load()
    sizes = {
        "tune": given["tune"],
        "calibration": given["calibration"],
        "batch_size": given["batch_size"],
        "examples": examples,
    }

    def build() -> nn.Module:
        return MobileNetV2(given["width"])

    here = CifarTask(images, build, **sizes)
    return here, here if device == "cpu" else CifarTask(images, build, device=device, **sizes)


def _quiet(_: str) -> None:
    """Progress is the job's own line."""
