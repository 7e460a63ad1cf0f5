"""The reconciler in the simulated world: no violation, one trace a seed, and planted bugs are found."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrate.simulation import draw_plan, main, simulate
from tests.orchestrate.simulation_plants import PLANTS

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
SEEDS = 100_000 if DEEP else 10_000
PLANT_SEEDS = 1_000
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_schedule_violates_an_invariant() -> None:
    for seed in range(SEEDS):
        found = simulate(seed)
        assert not found.violations, f"{found.violations[0]}\n{found.replay}"


def test_the_faults_are_there() -> None:
    plans = [draw_plan(random.Random(seed)) for seed in range(1_000)]
    assert max(plan.rate for plan in plans) == 0.4
    kinds = {kind for plan in plans for kind in plan.kinds}
    assert kinds == {"fails", "answer lost", "crash before", "crash after", "stale", "late"}
    strict = sum(plan.strict for plan in plans)
    assert 0.2 < strict / len(plans) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    assert any(simulate(seed, [plant]).violations for seed in range(PLANT_SEEDS))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trace() -> None:
    for seed in range(500):
        first = simulate(seed, keep_trace=True)
        assert first.trace == simulate(seed, keep_trace=True).trace


@pytest.mark.slow
def test_the_trace_does_not_depend_on_the_order_of_sets() -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-m", "tests.orchestrate.simulation", "7"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1


def test_a_failure_is_replayed_by_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    plant = "closes the newest version"
    found = next(each for each in (simulate(seed, [plant]) for seed in range(9)) if each.violations)
    assert found.replay == f"python -m tests.orchestrate.simulation {found.seed} --plant '{plant}'"
    assert main([str(found.seed), "--plant", plant]) == 1
    assert capsys.readouterr().out.rstrip().endswith(found.violations[-1])


def test_more_than_fifteen_bugs_are_planted() -> None:
    assert len(set(PLANTS)) >= 15
