"""Where the time goes is told for both models, or why it is not; a failure to tell is no failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reprune.core.artifacts import OperatorShares
from reprune.core.documents import decode_json
from reprune.core.params import BenchmarkParams, Target
from reprune.measure.calls import Shape
from reprune.measure.latency import LatencyJob
from reprune.measure.operator_shares import take_shares, write_shares
from reprune.runtimes.base import Source
from reprune.runtimes.onnxruntime import OnnxRuntime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> LatencyJob:
    folder = tmp_path_factory.mktemp("engines")
    engines = {}
    for arm, width in (("dense", 24), ("candidate", 8), ("champion", 8)):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 3)).eval()
        engines[arm] = folder / f"{arm}.onnx"
        source = Source(
            module=net, example_inputs=(torch.randn(2, 3, 32, 32),), input_names=["image"]
        )
        OnnxRuntime().build(source, Target(), engines[arm])
    shape = Shape(weight=1.0, inputs=(np.zeros((1, 3, 32, 32), dtype=np.float32),))
    return LatencyJob(
        target=Target(), engines=engines, shapes=[shape], params=BenchmarkParams(), seed="s"
    )


def test_both_models_are_told(job: LatencyJob) -> None:
    """Dense and candidate, no other arm, after the modules; the wider first layer takes more."""
    found = take_shares(job)
    assert set(found.arms) == {"dense", "candidate"}
    assert found.why == ""
    took = {
        arm: {one.operator: one.median_us for one in operators}
        for arm, operators in found.arms.items()
    }
    assert {"0/Conv", "2/Conv"} <= took["dense"].keys() & took["candidate"].keys()
    assert all(
        sum(one.share for one in ops) == pytest.approx(1, abs=1e-3) for ops in found.arms.values()
    )


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Target(runtime="torch"), "torch does not tell the times of its operators"),
        (Target(run="ssh device"), "its device is another machine"),
        (Target(kit=True), "its device is another machine"),
    ],
)
def test_what_does_not_tell_is_named(job: LatencyJob, target: Target, why: str) -> None:
    found = take_shares(replace(job, target=target))
    assert found.arms == {}
    assert why in found.why


def test_an_engine_that_cannot_be_profiled_is_said(job: LatencyJob, tmp_path: Path) -> None:
    """The evidence was taken before: what then fails costs a picture and no benchmark."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    said: list[str] = []
    jobs = {"a": job, "b": replace(job, engines={**job.engines, "candidate": broken})}
    write_shares(tmp_path, jobs, said.append)
    told = {
        name: decode_json(
            (tmp_path / "operators" / f"{name}.json").read_bytes(), OperatorShares, name=name
        )
        for name in jobs
    }
    assert set(told["a"].arms) == {"dense", "candidate"}
    assert told["b"].arms == {}
    assert told["b"].why.startswith("profiling failed: ")
    assert len(said) == 1
    assert said[0].startswith("b: no time by layer")
