"""A task package for training in several processes, bundles of it, and the distill step on them.

The last batch of `train` has a single example, so that with two processes one has nothing of it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from reprune.compress.bundle import stored_tensors
from reprune.compress.masks.files import write_masks
from reprune.core import store
from reprune.core.artifacts import MASKS, DataReport, ModelBundle, Previous, TaskFact
from reprune.core.lock import DenseRef, Lock
from reprune.core.params import DistillParams, Params
from reprune.core.policy import Policy
from reprune.core.step import Documents, run
from reprune.steps import get_step
from reprune.task.load import load_task, task_digest
from reprune.task.trained_on import TRAINED_ON

DIGEST = "sha256:" + "0" * 64
PACKAGE = '''
import os
import signal

import torch
import torch.nn.functional as F
from torch import nn
from reprune.task.protocol import Batch, Work

SIZES = {"train": 97, "tune": 70, "calibration": 32}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.deep_norm = nn.BatchNorm2d(8, momentum=None)
        self.head = nn.Linear(8 * 4, 3)

    def forward(self, image):
        x = F.max_pool2d(F.relu(self.norm(self.conv(image))), 2)
        x = F.max_pool2d(F.relu(self.deep_norm(self.deep(x))), 2)
        return self.head(x.flatten(1))


class CrewTask:
    data_version = "1"
    preprocess_digest = "none"
    input_names = ("image",)

    def model(self):
        return Net()

    def example_inputs(self, batch_size):
        return (torch.zeros(batch_size, 1, 8, 8),)

    def loss(self, module, batch, generator):
        if module.training:
            trouble(batch)
        return F.cross_entropy(module(*batch.inputs), batch.targets)

    def batches(self, split, *, epoch, seed, rank=0, world=1, start=0):
        count = SIZES[split]
        draw = torch.Generator().manual_seed(list(SIZES).index(split))
        images = torch.randn(count, 1, 8, 8, generator=draw)
        labels = (images.mean(dim=(1, 2, 3)) * 24).round().long().clamp(-1, 1) + 1
        order = torch.arange(count)
        if split == "train":
            order = torch.randperm(count, generator=draw.manual_seed(seed * 1000 + epoch))
        for rows in order.split(32)[start:]:
            yield Batch(
                inputs=(images[rows],), targets=labels[rows], ids=[f"{split}-{n}" for n in rows.tolist()]
            )

    def records(self, outputs, batch):
        return {}

    def workload(self):
        return [Work(inputs=self.example_inputs(1), weight=1.0)]


class SummedTask(CrewTask):
    """Its loss is a sum, so that shares do not make up the whole."""

    def loss(self, module, batch, generator):
        return F.cross_entropy(module(*batch.inputs), batch.targets, reduction="sum")


def trouble(batch):
    """What a test asks for, once, in the process that has the example `train-5`."""
    marker = os.environ.get("CREW_TROUBLE", "")
    if "train-5" not in batch.ids or not os.path.exists(marker):
        return
    with open(marker) as file:
        asked = file.read()
    os.remove(marker)
    if asked != "raise":
        os.kill(os.getpid(), getattr(signal, asked))
    raise ZeroDivisionError("the fifth example is broken")
'''


def ground(root: Path, *, entry: str = "crewtask:CrewTask") -> dict[str, Path]:
    """A dense bundle, a student of it with masks on one layer, and a data report: distill's inputs."""
    teacher = _bundle(root / "dense", entry, seed=1)
    student = _bundle(root / "student", entry, seed=2, parent=teacher.digest)
    with store.drafting(root / "data") as draft:
        (draft / TRAINED_ON).write_bytes(b"")
        report = DataReport(
            task=teacher.manifest.task, passed=True, expectations=(), splits={}, power=()
        )
        parents = {"dense": teacher.digest}
        store.write(draft, report, step="test", parents=parents, out=root / "data")
    with store.drafting(root / "previous") as draft:
        nothing = Previous(
            name="tiny", dense_version="1", champion=None, anchor=None, attempts=0, history=()
        )
        store.write(draft, nothing, step="test", parents={}, out=root / "previous")
    places = {"student": student.path, "teacher": teacher.path}
    return places | {"data": root / "data", "previous": root / "previous"}


def distilled(inputs: dict[str, Path], out: Path, say=lambda _: None, **knobs: object):
    """The step's artefact with these knobs of params.yaml's section `distill`."""
    text = {"epochs": 3, "learning_rate": 0.05, "teacher_cache_bytes": 10**6} | knobs
    params = Params(
        name="tiny",
        task="crewtask:CrewTask",
        seed=4,
        distill=msgspec.convert(text, DistillParams),
    )
    lock = Lock(
        reprune="0",
        registry="mlflow",
        workspace="default",
        name="tiny",
        dense=DenseRef(version="1", weights=DIGEST),
        champion="none",
        targets=("cpu",),
        params=DIGEST,
        policy=DIGEST,
        task=DIGEST,
        data_version="1",
    )
    policy = Policy(targets={"cpu": "required"})
    documents = Documents(root=out.parent, params=params, policy=policy, lock=lock)
    return run(get_step("distill"), inputs, documents, out, say=say)


def _bundle(out: Path, entry: str, *, seed: int, parent: str = ""):
    with store.drafting(out) as draft:
        package = draft / "task" / "crewtask"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(PACKAGE)
        torch.manual_seed(seed)
        module = load_task(entry, draft / "task").model()
        if parent:
            mask = torch.rand(module.deep.weight.shape) > 0.5
            with torch.no_grad():
                module.deep.weight.mul_(mask)
            write_masks(draft / MASKS, {"deep.weight": mask})
        save_file(stored_tensors(module), draft / "weights.safetensors")
        digest = task_digest(entry, draft / "task")
        manifest = ModelBundle(
            name="tiny",
            dense_version="1",
            task=TaskFact(entry=entry, digest=digest, data_version="1"),
        )
        parents = {"dense": parent} if parent else {}
        return store.write(draft, manifest, step="test", parents=parents, out=out)
