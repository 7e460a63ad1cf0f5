"""MobileNetV2 (width 0.5) on CIFAR-10 (JPEG copy): 40 % of MACs removed in four steps of 10 %.

    python -m benchmarks.mobilenetv2_cifar10 --part train --device cuda --out DIR --workers 10
    python -m benchmarks.mobilenetv2_cifar10 --part measure --out DIR      (where the models will run: a CPU)
    python -m benchmarks.mobilenetv2_cifar10 --part report --out DIR --json FILE

One dense model a seed, trained from scratch. Then four times: 10 % of its MACs go, where Taylor scores say
that it hurts least (whole channels, a depthwise filter with the channel that feeds it), and the model
recovers. The control trains through the same four stages, same teacher, same data order, without a cut.
Speed is that of one thread of ONNX Runtime against the dense model. Knobs are in `configs/mobilenetv2.json`;
`--config benchmarks/configs/mobilenetv2_cpu.json` is sized for a CPU: a fifth of the images, fewer
epochs. Its dense model is far from converged, so it stands for itself alone.
Each part goes on where it was cut off. Without `--part` all three run. `--quick` is a small run of all three,
in the folder `quick` of DIR; `--verify` builds and times the last stage of seed 0 of a run in `--out` again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import common
from benchmarks.jobs import Pack, read_jobs, run_jobs, unpack
from benchmarks.mobilenetv2_jobs import CONFIG, jobs_of, read_config, shaped, work
from reprune.core.params import Target

NAME = "mobilenetv2_cifar10"
QUICK_EXAMPLES = 2048
MARGIN = 1.0


def main() -> int:
    options = common.options(__doc__, _extend)
    config = read_config(options.config)
    if options.quick:
        config = quick(config)
    parts = [options.part] if options.part else ["train", "measure", "report"]
    if options.verify:
        return verify(config, options)
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
    if options.unpack:
        unpack(options.unpack, folder / "jobs")
    jobs = jobs_of(
        config,
        device=options.device,
        judge="tune" if options.quick else options.judge,
        examples=QUICK_EXAMPLES if options.quick else config.get("examples"),
    )
    outcome = run_jobs(
        jobs,
        work,
        folder / "jobs",
        workers=options.workers,
        stop_after=options.stop_after,
        pack=Pack(path=options.pack) if options.pack else None,
        say=_say,
    )
    return 1 if outcome.failed else 0


def measure(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    if options.unpack:
        unpack(options.unpack, folder / "jobs")
    from benchmarks.timing import build_engines, time_engines

    task = _task(config)
    pruned = [row for row in trained(config, folder / "jobs") if row["arm"] == "pruned"]
    models = {"dense": shaped(config, "dense", 0, 0, folder / "jobs")}
    for row in pruned:
        name = f"pruned-{row['stage']}-{row['seed']}"
        models[name] = shaped(config, "pruned", row["stage"], row["seed"], folder / "jobs")
    engines = build_engines(models, task, folder / "engines")
    for batch_size in (1, 32):
        kept = folder / f"times-batch{batch_size}.json"
        time_engines(engines, task, Target(batch_size=batch_size), options.processes, kept, _say)
    return 0


def report(config: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> int:
    import json

    rows = trained(config, folder / "jobs")
    times = {
        size: json.loads(path.read_text())["ms"]
        for size in (1, 32)
        if (path := folder / f"times-batch{size}.json").is_file()
    }
    found = summary(config, rows, times)
    result = common.result(
        found["figures"],
        found["rows"],
        claims=found["claims"],
        trained_on=sorted({row["device"] for row in rows}),
        judged_on=sorted({row["judged_on"] for row in rows}),
    )
    columns = (
        "macs_left", "accuracy", "control", "difference", "low", "speedup_batch1", "speedup_batch32", "seeds",
    )  # fmt: skip
    print(common.table(result["rows"], columns))
    for claim in result["claims"]:
        print(f"{claim['claim']}: {claim['verdict']} (lower limit {claim['low']:.2f} points)")
    if options.json:
        common.write(options.json, result)
    return 0


def summary(
    config: Mapping[str, Any],
    rows: list[dict[str, Any]],
    times: Mapping[int, list[dict[str, float]]],
) -> dict[str, Any]:
    """Rows (one a stage; stage 0 is the dense model), figures and the claim, from what the jobs left."""
    by = {(row["arm"], row["stage"], row["seed"]): row for row in rows}
    dense_macs = next(row["macs"] for row in rows if row["arm"] == "dense")
    table = [
        _stage_row(by, stage, dense_macs, times) for stage in range(len(config["fractions"]) + 1)
    ]
    table = [row for row in table if row is not None]
    last = table[-1] if table[-1]["stage"] == len(config["fractions"]) else None
    figures: dict[str, float] = {}
    claims: list[dict[str, Any]] = []
    if last is not None:
        figures = {
            "dense_accuracy": table[0]["accuracy"],
            "control_accuracy": last["control"],
            "accuracy": last["accuracy"],
            "macs_left": last["macs_left"],
            "difference": last["difference"],
            "difference_low": last["low"],
        } | {name: last[name] for name in ("speedup_batch1", "speedup_batch32") if name in last}
        claim = common.Claim(
            words=f"{100 * (1 - last['macs_left']):.0f} % fewer MACs, within {MARGIN:g} point of the control",
            differences=last["differences"],
            margin=-MARGIN,
        )
        claims = common.judged([claim])
    return {"figures": figures, "rows": table, "claims": claims}


def _stage_row(
    by: Mapping[tuple[str, int, int], dict[str, Any]],
    stage: int,
    dense_macs: int,
    times: Mapping[int, list[dict[str, float]]],
) -> dict[str, Any] | None:
    arm, control = ("pruned", "control") if stage else ("dense", "dense")
    seeds = sorted(s for a, k, s in by if (a, k) == (arm, stage) and (control, stage, s) in by)
    if not seeds:
        return None
    ours = [by[arm, stage, seed] for seed in seeds]
    theirs = [by[control, stage, seed]["accuracy"] for seed in seeds]
    differences = [row["accuracy"] - other for row, other in zip(ours, theirs, strict=True)]
    found: dict[str, Any] = {
        "stage": stage,
        "macs_left": fmean(row["macs"] for row in ours) / dense_macs,
        "params": median(row["params"] for row in ours),
        "accuracy": fmean(row["accuracy"] for row in ours),
        "accuracies": [row["accuracy"] for row in ours],
        "control": fmean(theirs),
        "differences": differences,
        "difference": fmean(differences),
        "low": common.lower_limit(differences) if len(seeds) > 1 else None,
        "seeds": len(seeds),
    }
    for size, taken in times.items():
        found[f"speedup_batch{size}"] = _speed(taken, stage, seeds)
    return found


def _speed(taken: list[dict[str, float]], stage: int, seeds: list[int]) -> float | None:
    """The median over seeds of each model's own median over processes."""
    from benchmarks.timing import speedup

    if not stage:
        return 1.0
    names = [name for seed in seeds if (name := f"pruned-{stage}-{seed}") in taken[0]]
    return median(speedup(taken, name, "dense")["median"] for name in names) if names else None


def trained(config: Mapping[str, Any], jobs: Path) -> list[dict[str, Any]]:
    """What every job that is done has left, wherever it ran. Exits if there is nothing."""
    wanted = jobs_of(config, device="cpu", judge="eval", examples=None)
    rows = read_jobs(wanted, jobs, but=("device", "judge", "examples"))
    if not rows:
        raise SystemExit(
            f"{jobs} holds no trained model: run --part train --out {jobs.parent} first"
        )
    if len(rows) < len(wanted):
        print(f"note: {len(wanted) - len(rows)} of {len(wanted)} trainings are not done")
    return rows


def verify(config: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Builds the last stage of seed 0 again and times it; compares with the committed result."""
    from benchmarks.timing import build_engines, speedup, time_engines

    if options.out is None:
        raise SystemExit(
            "--verify needs --out: the folder of a run (training it again takes a GPU)"
        )
    stage = len(config["fractions"])
    models = {
        "dense": shaped(config, "dense", 0, 0, options.out / "jobs"),
        "pruned": shaped(config, "pruned", stage, 0, options.out / "jobs"),
    }
    task = _task(config)
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        engines = build_engines(models, task, Path(scratch))
        kept = Path(scratch) / "verify.json"
        now = speedup(time_engines(engines, task, Target(), 10, kept, _say), "pruned", "dense")[
            "median"
        ]
    before = common.committed(NAME)["figures"]["speedup_batch1"]
    print(f"speed-up at batch 1, seed 0: {now:.3f} now; {before:.3f} committed (median over seeds)")
    return 0 if abs(now / before - 1) <= 0.1 else 1


def quick(config: Mapping[str, Any]) -> dict[str, Any]:
    """One seed, two epochs, two stages, a quarter of the width: a look at whether all of it works."""
    short = {"epochs": 1, "warmup_epochs": 0.25}
    return {
        **config,
        "seeds": 1,
        "batch_size": 128,
        "dense": {**config["dense"], **short},
        "recipe": {**config["recipe"], **short},
        "cut": {**config["cut"], "examples": 128},
        "fractions": config["fractions"][1:2],
    }


def _task(config: Mapping[str, Any]) -> Any:
    from benchmarks.cifar import CifarTask, load
    from benchmarks.cifar_models import MobileNetV2

    return CifarTask(load(), lambda: MobileNetV2(config["width"]))


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=sorted(_PARTS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="keeps what was done; without it nothing is kept")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--judge", default="eval", choices=("eval", "tune"))
    parser.add_argument("--pack", type=Path, help="one zip file of all results, for bringing home")
    parser.add_argument("--unpack", type=Path, help="begin with what such a file holds")
    parser.add_argument("--stop-after", type=float, help="seconds after which no training begins")
    parser.add_argument("--processes", type=int, default=12, help="fresh processes for latency")
    parser.add_argument("--config", type=Path, default=CONFIG)


def _say(text: str) -> None:
    print(text, flush=True)


_PARTS = {"train": train, "measure": measure, "report": report}

if __name__ == "__main__":
    sys.exit(main())
