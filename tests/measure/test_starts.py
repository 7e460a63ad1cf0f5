"""How an engine begins in a fresh process: bigger models need more memory, and the kernel counts it."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import BenchmarkParams, Target
from reprune.measure.calls import Shape
from reprune.measure.latency import LatencyJob
from reprune.measure.starts import (
    Resident,
    needed,
    reset_peak,
    resident,
    starting_order,
    take_starts,
)

pytestmark = pytest.mark.slow

SHAPES = (Shape(inputs=(np.zeros((1, 64), dtype=np.float32),), weight=1.0),)
MIB = 2**20


def quiet(_: str) -> None:
    pass


def start_job(engines: dict[str, Path], *, processes: int = 2, **changes: Any) -> LatencyJob:
    fields = {"target": Target(), "shapes": SHAPES, "seed": "s", **changes}
    params = BenchmarkParams(memory_processes=processes)
    return LatencyJob(engines=engines, params=params, **fields)


def test_a_bigger_model_needs_more(small_and_big: tuple[Path, Path]) -> None:
    """A net of 4.5 MB beside one of 0.04: at least the weights more, every time; no control arm."""
    small, big = small_and_big
    more = big.stat().st_size - small.stat().st_size
    job = start_job({"candidate": small, "dense": big}, control=True)
    starts = take_starts(job, say=quiet)
    taken = {arm: [one.peak_bytes for one in found] for arm, found in starts.items()}
    assert all(
        min(one.load_ns, one.first_call_ns) > 0 for found in starts.values() for one in found
    )
    assert {arm: len(found) for arm, found in taken.items()} == {"candidate": 2, "dense": 2}
    assert min(taken["dense"]) > max(taken["candidate"]) + more
    assert min(taken["candidate"]) > small.stat().st_size
    assert max(taken["dense"]) < 300 * MIB


def test_processes_are_fresh_and_take_turns(probe: Any) -> None:
    """Every turn opens each arm once, in the seeded order, each in a process of its own."""
    engines = {arm: probe.engine(arm) for arm in ("candidate", "champion", "dense")}
    job = start_job(engines, processes=3, target=probe.target)
    take_starts(job, say=quiet)
    opened = [(pid, arm) for pid, event, arm in probe.events() if event == "open"]
    assert len({pid for pid, _ in opened}) == len(opened) == 9
    wanted = [arm for turn in range(3) for arm in starting_order(list(engines), "s", turn)]
    assert [arm for _, arm in opened] == wanted


@given(st.text(max_size=5), st.integers(0, 20), st.permutations(["a", "b", "c"]))
def test_the_order_is_a_function_of_the_set_of_arms(seed: str, turn: int, arms: list[str]) -> None:
    order = starting_order(arms, seed, turn)
    assert sorted(order) == ["a", "b", "c"]
    assert order == starting_order(sorted(arms), seed, turn)


def test_what_goes_wrong_in_the_child_is_said(probe: Any) -> None:
    """An engine that does not load is the user's error, a killed process ours."""
    refuses = {"dense": probe.engine("dense", refuses=True)}
    with pytest.raises(BuildError, match="the probe does not load"):
        take_starts(start_job(refuses, target=probe.target), say=quiet)
    dies = {"dense": probe.engine("dense", dies=True)}
    with pytest.raises(RepruneError, match="killed by signal 9"):
        take_starts(start_job(dies, target=probe.target), say=quiet)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux only")
def test_the_peak_is_seen_although_it_is_gone_again() -> None:
    """Forty MiB touched and given back between two readings; an earlier, higher peak is forgotten."""
    touched(80)
    assert reset_peak()
    before = resident()
    touched(40)
    found = needed(before, resident(), was_reset=True)
    assert 38 * MIB < found < 60 * MIB


def touched(mebibytes: int) -> None:
    with mmap.mmap(-1, mebibytes * MIB) as pages:
        for place in range(0, mebibytes * MIB, mmap.PAGESIZE):
            pages[place] = 1


def test_without_a_reset_an_earlier_peak_is_not_counted() -> None:
    """What is known is used: a new peak, else what has stayed, else nothing."""
    before = Resident(now=100, peak=500)
    assert needed(before, Resident(now=150, peak=600), was_reset=False) == 500
    assert needed(before, Resident(now=150, peak=500), was_reset=False) == 50
    assert needed(before, Resident(now=90, peak=500), was_reset=False) == 0
    assert needed(before, Resident(now=150, peak=300), was_reset=True) == 200
    alone = Resident(now=None, peak=500)
    assert needed(alone, Resident(now=None, peak=700), was_reset=False) == 200


def test_the_counting_process_imports_no_torch() -> None:
    """What is counted shares its process with nothing heavy."""
    code = "import sys, reprune.measure.starts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
