"""Plans by latency against plans by MACs, at the same real speed: whole curves, CIFAR-10 (JPEG copy).

    python -m benchmarks.plan_curves --model resnet20 --part dense --out DIR --workers 2
    python -m benchmarks.plan_curves --model resnet20 --part plan --out DIR        (a quiet machine)
    python -m benchmarks.plan_curves --model resnet20 --part train --out DIR --workers 2
    python -m benchmarks.plan_curves --model resnet20 --part judge --out DIR --workers 2
    python -m benchmarks.plan_curves --model resnet20 --part measure --out DIR     (a quiet machine)
    python -m benchmarks.plan_curves --model resnet20 --part report --out DIR --json FILE

ResNet-20's dense models are trained on from the public weights, one a seed (part `dense`). Those of
`--model mobilenetv2` (width 0.5) are of a run of `benchmarks.mobilenetv2_cifar10`, whose folder is `--dense`.
From each of them every arm of `configs/plan_curves_<model>.json`: the product's steps profile (tables of the
target), sensitivity, plan and prune with the allocator latency (shares of the latency) or with sensitivity,
uniform or global (shares of the MACs); and torch-pruning's own global magnitude (shares of the channels). All
recover alike and are judged on the test set. Speed is that of one thread of ONNX Runtime against the dense
model, the median over fresh processes. Where the config names int8 among its `precisions`, everything that
was trained is built in int8 too, as the product's build step does it, and judged and timed as it was built
(part `judge`), the dense model as well; the plans by latency there are those by tables of int8
(`latency_int8`). Each part goes on where it was cut off. `--quick` is a small run of all parts but `dense`,
with a model of random weights, in the folder `quick` of DIR. `--verify` times one committed point of seed 0
again.

At equal speed: each rival's point against the straight line through ours, the dense model at its begin.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import common
from benchmarks.jobs import is_done, read_jobs, run_jobs
from benchmarks.plan_arms import (
    CONFIGS,
    MODELS,
    OURS,
    Seed,
    lay_images,
    name_of,
    read_config,
)
from benchmarks.plan_engines import engine_file, engine_jobs, engine_work, engines_folder
from benchmarks.plan_jobs import dense_jobs, dense_work, job_name, jobs_of, work
from benchmarks.plan_report import arms_at, summary
from reprune.core.params import Target

NAME = "plan_curves"
COLUMNS = ("precision", "arm", "share", "macs_left", "latency_left", "accuracy", "seeds")


def main() -> int:
    options = common.options(__doc__, _extend)
    torch.set_num_threads(1)
    config = read_config(options.config or CONFIGS / f"{NAME}_{options.model}.json")
    if options.quick:
        config = quick(config)
    if options.verify:
        return verify(config, options)
    with common.kept_in(options.out, quick=options.quick) as folder:
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
        place.begin(weights)
        for precision in config["precisions"]:
            place.profile(first, precision)
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


def judge(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    """Every model that was trained as an engine of each quantised precision, and how good that is."""
    from benchmarks.cifar import load

    names = {
        job.name for job in jobs_of(config, judge="eval") if is_done(folder / "jobs", job.name)
    }
    if not names:
        raise SystemExit(f"{folder} holds no trained model: run --part train first")
    load()
    failed = 0
    for precision in quantised(config):
        outcome = run_jobs(
            [
                job
                for job in engine_jobs(config, precision, judge="tune" if options.quick else "eval")
                if job.name in names
            ],
            engine_work,
            engines_folder(folder, precision),
            workers=options.workers,
            stop_after=options.stop_after,
            say=_say,
        )
        failed += len(outcome.failed)
    return 1 if failed else 0


def measure(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    """Times every model that was trained, those of a precision all in the same processes."""
    from benchmarks.timing import time_engines

    for precision in config["precisions"]:
        if precision == "fp32":
            engines = float_engines(config, folder)
        else:
            rows = judged(config, folder, precision)
            engines = {name: engine_file(folder, precision, name) for name in rows}
        if not engines:
            raise SystemExit(f"{folder} holds no engine of {precision}: run --part judge first")
        for size in options.batches:
            kept = times_file(folder, precision, size)
            target = Target(precision=precision, batch_size=size)
            time_engines(engines, _task(config), target, options.processes, kept, _say)
    return 0


def float_engines(config: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """An engine of each trained point, of its architecture: what it learnt does not change its speed."""
    from benchmarks.timing import build_engines

    rows = [row for row in trained(config, folder) if row["arm"] in arms_at(config, "fp32")]
    if not rows:
        raise SystemExit(f"{folder} holds no trained model: run --part train first")
    models = {}
    for row in rows:
        place = Seed(config=config, folder=folder, seed=row["seed"])
        models.setdefault("dense", place.dense)
        name = name_of(row["arm"], row["share"], row["seed"])
        models[name] = place.pruned(row["arm"], row["share"])
    return build_engines(models, _task(config), folder / "engines")


def times_file(folder: Path, precision: str, batch_size: int) -> Path:
    word = "" if precision == "fp32" else f"-{precision}"
    return folder / f"times{word}-batch{batch_size}.json"


def report(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    found: dict[str, Any] = {"figures": {}, "rows": [], "claims": []}
    for precision in config["precisions"]:
        kept = times_file(folder, precision, 1)
        if not kept.is_file():
            raise SystemExit(f"{kept} is missing: run --part measure first")
        rows = trained(config, folder)
        if precision != "fp32":
            rows = in_precision(rows, judged(config, folder, precision).values())
        part = summary(config, rows, json.loads(kept.read_text())["ms"], precision)
        found["figures"] |= part["figures"]
        found["rows"] += part["rows"]
        found["claims"] += part["claims"]
        found["seeds"] = [
            seed for seed in part["seeds"] if seed in found.get("seeds", part["seeds"])
        ]
    print(common.table(found["rows"], COLUMNS))
    for claim in found["claims"]:
        low = f"lower limit {claim['low']:+.2f}"
        print(f"{claim['claim']}: {claim['verdict']} (mean {claim['mean']:+.2f}, {low} points)")
    for name, value in found["figures"].items():
        print(f"{name} {value:.4g}")
    if options.json:
        common.write(options.json, common.result(**found))
    return 0


def trained(config: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What the jobs that are done have left."""
    return read_jobs(jobs_of(config, judge="eval"), folder / "jobs", but=("judge",))


def judged(config: Mapping[str, Any], folder: Path, precision: str) -> dict[str, dict[str, Any]]:
    """What is known of the engines that were built, by their names."""
    jobs = engine_jobs(config, precision, judge="eval")
    rows = read_jobs(jobs, engines_folder(folder, precision), but=("judge",))
    return {job_name(row): row for row in rows}


def in_precision(
    rows: Iterable[dict[str, Any]], engines: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The trained rows whose engine was judged, with its accuracy and layers in float."""
    told = {(one["arm"], one["share"], one["seed"]): one for one in engines}
    return [
        row | {"accuracy": one["accuracy"], "float_layers": len(one["float_layers"])}
        for row in rows
        if (one := told.get((row["arm"], row["share"], row["seed"]))) is not None
    ]


def quantised(config: Mapping[str, Any]) -> list[str]:
    return [precision for precision in config["precisions"] if precision != "fp32"]


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
    ours = OURS["fp32"]
    share = config["points"][ours][len(config["points"][ours]) // 2]
    place = places(config, options.out)[0]
    models = {"dense": place.dense, "ours": place.pruned(ours, share)}
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        engines = build_engines(models, _task(config), Path(scratch))
        times = time_engines(
            engines, _task(config), Target(), 10, Path(scratch) / "again.json", _say
        )
    now = median(unit["ours"] / unit["dense"] for unit in times)
    point = ("fp32", ours, share)
    before = next(
        r["latency_left"]
        for r in rows
        if (r.get("precision", "fp32"), r["arm"], r["share"]) == point
    )
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
        "build": {"trials": 2},
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


_PARTS = {
    "dense": dense,
    "plan": plan,
    "train": train,
    "judge": judge,
    "measure": measure,
    "report": report,
}

if __name__ == "__main__":
    sys.exit(main())
