"""Error rates and power of the latency rules: cells of simulated units, and the real trace beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from benchmarks.rates import model, trace
from benchmarks.rates.chance import limits
from benchmarks.rates.looks import BLOCK, PASS, Settled, exact_rates, settle
from reprune.core.policy import Policy
from reprune.judge.distributions import alpha_of_attempt
from reprune.judge.evidence import Unit
from reprune.judge.latency import Sequential, follow, latency_plan, unit_ratio

MARGIN = 1.05
RATIOS = (0.95, 1.0, 1.05, 1.1)
SESSIONS = (0.0, 0.006, 0.012)
CARRY = 0.02
ARMS = ("candidate", "dense", "champion", "anchor")  # the first m of them are in a cell of m arms
AT_ONCE = 1000

# Who leaves the 2 % to the block after it.
LEAVES = ("candidate", "baseline", "others")

_RATIO = {"max_ratio": MARGIN}
_MARGINS = {"vs_parent": {}, "vs_champion": {}, "vs_anchor": {}}
POLICY = msgspec.convert(
    {
        "targets": {"cpu": "required"},
        "latency": {"vs_parent": _RATIO, "vs_champion": _RATIO, "vs_anchor": _RATIO},
        "quality": {"accuracy": {**_MARGINS, "floor": 0.5, "slices": {}}},
    },
    Policy,
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`own_first` is how units are taken: the first block follows calls of its own arm."""

    arms: int
    session: float
    leaves: str
    own_first: bool = True

    @property
    def carry(self) -> tuple[float, ...]:
        baseline = int(self.leaves == "baseline")
        if self.leaves == "graded":  # the candidate most, the first baseline nothing
            return (CARRY, 0.0, *[CARRY / 2] * (self.arms - 2))
        if self.leaves == "others":
            return (0.0, 0.0, *[CARRY] * (self.arms - 2))
        return (CARRY * (1 - baseline), CARRY * baseline, *[0.0] * (self.arms - 2))


def cells() -> list[Cell]:
    """Every combination. With two arms there are no others to leave something behind."""
    return [
        Cell(arms=arms, session=session, leaves=leaves)
        for arms in (2, 3, 4)
        for session in SESSIONS
        for leaves in LEAVES
        if arms > 2 or leaves != "others"
    ]


def plan_of(arms: int, attempt: int = 1) -> Sequential:
    """As the judge makes it from the default policy, for the first `arms` arms."""
    return latency_plan(POLICY, ARMS[:arms], alpha_of_attempt(POLICY.alpha, attempt))


@dataclass
class Counted:
    """What became of the replications of one cell at one true ratio."""

    replications: int = 0
    first_passed: int = 0
    all_passed: int = 0
    first_blocked: int = 0
    any_blocked: int = 0
    units: Any = None

    def add(self, rules: Sequence[Settled]) -> None:
        passed = np.array([rule.outcome == PASS for rule in rules])
        blocked = np.array([rule.outcome == BLOCK for rule in rules])
        self.replications += passed.shape[1]
        self.first_passed += int(passed[0].sum())
        self.all_passed += int(passed.all(axis=0).sum())
        self.first_blocked += int(blocked[0].sum())
        self.any_blocked += int(blocked.any(axis=0).sum())
        longest = np.max([rule.units for rule in rules], axis=0)
        self.units = longest if self.units is None else np.concatenate([self.units, longest])


def drawn(
    noise: model.Noise, arms: int, seed: int, chunk: int, size: int
) -> tuple[np.random.Generator, model.Integers, model.Floats]:
    """A generator, each unit's order and its blocks' noise: one stream for all cells of `arms`."""
    random = np.random.default_rng([seed, arms, chunk])
    order = random.integers(0, len(model.orders(arms)), (size, POLICY.looks[-1]))
    return random, order, model.block_noise(noise, size, POLICY.looks[-1], 2 * arms, random)


def cell_logs(
    cell: Cell, order: model.Integers, means: model.Floats, random: np.random.Generator
) -> model.Floats:
    """log(candidate / baseline) of every unit at a true ratio of 1: (baselines, replications, units)."""
    logs = means + model.left_behind(cell.arms, cell.carry, cell.own_first)[order]
    if cell.session:
        logs = logs + random.normal(0, cell.session, logs.shape)
    return np.moveaxis(logs[:, :, :1] - logs[:, :, 1:], 2, 0)


def simulate(
    noise: model.Noise, wanted: Sequence[Cell], *, seed: int, replications: int
) -> list[dict[str, Any]]:
    """A row for each cell and true ratio; all cells of as many arms see the same noise."""
    counted = {(cell, ratio): Counted() for cell in wanted for ratio in RATIOS}
    for arms in sorted({cell.arms for cell in wanted}):
        plan = plan_of(arms)
        for chunk in range(math.ceil(replications / AT_ONCE)):
            size = min(AT_ONCE, replications - chunk * AT_ONCE)
            random, order, quick = drawn(noise, arms, seed, chunk, size)
            means = model.arm_means(quick, order)
            for cell in (one for one in wanted if one.arms == arms):
                logs = cell_logs(cell, order, means, random)
                for ratio in RATIOS:
                    room = math.log(MARGIN / ratio)
                    counted[cell, ratio].add([settle(log <= room, plan) for log in logs])
    return [_row(cell, ratio, found) for (cell, ratio), found in counted.items()]


def _row(cell: Cell, ratio: float, found: Counted) -> dict[str, Any]:
    rates = {
        name: limits(getattr(found, name), found.replications)
        for name in ("first_passed", "all_passed", "first_blocked", "any_blocked")
    }
    return {
        "part": "latency",
        "arms": cell.arms,
        "session_sd": cell.session,
        "leaves": cell.leaves,
        "first_block_after": "itself" if cell.own_first else "any arm",
        "ratio": ratio,
        "replications": found.replications,
        **{name: rate for name, (rate, _, _) in rates.items()},
        **{f"{name}_limits": [low, high] for name, (_, low, high) in rates.items()},
        "median_units": float(np.median(found.units)),
        "mean_units": float(np.mean(found.units)),
    }


def real_rows(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """The recorded trace in independent windows: each begins where the rule ended in the one before.

    Another true ratio is a factor on the candidate's times. A window that the trace ends in is left out.
    Two pairs of the four arms are used: exchanging the arms of one pair leaves the other as it is, and
    the order of all four is drawn, so that their signs are independent too.
    """
    rows = []
    pairs = (("candidate", "dense"), ("champion", "anchor"))
    plan = plan_of(2)
    for ratio in RATIOS:
        found = {"pass": 0, "block": 0, "inconclusive": 0}
        taken: list[int] = []
        for mine, base in pairs:
            ratios = [ratio * unit_ratio(_renamed(unit, mine), base) for unit in units]
            for outcome, used in windows(ratios, plan):
                found[outcome] += 1
                taken.append(used)
        count = len(taken)
        row: dict[str, Any] = {"part": "latency, real trace", "arms": len(trace.ARMS)}
        row |= {"ratio": ratio, "replications": count}
        for outcome, name in (("pass", "first_passed"), ("block", "first_blocked")):
            rate, low, high = limits(found[outcome], count)
            row |= {name: rate, f"{name}_limits": [low, high]}
        rows.append(row | {"median_units": float(np.median(taken)) if taken else None})
    return rows


def windows(ratios: Sequence[float], plan: Sequential) -> Iterator[tuple[str, int]]:
    """Outcome and length of every whole window, one after another."""
    start = 0
    while start < len(ratios):
        state = follow(ratios[start:], MARGIN, plan)
        if not state.settled and len(ratios) - start < plan.looks[-1]:
            return
        yield ("pass" if state.passes else "block" if state.blocks else "inconclusive"), state.units
        start += state.units


def _renamed(unit: Unit, mine: str) -> Unit:
    return msgspec.structs.replace(unit, arms={**unit.arms, "candidate": unit.arms[mine]})


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst cell of each claim, at its unfavourable 95 % limit.

    Errors: some rule blocks though all are equal; the rule at the margin passes. Power: every rule of the
    cell passes; the rule that is broken blocks.
    """

    def worst(ratio: float, name: str, side: int) -> float:
        ends = [row[f"{name}_limits"][side] for row in rows if row["ratio"] == ratio]
        return float(max(ends) if side else min(ends))

    equal = [row["median_units"] for row in rows if row["ratio"] == 1.0]
    return {
        "false_block_aa": worst(1.0, "any_blocked", 1),
        "false_pass_at_margin": worst(MARGIN, "first_passed", 1),
        "blocked_at_1_10": worst(1.1, "first_blocked", 0),
        "pass_at_1_00": worst(1.0, "all_passed", 0),
        "pass_at_0_95": worst(0.95, "all_passed", 0),
        "median_units_aa": float(max(equal)),
    }


def exact_row() -> dict[str, Any]:
    """The exact rates at the margin, which no noise can change: fair and independent coins."""
    rates = {arms: exact_rates(plan_of(arms), 0.5) for arms in (2, 3, 4)}
    return {
        "part": "latency, exact at the margin",
        "ratio": MARGIN,
        "first_passed": max(passed for passed, _ in rates.values()),
        "first_blocked": max(blocked for _, blocked in rates.values()),
    }


def retries_row(attempts: int) -> dict[str, Any]:
    """Attempts one after another, each truly at the margin of one rule: exact, for the worst plan."""
    union = 0.0
    for arms in (2, 3, 4):
        missed = [1 - exact_rates(plan_of(arms, i + 1), 0.5)[0] for i in range(attempts)]
        union = max(union, 1 - math.prod(missed))
    return {
        "part": "latency, attempts at the margin",
        "ratio": MARGIN,
        "attempts": attempts,
        "false_pass_over_10_attempts": union,
    }
