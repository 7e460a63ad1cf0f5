"""The parts of the LeNet benchmark on 1,000 images: every kind of arm, its files, and the result's form."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import common, lenet_mnist
from benchmarks.lenet.task import MnistTask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path(os.environ.get("REPRUNE_DATA", "../shared/data")) / "mnist.npz").exists(),
        reason="no MNIST here: set REPRUNE_DATA",
    ),
]


@pytest.fixture
def few_images(monkeypatch):
    from benchmarks.lenet import training

    def task(setting, *, batch_size=128, rate=1e-3):
        found = MnistTask(
            shifts=setting.shifts, held_out=setting.held_out, batch_size=batch_size, rate=rate
        )
        found.count = 1_000
        return found

    monkeypatch.setattr(training.Setting, "task", task)


@pytest.mark.deep
def test_each_kind_of_arm_and_its_files(few_images, tmp_path):
    from benchmarks.lenet.arms import ARMS, Job, run

    def row(name):
        return run(Job(arm=ARMS[name], seed=0, folder=tmp_path, held_out=True))

    names = (
        "dense",
        "dense_shifts",
        "stock_90",
        "ours_90",
        "stock_98",
        "ours_98",
        "ours_98_shifts",
    )
    rows = [row(name) for name in names]
    by_arm = {row["arm"]: row for row in rows}
    assert by_arm["ours_90"]["weights_left"] == by_arm["stock_90"]["weights_left"] == 26_620
    assert by_arm["ours_98"]["weights_left"] == by_arm["stock_98"]["weights_left"] == 5_324
    assert min(row["accuracy"] for row in rows) > 70
    small, mcu = (by_arm["ours_98_shifts"]["files"][kind] for kind in ("small", "mcu"))
    assert small["bytes"] < mcu["bytes"] < 6_000
    assert small["accuracy"] == mcu["accuracy"] > 70
    assert by_arm["ours_90"]["files"]["plain"]["percent"] < 5
    found = lenet_mnist.figures(rows)
    assert found["bytes_percent_90"] == by_arm["ours_90"]["files"]["plain"]["percent"]
    assert "smallest_bytes_percent_at_98_accuracy" not in found
    judged = common.judged(lenet_mnist.claims(rows))
    assert {claim["verdict"] for claim in judged} == {"not enough seeds"}
    content = common.result(
        found, rows, claims=judged, bars=lenet_mnist.bars(found), curve=lenet_mnist.curve(rows)
    )
    lenet_mnist.show({**content, "accuracy_of": "a test"})


def test_shifts_move_an_image_by_at_most_one_pixel():
    import torch

    from benchmarks.lenet.task import shifted, train_images

    image = train_images()[0][3].view(28, 28)
    middle = shifted(torch.tensor([3]), torch.tensor([[1, 1]])).view(28, 28)
    moved = shifted(torch.tensor([3]), torch.tensor([[2, 0]])).view(28, 28)
    assert torch.equal(middle, image)
    assert torch.equal(moved[:-1, 1:], image[1:, :-1])


def test_the_order_is_a_function_of_seed_and_epoch():
    def first(seed, epoch):
        return next(MnistTask(shifts=True).batches("train", epoch=epoch, seed=seed))

    again, other, later = first(1, 2), first(2, 2), first(1, 3)
    assert list(first(1, 2).ids) == list(again.ids)
    assert (first(1, 2).inputs[0] == again.inputs[0]).all()
    assert list(other.ids) != list(again.ids) != list(later.ids)
    held_out = {f"{number}" for number in range(55_000, 60_000)}
    seen = {name for batch in MnistTask().batches("train", epoch=0, seed=0) for name in batch.ids}
    assert not seen & held_out
    assert len(seen) == 55_000


def test_a_result_is_json_even_without_limits(tmp_path):
    """One seed has no lower limit; other readers than Python's stop at `-Infinity`."""
    claims = common.judged([common.Claim(words="better", differences=[1.0])])
    common.write(tmp_path / "out.json", {"claims": claims, "figures": {"one": 1.5}})

    def refuse(word):
        raise AssertionError(word)

    found = json.loads((tmp_path / "out.json").read_text(), parse_constant=refuse)
    assert found["claims"][0]["low"] is None
    assert found["figures"] == {"one": 1.5}
