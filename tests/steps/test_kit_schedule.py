"""A kit counts only where it asked its device for what a benchmark would ask now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from reprune.core.errors import ChainBroken
from reprune.core.params import BenchmarkParams, Target
from reprune.measure.calls import Shape
from reprune.measure.device_job import DeviceJob, new_job, seal
from reprune.measure.latency import LatencyJob
from reprune.steps.kit_schedule import refuse_other_schedule
from reprune.steps.remote import timing

PARAMS = BenchmarkParams()


def shapes(size: int, *weights: float, value: float = 1.0) -> tuple[Shape, ...]:
    inputs = (np.full((size, 3), value, np.float32),)
    return tuple(Shape(inputs=inputs, weight=weight) for weight in weights)


def asked(size: int = 1, **changes: Any) -> LatencyJob:
    """What a benchmark asks for at a batch size of a target that a kit reaches."""
    arms = {arm: Path(f"{arm}.onnx") for arm in ("candidate", "dense")}
    plain = LatencyJob(
        target=Target(kit=True, batch_size=size),
        engines=arms,
        shapes=shapes(size, 0.25, 0.75),
        params=PARAMS,
        seed=f"seed/b{size}",
        control=True,
    )
    return replace(plain, **changes)


@pytest.fixture
def kit(tmp_path: Path) -> DeviceJob:
    """It went out with two batch sizes, three units each."""
    job = new_job("phone", asked().target, hang_seconds=60, valid_s=600)
    timings = tuple(timing(tmp_path, asked(size), range(3), 0) for size in (1, 8))
    return seal(tmp_path, structs.replace(job, timings=timings))


@pytest.mark.parametrize("size", [1, 8])
def test_what_is_asked_again_is_taken(kit: DeviceJob, size: int) -> None:
    found = refuse_other_schedule(kit, asked(size), where="kit")
    assert found.batch_size == size
    assert len(found.units) == 3


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"params": structs.replace(PARAMS, block_ms=PARAMS.block_ms + 1)}, "the knobs of a block"),
        (
            {"params": structs.replace(PARAMS, min_calls=PARAMS.min_calls + 1)},
            "the knobs of a block",
        ),
        ({"params": structs.replace(PARAMS, discard_calls=0)}, "the knobs of a block"),
        ({"params": structs.replace(PARAMS, warmup_seconds=0.5)}, "the knobs of a block"),
        ({"params": structs.replace(PARAMS, pause_seconds=7.0)}, "the pause between processes"),
        ({"seed": "another"}, "arms, seeds or units"),
        ({"engines": {"dense": Path("dense.onnx")}}, "arms, seeds or units"),
        ({"target": Target(kit=True, threads=2)}, "the target"),
        ({"weights": (0.5, 0.5)}, "the weights of shapes"),
        ({"value": 2.0}, "the inputs"),
    ],
)
def test_what_would_be_measured_otherwise_now_is_refused(
    kit: DeviceJob, size: int, changes: dict[str, Any], named: str
) -> None:
    """At each batch size, with what differs: its samples are no evidence under today's params.yaml."""
    if "weights" in changes:
        changes = {"shapes": shapes(size, *changes["weights"])}
    elif "value" in changes:
        changes = {"shapes": shapes(size, 0.25, 0.75, **changes)}
    elif "target" in changes:
        changes = {"target": structs.replace(changes["target"], batch_size=size)}
    with pytest.raises(ChainBroken, match=named) as caught:
        refuse_other_schedule(kit, asked(size, **changes), where="kit")
    assert "reprune kit" in caught.value.fix


def test_a_batch_size_that_was_not_measured_is_refused(kit: DeviceJob) -> None:
    with pytest.raises(ChainBroken, match="did not measure batch size 4"):
        refuse_other_schedule(kit, asked(4), where="kit")
