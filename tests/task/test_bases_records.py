"""What the bases record for the metrics, held against the metrics' own readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reprune.core.errors import TaskError
from reprune.core.records import NOTHING, SCALE, unpack_detection
from reprune.judge.metrics import get_metric
from reprune.task.bases import Classification, Detection, Examples, Regression
from reprune.task.check import check_task
from reprune.task.protocol import Batch


def value(name: str, records: Any) -> float:
    """The metric over one batch's records, none of which may be a problem."""
    metric = get_metric(name)
    columns = {column: values.tolist() for column, values in records.items()}
    read = metric.read(columns)
    assert not metric.problem or metric.problem(read) == ""
    return metric.value(columns)


class Two(Classification):
    """A whole task of two classes that records everything: as long as a usual one is."""

    recorded = ("answer", "actual", "confidence", "score", "label")

    def __init__(self, classes: int = 2) -> None:
        random = np.random.default_rng(1)
        targets = np.arange(90) % classes
        vectors = (random.normal(size=(90, 4)) + targets[:, None]).astype(np.float32)
        examples = Examples(inputs=(vectors,), targets=targets, ids=[str(row) for row in range(90)])
        super().__init__(examples, {"train": range(60), "eval": range(60, 90)})
        self.classes = classes

    def model(self) -> nn.Module:
        return nn.Linear(4, self.classes)


def test_classification_records_what_its_metrics_read() -> None:
    """By hand: two logits an example; the second class is the positive."""
    task = Two()
    check_task(task, seed=0)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.5]])
    targets = torch.tensor([0, 0, 1, 1])
    batch = Batch(inputs=(logits,), targets=targets, ids=["a", "b", "c", "d"])
    found = task.records((logits,), batch)
    assert all(column.dtype == np.int64 for column in found.values())
    assert found["correct"].tolist() == [1, 0, 1, 0]
    assert found["answer"].tolist() == [0, 1, 1, 0]
    assert found["actual"].tolist() == found["label"].tolist() == [0, 0, 1, 1]
    assert found["score"].tolist() == [-2 * SCALE, SCALE, 3 * SCALE, -SCALE // 2]
    surest = logits.double().softmax(1).amax(1)
    assert found["confidence"].tolist() == (surest * SCALE).round().long().tolist()
    assert value("auc", found) == 0.75
    assert value("macro_f1", found) == value("accuracy", found) == 0.5
    assert value("ece", found) > 0


def test_columns_that_classes_cannot_give_are_refused() -> None:
    """A score needs two classes; an unknown column is named. By default neither is recorded."""
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 2])
    batch = Batch(inputs=(logits,), targets=targets, ids=["a", "b"])
    with pytest.raises(TaskError, match="'score', which a classification of 3 classes"):
        Two(3).records((logits,), batch)

    class Odd(Two):
        recorded = ("odds",)

    with pytest.raises(TaskError, match="'odds'"):
        Odd().records((logits[:, :2],), batch)
    assert set(Classification.recorded) == {"answer", "actual"}


class Angles(Regression):
    bounds = (-90.0, 90.0)  # type: ignore[assignment]  a constant is the usual way to give it

    def __init__(self) -> None:
        random = np.random.default_rng(2)
        vectors = random.normal(size=(90, 3)).astype(np.float32)
        targets = (30 * vectors[:, 0]).clip(-90, 90)
        examples = Examples(inputs=(vectors,), targets=targets, ids=[str(row) for row in range(90)])
        super().__init__(examples, {"train": range(60), "eval": range(60, 90)})

    def model(self) -> nn.Module:
        return nn.Linear(3, 1)


def test_regression_records_are_shares_of_the_range() -> None:
    """By hand, a prediction far outside is clipped to one range beyond; the loss falls to 0 at the truth."""
    task = Angles()
    check_task(task, seed=0)
    targets = torch.tensor([-90.0, 0.0, 90.0, 45.0])
    outputs = torch.tensor([[-72.0], [0.0], [1e9], [-1e9]])
    batch = Batch(inputs=(targets[:, None],), targets=targets, ids=["a", "b", "c", "d"])
    found = task.records((outputs,), batch)
    assert found["target"].tolist() == [0, SCALE // 2, SCALE, 3 * SCALE // 4]
    assert found["predicted"].tolist() == [SCALE // 10, SCALE // 2, 2 * SCALE, -SCALE]
    assert value("mae", found) == pytest.approx((0.1 + 0 + 1 + 1) / 4)
    assert float(task.loss(nn.Identity(), batch, torch.Generator())) == 0.0
    flat = task.records((outputs[:, 0],), batch)
    assert all(np.array_equal(flat[name], found[name]) for name in found)
    assert -1 <= value("spearman", found) <= 1
    with pytest.raises(TaskError, match=r"outside the declared -90\.\.90"):
        task.records((outputs,), Batch(inputs=(outputs,), targets=targets * 2, ids=batch.ids))


class Boxes(Detection):
    """Finds what it is given: outputs are the rows that `decode` gives."""

    match_iou = 0.5
    most_boxes = 3

    def __init__(self) -> None:
        rows = np.tile(np.array([[0, 0, 0, 4, 4, 0.9]], np.float32), (60, 1, 1))
        examples = Examples(
            inputs=(rows,),
            targets=[row[:, :5] for row in rows],
            ids=[str(row) for row in range(60)],
        )
        super().__init__(examples, {"train": range(40), "eval": range(40, 60)})

    def model(self) -> nn.Module:
        return nn.Linear(6, 6)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return module(*batch.inputs).square().mean()

    def decode(self, outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        rows = outputs[0].clone()
        rows[..., 0] = rows[..., 0].round().clamp(min=0)
        rows[..., 5] = rows[..., 5].clamp(0, 1)
        return [row[row[:, 5] > 0] for row in rows]


def test_detection_records_the_matches_that_average_precision_needs() -> None:
    """A hit, its double, a miss and a class of its own; NOTHING fills up, the surest are kept."""
    task = Boxes()
    check_task(task, seed=0)
    truth = [torch.tensor([[1.0, 0, 0, 4, 4], [2, 5, 5, 9, 9]]), torch.zeros(0, 5)]
    rows = torch.tensor(
        [
            [
                [1, 0, 0, 4, 4, 0.9],
                [1, 0, 0, 4, 3.5, 0.8],
                [2, 5, 5, 9, 9, 0.7],
                [2, 0, 0, 1, 1, 0.6],
            ],
            [[1, 0, 0, 4, 4, 0.5], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
        ]
    )
    found = task.records((rows,), Batch(inputs=(rows,), targets=truth, ids=["a", "b"]))
    packed = [[int(found[f"detection_00{n}"][row]) for n in range(3)] for row in range(2)]
    assert [unpack_detection(each) for each in packed[0]] == [
        (1, 900_000, True),
        (1, 800_000, False),
        (2, 700_000, True),
    ]
    assert unpack_detection(packed[1][0]) == (1, 500_000, False)
    assert packed[1][1:] == [NOTHING, NOTHING]
    assert [found[f"box_00{n}"].tolist() for n in range(3)] == [[1, -1], [2, -1], [-1, -1]]
    assert found["numerator"].tolist() == [4, 0]
    assert found["denominator"].tolist() == [6, 1]
    assert value("map", found) == 1.0
    assert value("f1", found) == pytest.approx(4 / 7)


def test_detections_that_cannot_be_recorded_are_refused() -> None:
    """More boxes than there are columns; a score that is none."""
    task = Boxes()
    rows = torch.tensor([[[1, 0, 0, 4, 4, 0.9]]])
    crowd = torch.tensor([[1.0, 0, 0, 4, 4]]).repeat(4, 1)
    with pytest.raises(TaskError, match="an example has 4 boxes, more than 3"):
        task.records((rows,), Batch(inputs=(rows,), targets=[crowd], ids=["a"]))

    class Logits(Boxes):
        def decode(self, outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
            return list(outputs[0])

    with pytest.raises(TaskError, match="a score of 5"):
        Logits().records(
            (rows + torch.tensor([0, 0, 0, 0, 0, 4.1]),),
            Batch(inputs=(rows,), targets=[crowd[:1]], ids=["a"]),
        )


@pytest.mark.parametrize(
    ("column", "number", "words"),
    [
        ("confidence", SCALE + 1, "within 0..1000000"),
        ("label", 2, "must be 0 or 1"),
        ("answer", -1, "must be 0 or more"),
        ("box_000", -2, "within -1.."),
    ],
)
def test_known_columns_are_checked_when_a_task_is(column: str, number: int, words: str) -> None:
    """Before anything is measured, with the column's name."""

    class Wrong(Two):
        def records(self, outputs: Any, batch: Batch) -> Any:
            return {column: np.full(len(batch), number, dtype=np.int64)}

    with pytest.raises(TaskError, match=words) as refused:
        check_task(Wrong(), seed=0)
    assert column in str(refused.value)
