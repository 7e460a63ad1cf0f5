"""How much two sessions of one model differ: memory layout, caches and threads fall differently each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from reprune.judge.evidence import CONTROL, Unit
from reprune.judge.numeric import rounded

FEWEST = 8


@dataclass(frozen=True, kw_only=True)
class SessionEffect:
    """Standard deviations of log time: of one session about its model, of the difference of two
    (sqrt(2) times that), and of one block within its session. `units` is how many units were used.
    """

    session: float
    pair: float
    block: float
    units: int


def session_effect(units: Sequence[Unit]) -> SessionEffect | None:
    """From the two sessions of the dense model in each unit; None below 8 units, or without CONTROL.

    Variance components by the method of moments (Searle, Casella and McCulloch 1992, Variance
    Components, 3.5). With sessions s and blocks e, the difference of the two sessions' means over
    two blocks has variance 2 var(s) + var(e), and the difference of their differences from block
    to block has variance 4 var(e). Drift within a unit adds to the latter, which makes the estimate
    for sessions smaller; it is never below 0.
    """
    if len(units) < FEWEST or not all(_has_pair(unit) for unit in units):
        return None
    whole, within = [], []
    for unit in units:
        first, second = (
            math.log(median(c) / median(d))
            for c, d in zip(unit.arms[CONTROL].blocks_ns, unit.arms["dense"].blocks_ns, strict=True)
        )
        whole.append((first + second) / 2)
        within.append(first - second)
    block = _variance(within) / 4
    session = max(0.0, (_variance(whole) - block) / 2)
    return SessionEffect(
        session=rounded(math.sqrt(session)),
        pair=rounded(math.sqrt(2 * session)),
        block=rounded(math.sqrt(block)),
        units=len(units),
    )


def _has_pair(unit: Unit) -> bool:
    return CONTROL in unit.arms and all(
        len(unit.arms[arm].blocks_ns) == 2 for arm in (CONTROL, "dense")
    )


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
