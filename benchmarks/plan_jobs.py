"""The jobs of `benchmarks.plan_curves`: the dense models, and every point, which all recover alike."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.cifar import CifarTask, accuracy, load
from benchmarks.jobs import Job, work_folder
from benchmarks.plan_arms import MODELS, PLANNED_BY, SIZES, Seed, name_of, points, read_by
from benchmarks.weekly.task import WEEK
from reprune.compress.training.recover import Lesson, recover
from reprune.core.params import DistillParams
from reprune.measure.profile import count_cost


def job_name(row: Mapping[str, Any]) -> str:
    """The name of the job that left `row`."""
    if row["arm"] == "dense":
        return f"dense-{row['seed']}"
    return name_of(row["arm"], row["share"], row["seed"])


def jobs_of(config: Mapping[str, Any], *, judge: str) -> list[Job]:
    """Every training, seed by seed; of each seed the accuracy of its dense model first."""
    found = []
    read = read_by(config, (*PLANNED_BY, "dense", "recipe"))
    for seed in range(config["seeds"]):
        shared = {"config": read, "seed": seed, "judge": judge}
        found.append(Job(name=f"dense-{seed}", given={**shared, "arm": "dense", "share": 1.0}))
        for arm, share in points(config):
            given = {**shared, "arm": arm, "share": share}
            found.append(Job(name=name_of(arm, share, seed), given=given))
    return found


def work(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One job: cut, recover, evaluate. Leaves the weights beside the JSON."""
    began = time.monotonic()
    config, arm, share, seed = given["config"], given["arm"], given["share"], given["seed"]
    place = Seed(config=config, folder=folder.parent, seed=seed)
    torch.manual_seed(seed)
    module = place.dense if arm == "dense" else recovered(place, arm, share, folder)
    test = CifarTask(load(), place.model.task().model)
    found, count = accuracy(test, module, given["judge"])
    cost = count_cost(module, test.example_inputs(1)).cost
    return {
        "arm": arm,
        "share": share,
        "seed": seed,
        "accuracy": found,
        "judged_on": given["judge"],
        "judged_examples": count,
        "macs": cost.macs,
        "params": cost.params,
        "planned_latency": place.planned_latency(arm, share),
        "seconds": round(time.monotonic() - began, 1),
        "note": f"{found:.2f} % on {given['judge']}, {cost.macs / 1e6:.2f} M",
    }


def recovered(place: Seed, arm: str, share: float, folder: Path) -> nn.Module:
    """The arm's cut of the dense model after the recovery that all arms have."""
    name = name_of(arm, share, place.seed)
    student = place.pruned(arm, share)
    os.environ[WEEK] = str(place.folder / "data.npz")
    lesson = Lesson(
        task=place.model.task(),
        student=student.to(memory_format=torch.channels_last),  # type: ignore[call-overload]  # torch's stub
        teacher=place.dense.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        teacher_digest=f"dense-{place.seed}",
    )
    return _learnt(lesson, place.config["recipe"], place.seed, name, folder)


def _learnt(
    lesson: Lesson, recipe: Mapping[str, Any], seed: int, name: str, folder: Path
) -> nn.Module:
    params = DistillParams(**recipe)
    done = recover(lesson, params, seed=seed, work=work_folder(folder, name), say=_quiet)
    kept = {key: value.contiguous() for key, value in done.module.state_dict().items()}
    save_file(kept, folder / f"{name}.safetensors")
    return done.module


def dense_jobs(config: Mapping[str, Any]) -> list[Job]:
    """The training of each seed's dense model, for models that have something to begin with."""
    read = read_by(config, ("model", *SIZES, "dense"))
    return [
        Job(name=f"dense-{seed}", given={"config": read, "seed": seed})
        for seed in range(config["seeds"])
    ]


def dense_work(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One dense model, trained on from what is public; its weights are beside the JSON. The images lie in the
    folder above that of the run of jobs.
    """
    config, seed = given["config"], given["seed"]
    model = MODELS[config["model"]]
    assert model.pretrained is not None
    os.environ[WEEK] = str(folder.parents[1] / "data.npz")
    torch.manual_seed(seed)
    module = model.pretrained().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    lesson = Lesson(
        task=model.task(), student=module, teacher=module, teacher_digest=f"public-{seed}"
    )
    _learnt(lesson, config["dense"], seed, f"dense-{seed}", folder)
    return {"seed": seed, "note": "trained"}


def _quiet(_: str) -> None:
    """Progress is the job's own line."""
