"""The recovery that every cut arm gets, the peer's too: one epoch of what the dense model can teach.

Cross entropy + KL to the teacher's logits + the mean squared difference of hidden states; AdamW at 2e-4,
batches of 16, no dropout, embeddings frozen, a short warm-up and a cosine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.minilm.plans import layer_name
from benchmarks.sst2 import Sst2Task
from reprune.compress.bypass import Bypass
from reprune.compress.recover import Lesson, Recovered, recover
from reprune.core.params import DistillParams
from reprune.task.protocol import Batch

BATCH = 16
RATE, WEIGHT_DECAY, WARM_EPOCHS = 2e-4, 0.01, 0.1
TEMPERATURE, KL_WEIGHT, HIDDEN_WEIGHT = 2.0, 1.0, 1.0
RECIPE = {
    "batch": BATCH,
    "rate": RATE,
    "weight_decay": WEIGHT_DECAY,
    "warm_epochs": WARM_EPOCHS,
    "temperature": TEMPERATURE,
    "kl_weight": KL_WEIGHT,
    "hidden_weight": HIDDEN_WEIGHT,
}


class Taught(Sst2Task):
    """The task whose loss is the recipe's: it asks `teacher`, on whatever device the student is."""

    def __init__(self, task: Sst2Task, teacher: nn.Module, watched: tuple[str, ...]) -> None:
        super().__init__(task.prepared, batch_size=BATCH, share=task.share)
        self.teacher, self.watched = copy.deepcopy(teacher).eval(), watched

    def optimizer(self, params: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=RATE, weight_decay=WEIGHT_DECAY)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG002  not random
        logits, hidden = _seen(module, self.watched, batch)
        with torch.no_grad():
            taught, theirs = _seen(self.teacher.to(logits.device), self.watched, batch)
        weight = batch.inputs[1].unsqueeze(-1).to(logits.dtype)
        gaps = [
            ((ours - other).square() * weight).sum() / (weight.sum() * ours.shape[-1])
            for ours, other in zip(hidden, theirs, strict=True)
        ]
        kl = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1),
            F.log_softmax(taught / TEMPERATURE, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        own = F.cross_entropy(logits, batch.targets)  # type: ignore[arg-type]
        return own + KL_WEIGHT * TEMPERATURE**2 * kl + HIDDEN_WEIGHT * torch.stack(gaps).mean()


def recovered(  # noqa: PLR0913  who learns what from whom, where and how long
    task: Sst2Task,
    student: nn.Module,
    teacher: nn.Module,
    *,
    seed: int,
    device: str,
    work: Path,
    epochs: int = 1,
) -> Recovered:
    """A trained copy of `student` on the CPU; `work` holds the state of a run that was stopped."""
    student = copy.deepcopy(student)
    for layer in student.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    student.bert.embeddings.requires_grad_(False)
    lesson = Lesson(
        task=Taught(task, teacher, watched(student)),
        student=student,
        teacher=nn.Identity(),
        teacher_digest="dense",
    )
    params = DistillParams(epochs=epochs, weight=0.0, warmup_epochs=WARM_EPOCHS)
    with _only(device):
        done = recover(lesson, params, seed=seed, work=work, say=print)
    done.module.requires_grad_(True)
    return done


def watched(student: nn.Module) -> tuple[str, ...]:
    """Layers whose outputs are compared: the last of all, and each one before a layer that stays.

    A removed layer hands on what it gets, so the layer before it learns what both gave.
    """
    layers = list(student.bert.encoder.layer)
    stays = [not isinstance(layer, Bypass) for layer in layers[1:]]
    return tuple(layer_name(i) for i, next_stays in enumerate([*stays, True]) if next_stays)


def _seen(module: nn.Module, names: tuple[str, ...], batch: Batch) -> tuple[Tensor, list[Tensor]]:
    found: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [module.get_submodule(name).register_forward_hook(note) for name in names]
    try:
        return module(*batch.inputs), found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _only(device: str) -> Iterator[None]:
    """Accelerate takes a GPU wherever it sees one; it is told not to."""
    import os

    before = os.environ.get("ACCELERATE_USE_CPU")
    os.environ["ACCELERATE_USE_CPU"] = "true" if device == "cpu" else "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["ACCELERATE_USE_CPU"]
        else:
            os.environ["ACCELERATE_USE_CPU"] = before
