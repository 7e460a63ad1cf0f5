"""A task over the models of tests.models, and a task package on disk for bundles and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.core import store
from reprune.core.artifacts import ModelBundle, TaskFact
from reprune.core.store import Artifact
from reprune.task.protocol import SPLITS, Batch, Split, Work
from tests import models

# A package as a user writes it: nothing but torch and reprune's protocol.
PACKAGE = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from reprune.task.protocol import Batch, Work


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Linear(8 * 16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, image):
        x = F.avg_pool2d(F.relu(self.norm(self.conv(image))), 2)
        return self.head(F.relu(self.wide(x.flatten(1))))


class TinyTask:
    data_version = "1"
    preprocess_digest = "none"
    input_names = ("image",)
    keep = ("head",)

    def model(self):
        return Net()

    def example_inputs(self, batch_size):
        return (torch.randn(batch_size, 1, 8, 8, generator=torch.Generator().manual_seed(7)),)

    def loss(self, module, batch, generator):
        return F.cross_entropy(module(*batch.inputs), batch.targets)

    def batches(self, split, *, epoch, seed, rank=0, world=1, start=0):
        offset = ("train", "tune", "calibration", "eval").index(split)
        generator = torch.Generator().manual_seed(offset)
        images = torch.randn(96, 1, 8, 8, generator=generator)
        labels = (images.mean(dim=(1, 2, 3)) * 24).round().long().clamp(-1, 1) + 1
        for first in range(32 * start, 96, 32):
            part = slice(first, first + 32)
            yield Batch(
                inputs=(images[part],), targets=labels[part],
                ids=[f"{split}-{n}" for n in range(96)[part]],
            )

    def records(self, outputs, batch):
        return {"correct": (outputs[0].argmax(1) == batch.targets).numpy().astype(np.int64)}

    def workload(self):
        return [Work(inputs=self.example_inputs(1), weight=1.0)]
"""


class ModelTask:
    """A task whose model is one of tests.models and whose targets are its teacher's own outputs."""

    data_version = "1"
    preprocess_digest = "none"

    def __init__(self, name: str, *, seed: int = 0, examples: int = 128) -> None:
        self.name = name
        self.seed = seed
        self.examples = examples
        self.teacher = models.build(name, seed=seed)
        self.input_names = tuple(f"input{n}" for n in range(len(models.inputs(name, 1))))

    def model(self) -> nn.Module:
        return models.MODELS[self.name]()

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return models.inputs(self.name, batch_size)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return F.mse_loss(first_output(module(*batch.inputs)), batch.targets)  # type: ignore[arg-type]

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        inputs = models.inputs(self.name, self.examples, seed=SPLITS.index(split) + 1)
        with torch.no_grad():
            targets = first_output(self.teacher(*inputs)) * 1.1 + 0.1
        for first in range(32 * start, self.examples, 32):
            part = slice(first, first + 32)
            yield Batch(
                inputs=tuple(tensor[part] for tensor in inputs),
                targets=targets[part],
                ids=[f"{split}-{n}" for n in range(self.examples)[part]],
            )

    def records(
        self, outputs: tuple[Tensor, ...], batch: Batch
    ) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        return {"correct": np.ones(len(batch), dtype=np.int64)}

    def workload(self) -> Sequence[Work]:
        return [Work(inputs=self.example_inputs(1), weight=1.0)]


def first_output(outputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs["logits"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_task() -> Callable[..., ModelTask]:
    return ModelTask


@pytest.fixture
def dense(tmp_path: Path) -> Artifact[ModelBundle]:
    """A dense bundle as fetch leaves it, of the package `tinytask`; weights are seeded, not trained."""
    from reprune.compress.bundle import stored_tensors
    from reprune.task.load import load_task, task_digest

    entry = "tinytask:TinyTask"
    with store.drafting(tmp_path / "dense") as draft:
        package = draft / "task" / "tinytask"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(PACKAGE)
        torch.manual_seed(3)
        module = load_task(entry, draft / "task").model()
        with torch.no_grad():
            module.norm.running_mean.normal_()
            module.norm.running_var.uniform_(0.5, 2.0)
        from safetensors.torch import save_file

        save_file(stored_tensors(module), draft / "weights.safetensors")
        manifest = ModelBundle(
            name="tiny",
            dense_version="1",
            task=TaskFact(entry=entry, digest=task_digest(entry, draft / "task"), data_version="1"),
        )
        return store.write(draft, manifest, step="fetch-dense", parents={}, out=tmp_path / "dense")
