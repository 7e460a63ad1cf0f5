"""Which examples are stored to be looked at, and how small a picture gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reprune.core.artifacts import SHOWN_FILE, ShownExample
from reprune.core.documents import decode_json
from reprune.measure.records import Taken
from reprune.measure.shown import MAX_SIDE, changed_ids, picture, write_shown
from reprune.task.protocol import Batch


def taken(**arms: Sequence[int]) -> Taken:
    """Arms by key (`candidate_t` is `candidate@t`) with 1 where they are right."""
    return Taken(
        ids=tuple(f"e{i}" for i in range(len(arms["dense"]))),
        slices={},
        sources=None,
        eval_digest="sha256:0",
        arms={
            key.replace("_", "@"): {"correct": np.asarray(value, dtype=np.int64)}
            for key, value in arms.items()
        },
    )


def test_both_directions_take_turns() -> None:
    """Half of what is shown became wrong and half right, as far as there are both; never more than asked."""
    known = taken(dense=[1, 1, 1, 0, 0, 1], candidate_t=[0, 0, 0, 1, 0, 1])
    assert changed_ids(known, 48) == ["e0", "e3", "e1", "e2"]
    assert changed_ids(known, 2) == ["e0", "e3"]


def test_every_target_counts_and_the_champion_does_not() -> None:
    known = taken(
        dense=[1, 1, 1], candidate_a=[0, 1, 1], candidate_b=[0, 0, 1], champion_a=[0, 0, 0]
    )
    assert changed_ids(known, 48) == ["e0", "e1"]


def test_examples_of_every_member_of_a_set_are_shown() -> None:
    known = taken(dense=[1, 1, 0], candidate_t=[0, 1, 1])
    other = {"dense": [1, 1, 1], "candidate@t": [1, 0, 1]}
    for key, columns in known.arms.items():
        right = columns.pop("correct")
        columns |= {"car.correct": right, "lane.correct": np.asarray(other[key], dtype=np.int64)}
        columns["depth.predicted"] = right
    assert changed_ids(known, 48) == ["e0", "e2", "e1"]


def test_records_that_are_not_right_or_wrong_show_nothing() -> None:
    known = taken(dense=[1], candidate_t=[0])
    known.arms["dense"] = {"target": known.arms["dense"]["correct"]}
    assert changed_ids(known, 48) == []


def test_a_picture_keeps_its_least_and_greatest() -> None:
    """The least value is black, the greatest white, whatever the range; a constant one is black."""
    drawn = picture(torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]]))
    assert drawn == (2, 2, 1, bytes([0, 64, 128, 255]))
    assert picture(torch.full((3, 2, 2), 7.0)) == (2, 2, 3, bytes(12))


@pytest.mark.parametrize("side", [2, 47, 48, 49, 224, 1024])
def test_a_picture_is_small(side: int) -> None:
    drawn = picture(torch.rand(3, side, side // 2 + 1))
    assert drawn is not None
    width, height, channels, pixels = drawn
    assert max(width, height) <= MAX_SIDE
    assert len(pixels) == width * height * channels


@pytest.mark.parametrize(
    "values",
    [torch.rand(5), torch.rand(4, 8, 8), torch.rand(1, 1, 9), torch.full((1, 2, 2), torch.nan)],
)
def test_what_is_no_image_is_not_drawn(values: torch.Tensor) -> None:
    assert picture(values) is None


class Letters:
    """Two batches of inputs that are no image; with words where the task has some."""

    def batches(self, split: str, *, epoch: int, seed: int) -> Iterator[Batch]:
        assert (split, epoch, seed) == ("eval", 0, 0)
        for ids in (("e0", "e1"), ("e2", "e3")):
            yield Batch(inputs=(torch.zeros(2, 5, dtype=torch.int64),), targets=None, ids=ids)


def shown(task: Any, folder: Path, ids: Sequence[str]) -> tuple[ShownExample, ...]:
    write_shown(folder, task, ids)
    return decode_json((folder / SHOWN_FILE).read_bytes(), tuple[ShownExample, ...], name="shown")


def test_words_are_the_tasks_own(tmp_path: Path) -> None:
    """In the order that was asked for; nothing of an example that was not asked for is written."""
    task = Letters()
    task.shown = lambda batch: [f"the words of {each}" for each in batch.ids]  # type: ignore[attr-defined]
    found = shown(task, tmp_path, ["e3", "e0"])
    assert [one.text for one in found] == ["the words of e3", "the words of e0"]
    assert "e1" not in (tmp_path / SHOWN_FILE).read_text()


def test_what_cannot_be_shown_is_left_out(tmp_path: Path) -> None:
    assert shown(Letters(), tmp_path, ["e0"]) == ()
    assert json.loads((tmp_path / SHOWN_FILE).read_text()) == []
