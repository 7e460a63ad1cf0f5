"""Latency is planned by a table, cut, built and timed; where the budget is missed the table is corrected."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from reprune.compress.planning.allocate import Allocated, Widths
from reprune.compress.planning.latency import unreachable
from reprune.compress.planning.options import ROUNDING
from reprune.core.errors import CompressionError

Key: TypeAlias = "tuple[tuple[str, int], ...]"

# A correction stays between these: one measured saving that is nearly nothing, or noise, must not decide.
LEAST, MOST = 0.05, 20.0
# A plan that leaves at most these shares of the asked saving and of the budget unused is not widened.
UNUSED_SAVING, UNUSED_BUDGET = 0.1, 0.01


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The latency on `target` may be `fraction` of the dense model's. `forecast` is what a table says of
    widths, of which `least` is the smallest; `time` measures it, None where this machine cannot. The dense
    model takes `dense_ms`, where that was measured.
    """

    target: str
    fraction: float
    forecast: Callable[[Widths], float]
    least: float
    time: Callable[[Widths], float] | None
    dense_ms: float | None = None

    def told(self, ratio: float) -> str:
        """The ratio in milliseconds, for people."""
        return "" if self.dense_ms is None else f" ({ratio * self.dense_ms:.4g} ms)"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What a table said of a plan, what was measured (None: not here), and the factor on the table's saving
    with which the plan was made.
    """

    forecast: float
    measured: float | None
    correction: float


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Widths that meet every goal as measured, and each target's latency."""

    allocated: Allocated
    latencies: Mapping[str, Latency]


@dataclass(kw_only=True)
class _Bracket:
    """What is known of one goal: its correction, and the table's ratios that fitted and that did not."""

    correction: float = 1.0
    fitted: float = -math.inf
    missed: float = math.inf

    def bound(self, goal: Goal, *, halve: bool) -> float:
        """The table's ratio that is planned for: between what fitted and what did not, where it is known;
        half-way with `halve`.
        """
        wanted = 1.0 - (1.0 - goal.fraction) / self.correction
        if math.isfinite(self.fitted) and math.isfinite(self.missed):
            if halve or not self.fitted < wanted < self.missed:
                wanted = (self.fitted + self.missed) / 2.0
        elif wanted >= self.missed:
            wanted = math.nextafter(self.missed, -math.inf)
        # A timing may find less than the table says; where none is made, what the table says is held to.
        return wanted if goal.time is None else max(wanted, goal.least)

    def learn(self, goal: Goal, forecast: float, measured: float) -> None:
        if measured <= goal.fraction:
            self.fitted = max(self.fitted, forecast)
        else:
            self.missed = min(self.missed, forecast)
        if forecast < 1.0:
            self.correction = min(max((1.0 - measured) / (1.0 - forecast), LEAST), MOST)


def close(
    plan: Callable[[Mapping[str, float]], Allocated],
    goals: Mapping[str, Goal],
    loss: Callable[[Widths], tuple[bool, float]],
    *,
    trials: int,
    say: Callable[[str], None],
) -> Closed:
    """Of at most `trials` plans the one with the least `loss` that met every goal when it was timed.

    `plan` takes by the goals' names the ratio that a table may say. After each trial the table's saving
    is multiplied by what was measured of it over what was said, and the next plan is made with that;
    it ends where a goal is met with little to spare, or nothing new is planned.

    A goal that is not timed is met where the table says so.

    Raises CompressionError with what was measured, or predicted, where no trial met the goals, and
    what `plan` raises where a goal that is not timed is below anything that the table can say.
    """
    # Wherever anything is asked, the dense model is one that does not fit.
    known = {
        name: _Bracket(missed=1.0 if goal.fraction < 1.0 else math.inf)
        for name, goal in goals.items()
    }
    tried: set[Key] = set()
    best: Closed | None = None
    ratios: list[dict[str, float]] = []
    for number in range(trials):
        try:
            found = _untried(plan, goals, known, tried)
        except CompressionError:
            if number == 0:
                raise
            break
        if found is None:
            break
        key = _key(found)
        tried.add(key)
        latencies = _timed(found.widths, goals, known, say)
        seen = {name: one.measured for name, one in latencies.items() if one.measured is not None}
        ratios.append({n: one.forecast for n, one in latencies.items()} | seen)
        if all(_meets(goals[name], ratio) for name, ratio in ratios[-1].items()):
            if best is None or loss(found.widths) < loss(best.allocated.widths):
                best = Closed(allocated=found, latencies=latencies)
            if all(
                goals[name].fraction - ratio <= _spare(goals[name]) for name, ratio in seen.items()
            ):
                break
        for name, ratio in seen.items():
            known[name].learn(goals[name], latencies[name].forecast, ratio)
    if best is None:
        raise _missed(goals, ratios, trials)
    return best


def _spare(goal: Goal) -> float:
    """How far below the goal a plan may stay."""
    return min(UNUSED_SAVING * (1.0 - goal.fraction), UNUSED_BUDGET * goal.fraction)


def _untried(
    plan: Callable[[Mapping[str, float]], Allocated],
    goals: Mapping[str, Goal],
    known: Mapping[str, _Bracket],
    tried: Collection[Key],
) -> Allocated | None:
    """The plan for the corrected table, or else for half-way between; None if both were tried."""
    for halve in (False, True):
        found = plan({name: known[name].bound(goal, halve=halve) for name, goal in goals.items()})
        if _key(found) not in tried:
            return found
    return None


def _key(found: Allocated) -> Key:
    return tuple(sorted(found.widths.items()))


def _meets(goal: Goal, ratio: float) -> bool:
    """Whether the ratio, measured or else predicted, is within the goal; a prediction is a sum of floats."""
    return ratio <= goal.fraction * (1.0 if goal.time is not None else 1.0 + ROUNDING)


def _timed(
    widths: Widths,
    goals: Mapping[str, Goal],
    known: Mapping[str, _Bracket],
    say: Callable[[str], None],
) -> dict[str, Latency]:
    latencies = {}
    for name, goal in goals.items():
        forecast = goal.forecast(widths)
        ratio = None if goal.time is None else goal.time(widths)
        correction = known[name].correction
        latencies[name] = Latency(forecast=forecast, measured=ratio, correction=correction)
        told = "not timed here" if ratio is None else f"{ratio:.3f} measured{goal.told(ratio)}"
        say(
            f"plan: latency on {goal.target}: {forecast:.3f} of the dense model's by the table, {told}, "
            f"{goal.fraction:.4g} asked{goal.told(goal.fraction)}"
            + ("" if correction == 1.0 else f" (saving corrected by {correction:.3f})")
        )
    return latencies


def _missed(
    goals: Mapping[str, Goal], found: list[dict[str, float]], trials: int
) -> CompressionError:
    """Names the goal that was missed in every trial, or by most in the best one."""

    def excess(seen: Mapping[str, float]) -> float:
        return max(ratio / goals[name].fraction for name, ratio in seen.items())

    nearest = min(found, key=excess)
    worst = max(nearest, key=lambda name: nearest[name] / goals[name].fraction)
    ratios = [seen[worst] for seen in found]
    goal = goals[worst]
    on = f" on '{goal.target}'"
    if goal.dense_ms is not None:
        asked, least = goal.fraction * goal.dense_ms, min(ratios) * goal.dense_ms
        on += f" ({asked:.4g} ms are asked, {least:.4g} ms the least that was found)"
    how = "predicted" if goal.time is None else "measured"
    return unreachable(ratios, round(goal.fraction, 4), trials, on=on, how=how)
