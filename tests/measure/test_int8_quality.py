"""int8 as it is built loses at most half a point of accuracy, on real data that no choice was made on."""

from __future__ import annotations

import importlib.util
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reprune.core.params import BuildParams, Target
from reprune.measure.precision import with_float_layers
from reprune.measure.records import checked_records, engine_answer, module_answer
from reprune.measure.source import source_of
from reprune.runtimes.base import get_runtime

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("REPRUNE_DATA", "../shared/data")).resolve()
POINTS = 0.5
STEPS, DIGITS = 150, 10_000


@pytest.fixture(scope="module")
def mnist() -> tuple[Any, nn.Module]:
    """The example's own task, and its model after 150 seeded steps."""
    if not (DATA / "mnist.npz").exists():
        pytest.skip("needs mnist.npz in REPRUNE_DATA")
    path = Path("examples/mnist/task/mnist.py")
    spec = importlib.util.spec_from_file_location("mnist_example", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    found.FILE = DATA / "mnist.npz"
    task = found.MnistTask()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = task.model()
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    for batch in islice(task.batches("train", epoch=0, seed=1), STEPS):
        optimiser.zero_grad()
        task.loss(module, batch, generator).backward()
        optimiser.step()
    return task, module.eval()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "executorch"])
def test_mnist_in_int8(name: str, mnist: tuple[Any, nn.Module], tmp_path: Path) -> None:
    """On the 10,000 digits of the test file; ranges and layers were chosen on others."""
    task, module = mnist
    target, runtime = Target(runtime=name, precision="int8"), get_runtime(name)
    path = tmp_path / f"engine{runtime.suffix}"
    source = source_of(module, task, target, examples=256)
    fact = with_float_layers(runtime, source, target, task, BuildParams(), path)
    session = runtime.open(path, target)
    right, expected, seen = 0, 0, 0
    for batch in task.batches("eval", epoch=0, seed=0):
        ours = checked_records(task, engine_answer(name, session, batch), batch)
        theirs = checked_records(task, module_answer(module, batch), batch)
        right += int(ours["correct"].sum())
        expected += int(theirs["correct"].sum())
        seen += len(batch)
    found, base = 100.0 * right / seen, 100.0 * expected / seen
    told = f"{name}: int8 {found:.2f} %, fp32 {base:.2f} %, in float: {fact.float_layers or 'none'}"
    print(told)
    weights = sum(4 * parameter.numel() for parameter in module.parameters())
    assert path.stat().st_size < 0.5 * weights, "this is no int8"
    assert seen == DIGITS
    assert base > 95.0, told
    assert found >= base - POINTS, told
