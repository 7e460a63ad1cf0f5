"""What the trainings and timings of `benchmarks.plan_curves` say: curves at one precision, ours against each
rival at equal speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks import common
from benchmarks.plan_arms import OURS, allocator_of, name_of, points, precision_of
from benchmarks.speed_curves import fastest_at, gap, within

# So many points below the dense model the speeds of all arms are compared.
BAR = 2.0
AT_EQUAL_SPEED = "at equal measured speed (the dense model counted as our slowest point)"
Times = Sequence[Mapping[str, float]]


def summary(
    config: Mapping[str, Any],
    trained_rows: Sequence[dict[str, Any]],
    times: Times,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Rows (one a point, its seeds together), figures and claims, from seeds that have every point.

    `times` and the accuracies are of engines of that precision; ours are the plans by its tables. What was
    planned for fp32, plans by latency too, is a rival of ours in another precision (`<arm>_fp32` in figures),
    not the other way round. The dense model counts as our slowest point; `points_within_our_range_*` says how
    many of a rival's points, a seed, are not slower than all of ours, nor faster.
    """
    ours, suffix = OURS[precision], "" if precision == "fp32" else f"_{precision}"
    arms = arms_at(config, precision)
    seen = Seen(
        config=config,
        precision=precision,
        by={(row["arm"], row["share"], row["seed"]): row for row in trained_rows},
        times=times,
        dense={row["seed"]: row for row in trained_rows if row["arm"] == "dense"},
    )
    seeds = whole_seeds(config, trained_rows)
    rows = [seen.row(arm, share, seeds) for arm in arms for share in config["points"][arm]]
    claims = []
    figures = {f"dense_accuracy{suffix}": fmean(seen.dense[seed]["accuracy"] for seed in seeds)}
    of = f"{config['model']}{suffix}"
    for rival in (arm for arm in arms if arm != ours):
        told, claim = against(seen, rival, seeds, of)
        figures |= told
        claims.append(claim)
    speeds = {
        arm: fmean(
            fastest_at(seen.curve(arm, seed), seen.dense[seed]["accuracy"] - BAR) for seed in seeds
        )
        for arm in arms
    }
    bar = f"speed{suffix}_{BAR:g}_points_below_dense"
    figures |= {f"{bar}_{arm}": speed for arm, speed in speeds.items()}
    rivals = [speed for arm, speed in speeds.items() if arm != ours]
    figures[f"speedup_at_equal_accuracy_{of}"] = speeds[ours] / max(rivals)
    return {
        "figures": figures,
        "rows": rows,
        "claims": common.judged(claims),
        "seeds": seeds,
    }


def against(
    seen: Seen, rival: str, seeds: Sequence[int], of: str
) -> tuple[dict[str, float], common.Claim]:
    """Ours at the speeds of the rival's points: figures, named for `of`, and the claim."""
    lines = [(seen.curve(OURS[seen.precision], seed), seen.curve(rival, seed)) for seed in seeds]
    gaps = [gap(ours, other) for ours, other in lines]
    name = allocator_of(rival)
    name += "" if precision_of(rival) == seen.precision else f"_{precision_of(rival)}"
    at = "" if seen.precision == "fp32" else f", {seen.precision}"
    figures = {
        f"accuracy_margin_{of}_{name}": fmean(gaps),
        f"accuracy_margin_low_{of}_{name}": common.lower_limit(gaps),
        f"points_within_our_range_{of}_{name}": fmean(within(*both) for both in lines),
    }
    words = f"plans by latency above {name} {AT_EQUAL_SPEED}{at}"
    return figures, common.Claim(words=words, differences=gaps)


def arms_at(config: Mapping[str, Any], precision: str) -> list[str]:
    """The arms that are compared in that precision: in fp32 only those planned for it, in another all."""
    return [arm for arm in config["points"] if precision_of(arm) in ("fp32", precision)]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`by`: what was trained, by arm, share and seed. `times`: each process's, of each engine by name, the
    dense model "dense" or one a seed. `dense`: the dense models, by seed.
    """

    config: Mapping[str, Any]
    precision: str
    by: Mapping[tuple[str, float, int], dict[str, Any]]
    times: Times
    dense: Mapping[int, dict[str, Any]]

    def left(self, arm: str, share: float, seed: int) -> float:
        """The share of the dense latency that the point's engine takes."""
        dense = "dense" if "dense" in self.times[0] else f"dense-{seed}"
        name = name_of(arm, share, seed)
        return median(unit[name] / unit[dense] for unit in self.times)

    def curve(self, arm: str, seed: int) -> list[tuple[float, float]]:
        """(speed, accuracy) of the arm's points, slow ones first, the dense model before them."""
        own = [
            (1.0 / self.left(arm, share, seed), self.by[arm, share, seed]["accuracy"])
            for share in self.config["points"][arm]
        ]
        return [(1.0, self.dense[seed]["accuracy"]), *sorted(own)]

    def row(self, arm: str, share: float, seeds: Sequence[int]) -> dict[str, Any]:
        """One point with its seeds."""
        own = [self.by[arm, share, seed] for seed in seeds]
        latencies = [self.left(arm, share, seed) for seed in seeds]
        left_float = [row["float_layers"] for row in own if "float_layers" in row]
        return {
            "precision": self.precision,
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
        } | ({"float_layers": left_float} if left_float else {})


def whole_seeds(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Seeds of which every point was trained, and the dense model judged. Exits where there is none."""
    every = 1 + len(list(points(config)))
    seeds = [row["seed"] for row in rows]
    whole = sorted({seed for seed in seeds if seeds.count(seed) == every})
    if not whole:
        raise SystemExit("no seed has all of its points: go on with --part train")
    return whole
