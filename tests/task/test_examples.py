"""The default example and the others: they load, keep the protocol, and the default one learns."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import reprune
from reprune.core.params import read_params
from reprune.core.policy import read_policy
from reprune.task.check import check_task
from reprune.task.load import load_task
from reprune.task.outputs import outputs_of
from reprune.task.protocol import SPLITS
from reprune.task.seal import take_census

TEMPLATE = Path(reprune.__file__).parent / "template"
EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = Path(os.environ.get("REPRUNE_DATA", "../shared/data"))
NEEDS = {"mnist": "mnist.npz", "sst2": "sst2", "membrane": "isbi2012_membrane.npz"}


def load_digits_task(root: Path = TEMPLATE) -> Any:
    return load_task("task.digits:DigitsTask", root)


def score(task: Any, module: torch.nn.Module, split: Any) -> float:
    module.eval()
    with torch.no_grad():
        found = [
            int(value)
            for batch in task.batches(split, epoch=0, seed=0)
            for value in task.records(outputs_of(module, batch.inputs), batch)["correct"]
        ]
    return sum(found) / len(found)


def train(task: Any, epochs: int) -> torch.nn.Module:
    torch.manual_seed(0)
    module: torch.nn.Module = task.model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for batch in task.batches("train", epoch=epoch, seed=0):
            optimizer.zero_grad()
            task.loss(module, batch, generator).backward()
            optimizer.step()
    return module


def test_the_default_example_keeps_the_protocol() -> None:
    """450 fixed digits judge, the rest is carved, and everything is disjoint."""
    task = load_digits_task()
    check_task(task, seed=0)
    counted = {split: take_census(task, split) for split in SPLITS}
    assert len(counted["eval"].ids) == 450
    assert sum(len(census.ids) for census in counted.values()) == 1797
    assert len({content for c in counted.values() for content in c.contents}) == 1797
    assert set(counted["eval"].slices) == {"digit", "ink"}
    assert min(len(counted[split].ids) for split in ("tune", "calibration")) > 130


@pytest.mark.slow
def test_the_default_example_learns() -> None:
    """Two epochs, about a second, are enough to see that loss, batches and records fit together."""
    task = load_digits_task()
    assert score(task, train(task, 2), "eval") > 0.8


def test_labels_beside_the_task_reach_training_and_not_the_judgement(tmp_path: Path) -> None:
    """train_labels.csv changes train, tune and calibration; eval keeps the truth."""
    shutil.copytree(TEMPLATE / "task", tmp_path / "task")
    before = load_digits_task(tmp_path)
    lines = ["id,label", *(f"digit-{row:04d},7" for row in range(1797))]
    (tmp_path / "task/train_labels.csv").write_text("\n".join(lines), encoding="utf-8")
    after = load_digits_task(tmp_path)
    assert set(take_census(after, "train").labels or ()) == {"7"}
    assert set(take_census(after, "tune").labels or ()) == {"7"}
    assert take_census(after, "eval") == take_census(before, "eval")
    assert after.data_version != before.data_version


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detection", "membrane", "mnist", "sst2", "two_input"])
def test_an_example_keeps_the_protocol(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its params and policy decode, its task passes every check, and no id is in two splits."""
    params = read_params(EXAMPLES / name / "params.yaml")
    policy = read_policy(EXAMPLES / name / "policy.yaml")
    assert set(policy.targets) == set(params.targets)
    needed = NEEDS.get(name)
    if needed and not (DATA / needed).exists():
        pytest.skip(f"missing data: {needed} is not in REPRUNE_DATA")
    monkeypatch.setenv("REPRUNE_DATA", str(DATA.resolve()))
    task: Any = load_task(params.task, EXAMPLES / name)
    check_task(task, seed=0)
    ids = [task.examples.ids[row] for split in SPLITS for row in task.rows[split]]
    assert len(ids) == len(set(ids))
    least = params.validate.min_examples
    assert all(len(task.rows[split]) >= least[split] for split in SPLITS)
