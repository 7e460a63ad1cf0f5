"""A year of weekly generations that are each a little worse on average, with and without an anchor."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.rates.quality import Floats, tango_z
from reprune.judge.distributions import alpha_of_attempt, critical

WEEKS = 52
EXAMPLES = 10_000
FLIPS = 0.08
WORSE, SPREAD = 0.003, 0.003
MARGIN = 0.01
ANCHOR = 0.02
RULES = ("point rule", "champion", "champion and anchor")


def year(rule: str, *, seed: int, years: int) -> tuple[Floats, Floats]:
    """True losses against the anchor at the end of each simulated year, and how often it was promoted.

    Each week's candidate is truly worse than the champion by a normal draw; its dense version is new, so
    that it is judged at the level of a first attempt. Each week's examples are drawn anew. All models
    differ from what most of them say on half of FLIPS of the examples, each on its own, so that the
    same candidate is compared with champion and anchor.
    """
    random = np.random.default_rng([seed, RULES.index(rule)])
    z = critical(alpha_of_attempt(0.05, 1), None)
    lost, promoted = np.zeros(years), np.zeros(years)
    for _ in range(WEEKS):
        mine = lost + random.normal(WORSE, SPREAD, years)
        candidate, champion, anchor = (_wrong(x, random) for x in (mine, lost, np.zeros(years)))
        if rule == "point rule":
            passes = _drop(candidate, champion) <= MARGIN
        else:
            passes = _z(candidate, champion, MARGIN) <= -z
        if rule == "champion and anchor":
            passes &= _z(candidate, anchor, ANCHOR) <= -z
        lost = np.where(passes, mine, lost)
        promoted += passes
    return lost, promoted


Wrong = tuple[Floats, Floats]


def _wrong(loss: Floats, random: np.random.Generator) -> Wrong:
    """On how many examples models of these true losses are alone wrong, and alone right."""
    flips = np.maximum(FLIPS / 2, np.abs(loss))
    worse, better = (flips + loss) / 2, (flips - loss) / 2
    wrong = random.binomial(EXAMPLES, worse)
    right = random.binomial(EXAMPLES - wrong, better / (1 - worse))
    return wrong * 1.0, right * 1.0


def _z(mine: Wrong, theirs: Wrong, margin: float) -> Floats:
    return tango_z(mine[0] + theirs[1], mine[1] + theirs[0], np.float64(EXAMPLES), margin)


def _drop(mine: Wrong, theirs: Wrong) -> Floats:
    return (mine[0] + theirs[1] - mine[1] - theirs[0]) / EXAMPLES


def rows(*, seed: int, years: int) -> list[dict[str, Any]]:
    """One row a rule. Losses are in points."""
    found = []
    for rule in RULES:
        lost, promoted = year(rule, seed=seed, years=years)
        points = 100 * lost
        found.append(
            {
                "part": "a year of drift",
                "rule": rule,
                "weeks": WEEKS,
                "replications": years,
                "loss_mean": float(points.mean()),
                "loss_99_percent": float(np.quantile(points, 0.99)),
                "loss_max": float(points.max()),
                "promoted_mean": float(promoted.mean()),
            }
        )
    return found
