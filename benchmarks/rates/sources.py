"""Size and power of the quality rules on 0/1 records of examples that share sources, by simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.rates.chance import limits
from benchmarks.rates.quality import (
    ALPHA,
    ATTEMPTS,
    EXAMPLES,
    FLIPS,
    MARGINS,
    Cell,
    Floats,
    named,
    over_attempts,
    planned_margin,
    tango_z,
    theory,
)
from reprune.judge.comparisons import MIN_UNITS
from reprune.judge.distributions import alpha_of_attempt, critical
from reprune.judge.paired import assumed_differing

CLUSTERS = ((5, 0.1), (5, 0.3), (20, 0.1), (20, 0.3))  # size, correlation
_AT_ONCE = 20_000
_Z = 1.96  # of two-sided 95 % limits


def _assumed(lost: Floats, gained: Floats) -> Floats:
    """reprune.judge.paired.assumed_differing on arrays: it is linear in the one-sidedness."""
    balanced, one_sided = assumed_differing(1.0, 1.0), assumed_differing(1.0, 0.0)
    share = np.maximum(0.0, lost - gained) / np.maximum(1.0, lost + gained)
    return np.asarray(balanced + (one_sided - balanced) * share)


def source_z(lost: Floats, gained: Floats, squares: Floats, cell: Cell, margin: float) -> Floats:
    """The statistic of BinaryComparison.drop_test's upper limit with sources of one size.

    `squares` sums (lost - gained)^2 over sources.
    """
    mean = (lost - gained) / cell.examples
    between = squares - cell.sources * (mean * cell.size) ** 2
    between = between * cell.sources / (cell.sources - 1)
    within = np.maximum(0.0, lost + gained - cell.examples * mean * mean)
    assumed = _assumed(lost, gained)
    effect = np.maximum(1.0, (between + assumed * cell.size) / (within + assumed))
    return tango_z(lost / effect, gained / effect, cell.examples / effect, margin)


def passes(z: Floats, cell: Cell, alpha: float) -> NDArray[np.bool_]:
    """Which replications the judge passes. Below MIN_UNITS sources nothing is decided."""
    if cell.sources < MIN_UNITS:
        return np.zeros(len(z), dtype=np.bool_)
    return np.asarray(z <= -critical(alpha, cell.sources - 1))


@lru_cache(maxsize=256)
def source_outcomes(
    size: int, alike: float, lost: float, gained: float
) -> tuple[NDArray[np.int64], Floats]:
    """All (lost, gained) of one source, and their chances.

    Every example copies the source's own draw with chance sqrt(alike), else draws for itself; so any two
    of them correlate by `alike`.
    """
    copy = math.sqrt(alike)
    pairs = [(a, b) for a in range(size + 1) for b in range(size + 1 - a)]
    chances = dict.fromkeys(pairs, 0.0)
    for copies in range(size + 1):
        weight = float(stats.binom.pmf(copies, size, copy))
        rest = size - copies
        for a in range(rest + 1):
            for b in range(rest + 1 - a):
                own = math.comb(rest, a) * math.comb(rest - a, b)
                chance = weight * own * lost**a * gained**b * (1 - lost - gained) ** (rest - a - b)
                chances[a + copies, b] += chance * lost
                chances[a, b + copies] += chance * gained
                chances[a, b] += chance * (1 - lost - gained)
    pairs.sort(
        key=lambda pair: -chances[pair]
    )  # a multinomial draw ends once all sources are placed
    found = np.array([chances[pair] for pair in pairs])
    return np.array(pairs, dtype=np.int64), found / found.sum()


def draw(
    cell: Cell, drop: float, replications: int, random: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """lost, gained and the sum of squares over sources, for each replication."""
    flips = max(cell.flips, drop)
    pairs, chances = source_outcomes(
        cell.size, cell.alike, (flips + drop) / 2, max(0.0, (flips - drop) / 2)
    )
    effects = np.column_stack([pairs, (pairs[:, 0] - pairs[:, 1]) ** 2]) * 1.0
    sums = np.concatenate(
        [
            random.multinomial(cell.sources, chances, size=min(_AT_ONCE, replications - start))
            @ effects
            for start in range(0, replications, _AT_ONCE)
        ]
    )
    return sums[:, 0], sums[:, 1], sums[:, 2]


def cells(*, few: bool) -> list[Cell]:
    """Every cell of enough sources to be decided; `few`: an eighth of them, the worst among them."""
    found = [
        Cell(examples=examples, flips=flips, size=size, alike=alike)
        for size, alike in (CLUSTERS[2:] if few else CLUSTERS)
        for examples in ((1000, 10_000) if few else EXAMPLES)
        for flips in ((0.01, 0.05) if few else FLIPS)
    ]
    return [cell for cell in found if cell.sources >= MIN_UNITS]


def source_rows(
    wanted: Sequence[Cell], *, seed: int, replications: int, attempt: int = 1
) -> Iterator[dict[str, Any]]:
    """Each cell simulated, at fixed margins and at the planned one; power by a quarter as many draws."""
    alpha = alpha_of_attempt(ALPHA, attempt)
    for number, cell in enumerate(wanted):
        margins = (*MARGINS, planned_margin(cell, alpha))
        for place, margin in enumerate(margins):
            yield _simulated(cell, margin, alpha, replications, [seed, number, place])


def _simulated(
    cell: Cell, margin: float, alpha: float, replications: int, seed: Sequence[int]
) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    at_margin = draw(cell, margin, replications, random)
    equal = draw(cell, 0.0, replications // 4, random)
    z = source_z(*at_margin, cell, margin)
    rate, low, high = limits(int(passes(z, cell, alpha).sum()), replications)
    nominal = float(passes(z, cell, ALPHA).mean())
    found = passes(source_z(*equal, cell, margin), cell, alpha)
    power, least, most = limits(int(found.sum()), len(found))
    wanted = theory(cell, margin, alpha)
    lost, gained, _ = at_margin
    tries = np.array([passes(z, cell, alpha_of_attempt(ALPHA, i + 1)) for i in range(ATTEMPTS)])
    ten = over_attempts(tries.mean(axis=1).tolist())
    reach = float(_Z * tries.sum(axis=0).std() / math.sqrt(replications))
    return {
        "part": "quality, sources",
        **named(cell, margin, alpha),
        "replications": replications,
        "power_replications": len(found),
        "false_pass": rate,
        "false_pass_limits": [low, high],
        "false_pass_at_5_percent": nominal,
        "false_pass_over_10_attempts": ten,
        "false_pass_over_10_attempts_limits": [ten - reach, ten + reach],
        "power": power,
        "power_limits": [least, most],
        "theory": wanted,
        "power_ratio": power / wanted if cell.rated(wanted) else None,
        "point_rule_false_pass": float(np.mean(lost - gained <= cell.examples * margin + 1e-9)),
    }
