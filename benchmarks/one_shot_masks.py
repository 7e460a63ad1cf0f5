"""What each way to choose masks is worth without training: ResNet-20 on CIFAR-10, MiniLM on SST-2.

    python -m benchmarks.one_shot_masks --model resnet20 --work DIR
    python -m benchmarks.one_shot_masks --model minilm --minilm DIR --work DIR
    python -m benchmarks.one_shot_masks --work DIR --json benchmarks/results/one_shot_masks.json

The product's own `plan_masks` and `mask_model`, one arm a criterion: magnitude and Taylor, which look at each
weight alone, Wanda, which weighs it by its inputs, and SparseGPT, which refits the weights that stay. The
best of the repairs that belong to each is taken on calibration, BatchNorm renewed among them, as `prune`
does. ResNet-20 is the public one and each seed draws other calibration images; MiniLM is another fine-tuned
model each seed. All weights of convolutions and linear layers are masked, by pattern or the same share of
each tensor. Judged on CIFAR-10's test set (JPEG copy), and on SST-2's 872 public sentences. A seed's rows are
kept in --work, and the last command joins those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from benchmarks import common
from reprune.compress.masks.masked import mask_model
from reprune.compress.masks.planning import plan_masks
from reprune.core.params import PlanParams, PruneParams
from reprune.task.protocol import Task

NAME = "one_shot_masks"
MODELS = ("resnet20", "minilm")
CLAIMS_OVER = {"resnet20": "calibration draws of one dense model", "minilm": "dense models"}
EXAMPLES = 512
CRITERIA = ("magnitude", "taylor", "wanda", "sparsegpt")
PLANS = {
    "2:4": PlanParams(method="n:m", pattern="2:4"),
    "1:4": PlanParams(method="n:m", pattern="1:4"),
    "70 %": PlanParams(method="weights", scope="local", sparsity=0.7),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`judged` is the accuracy in % of a module."""

    task: Task
    dense: nn.Module
    judged: Callable[[nn.Module], float]


def main() -> int:
    given = common.options(__doc__, _arguments)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    work = given.work or Path(tempfile.mkdtemp(prefix="reprune-masks-"))
    if given.verify:
        return _verify(given, work)
    model = given.model or ("resnet20" if given.quick else "")
    if model:
        seeds = range(1) if given.quick else range(given.first, given.first + given.seeds)
        rows = [row for seed in seeds for row in kept_rows(model, seed, given, work)]
    else:
        kept = [json.loads(path.read_text())["rows"] for path in sorted(work.glob("*-[0-9].json"))]
        rows = [row for found in kept for row in found]
    content = concluded(rows)
    if given.json:
        common.write(given.json, content)
    print(common.table(content["rows"], ("model", "masked", "dense", *CRITERIA)))
    print(json.dumps({"figures": content["figures"], "claims": content["claims"]}, indent=1))
    return 0


def kept_rows(model: str, seed: int, given: Any, work: Path) -> list[dict[str, Any]]:
    """One seed's rows, in `work` when they are whole."""
    path = work / f"{model}-{seed}{'-quick' if given.quick else ''}.json"
    if path.exists():
        found: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
        return found
    rows = []
    for row in rows_of(model, seed, given, work):
        rows.append(row)
        print(json.dumps(row), flush=True)
    common.write(path, {"rows": rows})
    return rows


def rows_of(model: str, seed: int, given: Any, work: Path) -> Iterator[dict[str, Any]]:
    """A row a plan: accuracy in % by criterion."""
    subject = _resnet20(seed, given) if model == "resnet20" else _minilm(seed, given, work)
    row = {"model": model, "seed": seed, "dense": subject.judged(subject.dense)}
    for name, plan in PLANS.items():
        found = {criterion: _masked(subject, plan, criterion, seed) for criterion in CRITERIA}
        yield row | {"masked": name} | found


def _masked(subject: Subject, plan: PlanParams, criterion: str, seed: int) -> float:
    prune = PruneParams(criterion=criterion, examples=EXAMPLES)
    asked = plan_masks(subject.task, subject.dense, plan, prune, (), seed).sparsity
    made = mask_model(
        subject.task, subject.dense, asked, prune, seed=seed, say=lambda _: None
    ).module
    return subject.judged(made)


def _resnet20(seed: int, given: Any) -> Subject:
    """The images of calibration come in one order, of which each seed has the next 512 first."""
    from benchmarks.cifar import CifarTask, accuracy, load
    from benchmarks.resnet20_jobs import pretrained

    further = EXAMPLES * seed
    task: Any = CifarTask(
        load(), pretrained, tune=2000 + further, calibration=5000 - further, batch_size=128
    )
    split: Any = "tune" if given.quick else "eval"
    return Subject(
        task=task, dense=pretrained(), judged=lambda module: accuracy(task, module, split)[0]
    )


def _minilm(seed: int, given: Any, work: Path) -> Subject:
    """The seed's dense model, fine-tuned once and kept in `work`."""
    from benchmarks.sensitivity_models import fine_tuned_minilm
    from benchmarks.sst2 import accuracy, module_answers

    task, dense = fine_tuned_minilm(seed, given, work)

    def judged(module: nn.Module) -> float:
        return accuracy(module_answers(module, "cpu"), task.batches("eval", epoch=0, seed=0))

    return Subject(task=task, dense=dense, judged=judged)


def concluded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means by model and plan; SparseGPT against each other criterion, seed by seed."""
    means, figures, claims = [], {}, []
    for model in MODELS:
        for name in PLANS:
            mine = [row for row in rows if (row["model"], row["masked"]) == (model, name)]
            if not mine:
                continue
            found = {key: fmean(row[key] for row in mine) for key in ("dense", *CRITERIA)}
            means.append({"model": model, "masked": name} | found)
            key = f"{model}_{name.replace(':', '_of_').replace(' %', '_percent')}"
            figures |= {f"{criterion}_{key}": found[criterion] for criterion in CRITERIA}
            for other in CRITERIA[:-1]:
                apart = [row["sparsegpt"] - row[other] for row in mine]
                figures[f"sparsegpt_minus_{other}_low_{key}"] = common.lower_limit(apart)
                words = f"{model}, {name}: sparsegpt above {other}"
                claims.append(common.Claim(words=words, differences=apart))
    return common.result(
        figures,
        means,
        claims=common.judged(claims),
        claims_over=CLAIMS_OVER,
        seeds=[dict(row) for row in rows],
    )


def _verify(given: Any, work: Path) -> int:
    """Masks ResNet-20 of the first committed seed again: each accuracy within a point."""
    held = {
        row["masked"]: row
        for row in common.committed(NAME)["seeds"]
        if (row["model"], row["seed"]) == ("resnet20", 0)
    }
    apart = max(
        abs(row[criterion] - held[row["masked"]][criterion])
        for row in rows_of("resnet20", 0, given, work)
        for criterion in CRITERIA
    )
    print(f"at most {apart:.2f} points from the committed accuracies of seed 0")
    return 0 if apart <= 1.0 else 1


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--seeds", type=int, default=common.MIN_SEEDS)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="where rows and dense models are kept")
    parser.add_argument("--minilm", type=Path, default=Path(".reprune/minilm"))


if __name__ == "__main__":
    sys.exit(main())
