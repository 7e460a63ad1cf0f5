"""The arms of `benchmarks.plan_curves`: plans by the product's steps from one dense model a seed, and beside
them torch-pruning's own global cut.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks import step_runs
from benchmarks.cifar import load
from benchmarks.cifar_models import ResNet20
from benchmarks.kept import read_kept, write_kept
from benchmarks.resnet20_jobs import pretrained
from benchmarks.stock import STEP, stock_global, stock_resnet20
from benchmarks.weekly.cifar import WeeklyCifar
from benchmarks.weekly.mobilenetv2 import WeeklyMobileNetV2
from benchmarks.weekly.retrained import FOLDER
from benchmarks.weekly.task import WEEK
from reprune.compress.bundle import load_bundle
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Profile
from reprune.core.step import Documents

CONFIGS = Path(__file__).parent / "configs"
STOCK = "tp_global"
# Plans by latency, by the precision of the target that they are made for.
OURS = {"fp32": "latency", "int8": "latency_int8"}
SIZES = ("examples", "tune", "calibration")
# What the plans in a run's folder depend on; what is trained and built of them depends on more.
PLANNED_BY = ("model", *SIZES, "sensitivity", "prune", "tables", "trials", "depth")
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

    def begin(self, weights: Path) -> None:
        """Lays the dense model, and the images that are not the test's, where they are not yet. Exits where
        another dense model lies there.
        """
        lay_images(self.folder, self.config)
        module = self.model.task().model()
        module.load_state_dict(load_file(weights))
        if (self.root / "previous").is_dir():
            if not same_weights(module, self.dense):
                raise SystemExit(
                    f"{self.root} was planned from another dense model than {weights}: give another --out, "
                    "or delete it"
                )
            return
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


def read_by(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What a job reads of the configuration, as far as it is there: MobileNetV2's has no `dense`."""
    return {name: config[name] for name in names if name in config}


def lay_images(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes the images that are not the test's to `folder`, where they are not yet, and what its plans
    depend on (`planned.json`). Exits where that is something else.
    """
    path, note = folder / "data.npz", folder / "planned.json"
    knobs = read_by(config, PLANNED_BY)
    if read_kept(note, knobs) is None:
        if path.is_file():
            raise SystemExit(
                f"{folder} holds images and no {note.name} (an older version wrote it): give another --out"
            )
        write_kept(note, knobs, {})
    if not path.is_file():
        scratch = path.with_name("data.part.npz")
        np.savez(scratch, **arrays(config))
        scratch.replace(path)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """To the last bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )


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
