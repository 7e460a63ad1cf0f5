"""False passes and power where every arm is built several times: builds differ, units of one little.

Every arm's build has an effect of its own (a normal one, or a choice between two), every unit noise on top.
The rule is the judge's own `follow`. `crossed` shows what would become of it with one value for each of the
candidate's builds, averaged over the baseline's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.rates.chance import limits
from reprune.judge.latency import Sequential, follow
from reprune.judge.numeric import rounded

MARGIN = 1.05
UNIT_SD = 0.01
# The default policy's looks, at the level of a first attempt.
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
        state = follow(ratios, MARGIN, PLAN, builds)
        passed, blocked = passed + state.passes, blocked + state.blocks
    rate, low, high = limits(passed, replications)
    return {
        "part": "latency over builds",
        "builds": cell.builds,
        "effects": cell.name,
        "crossed": cell.crossed,
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
