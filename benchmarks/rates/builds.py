"""False passes and power where every arm is built several times: builds differ, units of one little.

Every arm's build has an effect of its own (a normal one, or a choice between two), every unit noise on top.
The rule is the judge's own `follow`. `crossed` shows what would become of it with one value for each of the
candidate's builds, averaged over the baseline's; `units` with the units as the sample, as for one build.

    python -m benchmarks.rates.builds [--quick] [--verify] [--json benchmarks/results/error_rates_builds.json]

`--verify` simulates one committed cell at the margin again, with other random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.rates.chance import limits
from reprune.judge.latency import Sequential, follow
from reprune.judge.numeric import rounded

MARGIN = 1.05
UNIT_SD = 0.01
# The default policy's looks, at the level of a first attempt.
RATIOS = (0.8, 0.9, 1.0, MARGIN, 1.2)
SEED = 20261127
PLAN = Sequential(looks=(8, 15, 30), alpha=0.025, rules=4)

Effects = Callable[[np.random.Generator, int], Any]


def normal(sd: float) -> Effects:
    """A build's effect on the logarithm of its time, with a standard deviation of `sd`."""
    return lambda random, count: random.normal(0.0, sd, count)


def two_choices(sd: float) -> Effects:
    """A builder that has two kernels for a model and takes either; the same standard deviation."""
    return lambda random, count: sd * random.choice([-1.0, 1.0], count)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`builds` of each arm, whose effects are drawn by `effects`."""

    builds: int
    effects: Effects
    name: str
    crossed: bool = False
    units: bool = False


def draw(cell: Cell, ratio: float, random: np.random.Generator) -> tuple[list[float], list[int]]:
    """The ratios of one attempt's units, and the build of the candidate that each ran."""
    count, k = PLAN.looks[-1], cell.builds
    mine, base = cell.effects(random, k), cell.effects(random, k)
    units = np.arange(count)
    others = (units + units // k) % k if cell.crossed else units % k
    logs = math.log(ratio) + mine[units % k] - base[others] + random.normal(0, UNIT_SD, count)
    return [rounded(math.exp(log)) for log in logs], [int(unit % k) for unit in units]


def rates(cell: Cell, ratio: float, *, replications: int, seed: int) -> dict[str, Any]:
    """How often the rule passes and blocks at a true ratio, with 95 % limits."""
    random = np.random.default_rng([seed, cell.builds, int(1000 * ratio)])
    passed = blocked = 0
    for _ in range(replications):
        ratios, builds = draw(cell, ratio, random)
        state = follow(ratios, MARGIN, PLAN, () if cell.units else builds)
        passed, blocked = passed + state.passes, blocked + state.blocks
    rate, low, high = limits(passed, replications)
    return {
        "part": "latency over builds",
        "builds": cell.builds,
        "effects": cell.name,
        "sample": "crossed" if cell.crossed else "units" if cell.units else "builds",
        "ratio": ratio,
        "replications": replications,
        "passed": rate,
        "passed_limits": [low, high],
        "blocked": limits(blocked, replications)[0],
    }


def cells(sds: Sequence[float] = (0.01, 0.02, 0.03)) -> list[Cell]:
    """3 to 5 builds that differ by 1 to 3 %, and builders that take one of two kernels."""
    found = [
        Cell(builds=k, effects=normal(sd), name=f"normal, sd {sd}") for k in (3, 4, 5) for sd in sds
    ]
    return found + [
        Cell(builds=k, effects=two_choices(0.02), name="two choices, sd 0.02") for k in (3, 4, 5)
    ]


def main() -> None:
    """Simulates every cell at every true ratio, and the two other analyses at the margin."""
    given = common.options(__doc__)
    if given.verify:
        raise SystemExit(_verify())
    replications = 1000 if given.quick else 20_000
    ask = {"replications": replications, "seed": SEED}
    rows = [rates(cell, ratio, **ask) for cell in cells() for ratio in RATIOS]
    beside = [
        Cell(builds=k, effects=normal(0.02), name="normal, sd 0.02", **other)
        for k in (3, 5)
        for other in ({"crossed": True}, {"units": True})
    ]
    rows += [rates(cell, MARGIN, **ask) for cell in beside]
    found = common.result(figures(rows), rows, replications=replications, seed=SEED)
    for row in rows:
        print(row["sample"], row["builds"], row["effects"], row["ratio"], row["passed"])
    if given.json:
        common.write(given.json, found)


def _verify() -> int:
    """Simulates the first cell at the margin again; 1 if its 95 % limits do not meet the committed ones."""
    cell = cells()[0]
    named = ("builds", "effects", "sample", "ratio")
    again = rates(cell, MARGIN, replications=2000, seed=SEED + 1)
    wanted = next(
        row
        for row in common.committed("error_rates_builds")["rows"]
        if all(row[name] == again[name] for name in named)
    )
    print(f"passed at the margin: {again['passed']:.4f}, committed {wanted['passed']:.4f}")
    return int(not meet(again["passed_limits"], wanted["passed_limits"]))


def meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two intervals have a point in common."""
    return max(one[0], other[0]) <= min(one[1], other[1])


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst cell, at the unfavourable 95 % limit: of false passes, and of passes at a ratio of 0.8 with
    three and five builds; and false passes of the other two analyses, at the favourable one.
    """

    def ends(
        sample: str, ratio: float, side: int, builds: tuple[int, ...] = (3, 4, 5)
    ) -> list[float]:
        return [
            row["passed_limits"][side]
            for row in rows
            if (row["sample"], row["ratio"]) == (sample, ratio) and row["builds"] in builds
        ]

    return {
        "builds_false_pass_at_margin": max(ends("builds", MARGIN, 1)),
        "builds_pass_at_0_80_three": min(ends("builds", 0.8, 0, (3,))),
        "builds_pass_at_0_80_five": min(ends("builds", 0.8, 0, (5,))),
        "crossed_false_pass_at_margin": min(ends("crossed", MARGIN, 0)),
        "units_false_pass_at_margin": min(ends("units", MARGIN, 0)),
    }


if __name__ == "__main__":
    main()
