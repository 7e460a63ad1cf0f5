"""ResNet-20 on CIFAR-10 (JPEG copy): ours against torch-pruning at the same real speed and recovery.

    python -m benchmarks.resnet20_cifar10 --part train --device cuda --out DIR --workers 12
    python -m benchmarks.resnet20_cifar10 --part measure --out DIR      (where the models will run: a CPU)
    python -m benchmarks.resnet20_cifar10 --part report --out DIR --json FILE

One dense model a seed, made by two epochs of fine-tuning from the public weights; from it every arm: cut,
two epochs of recovery with the product's own distillation (the same for all arms, data order included),
judged on the test set. Speed is that of one thread of ONNX Runtime against the dense model, the median
over fresh processes; the graph rewrite of shortcuts is applied to all arms. What is cut is pinned in
`configs/resnet20_plans.json`: of ours, l are the product's plans by latency (`benchmarks.resnet20_plan`, on
the machine of the committed result), h were put together by hand from what each cut saves; `macs` are the
product's plans by MACs alone. Which of our points stands for a speed is chosen on the held-out part of
train. Each part goes on where it was cut off. Without `--part` all three run. `--quick` is a small run of
all three, in the folder `quick` of DIR; `--verify` trains the row of our first point, seed 0, again and
compares.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.jobs import Job, Pack, read_job, read_jobs, refuse_others, run_jobs, unpack
from benchmarks.kept import write_kept
from benchmarks.resnet20_jobs import CONFIG, jobs_of, name_of, read_config, work
from reprune.core.params import Target

NAME = "resnet20_cifar10"
QUICK_EXAMPLES = 2560
# The dense models too: with them, trainings can go on on another machine of that kind.
PACKED = ("*.json", "*.error.txt", "dense-*.safetensors")


def main() -> int:
    options = common.options(__doc__, _extend)
    config = read_config(options.config)
    if options.verify:
        return verify(config, options)
    if options.quick:
        config = quick(config)
    parts = [options.part] if options.part else ["train", "measure", "report"]
    with common.kept_in(options.out, quick=options.quick) as folder:
        for part in parts:
            ended = _PARTS[part](config, folder, options)
            if ended:
                return ended
    return 0


def train(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    from benchmarks.cifar import load

    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    load()  # decoded once, before there are several processes
    jobs = jobs_of(
        config,
        device=options.device,
        judge="tune" if options.quick else options.judge,
        examples=_examples(options),
    )
    begin(config, folder, options, for_training=True)
    # All of them, as those that `--only` leaves out may be needed by the others.
    refuse_others(jobs, folder / "jobs")
    if options.only:
        jobs = [job for job in jobs if job.name.startswith(tuple(options.only.split(",")))]
    outcome = run_jobs(
        jobs,
        work,
        folder / "jobs",
        workers=options.workers,
        stop_after=options.stop_after,
        pack=Pack(path=options.pack, patterns=PACKED) if options.pack else None,
        say=_say,
    )
    return 1 if outcome.failed else 0


def _examples(options: argparse.Namespace) -> int | None:
    return QUICK_EXAMPLES if options.quick else None


def measure(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    begin(config, folder, options)
    from benchmarks.cifar import CifarTask, load
    from benchmarks.cifar_models import DENSE_WIDTHS, ResNet20
    from benchmarks.timing import build_engines, shapes_name, time_engines

    rows = trained(config, folder / "jobs")
    shapes = {DENSE_WIDTHS, *(tuple(row["widths"]) for row in rows)}
    models = {shapes_name("resnet20", shape): ResNet20(shape) for shape in sorted(shapes)}
    task = CifarTask(load(), ResNet20)
    engines = build_engines(models, task, folder / "engines")
    for batch_size in (1, 32):
        kept = folder / f"times-batch{batch_size}.json"
        time_engines(engines, task, Target(batch_size=batch_size), options.processes, kept, _say)
    return 0


def report(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    from benchmarks.resnet20_report import summary, text

    begin(config, folder, options)
    rows = trained(config, folder / "jobs")
    found = summary(config, rows, folder)
    result = common.result(
        found["figures"],
        found["rows"],
        claims=found["claims"],
        notes=found["notes"],
        made_with={"config": config, "examples": _examples(options)},
        trained_on=sorted({row["device"] for row in rows}),
        judged_on=sorted({row["judged_on"] for row in rows}),
        trained=rows,
    )
    print(text(result))
    if options.json:
        common.write(options.json, result)
    return 0


def begin(
    config: Mapping[str, Any],
    folder: Path,
    options: argparse.Namespace,
    *,
    for_training: bool = False,
) -> None:
    """Lays what `--unpack` names into the jobs' folder: a pack, or the rows of a result.

    A result holds no weights. For training, a seed that lacks a row begins again with its dense model. Exits
    where a result does not say what its rows were made with.
    """
    if options.unpack is None:
        return
    if options.unpack.suffix != ".json":
        unpack(options.unpack, folder / "jobs")
        return
    held = json.loads(options.unpack.read_text())
    if "made_with" not in held:
        raise SystemExit(
            f"{options.unpack} does not say what its rows were made with (an older version wrote it): "
            "begin without it, or with a pack"
        )
    made = held["made_with"]
    given = {job.name: job.given for job in _whole(made["config"])}
    rows = {name_of(row): row for row in held["trained"]}
    names = {job.name for job in _whole(config)}
    lacking = {name.rpartition("-")[2] for name in names - rows.keys()} if for_training else set()
    for name, row in rows.items():
        there = folder / "jobs" / f"{name}.json"
        if not there.exists() and not (row["arm"] == "dense" and str(row["seed"]) in lacking):
            own = {"device": row["device"], "judge": row["judged_on"], "examples": made["examples"]}
            write_kept(there, {**given[name], **own}, row)


def _whole(config: Mapping[str, Any]) -> list[Job]:
    """Every job, as if it ran here on all examples."""
    return jobs_of(config, device="cpu", judge="eval", examples=None)


def trained(config: Mapping[str, Any], jobs: Path) -> list[dict[str, Any]]:
    """What every job that is done has left, wherever it ran. Exits if there is nothing."""
    wanted = _whole(config)
    rows = read_jobs(wanted, jobs, but=("device", "judge", "examples"))
    if not rows:
        raise SystemExit(
            f"{jobs} holds no trained model: run --part train --out {jobs.parent} first"
        )
    missing = len(wanted) - len(rows)
    if missing:
        print(f"note: {missing} of {len(wanted)} trainings are not done")
    return rows


def verify(config: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Trains the dense model and our first point again, seed 0: within a point of the committed result?
    Nothing that a run left is taken up, or it would be compared with itself.
    """
    point = config["first"][0]
    kept = {(row["arm"], row["point"]): row for row in common.committed(NAME)["rows"]}
    options.only = f"dense-0,ours-{point}-0"
    options.unpack, options.quick, options.judge, options.stop_after = None, False, "eval", None
    with tempfile.TemporaryDirectory(prefix="reprune-") as folder:
        if train(config, Path(folder), options):
            return 1
        again = (read_job(Path(folder) / "jobs", f"ours-{point}-0") or {})["accuracy"]
    before = kept["ours", point]["accuracies"][0]
    print(f"ours {point}, seed 0: {again:.2f} % now, {before:.2f} % in the committed result")
    return 0 if abs(again - before) <= 1.0 else 1


def quick(config: Mapping[str, Any]) -> dict[str, Any]:
    """One seed, a sixteenth of the data, two points an arm: a look at whether all of it works."""
    points = {}
    for arm, found in config["points"].items():
        names = config["first"][:2] if arm == "ours" else list(found)[1:2]
        points[arm] = {name: found[name] for name in names}
    return {**config, "seeds": 1, "points": points, "cut": {**config["cut"], "examples": 128}}


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=sorted(_PARTS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="keeps what was done; without it nothing is kept")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--judge", default="eval", choices=("eval", "tune"))
    parser.add_argument("--pack", type=Path, help="one zip file of all results, for bringing home")
    parser.add_argument("--unpack", type=Path, help="begin with such a file, or a result's rows")
    parser.add_argument("--stop-after", type=float, help="seconds after which no training begins")
    parser.add_argument("--only", help="only trainings whose names begin so, separated by commas")
    parser.add_argument("--processes", type=int, default=12, help="fresh processes for latency")
    parser.add_argument("--config", type=Path, default=CONFIG)


def _say(text: str) -> None:
    print(text, flush=True)


_PARTS = {"train": train, "measure": measure, "report": report}

if __name__ == "__main__":
    sys.exit(main())
