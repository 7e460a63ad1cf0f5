"""Three models under one budget: shared by what each gives up, against an equal split.

    python -m benchmarks.perception [--quick] [--verify] [--json FILE]

The set of examples/perception (a detector, a segmenter and a depth net on one frame) is trained, and
compressed by the real steps to `FRACTION` of its latency as measured together in one engine: once with
the budget shared by the plan, once with every member cut to the same share of its own MACs, at which
the whole takes no longer than the budget (found by timing, and then set by hand). Widths are coarse, so the
two do not take the same time: `shared_over_equal_time` says how far apart they are. Both recover for the same
epochs. Quality is the set's weighted loss on its eval split, which nothing else reads. `budget_missed` is by
how much the shared plan's measured time differs from the budget; `loss_margin_low` is the lower limit of the
equal split's loss less the shared plan's, over seeds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks import common
from reprune.compress.bundle import load_bundle
from reprune.compress.planning.latency import Bench, timing
from reprune.compress.planning.members import equal_split, own_costs
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Profile, Sensitivity
from reprune.core.params import read_params
from reprune.core.step import WORK_VARIABLE
from reprune.measure.timing_place import here
from reprune.steps.opening import Dense, open_dense
from reprune.task.load import load_task
from reprune.task.outputs import outputs_of
from tests.repository import Repository, inside, make_repository, stage

NAME = "perception"
FRACTION, SEEDS, QUICK_SEEDS = 0.65, 5, 1
EPOCHS = {"depth": 8, "detector": 8, "segmenter": 3}
SEARCHES, TIMINGS = 7, 3
TARGET = "ort-cpu"
EXAMPLE = Path(__file__).parents[1] / "examples" / "perception"


def main() -> None:
    """Runs the seeds, or with --verify the first of them."""
    given = common.options(__doc__)
    if given.verify:
        raise SystemExit(_verify())
    rows = []
    for seed in range(QUICK_SEEDS if given.quick else SEEDS):
        rows.append(one_seed(seed))
        print(json.dumps(rows[-1]), flush=True)
        if given.json:
            common.write(given.json, _result(rows))
    print(json.dumps(_result(rows)["figures"], indent=1))


def _verify() -> int:
    """Runs the first committed seed again; 1 unless `as_committed`."""
    wanted = common.committed(NAME)["rows"][0]
    row = one_seed(wanted["seed"])
    print(json.dumps({"now": row, "committed": wanted}, indent=1))
    return int(not as_committed(row, wanted))


def as_committed(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the shared plan takes the budget within 5 %, and is better than equal shares, or worse, as it
    was.
    """
    same_sign = (_margin(row) > 0.0) == (_margin(wanted) > 0.0)
    return same_sign and abs(row["shared"]["time"] / FRACTION - 1.0) <= 0.05


def _margin(row: Mapping[str, Any]) -> float:
    return float(row["equal"]["loss"] - row["shared"]["loss"])


def _result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    margins = [_margin(row) for row in rows]
    figures = {
        "seeds": len(rows),
        "budget_missed": max(abs(row["shared"]["time"] / FRACTION - 1.0) for row in rows),
        "shared_over_equal_time_most": max(row["shared_over_equal_time"] for row in rows),
        "shared_over_equal_time_least": min(row["shared_over_equal_time"] for row in rows),
        "shared_loss": fmean(row["shared"]["loss"] for row in rows),
        "equal_loss": fmean(row["equal"]["loss"] for row in rows),
        "dense_loss": fmean(row["dense"]["loss"] for row in rows),
        "loss_margin": fmean(margins),
        "loss_margin_low": common.lower_limit(margins),
    }
    note = "" if len(rows) >= common.MIN_SEEDS else "not enough seeds for a claim"
    return common.result(figures, rows, fraction=FRACTION, note=note)


def one_seed(seed: int) -> dict[str, Any]:
    """Trains the members, and compresses the set in both ways."""
    with tempfile.TemporaryDirectory(prefix="reprune-perception-") as folder:
        os.environ[WORK_VARIABLE] = str(Path(folder) / "work")
        repository = _trained(Path(folder) / "repo", seed)
        for name in ("dense", "previous", "data", "profile", "sensitivity"):
            repository.step(stage(name))
        opened = _opened(repository)
        target = read_params(repository.root / "params.yaml").targets[TARGET]
        bench = Bench(
            task=opened.task,
            module=opened.module,
            groups=opened.groups,
            where=here(target, target.threads),
            seed=seed,
        )
        with inside(repository.root), timing(bench) as ratio:

            def timed(widths: Mapping[str, int]) -> float:
                return median(ratio(widths, sure=True) for _ in range(TIMINGS))

            widths, planned = _planned(repository)
            shared = {"time": timed(widths), "planned": planned, **_recovered(repository)}
            equal_widths = _equal(repository, opened, timed)
            repository.edit("params.yaml", lambda given: given.update(plan=_by_hand(equal_widths)))
            repository.update()
            repository.step(stage("plan"))
            equal = {"time": timed(equal_widths), **_recovered(repository)}
        dense = _quality(repository, "dense")
        row = {"seed": seed, "dense": dense, "shared": shared, "equal": equal}
        return row | {"shared_over_equal_time": shared["time"] / equal["time"]}


def _trained(root: Path, seed: int) -> Repository:
    repository = make_repository(root)
    shutil.rmtree(root / "task")
    shutil.copytree(EXAMPLE, root, dirs_exist_ok=True)
    registry = {"kind": "files", "uri": ".reprune/registry", "workspace": "default"}
    shared = {
        "allocator": "latency",
        "budget": "latency",
        "latency_target": TARGET,
        "latency_model": "in-model",
        "latency_trials": 8,
        "fraction": FRACTION,
        "round_to": 8,
    }
    # Planned by what each cut was measured to save, so that no tables are needed.
    changed = {"registry": registry, "plan": shared, "profile": {}}
    repository.edit("params.yaml", lambda given: given.update(changed))
    repository.edit("params.yaml", lambda given: given.update(sensitivity={"examples": 150}))
    for member, epochs in EPOCHS.items():
        words = ["train_member.py", member, "--seed", str(seed), "--epochs", str(epochs)]
        subprocess.run([sys.executable, *words], cwd=root, check=True, capture_output=True)
    repository.update()
    return repository


def _opened(repository: Repository) -> Dense:
    dense = store.read(repository.root / "artifacts" / "dense", ModelBundle)
    return open_dense(dense, seed=0, threads=1)


def _planned(repository: Repository) -> tuple[dict[str, int], float | None]:
    """The widths, and the share of the dense latency that the plan was timed at."""
    repository.step(stage("plan"))
    plan = store.read(repository.root / "artifacts" / "plan", Plan).manifest
    return {group.group: group.keep for group in plan.groups}, plan.predicted.latency_ratio


def _by_hand(widths: Mapping[str, int]) -> dict[str, Any]:
    return {"budget": "macs", "fraction": 1.0, "round_to": 8, "widths": dict(widths)}


def _equal(
    repository: Repository, opened: Dense, ratio: Callable[[Mapping[str, int]], float]
) -> dict[str, int]:
    """The equal split that takes as long as the budget allows, by bisection over its share."""
    from reprune.compress.planning.costs import cost_model
    from reprune.compress.planning.curves import fit_curves
    from reprune.compress.planning.options import Options
    from reprune.measure.profile import Counted

    artifacts = repository.root / "artifacts"
    table = store.read(artifacts / "sensitivity", Sensitivity).manifest
    profile = store.read(artifacts / "profile", Profile).manifest
    params = read_params(repository.root / "params.yaml")
    counted = Counted(cost=profile.cost, layers=profile.layers, uncounted=profile.uncounted)
    cost = cost_model(opened.module, opened.groups, counted)
    options = Options.of(fit_curves(table.groups), cost, params.plan)
    problem = options.problem("macs", 1.0)
    own = own_costs(profile.layers, sorted(params.members or ()))
    slow, fast = 1.0, 0.05
    best: dict[str, int] = {}
    for _ in range(SEARCHES):
        middle = (slow + fast) / 2
        widths = equal_split(problem, own, middle)
        if widths is not None and ratio(widths) <= FRACTION:
            fast, best = middle, widths
        elif widths is None:
            fast = middle
        else:
            slow = middle
    if not best:
        raise SystemExit("no equal split is fast enough")
    return best


def _recovered(repository: Repository) -> dict[str, float]:
    for name in ("pruned", "candidate"):
        repository.step(stage(name))
    return _quality(repository, "candidate")


def _quality(repository: Repository, name: str) -> dict[str, float]:
    """The weighted loss, and each member's metric, on the eval split."""
    bundle = load_bundle(store.read(repository.root / "artifacts" / name, ModelBundle))
    module = bundle.module.eval()
    given = read_params(repository.root / "params.yaml")
    task = load_task(given.task, repository.root)
    generator = torch.Generator().manual_seed(0)
    loss, count = 0.0, 0
    sums: dict[str, float] = {}
    with torch.no_grad():
        for batch in task.batches("eval", epoch=0, seed=0):
            loss += float(task.loss(module, batch, generator)) * len(batch)
            count += len(batch)
            records = task.records(outputs_of(module, batch.inputs), batch)
            missed = abs(records["depth.predicted"] - records["depth.target"]).sum()
            sums["missed"] = sums.get("missed", 0.0) + float(missed) / 1_000_000
            for column in ("detector.numerator", "detector.denominator"):
                sums[column] = sums.get(column, 0.0) + float(records[column].sum())
            for column in ("segmenter.numerator", "segmenter.denominator"):
                sums[column] = sums.get(column, 0.0) + float(records[column].sum())
    return {
        "loss": loss / count,
        "detector_f1": sums["detector.numerator"] / sums["detector.denominator"],
        "segmenter_dice": sums["segmenter.numerator"] / sums["segmenter.denominator"],
        "depth_mae": sums["missed"] / count,
    }


if __name__ == "__main__":
    main()
