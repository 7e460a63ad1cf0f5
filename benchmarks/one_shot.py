"""What each repair without training is worth: ResNet-20 on CIFAR-10 (JPEG copy), cut once and not trained.

    python -m benchmarks.one_shot --json benchmarks/results/one_shot.json
    python -m benchmarks.one_shot --recover --json benchmarks/results/one_shot_recovered.json

Four arms of every cut: as it was cut, with BatchNorm statistics renewed, with the readers of cut channels
refitted (`prune.refit: readers`), and with all that runs after the first change refitted (`onwards`). Each
seed draws other calibration images (512), for the Taylor scores and the repairs; the dense model is the
public one. Judged on the test set. With `--recover` every arm is then trained for one epoch of 12,000 images
(distillation, as the recipe of `benchmarks.resnet20_cifar10`), which is what a later recovery leaves of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from benchmarks import common
from benchmarks.cifar import CifarTask, accuracy, load
from benchmarks.resnet20_jobs import pretrained
from reprune.compress.compensate import compensated, recalibrate
from reprune.compress.importance import channel_scores, lowest_removed
from reprune.compress.losses import first_batches
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import find_groups
from reprune.compress.training.recover import Lesson, recover
from reprune.core.params import DistillParams, PruneParams

NAME = "one_shot"
BLOCKS = ("layer1.1", "layer2.1", "layer3.1")
# By name: the share of channels that every group keeps, and the blocks that go.
CUTS: dict[str, tuple[float, tuple[str, ...]]] = {
    "half of all channels": (0.5, ()),
    "three blocks": (1.0, BLOCKS),
    "three blocks, a quarter of the rest": (0.75, BLOCKS),
}
ARMS = ("plain", "recalibrated", "readers", "onwards")
EXAMPLES, RECOVERED_ON = 512, 12_000
RECIPE = DistillParams(epochs=1, learning_rate=0.02, warmup_epochs=0.1, weight=0.9, temperature=4.0)


def main() -> int:
    given = common.options(__doc__, _arguments)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    if given.verify:
        return _verify()
    seeds = 1 if given.quick else given.seeds
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for row in rows_of(seed, recovers=given.recover, split="tune" if given.quick else "eval"):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if given.json:
                common.write(given.json, concluded(rows))
    content = concluded(rows)
    print(common.table(content["rows"], ("cut", *ARMS)))
    print(json.dumps({"figures": content["figures"], "claims": content["claims"]}, indent=1))
    return 0


def rows_of(seed: int, *, recovers: bool, split: Any) -> Iterator[dict[str, Any]]:
    """A row a cut: accuracy in % by arm."""
    task = _task(seed)
    dense = pretrained()
    groups = find_groups(dense, task.example_inputs(2), ())
    blocks = find_blocks(dense, task.example_inputs(2), ()).blocks
    prune = PruneParams(examples=EXAMPLES)
    scores = channel_scores(task, dense, groups, prune, seed)
    images = first_batches(task, "calibration", examples=EXAMPLES, seed=seed)
    for name, (share, gone) in CUTS.items():
        kept = {
            group.name: lowest_removed(scores[group.name], int(share * group.width))
            for group in groups
        }
        architecture = architecture_of(
            dense, groups, kept, [block for block in blocks if block.name in gone]
        )
        sliced = apply(dense, architecture)
        made: dict[str, nn.Module] = {"plain": sliced, "recalibrated": recalibrate(sliced, images)}
        for arm in ("readers", "onwards"):
            made[arm] = compensated(
                dense, sliced, architecture, groups, images, prune.ridge, onwards=arm == "onwards"
            ).module
        if recovers:
            made = {arm: _recovered(task, dense, module, seed) for arm, module in made.items()}
        found = {arm: accuracy(task, module, split)[0] for arm, module in made.items()}
        yield {"cut": name, "seed": seed, "recovered": recovers, "judged_on": split, **found}


def _task(seed: int) -> CifarTask:
    """The images of calibration come in one order, of which each seed has the next 512 first."""
    further = EXAMPLES * seed
    return CifarTask(
        load(),
        pretrained,
        tune=2000 + further,
        calibration=5000 - further,
        examples=RECOVERED_ON,
        batch_size=128,
    )


def _recovered(task: CifarTask, dense: nn.Module, student: nn.Module, seed: int) -> nn.Module:
    with tempfile.TemporaryDirectory(prefix="reprune-") as folder:
        lesson = Lesson(task=task, student=student, teacher=dense, teacher_digest="public")
        return recover(lesson, RECIPE, seed=seed, work=Path(folder), say=lambda _: None).module


def concluded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means by cut and arm; `onwards` against each other arm, draw by draw."""
    means, figures, claims = [], {}, []
    for name in CUTS:
        mine = [row for row in rows if row["cut"] == name]
        if not mine:
            continue
        means.append({"cut": name} | {arm: fmean(row[arm] for row in mine) for arm in ARMS})
        key = name.replace(",", "").replace(" ", "_")
        for arm in ARMS:
            figures[f"{arm}_{key}"] = means[-1][arm]
        for arm in ("recalibrated", "readers"):
            apart = [row["onwards"] - row[arm] for row in mine]
            figures[f"onwards_minus_{arm}_low_{key}"] = common.lower_limit(apart)
            claims.append(common.Claim(words=f"{name}: onwards above {arm}", differences=apart))
    return common.result(
        figures,
        means,
        claims=common.judged(claims),
        claims_over="calibration draws of one dense model",
        seeds=[dict(row) for row in rows],
    )


def _verify() -> int:
    """Repairs the first committed seed's cuts again: each accuracy within a point."""
    held = {row["cut"]: row for row in common.committed(NAME)["seeds"] if row["seed"] == 0}
    apart = max(
        abs(row[arm] - held[row["cut"]][arm])
        for row in rows_of(0, recovers=False, split="eval")
        for arm in ARMS
    )
    print(f"at most {apart:.2f} points from the committed accuracies of seed 0")
    return 0 if apart <= 1.0 else 1


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=common.MIN_SEEDS)
    parser.add_argument("--recover", action="store_true", help="train every arm, and judge that")


if __name__ == "__main__":
    sys.exit(main())
