"""The recovery that every cut arm gets, the peer's too: one epoch of what the dense model can teach.

Cross entropy + KL to the teacher's logits + the mean squared difference of hidden states; AdamW at 2e-4,
batches of 8, no dropout, embeddings frozen, a short warm-up and a cosine. The teacher is asked again in
every step: batches differ in width, and answers of different shapes are not kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace
from torch import nn

from benchmarks.minilm.plans import layer_name
from benchmarks.sst2 import Sst2Task
from reprune.compress.structure.bypass import Bypass
from reprune.compress.training.recover import Lesson, Recovered, recover
from reprune.core.params import DistillParams

# One epoch has few steps: twice as many as with 16, at the same rate, teach more.
BATCH = 8
# The mean square between hidden states is taken over 384 numbers of size 0.6: with a share like the
# logits' its gradient is a twentieth of theirs. See recipe.md for what each ingredient gave.
RECIPE = DistillParams(
    epochs=1,
    optimizer="adamw",
    learning_rate=2e-4,
    weight_decay=0.01,
    warmup_epochs=0.1,
    clip_norm=1.0,
    dropout=False,
    freeze=("bert.embeddings.*",),
    temperature=2.0,
    weight=0.5,
    features=20.0,
    feature_distance="mse",
    teacher_cache_bytes=0,
)


def recovered(
    task: Sst2Task,
    student: nn.Module,
    teacher: nn.Module,
    *,
    seed: int,
    device: str,
    work: Path,
) -> Recovered:
    """A trained copy of `student` on the CPU; `work` holds the state of a run that was stopped."""
    lesson = Lesson(
        task=Sst2Task(task.prepared, batch_size=BATCH, share=task.share),
        student=student,
        teacher=teacher,
        teacher_digest="dense",
    )
    params = replace(RECIPE, feature_modules=watched(student))
    with _only(device):
        return recover(lesson, params, seed=seed, work=work, say=print)


def watched(student: nn.Module) -> tuple[str, ...]:
    """Layers whose outputs are compared: the last of all, and each one before a layer that stays.

    A removed layer hands on what it gets, so the layer before it learns what both gave.
    """
    layers = list(student.bert.encoder.layer)
    stays = [not isinstance(layer, Bypass) for layer in layers[1:]]
    return tuple(layer_name(i) for i, next_stays in enumerate([*stays, True]) if next_stays)


@contextmanager
def _only(device: str) -> Iterator[None]:
    """Accelerate takes a GPU wherever it sees one; it is told not to."""
    before = os.environ.get("ACCELERATE_USE_CPU")
    os.environ["ACCELERATE_USE_CPU"] = "true" if device == "cpu" else "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["ACCELERATE_USE_CPU"]
        else:
            os.environ["ACCELERATE_USE_CPU"] = before
