"""The arms of the LeNet benchmark by name, and what is measured of each: one job of one process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.common import data
from benchmarks.lenet.task import DENSE_BYTES, LeNet, held_out_accuracy
from benchmarks.lenet.training import (
    Recipe,
    Setting,
    dense,
    few_values,
    folded,
    ours_gradual,
    ours_once,
    stock_gradual,
    stock_once,
)
from reprune.runtimes.compact import (
    Coding,
    cluster,
    encode,
    linear_levels,
    quantised,
    recoded,
    snapped,
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """`sparsity` 0 is the dense model. Training after dense takes `epochs`."""

    name: str
    kind: Literal["dense", "stock", "ours"]
    sparsity: float = 0.0
    shifts: bool = False
    epochs: int = 15


def _arms() -> dict[str, Arm]:
    arms = [Arm(name="dense", kind="dense"), Arm(name="dense_shifts", kind="dense", shifts=True)]
    amounts_of = {
        "stock": ((0.98, 0.99), (0.98, 0.99)),
        "ours": ((0.95, 0.97, 0.98, 0.99, 0.995), (0.98, 0.99, 0.993, 0.995)),
    }
    for kind, (plain, moved) in amounts_of.items():
        arms.append(Arm(name=f"{kind}_90", kind=kind, sparsity=0.9, epochs=5))
        for shifts, amounts in ((False, plain), (True, moved)):
            for amount in amounts:
                name = f"{kind}_{100 * amount:g}" + ("_shifts" if shifts else "")
                arms.append(Arm(name=name, kind=kind, sparsity=amount, shifts=shifts))
    return {arm.name: arm for arm in arms}


ARMS = _arms()
QUICK = ("dense", "dense_shifts", "stock_90", "ours_90", "stock_98", "ours_98", "ours_99_shifts")

# Chosen on the held-out images, as every knob of training.Recipe.
BITS = {"weight": 3, "bias": 4}
FEW_VALUES = Recipe(epochs=5, gradual=0.0, rate=1e-3)
# Files of models that were not trained on few values.
PLAIN_BITS = {"weight": 5, "bias": 7}


@dataclass(frozen=True, kw_only=True)
class Job:
    """An arm of one seed. Models and files lie in `folder`; `held_out` scores on the held-out images
    and does not open the test images.
    """

    arm: Arm
    seed: int
    folder: Path
    held_out: bool

    @property
    def setting(self) -> Setting:
        return Setting(seed=self.seed, shifts=self.arm.shifts, held_out=self.held_out)

    def path(self, name: str) -> Path:
        return self.folder / f"{self.seed}-{name}"


def run(job: Job) -> dict[str, Any]:
    """Trains the arm, from the dense model of its seed that an earlier job left, and measures it."""
    torch.set_num_threads(1)
    began = time.monotonic()
    module = _trained(job)
    row: dict[str, Any] = {
        "arm": job.arm.name,
        "seed": job.seed,
        "sparsity": job.arm.sparsity,
        "shifts": job.arm.shifts,
        "epochs_after_dense": 0 if job.arm.kind == "dense" else job.arm.epochs,
        "weights_left": sum(int((p != 0).sum()) for p in module.parameters() if p.dim() > 1),
        "accuracy": _accuracy(module, job),
    }
    if job.arm.kind == "ours":
        row["files"] = _files(module, job)
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def _trained(job: Job) -> LeNet:
    arm, setting = job.arm, job.setting
    start = job.path("dense_shifts" if arm.shifts else "dense")
    if arm.kind == "dense":
        module = dense(setting)
        save_file(module.state_dict(), start)
        return module
    module = LeNet()
    module.load_state_dict(load_file(start))
    if arm.kind == "stock":
        train = stock_gradual if arm.epochs == 15 else stock_once
    else:
        train = ours_gradual if arm.epochs == 15 else ours_once
    return train(module, arm.sparsity, setting)


def _files(module: LeNet, job: Job) -> dict[str, dict[str, float]]:
    """The model as real files: as trained, and, where it was trained with shifts, on few values too."""
    tensors = {
        name: _plain(parameter.detach().numpy())
        for name, parameter in folded(module).named_parameters()
    }
    found = {"plain": _file(tensors, "dense-entropy", job, "plain")}
    if job.arm.shifts:
        names = [name for name, _ in module.named_parameters()]
        bits = {name: BITS[name.rpartition(".")[2]] for name in names}
        small = few_values(module, job.setting, bits, FEW_VALUES)
        tensors = {name: recoded(p.detach().numpy()) for name, p in small.named_parameters()}
        found["small"] = _file(tensors, "dense-entropy", job, "small")
        found["mcu"] = _file(tensors, "mcu", job, "mcu")
    return found


def _plain(values: np.ndarray[Any, Any]) -> Any:
    kept = values[values != 0]
    if values.ndim > 1:
        return quantised(values, snapped(cluster(kept, 1 << PLAIN_BITS["weight"])))
    half = (1 << (PLAIN_BITS["bias"] - 1)) - 1
    return quantised(values, linear_levels(half, float(np.abs(values).max(initial=1e-6)) / half))


def _file(tensors: Mapping[str, Any], coding: Coding, job: Job, name: str) -> dict[str, float]:
    """Writes the file; its size on disk, and its accuracy as a fresh process decodes it."""
    path = job.path(f"{job.arm.name}.{name}.rpc")
    path.write_bytes(encode(tensors, coding=coding))
    command = [sys.executable, "-m", "benchmarks.lenet.read", str(path)]
    done = subprocess.run(
        command + (["--held-out"] if job.held_out else []),
        capture_output=True,
        text=True,
        check=True,
    )
    size = path.stat().st_size
    return {
        "bytes": size,
        "percent": 100.0 * size / DENSE_BYTES,
        "accuracy": json.loads(done.stdout)["accuracy"],
    }


def _accuracy(module: nn.Module, job: Job) -> float:
    if job.held_out:
        return held_out_accuracy(module)
    with np.load(data("mnist.npz")) as found:
        images, labels = found["test_x"].reshape(-1, 784), torch.from_numpy(found["test_y"])
    with torch.no_grad():
        answers = module(torch.from_numpy(images).float() / 255).argmax(1)
    return 100.0 * float((answers == labels).float().mean())
