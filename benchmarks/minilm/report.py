"""From rows to figures: what was measured, what may be claimed of it, and the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance
from typing import Any

from scipy import stats

from benchmarks.common import MIN_SEEDS, table
from benchmarks.minilm.jobs import CONTROL, DENSE, SELF, STOCK

MARGIN = 1.0
SPEED_FP32, SPEED_INT8 = 4.0, 6.5
COLUMNS = (
    "arm",
    "seeds",
    "accuracy",
    "lost",
    "lost_at_most",
    "accuracy_int8",
    "lost_int8_at_most",
    "speedup_fp32",
    "speedup_int8",
    "params",
)


def summary(
    trained: Sequence[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]], main: str
) -> tuple[dict[str, float], list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures, one line an arm, and the claims about the arm `main`.

    Accuracies are per cent of the test set, means over seeds. `accuracy_drop_low` is the lower limit
    of accuracy(main) - accuracy(control): what was lost is at most its negative.
    """
    control = _column(trained, CONTROL, "accuracy")
    lines = [
        _line(arm, trained, timed, control)
        for arm in _arms(trained)
        if _column(trained, arm, "accuracy")
    ]
    by_arm = {line["arm"]: line for line in lines}
    ours, peer = by_arm.get(main, {}), by_arm.get(STOCK, {})
    figures = {
        "dense_accuracy": by_arm.get(DENSE, {}).get("accuracy"),
        "control_accuracy": by_arm.get(CONTROL, {}).get("accuracy"),
        "control_recovery_accuracy": by_arm.get(SELF, {}).get("accuracy"),
        **{name: ours.get(name) for name in ("accuracy", "accuracy_int8")},
        **{name: ours.get(name) for name in ("speedup_fp32", "speedup_int8")},
        "accuracy_drop_low": _negative(ours.get("lost_at_most")),
        "accuracy_int8_drop_low": _negative(ours.get("lost_int8_at_most")),
        **{f"stock_{name}": peer.get(name) for name in ("accuracy", "accuracy_int8")},
        **{f"stock_{name}": peer.get(name) for name in ("speedup_fp32", "speedup_int8")},
        "stock_accuracy_drop_low": _negative(peer.get("lost_at_most")),
        "stock_accuracy_int8_drop_low": _negative(peer.get("lost_int8_at_most")),
    }
    known = {name: round(value, 4) for name, value in figures.items() if value is not None}
    return known, lines, claims(ours, len(control))


def claims(ours: Mapping[str, Any], controls: int) -> list[dict[str, Any]]:
    """The four things that are said of the main arm; both limits at 95 %, Holm over the two of quality."""
    seeds = min(int(ours.get("seeds", 0)), controls)
    found = []
    quality = {
        f"fp32 loses less than {MARGIN:g} point of the control": ours.get("p"),
        f"int8 loses less than {MARGIN:g} point of the control": ours.get("p_int8"),
    }
    open_ = True
    order = sorted(quality, key=lambda words: 1.0 if quality[words] is None else quality[words])
    for rank, words in enumerate(order):
        p = quality[words]
        open_ = open_ and p is not None and p <= 0.05 / (len(order) - rank)
        verdict = ("holds" if open_ else "not shown") if seeds >= MIN_SEEDS else "not enough seeds"
        found.append({"claim": words, "p": p, "verdict": verdict})
    for kind, least in (("fp32", SPEED_FP32), ("int8", SPEED_INT8)):
        speed = ours.get(f"speedup_{kind}")
        verdict = "not measured" if speed is None else "holds" if speed >= least else "not shown"
        found.append(
            {"claim": f"{kind} is {least:g} times as fast as dense fp32", "verdict": verdict}
        )
    return found


def difference(
    ours: Sequence[float], control: Sequence[float], *, alpha: float = 0.05, margin: float = MARGIN
) -> tuple[float, float]:
    """The lower limit (1 - alpha, one-sided) of mean(ours) - mean(control), and the p-value of the
    hypothesis that ours is worse by `margin` or more: Welch's t, for unequal variances.

    Arms are not paired: an extra epoch moves the control by a point at random, whatever model it
    began with. (-inf, 1) for fewer than two seeds a side.
    """
    if min(len(ours), len(control)) < 2:
        return -math.inf, 1.0
    gap = fmean(ours) - fmean(control)
    one, other = variance(ours) / len(ours), variance(control) / len(control)
    error = math.sqrt(one + other)
    if error == 0.0:
        return gap, 0.0 if gap > -margin else 1.0
    freedom = (one + other) ** 2 / (one**2 / (len(ours) - 1) + other**2 / (len(control) - 1))
    low = gap - float(stats.t.ppf(1.0 - alpha, freedom)) * error
    return low, float(stats.t.sf((gap + margin) / error, freedom))


def curve_table(lines: Sequence[Mapping[str, Any]]) -> str:
    return table(lines, COLUMNS)


def _line(
    arm: str,
    trained: Sequence[Mapping[str, Any]],
    timed: Sequence[Mapping[str, Any]],
    control: Sequence[float],
) -> dict[str, Any]:
    found = _column(trained, arm, "accuracy")
    found_int8 = _column(trained, arm, "accuracy_int8")
    low, p = difference(found, control)
    low_int8, p_int8 = difference(found_int8, control)
    shape = arm if arm not in (CONTROL, SELF) else DENSE
    speeds = {row["kind"]: row["speedup"] for row in timed if row["arm"] == shape}
    return {
        "arm": arm,
        "seeds": len(found),
        "accuracy": fmean(found),
        "lost": fmean(control) - fmean(found) if control else None,
        "lost_at_most": -low if math.isfinite(low) else None,
        "accuracy_int8": fmean(found_int8),
        "lost_int8_at_most": -low_int8 if math.isfinite(low_int8) else None,
        "speedup_fp32": speeds.get("fp32"),
        "speedup_int8": speeds.get("int8"),
        "params": next(row["params"] for row in trained if row["arm"] == arm and "params" in row),
        "p": p,
        "p_int8": p_int8,
    }


def _arms(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    first = [DENSE, CONTROL, SELF, STOCK]
    return first + sorted({row["arm"] for row in trained} - set(first))


def _column(trained: Sequence[Mapping[str, Any]], arm: str, name: str) -> list[float]:
    return [row[name] for row in trained if row["arm"] == arm and "error" not in row]


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
