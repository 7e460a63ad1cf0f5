"""Plans by latency against plans by MACs, at the same real speed: whole curves, CIFAR-10 (JPEG copy).

    python -m benchmarks.plan_curves --model resnet20 --part dense --out DIR --workers 2
    python -m benchmarks.plan_curves --model resnet20 --part plan --out DIR        (a quiet machine)
    python -m benchmarks.plan_curves --model resnet20 --part train --out DIR --workers 2
    python -m benchmarks.plan_curves --model resnet20 --part measure --out DIR     (a quiet machine)
    python -m benchmarks.plan_curves --model resnet20 --part report --out DIR --json FILE

ResNet-20's dense models are trained on from the public weights, one a seed (part `dense`). Those of
`--model mobilenetv2` (width 0.5) are of a run of `benchmarks.mobilenetv2_cifar10`, whose folder is `--dense`.
From each of them every arm of `configs/plan_curves_<model>.json`: the product's steps profile (tables of the
target), sensitivity, plan and prune with the allocator latency (shares of the latency) or with sensitivity,
uniform or global (shares of the MACs); and torch-pruning's own global magnitude (shares of the channels). All
recover alike and are judged on the test set. Speed is that of one thread of ONNX Runtime against the dense
model, the median over fresh processes. Each part goes on where it was cut off. `--quick` is a small run of
all parts but `dense`, with a model of random weights. `--verify` times one committed point of seed 0 again.

At equal speed: each rival's point against the straight line through ours, the dense model at its begin.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import common
from benchmarks.jobs import read_job, run_jobs
from benchmarks.plan_arms import (
    CONFIGS,
    MODELS,
    OURS,
    Seed,
    dense_jobs,
    dense_work,
    jobs_of,
    lay_images,
    name_of,
    points,
    read_config,
    work,
)
from benchmarks.speed_curves import fastest_at, gap

NAME = "plan_curves"
# So many points below the dense model the speeds of all arms are compared.
BAR = 2.0
COLUMNS = ("arm", "share", "macs_left", "latency_left", "accuracy", "seeds")
Times = Sequence[Mapping[str, float]]


def main() -> int:
    options = common.options(__doc__, _extend)
    torch.set_num_threads(1)
    config = read_config(options.config or CONFIGS / f"{NAME}_{options.model}.json")
    if options.quick:
        config = quick(config)
    if options.verify:
        return verify(config, options)
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        folder = options.out or Path(scratch)
        if options.quick:
            options.dense = untrained(config, folder / "dense")
        for part in [options.part] if options.part else list(_PARTS):
            ended = _PARTS[part](config, folder, options)
            if ended:
                return ended
    return 0


def dense(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    """All dense models, where they are trained here and none are given."""
    if options.dense is not None or MODELS[config["model"]].pretrained is None:
        return 0
    lay_images(folder, config)
    outcome = run_jobs(
        dense_jobs(config),
        dense_work,
        folder / "dense" / "jobs",
        workers=options.workers,
        stop_after=options.stop_after,
        say=_say,
    )
    return 1 if outcome.failed else 0


def plan(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    """All plans of all seeds whose dense model is there."""
    given = options.dense
    if given is None and MODELS[config["model"]].pretrained is None:
        raise SystemExit("--part plan needs --dense: the folder of a run of mobilenetv2_cifar10")
    given = given or folder / "dense"
    first = None
    for place in places(config, folder):
        weights = given / "jobs" / f"dense-{place.seed}.safetensors"
        if not weights.is_file():
            _say(f"{weights} is missing: that seed is not planned")
            continue
        first = first or place
        place.begin(weights, config)
        place.profile(first)
        for arm, share in place.plans():
            place.plan(arm, share)
        _say(f"seed {place.seed} is planned")
    if first is None:
        raise SystemExit(f"{given} holds no dense model: run --part dense first, or give --dense")
    return 0


def train(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    from benchmarks.cifar import load

    planned = {place.seed for place in places(config, folder) if place.is_planned()}
    if not planned:
        raise SystemExit(f"{folder} holds no seed that is planned: run --part plan first")
    load()  # decoded once, before there are several processes
    judge = "tune" if options.quick else "eval"
    jobs = [job for job in jobs_of(config, judge=judge) if job.given["seed"] in planned]
    outcome = run_jobs(
        jobs,
        work,
        folder / "jobs",
        workers=options.workers,
        stop_after=options.stop_after,
        say=_say,
    )
    return 1 if outcome.failed else 0


def measure(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    """Times every model that was trained, all in the same processes."""
    from benchmarks.timing import build_engines, time_engines

    rows = [row for row in trained(config, folder) if row["arm"] != "dense"]
    if not rows:
        raise SystemExit(f"{folder} holds no trained model: run --part train first")
    models = {}
    for row in rows:
        place = Seed(config=config, folder=folder, seed=row["seed"])
        models.setdefault("dense", place.dense)
        name = name_of(row["arm"], row["share"], row["seed"])
        models[name] = place.pruned(row["arm"], row["share"])
    engines = build_engines(models, _task(config), folder / "engines")
    for size in options.batches:
        kept = folder / f"times-batch{size}.json"
        time_engines(engines, _task(config), size, options.processes, kept, _say)
    return 0


def report(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    import json

    rows = trained(config, folder)
    kept = folder / "times-batch1.json"
    if not kept.is_file():
        raise SystemExit(f"{kept} is missing: run --part measure first")
    found = summary(config, rows, json.loads(kept.read_text())["ms"])
    print(common.table(found["rows"], COLUMNS))
    for claim in found["claims"]:
        low = f"lower limit {claim['low']:+.2f}"
        print(f"{claim['claim']}: {claim['verdict']} (mean {claim['mean']:+.2f}, {low} points)")
    for name, value in found["figures"].items():
        print(f"{name} {value:.4g}")
    if options.json:
        common.write(options.json, common.result(**found))
    return 0


def summary(
    config: Mapping[str, Any], trained_rows: Sequence[dict[str, Any]], times: Times
) -> dict[str, Any]:
    """Rows (one a point, its seeds together), figures and claims, from seeds that have every point."""
    seen = Seen(
        config=config,
        by={(row["arm"], row["share"], row["seed"]): row for row in trained_rows},
        left={name: median(unit[name] / unit["dense"] for unit in times) for name in times[0]},
        dense={row["seed"]: row for row in trained_rows if row["arm"] == "dense"},
    )
    seeds = whole_seeds(config, trained_rows)
    rows = [
        seen.row(arm, share, seeds) for arm in config["points"] for share in config["points"][arm]
    ]
    claims = []
    figures: dict[str, float] = {
        "dense_accuracy": fmean(seen.dense[seed]["accuracy"] for seed in seeds)
    }
    for rival in (arm for arm in config["points"] if arm != OURS):
        gaps = [gap(seen.curve(OURS, seed), seen.curve(rival, seed)) for seed in seeds]
        figures[f"accuracy_margin_{config['model']}_{rival}"] = fmean(gaps)
        figures[f"accuracy_margin_low_{config['model']}_{rival}"] = common.lower_limit(gaps)
        words = f"plans by latency above {rival} at equal measured speed"
        claims.append(common.Claim(words=words, differences=gaps))
    speeds = {
        arm: fmean(
            fastest_at(seen.curve(arm, seed), seen.dense[seed]["accuracy"] - BAR) for seed in seeds
        )
        for arm in config["points"]
    }
    figures |= {f"speed_{BAR:g}_points_below_dense_{arm}": speed for arm, speed in speeds.items()}
    figures[f"speedup_at_equal_accuracy_{config['model']}"] = speeds.pop(OURS) / max(
        speeds.values()
    )
    return {
        "figures": figures,
        "rows": rows,
        "claims": common.judged(claims),
        "seeds": seeds,
    }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`by`: what was trained, by arm, share and seed. `left`: the share of the dense latency of each engine.
    `dense`: the dense models, by seed.
    """

    config: Mapping[str, Any]
    by: Mapping[tuple[str, float, int], dict[str, Any]]
    left: Mapping[str, float]
    dense: Mapping[int, dict[str, Any]]

    def curve(self, arm: str, seed: int) -> list[tuple[float, float]]:
        """(speed, accuracy) of the arm's points, slow ones first, the dense model before them."""
        own = [
            (1.0 / self.left[name_of(arm, share, seed)], self.by[arm, share, seed]["accuracy"])
            for share in self.config["points"][arm]
        ]
        return [(1.0, self.dense[seed]["accuracy"]), *sorted(own)]

    def row(self, arm: str, share: float, seeds: Sequence[int]) -> dict[str, Any]:
        """One point with its seeds."""
        own = [self.by[arm, share, seed] for seed in seeds]
        latencies = [self.left[name_of(arm, share, seed)] for seed in seeds]
        return {
            "arm": arm,
            "share": share,
            "macs_left": fmean(row["macs"] for row in own) / self.dense[seeds[0]]["macs"],
            "latency_left": median(latencies),
            "accuracy": fmean(row["accuracy"] for row in own),
            "accuracies": [row["accuracy"] for row in own],
            "latencies_left": latencies,
            "planned_latency": [row["planned_latency"] for row in own],
            "params": median(row["params"] for row in own),
            "seeds": len(own),
        }


def whole_seeds(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Seeds of which every point was trained, and the dense model judged. Exits where there is none."""
    every = 1 + len(list(points(config)))
    seeds = [row["seed"] for row in rows]
    whole = sorted({seed for seed in seeds if seeds.count(seed) == every})
    if not whole:
        raise SystemExit("no seed has all of its points: go on with --part train")
    return whole


def trained(config: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What the jobs that are done have left."""
    names = [job.name for job in jobs_of(config, judge="eval")]
    found = (read_job(folder / "jobs", name) for name in names)
    return [row for row in found if row is not None]


def places(config: Mapping[str, Any], folder: Path) -> list[Seed]:
    return [Seed(config=config, folder=folder, seed=seed) for seed in range(config["seeds"])]


def verify(config: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Builds and times our middle point of seed 0 of a run in `--out` again: what is left of the latency is
    within 10 % of the committed share (the median over seeds).
    """
    from benchmarks.timing import build_engines, time_engines

    if options.out is None:
        raise SystemExit("--verify needs --out: the folder of a run")
    name = f"{NAME}_{config['model']}"
    if not (common.RESULTS / f"{name}.json").is_file():
        raise SystemExit(f"--verify: no result of --model {config['model']} is committed")
    rows = common.committed(name)["rows"]
    share = config["points"][OURS][len(config["points"][OURS]) // 2]
    place = places(config, options.out)[0]
    models = {"dense": place.dense, "ours": place.pruned(OURS, share)}
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        engines = build_engines(models, _task(config), Path(scratch))
        times = time_engines(engines, _task(config), 1, 10, Path(scratch) / "again.json", _say)
    now = median(unit["ours"] / unit["dense"] for unit in times)
    before = next(r["latency_left"] for r in rows if (r["arm"], r["share"]) == (OURS, share))
    print(f"latency left at {share:g}, seed 0: {now:.3f} now; {before:.3f} committed, over seeds")
    return 0 if abs(now / before - 1) <= 0.1 else 1


def quick(config: Mapping[str, Any]) -> dict[str, Any]:
    """One seed, few images, two points an arm: a look at whether all of it works."""
    return {
        **config,
        "seeds": 1,
        "examples": 1024,
        "tune": 256,
        "calibration": 256,
        "sensitivity": {"examples": 128, "cuts": [0.5]},
        "prune": {"examples": 64},
        "tables": {"builds": 4},
        "points": {arm: shares[:2] for arm, shares in config["points"].items()},
    }


def untrained(config: Mapping[str, Any], folder: Path) -> Path:
    """A folder of dense models as `--dense` is one, with random weights."""
    torch.manual_seed(0)
    path = folder / "jobs" / "dense-0.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(MODELS[config["model"]].task().model().state_dict(), path)
    return folder


def _task(config: Mapping[str, Any]) -> Any:
    from benchmarks.cifar import CifarTask, load

    return CifarTask(load(), MODELS[config["model"]].task().model)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=sorted(MODELS), default="mobilenetv2")
    parser.add_argument("--part", choices=sorted(_PARTS))
    parser.add_argument("--dense", type=Path, help="the folder of a run of mobilenetv2_cifar10")
    parser.add_argument("--out", type=Path, help="keeps what was done; without it nothing is kept")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stop-after", type=float, help="seconds after which no training begins")
    parser.add_argument("--processes", type=int, default=12, help="fresh processes for latency")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--config", type=Path)


def _say(text: str) -> None:
    print(text, flush=True)


_PARTS = {"dense": dense, "plan": plan, "train": train, "measure": measure, "report": report}

if __name__ == "__main__":
    sys.exit(main())
