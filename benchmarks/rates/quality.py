"""Size and power of quality rules on 0/1 records: exact for independent examples, else simulated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from reprune.judge.distributions import alpha_of_attempt, critical
from reprune.judge.power import pass_chance

Floats: TypeAlias = NDArray[np.float64]

EXAMPLES = (200, 500, 1000, 2000, 10_000)
FLIPS = (0.01, 0.02, 0.05, 0.1)
MARGINS = (0.01, 0.02, 0.05, 0.1)
ALPHA = 0.05
ATTEMPTS = 10
WANTED = 0.9
RATED_FLIPS = (
    20  # expected independent flips from which on theory, a limit for many, says something
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`size` examples a source that agree with correlation `alike`; (1, 0): independent examples."""

    examples: int
    flips: float
    size: int = 1
    alike: float = 0.0

    @property
    def sources(self) -> int:
        return self.examples // self.size

    @property
    def effect(self) -> float:
        return 1.0 + (self.size - 1) * self.alike

    def rated(self, theory: float) -> bool:
        """Whether theory says something, and gives at least an even chance."""
        return theory >= 0.5 and self.examples * self.flips / self.effect >= RATED_FLIPS


def theory(cell: Cell, margin: float, alpha: float) -> float:
    """The asymptotic power of the score test for a candidate that lost nothing.

    Nam (1997), Biometrics 53, 1422-1430: the variance under the margin is the score test's own, at the
    expected counts. With sources the examples count for 1 / (1 + (size - 1) alike) each, and the test
    has Student's t with one degree of freedom less than sources (Donner and Klar, 2000).
    """
    assumed, true = score_variance(cell.flips / 2, cell.flips / 2, margin), cell.flips
    shift = margin * math.sqrt(cell.examples / cell.effect / true)
    narrower = math.sqrt(assumed / true)
    if cell.size == 1:
        return float(stats.norm.sf(critical(alpha, None) * narrower - shift))
    df = cell.sources - 1
    return float(stats.nct.sf(critical(alpha, df) * narrower, df, shift))


def score_variance(lost: float, gained: float, margin: float) -> float:
    """The variance of one example's loss under H0 'the drop is `margin`', at these shares (Tango 1998)."""
    b = -lost - gained + (2 - lost + gained) * margin
    c = -gained * margin * (1 - margin)
    gain = (math.sqrt(b * b - 8 * c) - b) / 4
    return 2 * gain + margin * (1 - margin)


def planned_margin(cell: Cell, alpha: float) -> float:
    """The margin at which theory passes an equal candidate 9 times in 10."""
    return float(brentq(lambda m: theory(cell, m, alpha) - WANTED, 1e-5, 0.6, xtol=1e-6))


def envelope(cell: Cell, margin: float, alpha: float) -> float:
    """The power that no test of size `alpha` at this margin and these flips can exceed.

    Neyman and Pearson's most powerful test of the two trinomials, randomised, by enumeration.
    """
    worse = max(cell.flips, margin)
    counts = np.arange(_top(cell.examples, worse) + 1)
    flipped, lost = np.meshgrid(counts, counts, indexing="ij")
    keep = lost <= flipped
    flipped, lost = flipped[keep], lost[keep]
    log_h0 = _log_chance(cell.examples, flipped, lost, worse, (worse + margin) / (2 * worse))
    log_h1 = _log_chance(cell.examples, flipped, lost, cell.flips, 0.5)
    order = np.argsort(log_h0 - log_h1, kind="stable")
    size, power = np.cumsum(np.exp(log_h0[order])), np.cumsum(np.exp(log_h1[order]))
    at = int(np.searchsorted(size, alpha))
    if at == len(size):
        return 1.0
    below = (float(size[at - 1]), float(power[at - 1])) if at else (0.0, 0.0)
    step = float(size[at]) - below[0]
    part = (alpha - below[0]) / step if step > 0 else 0.0
    return below[1] + part * (float(power[at]) - below[1])


def _top(examples: int, share: float) -> int:
    return min(examples, math.ceil(examples * share + 7 * math.sqrt(examples * share) + 10))


def _log_chance(
    examples: int, flipped: NDArray[np.int64], lost: NDArray[np.int64], share: float, part: float
) -> Floats:
    found = stats.binom.logpmf(flipped, examples, share) + stats.binom.logpmf(lost, flipped, part)
    return np.asarray(found, dtype=np.float64)


def point_rule(cell: Cell, margin: float) -> float:
    """P(observed drop <= margin) for independent examples where the true drop is the margin, exactly."""
    share = max(cell.flips, margin)
    part = (share + margin) / (2 * share)
    flipped = np.arange(_top(cell.examples, share) + 1)
    most = np.floor((flipped + cell.examples * margin + 1e-9) / 2)
    chance = stats.binom.pmf(flipped, cell.examples, share) * stats.binom.cdf(most, flipped, part)
    return float(chance.sum())


def exact_rows(attempt: int = 1) -> Iterator[dict[str, Any]]:
    """Every cell of independent examples, at fixed margins and at the planned one, by enumeration."""
    alpha = alpha_of_attempt(ALPHA, attempt)
    for examples in EXAMPLES:
        for flips in FLIPS:
            cell = Cell(examples=examples, flips=flips)
            for margin in (*MARGINS, planned_margin(cell, alpha)):
                yield _exact(cell, margin, alpha)


def _exact(cell: Cell, margin: float, alpha: float) -> dict[str, Any]:
    def chance(drop: float, level: float) -> float:
        return pass_chance(
            examples=cell.examples, flips=cell.flips, drop=drop, margin=margin, alpha=level
        )

    wanted, power = theory(cell, margin, alpha), chance(0.0, alpha)
    return {
        "part": "quality, exact",
        **named(cell, margin, alpha),
        "false_pass": chance(margin, alpha),
        "false_pass_at_5_percent": chance(margin, ALPHA),
        "power": power,
        "theory": wanted,
        "power_ratio": power / wanted if cell.rated(wanted) else None,
        "envelope": envelope(cell, margin, alpha),
        "false_pass_over_10_attempts": over_attempts(
            [chance(margin, alpha_of_attempt(ALPHA, i + 1)) for i in range(ATTEMPTS)]
        ),
        "naive_retries_false_pass": over_attempts([chance(margin, ALPHA)] * ATTEMPTS),
        "point_rule_false_pass": point_rule(cell, margin),
    }


def over_attempts(chances: Sequence[float]) -> float:
    """The chance that one of independent attempts passes: they have other examples' luck each."""
    return 1.0 - math.prod(1.0 - chance for chance in chances)


def named(cell: Cell, margin: float, alpha: float) -> dict[str, Any]:
    return {
        "examples": cell.examples,
        "flips": cell.flips,
        "source_size": cell.size,
        "alike": cell.alike,
        "margin": margin,
        "alpha": alpha,
    }


def tango_z(lost: Floats, gained: Floats, examples: Floats, drop: float) -> Floats:
    """reprune.judge.paired.tango_z on arrays; a test holds them equal."""
    b = -lost - gained + (2 * examples - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    root = np.sqrt(np.maximum(0.0, b * b - 8 * examples * c))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(b <= 0, (root - b) / (4 * examples), -2 * c / (root + b))
    variance = examples * (2 * gain + drop * (1 - drop))
    return np.asarray((lost - gained - examples * drop) / np.sqrt(variance))


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst cells, each at its unfavourable 95 % limit (exact ones as they are): false passes of at
    most 10 % flips; ratios of powers where they are rated.
    """
    sized = [row for row in rows if row["margin"] <= max(FLIPS)]
    return {
        "quality_false_pass_at_margin_max": max(
            row.get("false_pass_limits", [0.0, row["false_pass"]])[1] for row in sized
        ),
        "quality_power_ratio_min": min(
            row.get("power_limits", [row["power"]])[0] / row["theory"]
            for row in rows
            if row["power_ratio"] is not None
        ),
        "naive_quality_false_pass_at_margin": max(row["point_rule_false_pass"] for row in sized),
        "false_pass_over_10_attempts": max(
            row.get("false_pass_over_10_attempts_limits", [row["false_pass_over_10_attempts"]])[-1]
            for row in sized
        ),
    }
