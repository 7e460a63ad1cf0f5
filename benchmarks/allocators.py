"""Allocators that try, on ResNet-20 and CIFAR-10 (JPEG copy): what their plans lose at half of the MACs.

    python -m benchmarks.allocators [--quick] [--verify] [--json FILE] [--work DIR] [--allocators amc,uniform]

Every allocator has the same evaluations (200; 40 with `--quick`) of joint cuts of the pretrained weights,
BatchNorm statistics renewed and nothing trained. Each plan's rise in loss is measured once more on held-out
images that no allocator saw. Looks at no test image. Evaluations are kept in `--work` (of a quick run in
`quick` there), so a run that was cut off goes on. `--verify` plans with uniform widths again, and measures
that plan. No claim is made of one seed: figures are rises, and their differences from uniform's.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from benchmarks.cifar import WEIGHTS, CifarTask, load
from benchmarks.cifar_models import ResNet20
from benchmarks.common import committed, data, kept_in, options, result, write
from reprune.core.params import PruneParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reprune.compress.planning.allocate import Problem
    from reprune.compress.planning.evaluated import Bed, Evaluator

NAME = "allocators"
PRUNE = PruneParams(criterion="l1", examples=256, compensate=False)
FRACTION, STEP, LEAST = 0.5, 4, 4
HELD_OUT, LOOKED_AT, EVALUATIONS = 4000, 500, 200
NAMES = ("uniform", "global", "sensitivity", "amc", "search", "evolutionary", "netadapt")


def main() -> int:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--work", type=Path, help="where evaluations are kept")
        parser.add_argument("--allocators", default=",".join(NAMES))

    chosen = options(__doc__, more)
    torch.set_num_threads(1)
    if chosen.verify:
        return verify()
    evaluations = 40 if chosen.quick else EVALUATIONS
    with kept_in(chosen.work, quick=chosen.quick) as work:
        found = run(work, evaluations, chosen.allocators.split(","))
    if chosen.json:
        write(chosen.json, found)
    for row in found["rows"]:
        print(row)
    return 0


def verify() -> int:
    """Plans with uniform widths again, from nothing, and measures that; 1 unless `as_committed`."""
    with kept_in(None, quick=False) as work:
        (now,) = run(work, EVALUATIONS, ["uniform"])["rows"]
    wanted = next(row for row in committed(NAME)["rows"] if row["allocator"] == "uniform")
    print({"now": now, "committed": wanted})
    return 0 if as_committed(now, wanted) else 1


def as_committed(now: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """The same widths, and a rise on unseen images within 1 %: nothing is trained, only sums may differ."""
    apart = abs(now["rise_unseen"] / wanted["rise_unseen"] - 1.0)
    return bool(now["widths"] == wanted["widths"] and apart <= 0.01)


def run(work: Path, evaluations: int, names: list[str]) -> dict[str, Any]:
    """Every allocator's plan: the rise on the images it saw, and on those it did not."""
    from reprune.compress.planning.allocate import allocate

    bed = dense()
    single, unseen = evaluators(bed, work)
    problem = problem_of(bed, single)
    rows = []
    for name in names:
        shared = replace(single, work=work / "tried")
        tried = counted(problem, shared, evaluations)
        widths = allocate(name, tried)
        rows.append(
            {
                "allocator": name,
                "widths": list(widths.values()),
                "macs_left": problem.cost(widths) / problem.cost(problem.full),
                "evaluations": shared.used,
                "rise_seen": shared(widths),
                "rise_unseen": unseen(widths),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    rises = {row["allocator"]: row["rise_unseen"] for row in rows}
    figures = {f"rise_{name}": rise for name, rise in rises.items()}
    if "uniform" in rises:
        figures |= {
            f"below_uniform_{name}": rises["uniform"] - rise
            for name, rise in rises.items()
            if name != "uniform"
        }
    return result(figures, rows, evaluations=evaluations)


def dense() -> Bed:
    from reprune.compress.planning.evaluated import Bed
    from reprune.compress.structure.groups import find_groups

    task = CifarTask(load(), ResNet20, tune=LOOKED_AT, calibration=LOOKED_AT)
    module = ResNet20().eval()
    module.load_state_dict(load_file(data(WEIGHTS)))
    groups = find_groups(module, task.example_inputs(2), ())
    return Bed(task=task, module=module, groups=groups, blocks=(), prune=PRUNE, seed=0)


def evaluators(bed: Bed, work: Path) -> tuple[Evaluator, Evaluator]:
    """One for single cuts, on the images that allocators see, and one on 4,000 others."""
    from reprune.compress.planning.evaluated import Evaluator

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    single = Evaluator(
        bed=bed, examples=LOOKED_AT, most=10_000, work=work / "single", say=lambda _: None
    )
    # Its tune ends where the images begin that allocators are given for tune and calibration.
    others = CifarTask(load(), ResNet20, tune=HELD_OUT, calibration=2 * LOOKED_AT)
    unseen = replace(bed, task=others)
    return single, replace(single, bed=unseen, examples=HELD_OUT, work=work / "unseen", say=say)


def problem_of(bed: Bed, single: Evaluator) -> Problem:
    """Half of the MACs in rungs of 4, the sums from each group cut alone at three widths."""
    from reprune.compress.planning.allocate import Problem
    from reprune.compress.planning.costs import cost_model
    from reprune.compress.planning.curves import fit_curve
    from reprune.core.artifacts import CutPoint
    from reprune.measure.profile import count_cost

    cost = cost_model(bed.module, bed.groups, count_cost(bed.module, bed.task.example_inputs(1)))
    rungs, rises = {}, {}
    for group in bed.groups:
        rungs[group.name] = (*range(LEAST, group.width, STEP), group.width)
        points = []
        for keep in (group.width * share // 4 for share in (1, 2, 3)):
            rise, error = single.measured({group.name: keep})
            points.append(
                CutPoint(keep=keep, loss_increase=rise, standard_error=error, macs=0, params=0)
            )
        curve = fit_curve(group.width, points)
        rises[group.name] = tuple(curve.at(rung) for rung in rungs[group.name])

    def macs(widths: Mapping[str, int]) -> float:
        return float(cost(widths).macs)

    return Problem(rungs=rungs, rises=rises, cost=macs, limit=FRACTION * macs({}))


def counted(problem: Problem, evaluator: Evaluator, evaluations: int) -> Problem:
    from reprune.compress.planning.evaluated import importance, shapes
    from reprune.compress.planning.trying import Tries

    tries = Tries(
        evaluations=evaluations, importance=importance(evaluator.bed), shapes=shapes(evaluator.bed)
    )
    return replace(problem, evaluate=evaluator, tries=tries)


if __name__ == "__main__":
    sys.exit(main())
