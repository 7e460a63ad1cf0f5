"""Quantised engines of what `benchmarks.plan_curves` trained: built and judged on the test set, one a job."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.cifar import CifarTask, load
from benchmarks.jobs import Job
from benchmarks.plan_arms import Seed
from benchmarks.plan_jobs import job_name, jobs_of
from benchmarks.weekly.task import WEEK
from reprune.core.params import BuildParams, Precision, Target
from reprune.measure.precision import with_float_layers
from reprune.measure.source import source_of
from reprune.runtimes.base import Session, get_runtime
from reprune.task.protocol import Task

RUNTIME = "onnxruntime"


def engines_folder(folder: Path, precision: str) -> Path:
    return folder / f"engines-{precision}"


def engine_file(folder: Path, precision: str, name: str) -> Path:
    return engines_folder(folder, precision) / f"{name}{get_runtime(RUNTIME).suffix}"


def engine_jobs(config: Mapping[str, Any], precision: str, *, judge: str) -> list[Job]:
    """One engine of each training, the dense models included."""
    more = {"precision": precision, "build": config["build"]}
    return [replace(job, given={**job.given, **more}) for job in jobs_of(config, judge=judge)]


def engine_work(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Builds one trained model as the product's build step does, the layers that hurt most left in float,
    and judges the engine. Both lie in the run's folder, which is above `folder`.
    """
    began = time.monotonic()
    config, arm, share, seed = (given[key] for key in ("config", "arm", "share", "seed"))
    precision: Precision = given["precision"]
    run = folder.parent
    place = Seed(config=config, folder=run, seed=seed)
    os.environ[WEEK] = str(run / "data.npz")
    name, module = job_name(given), place.dense
    if arm != "dense":
        module = place.pruned(arm, share)
        module.load_state_dict(load_file(run / "jobs" / f"{name}.safetensors"))
    task, target = place.model.task(), Target(runtime=RUNTIME, precision=precision)
    params = BuildParams(**given["build"])
    source = source_of(module.eval(), task, target, examples=params.calibration_examples)
    runtime = get_runtime(RUNTIME)
    engine = engine_file(run, precision, name)
    built = with_float_layers(runtime, source, target, task, params, engine)
    found, count = engine_accuracy(
        runtime.open(engine, target), CifarTask(load(), place.model.task().model), given["judge"]
    )
    return {
        "arm": arm,
        "share": share,
        "seed": seed,
        "accuracy": found,
        "judged_examples": count,
        "float_layers": list(built.float_layers),
        "notes": list(built.notes),
        "seconds": round(time.monotonic() - began, 1),
        "note": f"{found:.2f} % on {given['judge']}, {len(built.float_layers)} layers in float",
    }


def engine_accuracy(session: Session, task: Task, split: Any) -> tuple[float, int]:
    """The share of `split` that an engine of a classifier answers rightly, in %, and of how many."""
    correct = seen = 0
    for batch in task.batches(split, epoch=0, seed=0):
        (scores,) = session.run([np.ascontiguousarray(one.numpy()) for one in batch.inputs])
        correct += int(task.records((torch.from_numpy(scores),), batch)["correct"].sum())
        seen += len(batch)
    return 100.0 * correct / seen, seen
