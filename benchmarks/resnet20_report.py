"""Joins what the trainings and the timings of `benchmarks.resnet20_cifar10` left: rows, figures, claims."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import common
from benchmarks.cifar_models import DENSE_WIDTHS
from benchmarks.speed_curves import fastest_at
from benchmarks.timing import shapes_name, speedup

OURS = "ours"
BATCHES = (1, 32)
ALL_ALIKE = f"not every point of the others has {common.MIN_SEEDS} seeds, all trained on one device"
DENSE = shapes_name("resnet20", DENSE_WIDTHS)
COLUMNS = (
    "arm", "point", "macs_left", "before", "tune", "accuracy", "spread", "speedup_batch1",
    "speedup_batch32", "seeds",
)  # fmt: skip

Row = dict[str, Any]
Times = Mapping[int, Sequence[Mapping[str, float]]]


def summary(config: Mapping[str, Any], trained: Sequence[Row], folder: Path) -> dict[str, Any]:
    """`rows`: one a point of a curve; `figures`, `claims` and `notes` as the benchmark promises.

    At each bar, of the points that are as fast as it, ours is the one with the best accuracy on the
    held-out part of train among those with the most seeds, a stock arm's the one with the best accuracy on
    the test set itself. Where
    an arm has none, its fastest one is taken. Both favour the stock arms.
    """
    times = read_times(folder)
    rows = curve(trained, times)
    figures: dict[str, float] = {
        "dense_accuracy": fmean(_accuracies(trained, "dense", "dense").values())
    }
    claims, notes = [], []
    for bar in sorted(config["bars"], key=float):
        suffix = "" if bar == min(config["bars"], key=float) else f"_at_{float(bar):g}x"
        best = {
            arm: _best(rows, arm, float(bar), by="tune" if arm == OURS else "accuracy")
            for arm in config["points"]
        }
        chosen = {arm: row for arm, row in best.items() if row is not None}
        ours = chosen.pop(OURS, None)
        if ours is None:
            continue
        figures |= _figures(ours, "", suffix)
        faster = faster_at_equal_accuracy(rows, ours)
        if faster is None:
            notes.append(f"no speed at equal accuracy at {bar}x: {ALL_ALIKE}")
        else:
            figures[f"speedup_at_equal_accuracy{suffix}"] = faster
        notes += _missed(ours, bar)
        gaps = {arm: _gaps(trained, ours, row) for arm, row in chosen.items()}
        for arm, row in chosen.items():
            figures |= _figures(row, f"{arm}_", suffix)
            notes += _missed(row, bar)
            words = f"ours {ours['point']} above {arm} {row['point']} at {bar}x"
            claims.append(common.Claim(words=words, differences=gaps[arm]))
            if len(gaps[arm]) > 1:
                figures[f"margin_low_{arm}{suffix}"] = common.lower_limit(gaps[arm])
        if chosen:
            rival = max(chosen, key=lambda arm: float(chosen[arm]["accuracy"]))
            if len(gaps[rival]) > 1:
                figures[f"margin_low{suffix}"] = common.lower_limit(gaps[rival])
    notes.append(_sampling_error(trained))
    return {"rows": rows, "figures": figures, "claims": common.judged(claims), "notes": notes}


def read_times(folder: Path) -> dict[int, list[dict[str, float]]]:
    """ms of each engine in each process, by batch size; only what was measured."""
    return {
        size: json.loads(path.read_text())["ms"]
        for size in BATCHES
        if (path := folder / f"times-batch{size}.json").is_file()
    }


def curve(trained: Sequence[Row], times: Times) -> list[Row]:
    """One row a point, its seeds taken together, in the order of arms and of falling accuracy."""
    pairs = dict.fromkeys((row["arm"], row["point"]) for row in trained)
    dense_macs = next((row["macs"] for row in trained if row["arm"] == "dense"), None)
    rows = [_point(trained, arm, point, dense_macs, times) for arm, point in pairs]
    arms = list(dict.fromkeys(arm for arm, _ in pairs))
    return sorted(rows, key=lambda row: (arms.index(row["arm"]), -row["accuracy"]))


def _point(
    trained: Sequence[Row], arm: str, point: str, dense_macs: int | None, times: Times
) -> Row:
    own = sorted(
        (row for row in trained if (row["arm"], row["point"]) == (arm, point)),
        key=lambda row: int(row["seed"]),
    )
    accuracies = [row["accuracy"] for row in own]
    found: Row = {
        "arm": arm,
        "point": point,
        "seeds": len(own),
        "devices": sorted({row["device"] for row in own}),
        "accuracy": fmean(accuracies),
        "accuracies": accuracies,
        "spread": max(accuracies) - min(accuracies),
        "before": fmean(row["tune_accuracy_before"] for row in own),
        "tune": fmean(row["tune_accuracy"] for row in own),
        "macs_left": median(row["macs"] for row in own) / dense_macs if dense_macs else None,
        "params": median(row["params"] for row in own),
        "widths": own[0]["widths"],
        "same_widths_in_all_seeds": all(row["widths"] == own[0]["widths"] for row in own),
        "examples": median(row["examples"] for row in own),
    }
    for size, taken in times.items():
        speeds = [
            speedup(taken, name, DENSE)
            for row in own
            if taken and (name := shapes_name("resnet20", row["widths"])) in taken[0]
        ]
        if speeds:
            found[f"speedup_batch{size}"] = median(speed["median"] for speed in speeds)
            found[f"speedup_batch{size}_range"] = [
                min(speed["least"] for speed in speeds),
                max(speed["most"] for speed in speeds),
            ]
            found[f"processes_batch{size}"] = len(taken)
    return found


def faster_at_equal_accuracy(rows: Sequence[Row], ours: Row) -> float | None:
    """How many times as fast `ours` is as any other arm with its accuracy, between two points of an arm's
    curve by a straight line. Every arm's curve begins with the dense model, whose speed is 1.

    None unless `ours` and every point of the others has seeds enough for a claim, all trained on one device:
    a point left out for that would lower its arm's line, and so favour ours.
    """
    counted = [ours, *(row for row in rows if row["arm"] not in (OURS, "dense"))]
    devices = {device for row in counted for device in row["devices"]}
    if len(devices) > 1 or any(row["seeds"] < common.MIN_SEEDS for row in counted):
        return None
    others = {row["arm"] for row in rows} - {OURS, "dense"}
    wanted = float(ours["accuracy"])
    fastest = max((fastest_at(_curve_points(rows, arm), wanted) for arm in others), default=1.0)
    return float(ours["speedup_batch1"]) / fastest


def _curve_points(rows: Sequence[Row], arm: str) -> list[tuple[float, float]]:
    """(speed, accuracy) of the arm's points and the dense model, the slowest first."""
    return sorted(
        (1.0 if row["arm"] == "dense" else row["speedup_batch1"], row["accuracy"])
        for row in rows
        if row["arm"] == "dense" or (row["arm"] == arm and "speedup_batch1" in row)
    )


def _best(rows: Sequence[Row], arm: str, bar: float, *, by: str) -> Row | None:
    own = [row for row in rows if row["arm"] == arm and "speedup_batch1" in row]
    fast = [row for row in own if row["speedup_batch1"] >= bar]
    if (
        arm == OURS
    ):  # a claim needs seeds; a peer's better point with fewer of them must still count
        fast = [row for row in fast if row["seeds"] == max(row["seeds"] for row in fast)]
    if fast:
        return max(fast, key=lambda row: float(row[by]))
    return max(own, key=lambda row: float(row["speedup_batch1"]), default=None)


def _figures(row: Row, prefix: str, suffix: str) -> dict[str, float]:
    named = {f"{prefix}accuracy{suffix}": row["accuracy"]}
    for size in BATCHES:
        if f"speedup_batch{size}" in row:
            named[f"{prefix}speedup_batch{size}{suffix}"] = row[f"speedup_batch{size}"]
    return named


def _gaps(trained: Sequence[Row], ours: Row, other: Row) -> list[float]:
    """Ours less the other's accuracy, seed by seed, of the seeds that both have."""
    mine = _accuracies(trained, OURS, ours["point"])
    theirs = _accuracies(trained, other["arm"], other["point"])
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def _accuracies(trained: Sequence[Row], arm: str, point: str) -> dict[int, float]:
    return {
        row["seed"]: row["accuracy"]
        for row in trained
        if (row["arm"], row["point"]) == (arm, point)
    }


def _missed(row: Row, bar: str) -> list[str]:
    if row["speedup_batch1"] >= float(bar):
        return []
    speed = f"{row['point']} at {row['speedup_batch1']:.3f}x"
    return [f"{row['arm']} has no point at {bar}x: its fastest one is taken, {speed}"]


def _sampling_error(trained: Sequence[Row]) -> str:
    share = fmean(row["accuracy"] for row in trained) / 100
    count = min(row["judged_examples"] for row in trained)
    error = 100 * math.sqrt(share * (1 - share) / count)
    return f"standard error of one accuracy from the {count} images judged on: {error:.2f} points"


def text(result: Mapping[str, Any]) -> str:
    """What a person reads: the curves, the claims, the notes."""
    lines = [common.table(result["rows"], COLUMNS), ""]
    lines += [
        f"{claim['claim']}: {claim['verdict']} (mean {claim['mean']:+.2f}, lower limit {claim['low']:+.2f} "
        f"points, {claim['seeds']} seeds)"
        for claim in result["claims"]
        if claim["seeds"]
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [f"{name} {value:.4g}" for name, value in result["figures"].items()]
    return "\n".join(lines)
