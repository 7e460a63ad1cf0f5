"""The whole judge on a sample of replications: it must say what the fast paths say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.rates import latency, model, quality, sources
from benchmarks.rates.looks import BLOCK, PASS, settle
from reprune.core.artifacts import Cost, EngineFact, Judgement, Parity
from reprune.core.machine import Machine
from reprune.core.policy import GuardRules, Policy
from reprune.judge.distributions import alpha_of_attempt, critical
from reprune.judge.evidence import (
    ArmRecords,
    ArmTimes,
    Evidence,
    QualityEvidence,
    TargetEvidence,
    Unit,
)
from reprune.judge.verdict import judge

_MACHINE = Machine(
    instance="sha256:1", kind="sha256:2", cpu="simulated", logical_cpus=2, os="Linux"
)
_TYPICAL_NS = 1e9
_EXAMPLES = 1000
_CELLS = (
    quality.Cell(examples=_EXAMPLES, flips=0.05),
    quality.Cell(examples=_EXAMPLES, flips=0.05, size=5, alike=0.3),
)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many rules of how many verdicts were compared, and how many came out the same."""

    verdicts: int
    rules: int
    equal: int


def compared(noise: model.Noise, *, seed: int, each: int) -> Agreement:
    """`each` whole verdicts for every number of arms and true ratio; margins of 3 points."""
    rules = equal = verdicts = 0
    for arms in (2, 3, 4):
        cell = latency.Cell(arms=arms, session=0.012, leaves="candidate")
        random, order, quick = latency.drawn(noise, arms, seed, 0, each * len(latency.RATIOS))
        logs = latency.cell_logs(cell, order, model.arm_means(quick, order), random)
        for index in range(logs.shape[1]):
            ratio = latency.RATIOS[index % len(latency.RATIOS)]
            mine = np.round(_TYPICAL_NS * ratio * np.exp(logs[:, index])) / _TYPICAL_NS
            small = _CELLS[index % len(_CELLS)]
            moves = _moves(small, (0.0, 0.03)[index // 2 % 2], random)
            found = judge(_evidence(mine, moves, small), _policy())
            wanted = _wanted(mine, moves, small, arms)
            verdicts += 1
            rules += len(wanted)
            equal += sum(_outcome(found, rule) in outcomes for rule, outcomes in wanted.items())
    return Agreement(verdicts=verdicts, rules=rules, equal=equal)


def _policy() -> Policy:
    """The latency rules of the simulation; guards need conditions, which are not simulated."""
    margin = {"max_drop": 0.03, "max_error_ratio": None}
    accuracy = {"vs_parent": margin, "vs_champion": margin, "vs_anchor": margin}
    changed = {"accuracy": {**accuracy, "floor": 0.5, "slices": {}}}
    base = msgspec.to_builtins(latency.POLICY) | {"quality": changed}
    off = {"control": False, "max_waiting": None, "max_clock_change": None, "max_interval": None}
    return msgspec.convert(base | {"guards": msgspec.to_builtins(GuardRules()) | off}, Policy)


def _outcome(found: Judgement, rule: str) -> str:
    return next((result.outcome for result in found.rules if result.rule == rule), "absent")


def _wanted(
    ratios: model.Floats, moves: model.Integers, cell: quality.Cell, arms: int
) -> dict[str, set[str]]:
    """What the fast paths say. A rule that did not settle may still be blocked by Holm's last step."""
    names = ("vs_parent", "vs_champion", "vs_anchor")[: arms - 1]
    settled = settle(ratios <= latency.MARGIN, latency.plan_of(arms))
    said = {PASS: {"pass"}, BLOCK: {"block"}}
    wanted = {
        f"latency.{name}": said.get(int(outcome), {"inconclusive", "block"})
        for name, outcome in zip(names, settled.outcome, strict=True)
    }
    lost, gained = np.array([(moves == 1).sum()]) * 1.0, np.array([(moves == -1).sum()]) * 1.0
    alpha = alpha_of_attempt(quality.ALPHA, 1)
    if cell.size == 1:
        z = quality.tango_z(lost, gained, np.float64(cell.examples), 0.03)
        passed = bool(z[0] <= -critical(alpha, None))
    else:
        squares = np.array([(moves.reshape(-1, cell.size).sum(axis=1) ** 2).sum()]) * 1.0
        z = sources.source_z(lost, gained, squares, cell, 0.03)
        passed = bool(sources.passes(z, cell, alpha)[0])
    wanted["accuracy.vs_parent"] = {"pass"} if passed else {"inconclusive", "block"}
    return wanted


def _moves(cell: quality.Cell, drop: float, random: np.random.Generator) -> model.Integers:
    """1 for an example that was lost, -1 for one that was gained; sources lie side by side."""
    lost, gained = (cell.flips + drop) / 2, (cell.flips - drop) / 2
    common = np.repeat(random.random(cell.sources), cell.size)
    own = random.random(cell.examples)
    draws = np.where(random.random(cell.examples) < math.sqrt(cell.alike), common, own)
    found = (draws < lost).astype(np.int64) - ((draws >= lost) & (draws < lost + gained))
    return np.asarray(found, dtype=np.int64)


def _evidence(ratios: model.Floats, moves: model.Integers, cell: quality.Cell) -> Evidence:
    """Whole evidence: `ratios` (baselines, units) against each baseline, `moves` against all of them."""
    arms = latency.ARMS[: len(ratios) + 1]
    right = {"candidate": (moves == -1) | (moves == 0), "baseline": moves != -1}
    records = {
        name: ArmRecords(columns={"correct": tuple(int(x) for x in values)})
        for name, values in right.items()
    }
    keys = {
        f"{arm}@cpu": records["candidate" if arm == "candidate" else "baseline"] for arm in arms
    }
    ids = tuple(f"example-{place:05d}" for place in range(cell.examples))
    clips = tuple(f"source-{place // cell.size:05d}" for place in range(cell.examples))
    return Evidence(
        name="simulated",
        dense_version="2",
        champion_version="1" if "champion" in arms else None,
        seed="sha256:seed",
        attempt=1,
        arms={arm: f"sha256:{arm}" for arm in arms},
        engines=tuple(_engine(arm) for arm in arms),
        targets=(
            TargetEvidence(
                target="cpu", machine=_MACHINE, batch_size=1, units=_units(ratios, arms)
            ),
        ),
        quality=QualityEvidence(
            eval_digest="sha256:e",
            ids=ids,
            slices={"all": ("one",) * cell.examples},
            sources=clips if cell.size > 1 else None,
            arms={"dense": records["baseline"], **keys},
        ),
        power=(),
        problems=(),
    )


def _units(ratios: model.Floats, arms: Sequence[str]) -> tuple[Unit, ...]:
    """Units of two equal calls a block. The baselines' times differ, so that each ratio is met."""
    units = []
    for index in range(ratios.shape[1]):
        times = {"candidate": round(_TYPICAL_NS * float(ratios[0, index]))}
        for arm, ratio in zip(arms[1:], ratios[:, index], strict=True):
            times[arm] = round(times["candidate"] / float(ratio))
        units.append(
            Unit(
                index=index,
                process=index // 2,
                seed=index,
                started_s=1e9 + index,
                load=0.0,
                arms={
                    arm: ArmTimes(order=place, blocks_ns=((ns,) * 5, (ns,) * 5), warmup_calls=1)
                    for place, (arm, ns) in enumerate(times.items())
                },
            )
        )
    return tuple(units)


def _engine(arm: str) -> EngineFact:
    return EngineFact(
        arm=arm,  # type: ignore[arg-type]  # one of latency.ARMS
        target="cpu",
        runtime="onnxruntime",
        runtime_version="1.0",
        precision="fp32",
        file=f"cpu/{arm}.onnx",
        bytes=1000,
        bundle=f"sha256:{arm}",
        weights=f"sha256:{arm}-weights",
        inputs=("x",),
        parity=Parity(examples=64, max_abs=1e-5, cosine=0.999999, agreement=1.0),
        cost=Cost(params=1000, macs=10_000, bytes=4000),
    )
