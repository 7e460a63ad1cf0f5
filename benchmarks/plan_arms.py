"""The arms of `benchmarks.plan_curves`: plans by the product's steps from one dense model a seed, beside them
torch-pruning's own global cut, and the same recovery for all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks import step_runs
from benchmarks.cifar import CifarTask, accuracy, load
from benchmarks.cifar_models import ResNet20
from benchmarks.jobs import Job, work_folder
from benchmarks.resnet20_jobs import pretrained
from benchmarks.stock import STEP, stock_global, stock_resnet20
from benchmarks.weekly.cifar import WeeklyCifar
from benchmarks.weekly.mobilenetv2 import WeeklyMobileNetV2
from benchmarks.weekly.retrained import FOLDER
from benchmarks.weekly.task import WEEK
from reprune.compress.bundle import load_bundle
from reprune.compress.training.recover import Lesson, recover
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Profile
from reprune.core.params import DistillParams
from reprune.core.step import Documents
from reprune.measure.profile import count_cost

CONFIGS = Path(__file__).parent / "configs"
STOCK = "tp_global"
# Plans by latency, by the precision of the target that they are made for.
OURS = {"fp32": "latency", "int8": "latency_int8"}
# What ONNX Runtime's channels are multiples of: what plans for such a target are, and torch-pruning's cuts.
STEPS = {"fp32": STEP, "int8": 16}


@dataclass(frozen=True, kw_only=True)
class Curved:
    """A model: its task, that one's name in a bundle, and its files. `stock` is torch-pruning's global cut of
    it, by the share of channels that go and what those that stay are a multiple of. `pretrained` gives what
    its dense models are trained on from; where it is None they come from elsewhere.
    """

    name: str
    task: Callable[[], WeeklyCifar]
    entry: str
    files: tuple[str, ...]
    stock: Callable[[Any, float, int], nn.Module]
    pretrained: Callable[[], nn.Module] | None = None


def _stock_resnet20(dense: ResNet20, ratio: float, step: int) -> nn.Module:
    return stock_resnet20(dense, STOCK, ratio, WeeklyCifar(), examples=0, seed=0, step=step)


MOBILENETV2 = Curved(
    name="mobilenetv2",
    task=WeeklyMobileNetV2,
    entry="weekly.mobilenetv2:WeeklyMobileNetV2",
    files=("__init__.py", "task.py", "cifar.py", "mobilenetv2.py"),
    stock=stock_global,
)
RESNET20 = Curved(
    name="resnet20",
    task=WeeklyCifar,
    entry="weekly.cifar:WeeklyCifar",
    files=("__init__.py", "task.py", "cifar.py"),
    stock=_stock_resnet20,
    pretrained=pretrained,
)
MODELS = {one.name: one for one in (MOBILENETV2, RESNET20)}


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One dense model, what the steps make of it before anything is cut, and its plans, in `root`."""

    config: Mapping[str, Any]
    folder: Path
    seed: int

    @property
    def root(self) -> Path:
        return self.folder / f"seed-{self.seed}"

    @property
    def model(self) -> Curved:
        return MODELS[self.config["model"]]

    @cached_property
    def dense(self) -> nn.Module:
        module = self.model.task().model()
        module.load_state_dict(load_file(self.root / "dense" / "weights.safetensors"))
        return module.eval()

    def begin(self, weights: Path, sizes: Mapping[str, int]) -> None:
        """Lays the dense model, and the images that are not the test's, where they are not yet."""
        lay_images(self.folder, sizes)
        if (self.root / "previous").is_dir():
            return
        module = self.model.task().model()
        module.load_state_dict(load_file(weights))
        bundle = step_runs.lay_dense(
            self.root / "dense",
            module.eval(),
            entry=self.model.entry,
            package=FOLDER,
            files=self.model.files,
            version=f"{self.seed}",
        )
        step_runs.lay_data(self.root / "data", bundle)
        step_runs.lay_previous(self.root / "previous", name=FOLDER.name, version=f"{self.seed}")

    def profile(self, first: Seed, precision: str) -> None:
        """What a target takes. Tables depend on the architecture alone: those of `first` serve all."""
        out = self._profile(precision)
        if out.is_dir():
            return
        if self.seed == first.seed:
            self.make("profile", ("dense", "data", "previous"), _targeted(precision), out)
            return
        taken = store.read(first._profile(precision), Profile)
        dense = store.read(self.root / "dense", ModelBundle)
        tables = {"tables.json": taken.file("tables.json").read_bytes()}
        step_runs.lay(out, taken.manifest, {"dense": dense.digest}, tables)

    def plans(self) -> list[tuple[str, float]]:
        """The points that are planned: all but those of torch-pruning."""
        return [(arm, share) for arm, share in points(self.config) if allocator_of(arm) != STOCK]

    def is_planned(self) -> bool:
        return all(self._planned(arm, share).is_dir() for arm, share in self.plans())

    def _profile(self, precision: str) -> Path:
        return self.root / ("profile" if precision == "fp32" else f"profile-{precision}")

    def _planned(self, arm: str, share: float) -> Path:
        return self.root / f"plan-{arm}-{share:g}"

    def plan(self, arm: str, share: float) -> None:
        """The plan of an allocator for what may be left: of the latency for ours, of the MACs for others."""
        out = self._planned(arm, share)
        if out.is_dir():
            return
        if not (self.root / "table").is_dir():
            self.make("sensitivity", ("dense", "data", "previous"), {}, self.root / "table")
        precision = precision_of(arm)
        chosen: dict[str, Any] = {"allocator": allocator_of(arm), "fraction": share}
        if arm == OURS[precision]:
            chosen |= {"budget": "latency", "latency_target": "cpu"}
            chosen["latency_trials"] = self.config["trials"]
        profiles = self._profile(precision).name
        names = {"dense": "dense", "profiles": profiles, "table": "table", "previous": "previous"}
        self.make("plan", names, {"plan": chosen, **_targeted(precision)}, out)

    def planned_latency(self, arm: str, share: float) -> float | None:
        """The share of the dense latency that the plan was timed at; None for one that follows no times."""
        if arm not in OURS.values():
            return None
        return store.read(self._planned(arm, share), Plan).manifest.predicted.latency_ratio

    def pruned(self, arm: str, share: float) -> nn.Module:
        """The dense model cut as the arm says; the same one every time."""
        if allocator_of(arm) == STOCK:
            return self.model.stock(self.dense, share, STEPS[precision_of(arm)])
        out = self.root / f"pruned-{arm}-{share:g}"
        if not out.is_dir():
            chosen = self._planned(arm, share)
            inputs = {"dense": self.root / "dense", "data": self.root / "data", "chosen": chosen}
            self.make("prune", inputs, {}, out)
        return load_bundle(store.read(out, ModelBundle)).module

    def make(
        self,
        step: str,
        inputs: tuple[str, ...] | Mapping[str, str] | Mapping[str, Path],
        knobs: Mapping[str, Any],
        out: Path,
    ) -> None:
        named = inputs if isinstance(inputs, Mapping) else {name: name for name in inputs}
        os.environ[WEEK] = str(self.folder / "data.npz")
        with step_runs.checkpoints_in(self.root / "work"):
            paths = {name: self.root / where for name, where in named.items()}
            step_runs.make(step, paths, self._documents(knobs), out, say=_quiet)

    def _documents(self, knobs: Mapping[str, Any]) -> Documents:
        shared = {
            "profile": {"tables": {"step": STEP, **self.config["tables"]}},
            "sensitivity": self.config["sensitivity"],
            "prune": self.config["prune"],
            # What every arm may cut; those that remove no blocks cut channels alone.
            "plan": {"depth": self.config["depth"], **knobs.get("plan", {})},
        }
        return step_runs.documents(
            self.root, name=FOLDER.name, entry=self.model.entry, knobs={**knobs, **shared}
        )


def precision_of(arm: str) -> str:
    """The precision of the target that the arm's plans are made for: its name ends in it, but for fp32."""
    return next((one for one in OURS if arm.endswith(f"_{one}")), "fp32")


def allocator_of(arm: str) -> str:
    return arm.removesuffix(f"_{precision_of(arm)}")


def _targeted(precision: str) -> dict[str, Any]:
    return {"targets": {"cpu": {"precision": precision}}}


def read_config(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def points(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Arms by their points in turn, so that a run that is cut off leaves every arm's curve."""
    most = max(len(shares) for shares in config["points"].values())
    for number in range(most):
        for arm, shares in config["points"].items():
            if number < len(shares):
                yield arm, shares[number]


def name_of(arm: str, share: float, seed: int) -> str:
    return f"{arm}-{share:g}-{seed}"


def jobs_of(config: Mapping[str, Any], *, judge: str) -> list[Job]:
    """Every training, seed by seed; of each seed the accuracy of its dense model first."""
    found = []
    for seed in range(config["seeds"]):
        shared = {"config": dict(config), "seed": seed, "judge": judge}
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
    return [
        Job(name=f"dense-{seed}", given={"config": dict(config), "seed": seed})
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


def lay_images(folder: Path, sizes: Mapping[str, int]) -> None:
    """Writes the images that are not the test's to `folder`, where they are not yet."""
    path = folder / "data.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays(sizes))


def arrays(sizes: Mapping[str, int]) -> dict[str, Any]:
    """The first of the training images, and the last ones for tune and calibration, in [0, 1]."""
    held = load()
    end = held.train - sizes["tune"] - sizes["calibration"]
    rows = {
        "train": slice(0, min(end, sizes["examples"])),
        "tune": slice(end, end + sizes["tune"]),
        "calibration": slice(end + sizes["tune"], held.train),
    }
    found: dict[str, Any] = {}
    for split, chosen in rows.items():
        found[f"{split}_x"] = held.pixels[chosen].transpose(0, 3, 1, 2).astype(np.float32) / 255.0
        found[f"{split}_y"] = held.labels[chosen]
    return found


def _quiet(_: str) -> None:
    """Progress is the job's own line."""
