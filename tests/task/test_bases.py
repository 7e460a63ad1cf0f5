"""The bases: splits, orders, and the records of each kind of task."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.core.errors import TaskError
from reprune.judge.metrics import get_metric
from reprune.task.bases import (
    Detection,
    Examples,
    Segmentation,
    carve,
    epoch_order,
    hash_ids,
    hash_tokens,
    iou,
)
from reprune.task.check import check_task
from reprune.task.protocol import SPLITS, Batch

Base = Any
LAWS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SEEDS = st.integers(0, 2**31 - 1)


@LAWS
@given(ids=st.lists(st.text(), unique=True, max_size=40), seed=SEEDS, epoch=st.integers(0, 99))
def test_an_order_is_a_permutation_that_follows_the_ids(
    ids: list[str], seed: int, epoch: int
) -> None:
    """Each example once, and the same sequence of ids however they are stored."""
    order = epoch_order(hash_ids(ids), seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(len(ids)))
    turned = epoch_order(hash_ids(ids[::-1]), seed=seed, epoch=epoch)
    assert [ids[i] for i in order] == [ids[::-1][i] for i in turned]


@LAWS
@given(
    seed=SEEDS,
    epoch=st.integers(0, 9),
    world=st.integers(1, 5),
    start=st.integers(0, 4),
    split=st.sampled_from(SPLITS),
)
def test_ranks_and_start_partition_a_split_exactly(
    vectors: Base, seed: int, epoch: int, world: int, start: int, split: Any
) -> None:
    """Every example goes to one rank once; `start` drops exactly so many batches of a rank."""
    task = vectors()
    whole = Counter(name for b in task.batches(split, epoch=epoch, seed=seed) for name in b.ids)
    parts: Counter[str] = Counter()
    for rank in range(world):
        options: dict[str, Any] = {"epoch": epoch, "seed": seed, "rank": rank, "world": world}
        batches = [list(b.ids) for b in task.batches(split, **options)]
        rest = [list(b.ids) for b in task.batches(split, start=start, **options)]
        assert rest == batches[start:]
        parts.update(name for ids in batches for name in ids)
    assert parts == whole
    assert set(whole.values()) == {1}


def test_the_order_follows_seed_and_epoch(vectors: Base) -> None:
    """Another seed or epoch shuffles train; the other splits keep their order."""
    task = vectors()

    def ids(split: Any, seed: int, epoch: int) -> list[str]:
        return [name for b in task.batches(split, epoch=epoch, seed=seed) for name in b.ids]

    assert ids("train", 0, 0) == ids("train", 0, 0)
    assert len({tuple(ids("train", seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    for split in ("tune", "calibration", "eval"):
        assert ids(split, 0, 0) == ids(split, 1, 5)


@LAWS
@given(count=st.integers(1, 400), world=st.integers(1, 3))
def test_no_batch_is_left_with_a_single_example(vectors: Base, count: int, world: int) -> None:
    """Batches of a split differ by one example at most: batch normalisation needs two."""
    task = vectors(count=2 * count + 2, splits={s: range(count) for s in SPLITS})
    for rank in range(world):
        sizes = [len(b) for b in task.batches("train", epoch=0, seed=0, rank=rank, world=world)]
        assert all(max(sizes) - size <= 1 for size in sizes)
        assert max(sizes, default=0) <= 8


@LAWS
@given(count=st.integers(30, 300), seed=SEEDS)
def test_carving_is_a_partition_that_growth_does_not_move(count: int, seed: int) -> None:
    """Each example is in one split, and stays there when the data grows."""
    ids = [f"e{n}" for n in range(count)]
    shares: Any = {"tune": 0.2, "calibration": 0.1}
    parts = carve(ids, shares, seed=seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    grown = carve([*ids, *(f"new{n}" for n in range(50))], shares, seed=seed)
    for split, rows in parts.items():
        assert set(rows.tolist()) == {row for row in grown[split].tolist() if row < count}


def test_carved_splits_have_about_their_share_and_keep_sources_together(vectors: Base) -> None:
    """An eighth or so of a large train each, and no source on both sides."""
    source = [f"s{row // 5}" for row in range(4000)]
    task = vectors({"source": source}, count=4000)
    sizes = {split: len(rows) for split, rows in task.rows.items()}
    assert sizes["eval"] == 2000
    assert 150 < sizes["tune"] < 330
    assert 150 < sizes["calibration"] < 330
    seen = [{source[row] for row in rows.tolist()} for rows in task.rows.values()]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_carving_twice_leaves_every_split_its_share() -> None:
    """What is carved from the rest of an earlier carving does not come out empty."""
    first = carve([f"e{n}" for n in range(2000)], {"eval": 0.3})
    second = carve([f"e{n}" for n in first["train"]], {"tune": 0.1, "calibration": 0.1})
    assert all(100 < len(second[split]) < 180 for split in ("tune", "calibration"))


@pytest.mark.parametrize("shares", [{"tune": 0.0}, {"tune": 0.6, "eval": 0.4}, {"tune": -0.1}])
def test_shares_that_leave_nothing_are_refused(shares: Any) -> None:
    """A share of 0 or a sum of 1 is an error, not an empty split."""
    with pytest.raises(TaskError, match="cannot carve"):
        carve(["a", "b"], shares)


def test_wrong_arrays_and_splits_are_refused(vectors: Base) -> None:
    """Unequal lengths, missing and unknown splits and rows out of range are named."""
    with pytest.raises(TaskError, match=r"slices\['ink'\] has 2 rows, but there are 120 ids"):
        vectors({"slices": {"ink": ["thin", "bold"]}})
    for splits, words in [
        ({"train": [0]}, "no split 'eval'"),
        ({"train": [0], "eval": [1], "test": [2]}, "unknown split 'test'"),
        ({"train": [0], "eval": [120]}, "rows outside"),
        ({"train": [-1], "eval": [1]}, "rows outside"),
    ]:
        with pytest.raises(TaskError, match=words):
            vectors(splits=splits)


def test_versions_follow_the_data_and_the_preprocessing(vectors: Base) -> None:
    """One changed target or another split changes data_version; only `transform` the other."""

    class Scaled(vectors):
        def transform(self, inputs: Any) -> Any:
            return tuple(x / 2 for x in inputs)

    task, targets = vectors(), np.arange(120) % 3
    targets[70] = (targets[70] + 1) % 3
    assert task.data_version == vectors().data_version
    assert task.data_version != vectors({"targets": targets}).data_version
    assert (
        task.data_version
        != vectors(splits={"train": range(50), "eval": range(60, 120)}).data_version
    )
    assert task.data_version == Scaled().data_version
    assert task.preprocess_digest == vectors({"targets": targets}).preprocess_digest
    assert task.preprocess_digest != Scaled().preprocess_digest


def test_augmentation_is_per_example(vectors: Base) -> None:
    """An example's augmentation is the same in whatever batch or rank it comes, and moves by epoch."""

    class Noisy(vectors):
        def augment(self, inputs: Any, target: Any, generator: torch.Generator) -> Any:
            return (inputs[0] + torch.rand(5, generator=generator),), target

    task = Noisy()

    def seen(**options: Any) -> dict[str, list[float]]:
        batches = task.batches("train", seed=4, **options)
        return {n: x.tolist() for b in batches for n, x in zip(b.ids, b.inputs[0], strict=True)}

    whole = seen(epoch=1)
    assert seen(epoch=1, rank=0, world=2) | seen(epoch=1, rank=1, world=2) == whole
    assert all(seen(epoch=2)[name] != row for name, row in whole.items())
    with_noise = next(task.batches("tune", epoch=0, seed=0)).inputs[0]
    assert torch.equal(with_noise, next(vectors().batches("tune", epoch=0, seed=0)).inputs[0])


class Masks(Segmentation):
    def __init__(self) -> None:
        random = np.random.default_rng(0)
        images = random.random((60, 1, 8, 8)).astype(np.float32)
        super().__init__(
            Examples(
                inputs=(images,),
                targets=(images[:, 0] > 0.5).astype(np.uint8),
                ids=[str(row) for row in range(60)],
            ),
            {"train": range(40), "eval": range(40, 60)},
        )

    def model(self) -> nn.Module:
        return nn.Conv2d(1, 1, 3, padding=1)


def test_segmentation_records_are_the_parts_of_dice() -> None:
    """2|P and T| and |P| + |T| by hand, an empty pair among them; the loss falls towards the truth. What is
    called IoU is the intersection over the union of the same masks.
    """
    task = Masks()
    check_task(task, seed=0)
    masks = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    logits = torch.tensor([[[[3.0, -1], [2, -1]]], [[[-1.0, -1], [-1, -1]]], [[[1.0, 1], [1, 1]]]])
    batch = Batch(inputs=(logits,), targets=masks, ids=["a", "b", "c"])
    found = task.records((logits,), batch)
    assert found["numerator"].tolist() == [2, 0, 8]
    assert found["denominator"].tolist() == [4, 0, 8]
    together = {name: column.tolist() for name, column in found.items()}
    assert get_metric("dice").value(together) == 10 / 12
    assert get_metric("iou").value(together) == 5 / 7
    generator = torch.Generator()
    sure = task.loss(
        nn.Identity(),
        Batch(inputs=((masks[:, None] - 0.5) * 20,), targets=masks, ids=["a", "b", "c"]),
        generator,
    )
    assert float(sure) < 0.1 < float(task.loss(nn.Identity(), batch, generator))


class Boxes(Detection):
    """Finds what it is given: the module is the identity on boxes."""

    def __init__(self) -> None:
        rows = np.tile(np.array([[0, 0, 0, 4, 4, 0.9]], np.float32), (60, 1, 1))
        super().__init__(
            Examples(
                inputs=(rows,),
                targets=[row[:, :5] for row in rows],
                ids=[str(row) for row in range(60)],
            ),
            {"train": range(40), "eval": range(40, 60)},
        )

    def model(self) -> nn.Module:
        return nn.Linear(6, 6)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return module(*batch.inputs).square().mean()

    def decode(self, outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return list(outputs[0])


def test_detection_records_are_the_parts_of_f1() -> None:
    """Right box, wrong class, too little overlap, twice the same box, none found, none there."""
    task = Boxes()
    check_task(task, seed=0)
    truth = torch.tensor([[1.0, 0, 0, 4, 4]])
    cases = [
        ([[1, 0, 0, 4, 4, 0.9]], truth, (2, 2)),
        ([[0, 0, 0, 4, 4, 0.9]], truth, (0, 2)),
        ([[1, 2, 0, 6, 4, 0.9]], truth, (0, 2)),
        ([[1, 0, 0, 4, 3, 0.9], [1, 0, 0, 4, 4, 0.8]], truth, (2, 3)),
        ([], truth, (0, 1)),
        ([[1, 0, 0, 4, 4, 0.9]], torch.zeros(0, 5), (0, 1)),
        ([], torch.zeros(0, 5), (0, 0)),
    ]
    for found, there, (numerator, denominator) in cases:
        rows = torch.tensor(found, dtype=torch.float32).reshape(-1, 6)[None]
        batch = Batch(inputs=(rows,), targets=[there], ids=["a"])
        records = task.records((rows,), batch)
        assert records["numerator"].tolist() == [numerator], found
        assert records["denominator"].tolist() == [denominator], found


def test_iou_by_hand() -> None:
    """Half of one box in another of its size is a third; apart is 0; degenerate is 0, not nan."""
    a = torch.tensor([[0.0, 0, 2, 2], [5, 5, 6, 6], [1, 1, 1, 1]])
    b = torch.tensor([[1.0, 0, 3, 2]])
    assert torch.allclose(iou(a, b)[:, 0], torch.tensor([1 / 3, 0.0, 0.0]))


def test_tokens_do_not_depend_on_the_other_texts() -> None:
    """The same words get the same numbers, padding is 0 and masked, long texts are cut."""
    one, mask = hash_tokens(["Good, really good", ""], buckets=50, length=6)
    two, _ = hash_tokens(["good"], buckets=50, length=2)
    assert one[0, 0] == one[0, 3] == two[0, 0]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [0] * 6]
    assert ((one > 0) == (mask > 0)).all()
    assert one.max() < 50
    assert hash_tokens(["a b c"], buckets=9, length=2)[1].tolist() == [[1, 1]]
