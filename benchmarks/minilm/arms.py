"""What one arm is: the model that it ends with, and what that model scores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.minilm import recovery
from benchmarks.minilm.engines import engine_answers, write_engines
from benchmarks.minilm.jobs import CONTROL, DENSE, SELF, STOCK, Setting, job_key
from benchmarks.minilm.ours import CUT, cut_to
from benchmarks.minilm.plans import read_plans
from benchmarks.minilm.stock import stock_pruned
from benchmarks.minilm.training import fine_tuned
from benchmarks.sst2 import Sst2Task, accuracy, module_answers, read_prepared

DENSE_EPOCHS, MORE_EPOCHS = 2, 1
# The control's extra epoch is another one than the dense model's first.
MORE_SEED = 1000


def recipe(plans: Path, arm: str) -> dict[str, Any]:
    """All that is chosen about an arm, as plain values."""
    if arm in (DENSE, CONTROL):
        return {"epochs": [DENSE_EPOCHS, MORE_EPOCHS]}
    learnt: dict[str, Any] = {
        "recovery": msgspec.to_builtins(recovery.RECIPE),
        "batch": recovery.BATCH,
    }
    if arm in (SELF, STOCK):
        return learnt
    points = read_plans(plans).points
    if arm not in points:
        raise SystemExit(f"{plans} has no point '{arm}'; it has {', '.join(points)}")
    return learnt | {
        "point": msgspec.to_builtins(points[arm]),
        "cut": msgspec.to_builtins(CUT),
    }


def run_arm(setting: Setting, arm: str, seed: int) -> dict[str, Any]:
    """The row of one arm: its accuracies and size."""
    task = Sst2Task(read_prepared(setting.prepared), share=setting.share)
    dense = dense_model(setting, task, seed)
    row: dict[str, Any] = {}
    module = dense
    if arm == CONTROL:
        module = fine_tuned(
            task, dense, epochs=MORE_EPOCHS, seed=seed + MORE_SEED, device=setting.device
        )
    elif arm != DENSE:
        module = _cut(setting, task, dense, arm, seed, row)
        row["tune_before_recovery"] = _on(setting, task, module, "tune")
        done = recovery.recovered(
            task,
            module,
            dense,
            seed=seed,
            device=setting.device,
            work=setting.work / f"{arm}-{seed}",
        )
        module, row["best_epoch"] = done.module, done.recovery.best_epoch
    return row | scores(setting, task, module, f"{arm}-{seed}")


def _cut(
    setting: Setting, task: Sst2Task, dense: nn.Module, arm: str, seed: int, row: dict[str, Any]
) -> nn.Module:
    if arm == SELF:
        return dense
    if arm == STOCK:
        return stock_pruned(task, dense, seed)
    result = cut_to(task, dense, read_plans(setting.plans).points[arm], seed)
    row["equality_max_abs"] = result.surgery.equality_max_abs
    row["kept"] = result.surgery.kept
    return result.module


def dense_model(setting: Setting, task: Sst2Task, seed: int) -> nn.Module:
    """The seed's dense model: from `work`, or trained and stored there."""
    path = setting.work / f"dense-{seed}-{job_key(setting, DENSE)}.safetensors"
    module = task.pretrained(seed)
    if path.exists():
        module.load_state_dict(load_file(path))
        return module.eval()
    module = fine_tuned(task, module, epochs=DENSE_EPOCHS, seed=seed, device=setting.device)
    scratch = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, scratch)
    scratch.replace(path)
    return module


def scores(setting: Setting, task: Sst2Task, module: nn.Module, name: str) -> dict[str, Any]:
    """Accuracy on the held-out part, and on the test set, which nothing before has opened.

    int8 is the accuracy of the int8 engine through ONNX Runtime. With `held_out` the test set stays
    closed, and nothing is built.
    """
    row: dict[str, Any] = {
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "accuracy_held_out": _on(setting, task, module, "tune"),
    }
    if setting.held_out:
        return row
    row["accuracy"] = _on(setting, task, module, "eval")
    engines = write_engines(task, module.cpu(), setting.work / f"engines-{os.getpid()}", name)
    answers = engine_answers(engines["int8"])
    row["accuracy_int8"] = accuracy(answers, task.batches("eval", epoch=0, seed=0))
    row["bytes"] = {kind: path.stat().st_size for kind, path in engines.items()}
    for path in engines.values():
        path.unlink()
    return row


def _on(setting: Setting, task: Sst2Task, module: nn.Module, split: Any) -> float:
    answers = module_answers(module, setting.device)
    found = accuracy(answers, task.batches(split, epoch=0, seed=0))
    module.cpu()
    return found
