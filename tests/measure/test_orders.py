"""What an arm leaves behind must favour nobody: who is run before whom in the units of a run."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, permutations
from typing import Any

import numpy as np
import pytest

from reprune.core.params import BenchmarkParams
from reprune.measure.latency import LatencyJob, Shape, take_units
from reprune.measure.unit import block_order, warming_order

ARMS = ("candidate", "champion", "dense")


@pytest.mark.slow
def test_the_first_block_follows_its_own_arm(probe: Any) -> None:
    """Run by run: the arm that is measured first is warmed up last, in every unit."""
    shape = Shape(inputs=(np.zeros((1, 64), dtype=np.float32),), weight=1.0)
    params = BenchmarkParams(block_ms=1.0, min_calls=5, discard_calls=2, warmup_seconds=0.0)
    job = LatencyJob(
        target=probe.target,
        engines={arm: probe.engine(arm) for arm in ARMS},
        shapes=(shape,),
        params=params,
        seed="sha256:aa",
    )
    units = take_units(job, total=4, say=lambda _: None)
    seen = iter([arm for _, event, arm in probe.events() if event == "run"])
    for unit in units:
        order = block_order(ARMS, unit.seed)
        calls = sum(arm.warmup_calls for arm in unit.arms.values())
        calls += sum(2 * 2 + sum(map(len, arm.blocks_ns)) for arm in unit.arms.values())
        runs = [next(seen) for _ in range(calls)]
        touching = [*reversed(order), *order[1:], *reversed(order[:-1])]
        assert [arm for arm, _ in groupby(runs)] == touching
    assert next(seen, None) is None


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_arm_follows_every_arm_equally_often(count: int) -> None:
    """Over all permutations, with their warm-ups and mirrors, each ordered pair is as common."""
    arms = [f"arm {number}" for number in range(count)]
    orders = {tuple(block_order(arms, seed)): seed for seed in range(3000)}
    assert set(orders) == set(permutations(arms))
    pairs: Counter[tuple[str, str]] = Counter()
    for order, seed in orders.items():
        blocks = [*order, *reversed(order)]
        pairs.update(zip([warming_order(arms, seed)[-1], *blocks], blocks, strict=False))
    assert len(pairs) == count**2
    assert len(set(pairs.values())) == 1
