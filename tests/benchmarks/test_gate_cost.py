"""The gate's cost grows with the evidence, and no faster."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.gate_cost import cpu, large
from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.judge.verdict import judge
from reprune.steps.assemble import assemble
from reprune.steps.gate import read_grounds


def judging(verdict: Path) -> Callable[[], object]:
    def once() -> object:
        grounds = read_grounds(store.read(verdict, Verdict))
        return judge(assemble(grounds), grounds.policy)

    return once


def calls(function: Callable[[], object]) -> int:
    """How many Python and C functions are called: the same every time, however busy the machine is."""
    profile = cProfile.Profile()
    profile.enable()
    function()
    profile.disable()
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_large_verdict_is_built_and_judged(tmp_path: Path) -> None:
    """Of three targets, small here: every rule of every target is judged, and the verdict reads well."""
    verdict = large(tmp_path, sources=True, examples=2000, units=20)
    found = store.read(verdict, Verdict).manifest.judgement
    assert {rule.target for rule in found.rules} == {"cpu-a", "cpu-b", "cpu-c"}
    assert len(found.slices) == 3 * 2 * 3 * 20


@pytest.mark.slow
@pytest.mark.parametrize("sources", [pytest.param(False, marks=pytest.mark.deep), True])
def test_twice_the_evidence_costs_at_most_three_times_as_much(
    tmp_path: Path, sources: bool
) -> None:
    """Twice the examples and twice the units: calls at most 2.5-fold, CPU time at most 3.5-fold."""
    small = judging(large(tmp_path / "small", sources=sources, examples=4000, units=30))
    twice = judging(large(tmp_path / "twice", sources=sources, examples=8000, units=60))
    assert calls(twice) <= 2.5 * calls(small)
    assert cpu(twice, 3)[0] <= 3.5 * cpu(small, 3)[0]
