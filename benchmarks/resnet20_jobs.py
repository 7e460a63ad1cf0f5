"""The training jobs of `benchmarks.resnet20_cifar10`: one dense model a seed, and every arm from it."""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.cifar import WEIGHTS, CifarTask, accuracy, load
from benchmarks.cifar_models import ResNet20
from benchmarks.common import data
from benchmarks.jobs import Job, work_folder
from benchmarks.stock import stock_resnet20, widths_of
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.groups import find_groups
from reprune.compress.structured import cut
from reprune.compress.training.recover import Lesson, recover
from reprune.core.params import DistillParams, PruneParams
from reprune.measure.profile import count_cost

CONFIG = Path(__file__).parent / "configs" / "resnet20_plans.json"
DENSE_KNOBS = ("tune", "calibration", "dense")
KNOBS = (*DENSE_KNOBS, "recipe", "cut")
# Arms of the product: their points are widths.
WIDTHS_GIVEN = ("ours", "macs")


def read_config(path: Path = CONFIG) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def jobs_of(
    config: Mapping[str, Any], *, device: str, judge: str, examples: int | None
) -> list[Job]:
    """Every job, seed by seed, so that a run that is cut off leaves whole seeds; in each seed the points
    named `first` come first.
    """
    shared = {"device": device, "judge": judge, "examples": examples}
    found = []
    for seed in range(config["seeds"]):
        dense = f"dense-{seed}"
        given = {**shared, "config": _read_by(config, DENSE_KNOBS), "arm": "dense", "seed": seed}
        found.append(Job(name=dense, given=given))
        for arm, point in _in_order(config):
            own = _read_by(config, KNOBS) | {"points": {arm: {point: config["points"][arm][point]}}}
            given = {**shared, "config": own, "arm": arm, "point": point, "seed": seed}
            found.append(Job(name=f"{arm}-{point}-{seed}", given=given, needs=(dense,)))
    return found


def _read_by(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What a job reads of the configuration; others' points and the number of seeds it does not."""
    return {name: config[name] for name in names}


def name_of(row: Mapping[str, Any]) -> str:
    """The name of the job that left `row`."""
    point = "" if row["arm"] == "dense" else f"{row['point']}-"
    return f"{row['arm']}-{point}{row['seed']}"


def _in_order(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [(arm, point) for arm, points in config["points"].items() for point in points]
    first = set(config["first"])
    return sorted(pairs, key=lambda pair: not (pair[0] == "ours" and pair[1] in first))


def work(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One job: cut, recover, evaluate; leaves the weights beside the JSON."""
    began = time.monotonic()
    seed, arm, config = given["seed"], given["arm"], given["config"]
    torch.manual_seed(seed)
    here, there = _tasks(given["device"], config["tune"], config["calibration"], given["examples"])
    if arm == "dense":
        dense = pretrained()
        student, params = dense, DistillParams(**config["dense"])
        name = f"dense-{seed}"
    else:
        dense = ResNet20()
        dense.load_state_dict(load_file(folder / f"dense-{seed}.safetensors"))
        student = cut_arm(dense.eval(), arm, given["point"], here, config, seed)
        params = DistillParams(**config["recipe"])
        name = f"{arm}-{given['point']}-{seed}"
    cut_seconds = time.monotonic() - began
    device = given["device"]
    before = accuracy(there, copy.deepcopy(student).to(device), "tune")[0]
    recovered = learnt(there, student, dense, params, name, folder, seed)
    module = recovered.module
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, folder / f"{name}.safetensors"
    )
    cost = count_cost(module, here.example_inputs(1)).cost
    module = module.to(device)
    found = accuracy(there, module, given["judge"])
    return {
        "arm": arm,
        "point": given.get("point", "dense"),
        "seed": seed,
        "widths": list(widths_of(module)),
        "accuracy": found[0],
        "judged_on": given["judge"],
        "judged_examples": found[1],
        "tune_accuracy": accuracy(there, module, "tune")[0],
        "tune_accuracy_before": before,
        "macs": cost.macs,
        "params": cost.params,
        "examples": recovered.recovery.examples,
        "best_epoch": recovered.recovery.best_epoch,
        "cut_seconds": round(cut_seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
        "device": given["device"],
        "note": f"{found[0]:.2f} % on {given['judge']}, cut {cut_seconds:.0f} s",
    }


def learnt(  # noqa: PLR0913, PLR0917  who learns from whom, where, how
    task: CifarTask,
    student: nn.Module,
    teacher: nn.Module,
    params: DistillParams,
    name: str,
    folder: Path,
    seed: int,
) -> Any:
    """The product's own recovery. Both models lie channels-last, as the batches do."""
    lesson = Lesson(
        task=task,
        student=student.to(memory_format=torch.channels_last),
        teacher=teacher.to(memory_format=torch.channels_last),
        teacher_digest=f"dense-{seed}",
    )
    return recover(lesson, params, seed=seed, work=work_folder(folder, name), say=_quiet)


def cut_arm(
    dense: ResNet20, arm: str, point: str, task: CifarTask, config: Mapping[str, Any], seed: int
) -> nn.Module:
    asked = config["points"][arm][point]
    if arm in WIDTHS_GIVEN:
        return our_resnet20(dense, asked, task, PruneParams(**config["cut"]), seed)
    return stock_resnet20(dense, arm, asked, task, examples=config["cut"]["examples"], seed=seed)


def our_resnet20(
    dense: ResNet20, widths: list[int], task: CifarTask, params: PruneParams, seed: int
) -> nn.Module:
    """`dense` cut to `widths`, 0 for a block that goes; slicing is proven to be masking on the way."""
    names = [f"layer{i // 3 + 1}.{i % 3}" for i in range(len(widths))]
    example = task.example_inputs(2)
    gone = [name for name, width in zip(names, widths, strict=True) if not width]
    blocks = [block for block in find_blocks(dense, example, ()).blocks if block.name in gone]
    wanted = {f"{name}.conv1": width for name, width in zip(names, widths, strict=True) if width}
    groups = find_groups(dense, example, ())
    return cut(task, dense, groups, wanted, params, seed, _quiet, blocks=blocks).module


def pretrained() -> ResNet20:
    """The public weights (see the data's README); 81.03 % on the JPEG copy as they are."""
    module = ResNet20()
    module.load_state_dict(load_file(data(WEIGHTS)))
    return module.eval()


@functools.cache
def _tasks(
    device: str, tune: int, calibration: int, examples: int | None
) -> tuple[CifarTask, CifarTask]:
    """The task on the CPU, where models are cut, and on the device, where they learn; once a process."""
    images = load()
    sizes: dict[str, Any] = {"tune": tune, "calibration": calibration, "examples": examples}
    sizes["features"] = ("layer1", "layer2", "layer3")
    here = CifarTask(images, ResNet20, **sizes)
    return here, here if device == "cpu" else CifarTask(images, ResNet20, device=device, **sizes)


def _quiet(_: str) -> None:
    """Progress is the job's own line."""
