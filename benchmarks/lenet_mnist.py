"""LeNet-300-100 on MNIST: accuracy against sparsity and against bytes on disk, ours and torch's own.

`python -m benchmarks.lenet_mnist [--quick] [--verify] [--json FILE] [--seeds N] [--workers N]
[--arms ARM ...] [--held-out]`.
Every arm of a row starts from the same dense model of its seed. All knobs were chosen with `--held-out`
(the last 5,000 training images are then not trained on, and accuracies are theirs); without it the arms
train on all 60,000 and the test images are opened, once, by the configuration as committed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import common
from benchmarks.lenet.arms import ARMS, QUICK, Job, run

PAIRS = ("90", "98", "99", "98_shifts", "99_shifts")
BARS = {
    "accuracy_90": 98.2,
    "accuracy_98": 98.1,
    "accuracy_99": 97.6,
    "accuracy_98_shifts": 98.5,
    "accuracy_99_shifts": 98.1,
}
SIZE_BARS = {
    "bytes_percent_90": 10.0,
    "smallest_bytes_percent_at_98_accuracy": 0.30,
    "smallest_mcu_bytes_percent_at_98_accuracy": 0.50,
}
VERIFY_WITHIN = 0.5  # points; another machine's sums round otherwise


def main() -> int:
    options = common.options(__doc__, _extend)
    names = QUICK if options.quick else _with_dense(options.arms)
    seeds = range(1 if options.quick else options.seeds)
    if options.verify:
        return verify()
    rows = measure(names, seeds, workers=options.workers, held_out=options.held_out)
    content = common.result(
        figures(rows),
        rows,
        claims=common.judged(claims(rows)),
        bars=bars(figures(rows)),
        curve=curve(rows),
        accuracy_of="5,000 held-out training images" if options.held_out else "10,000 test images",
    )
    show(content)
    if options.json:
        common.write(options.json, content)
    return 0


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument(
        "--held-out", action="store_true", help="choose knobs; no test image is read"
    )


def _with_dense(names: Sequence[str]) -> tuple[str, ...]:
    """The arms in the table's order, with the dense models that they start from."""
    starts = {"dense_shifts" if ARMS[name].shifts else "dense" for name in names}
    return tuple(name for name in ARMS if name in starts or name in names)


def measure(
    names: Sequence[str], seeds: Sequence[int], *, workers: int, held_out: bool
) -> list[dict[str, Any]]:
    """One row for each arm and seed, in this order. Dense models come first: the others start from them."""
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):

        def job(name: str, seed: int) -> Job:
            return Job(arm=ARMS[name], seed=seed, folder=Path(folder), held_out=held_out)

        first = [job(name, seed) for seed in seeds for name in names if ARMS[name].kind == "dense"]
        running: dict[Future[dict[str, Any]], Job] = {pool.submit(run, one): one for one in first}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                finished = running.pop(future)
                rows.append(future.result())
                print(f"{_line(rows[-1])}", file=sys.stderr, flush=True)
                if finished.arm.kind == "dense":
                    after = [
                        job(name, finished.seed)
                        for name in names
                        if ARMS[name].kind != "dense" and ARMS[name].shifts == finished.arm.shifts
                    ]
                    running |= {pool.submit(run, one): one for one in after}
    return sorted(rows, key=lambda row: (names.index(row["arm"]), row["seed"]))


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over seeds; a figure whose arm was not run is left out."""
    found: dict[str, float] = {}
    for name, arm in (
        ("dense_accuracy", "dense"),
        ("dense_accuracy_shifts", "dense_shifts"),
        *((f"accuracy_{pair}", f"ours_{pair}") for pair in PAIRS),
        *((f"stock_accuracy_{pair}", f"stock_{pair}") for pair in PAIRS),
    ):
        values = [row["accuracy"] for row in rows if row["arm"] == arm]
        if values:
            found[name] = fmean(values)
    points = curve(rows)
    at_90 = [point["percent"] for point in points if point["arm"] == "ours_90"]
    if at_90:
        found["bytes_percent_90"] = at_90[0]
    for name, mcu in (
        ("smallest_bytes_percent_at_98_accuracy", False),
        ("smallest_mcu_bytes_percent_at_98_accuracy", True),
    ):
        good = [
            point["percent"]
            for point in points
            if point["accuracy"] >= 98.0 and (point["file"] == "mcu" or not mcu)
        ]
        if good:
            found[name] = min(good)
    return found


def curve(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy against bytes: every kind of file of every arm, means over seeds."""
    points = []
    for arm in dict.fromkeys(row["arm"] for row in rows if "files" in row):
        of_arm = [row for row in rows if row["arm"] == arm]
        for kind in of_arm[0]["files"]:
            files = [row["files"][kind] for row in of_arm]
            point: dict[str, Any] = {"arm": arm, "file": kind, "seeds": len(files)}
            for part in ("bytes", "percent", "accuracy"):
                point[part] = fmean(file[part] for file in files)
            point["worst_accuracy"] = min(file["accuracy"] for file in files)
            points.append(point)
    return points


def claims(rows: Sequence[Mapping[str, Any]]) -> list[common.Claim]:
    """Ours is more accurate than torch.nn.utils.prune at the same sparsity and training, seed by seed."""
    found = []
    for pair in PAIRS:
        ours, stock = (
            {row["seed"]: row["accuracy"] for row in rows if row["arm"] == f"{side}_{pair}"}
            for side in ("ours", "stock")
        )
        if ours and stock:
            words = f"more accurate than torch.nn.utils.prune at {pair.replace('_', ' % with ')}"
            words += "" if "shifts" in pair else " %"
            gaps = [ours[seed] - stock[seed] for seed in sorted(ours.keys() & stock.keys())]
            found.append(common.Claim(words=words, differences=gaps))
    return found


def bars(found: Mapping[str, float]) -> list[dict[str, Any]]:
    """What was asked for and what was found."""
    return [
        {
            "figure": name,
            "bar": bar,
            "found": found[name],
            "met": found[name] >= bar if name in BARS else found[name] <= bar,
        }
        for name, bar in (BARS | SIZE_BARS).items()
        if name in found
    ]


def verify() -> int:
    """Runs the 99 % row of seed 0 again, files included, and compares it with the committed one."""
    name = "ours_99_shifts"
    rows = measure(("dense_shifts", name), [0], workers=1, held_out=False)
    now = next(row for row in rows if row["arm"] == name)
    then = next(
        row
        for row in common.committed("lenet_mnist")["rows"]
        if row["arm"] == name and row["seed"] == 0
    )
    gap = abs(now["accuracy"] - then["accuracy"])
    small = abs(now["files"]["small"]["percent"] / then["files"]["small"]["percent"] - 1.0)
    print(
        f"accuracy {now['accuracy']:.2f}, committed {then['accuracy']:.2f}; bytes differ {small:.1%}"
    )
    return 0 if gap <= VERIFY_WITHIN and small <= 0.05 else 1


def show(content: Mapping[str, Any]) -> None:
    rows = content["rows"]
    arms = [
        {
            "arm": arm,
            "seeds": sum(row["arm"] == arm for row in rows),
            "weights left": next(row["weights_left"] for row in rows if row["arm"] == arm),
            "accuracy": f"{fmean(row['accuracy'] for row in rows if row['arm'] == arm):.2f}",
            "worst": f"{min(row['accuracy'] for row in rows if row['arm'] == arm):.2f}",
        }
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    print(f"accuracy on {content['accuracy_of']}")
    print(common.table(arms, ("arm", "seeds", "weights left", "accuracy", "worst")), end="\n\n")
    points = [
        {**point, "accuracy": f"{point['accuracy']:.2f}", "bytes": round(point["bytes"])}
        for point in content["curve"]
    ]
    print(common.table(points, ("arm", "file", "bytes", "percent", "accuracy")), end="\n\n")
    print(common.table(content["bars"], ("figure", "bar", "found", "met")), end="\n\n")
    print(common.table(content["claims"], ("claim", "seeds", "mean", "low", "verdict")))
    print(f"on {content['machine']}")


def _line(row: Mapping[str, Any]) -> str:
    files = {kind: (file["bytes"], file["accuracy"]) for kind, file in row.get("files", {}).items()}
    return f"{row['arm']:16} seed {row['seed']} {row['accuracy']:.2f} {row['seconds']:.0f} s {files or ''}"


if __name__ == "__main__":
    sys.exit(main())
