"""The sealed view and the census."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reprune.core.errors import EvalIsSealed, TaskError
from reprune.task.protocol import SPLITS, Task
from reprune.task.seal import Sealed

Base = Any


def test_eval_is_sealed_at_once(vectors: Base) -> None:
    """Asking for eval raises when asked, not at the first batch; the open splits are the task's."""
    task = vectors()
    view = Sealed(task)
    with pytest.raises(EvalIsSealed, match="only the benchmark opens"):
        view.batches("eval", epoch=0, seed=0)
    for split in ("train", "tune", "calibration"):
        seen = [b.ids for b in view.batches(split, epoch=2, seed=1, start=1)]
        assert seen == [b.ids for b in task.batches(split, epoch=2, seed=1, start=1)]


def test_only_naming_eval_opens_it(vectors: Base) -> None:
    """The benchmark's view has eval, and not what it was not given."""
    view = Sealed(vectors(), splits=("eval",))
    assert sum(len(b) for b in view.batches("eval", epoch=0, seed=0)) == 60
    with pytest.raises(EvalIsSealed):
        view.batches("train", epoch=0, seed=0)
    with pytest.raises(TaskError, match="there is no split 'test'"):
        view.batches("test", epoch=0, seed=0)  # type: ignore[arg-type]


def test_the_view_is_a_task_and_hides_the_rest(vectors: Base) -> None:
    """All members of the protocol work through it; the data that the task keeps does not."""

    class Optional(vectors):
        keep = ("2",)

    task = Optional()
    view = Sealed(task)
    assert isinstance(view, Task)
    assert view.keep == ("2",)
    assert not hasattr(Sealed(vectors()), "keep")
    assert not hasattr(view, "examples")
    assert not hasattr(view, "plain")
    assert view.data_version == task.data_version
    assert view.preprocess_digest == task.preprocess_digest
    batch = next(view.batches("tune", epoch=0, seed=0))
    module = view.model()
    assert view.loss(module, batch, torch.Generator()).requires_grad
    assert set(view.records((module(*batch.inputs),), batch)) == {
        "correct",
        "answer",
        "actual",
    }
    assert torch.equal(view.example_inputs(3)[0], task.example_inputs(3)[0])


def test_the_census_counts_every_split(vectors: Base) -> None:
    """Ids, labels and slices of every example of each split, eval too; no inputs."""
    task = vectors({"source": [f"s{row // 4}" for row in range(120)]})
    view = Sealed(task)
    counted = {split: view.census(split) for split in SPLITS}
    assert sum(len(census.ids) for census in counted.values()) == 120
    assert len({name for census in counted.values() for name in census.ids}) == 120
    for census in counted.values():
        assert census.labels == tuple(str(int(name[1:]) % 3) for name in census.ids)
        assert census.sources == tuple(f"s{int(name[1:]) // 4}" for name in census.ids)
        assert set(census.slices) == {"parity"}
        assert census.times is None


def test_contents_are_of_the_inputs_alone(vectors: Base) -> None:
    """Equal inputs have equal digests under other ids and targets; one changed bit changes one digest."""
    task = vectors()
    base = task.examples.inputs[0].copy()
    base[100] = base[3]
    twin = vectors({"inputs": (base,), "targets": np.zeros(120, np.int64)})
    old, new = Sealed(task).census("eval"), Sealed(twin).census("eval")
    changed = [a != b for a, b in zip(old.contents, new.contents, strict=True)]
    assert sum(changed) == 1
    assert old.ids == new.ids
    assert old.digest != new.digest
    where = {s: Sealed(twin).census(s) for s in ("train", "tune", "calibration")}
    assert new.contents[changed.index(True)] in {c for s in where.values() for c in s.contents}


def test_the_digest_does_not_depend_on_order(vectors: Base) -> None:
    """The same pairs of id and content have the same digest in any order."""
    census = Sealed(vectors()).census("eval")
    turned = replace(census, ids=census.ids[::-1], contents=census.contents[::-1])
    swapped = replace(census, contents=census.contents[::-1])
    assert turned.digest == census.digest != swapped.digest


def test_augmentation_does_not_hide_an_overlap(vectors: Base) -> None:
    """The bases' census is of the stored examples; another task's train is marked as augmented."""

    class Augmented(vectors):
        def augment(self, inputs: Any, target: Any, generator: torch.Generator) -> Any:
            return (inputs[0] + torch.rand(5, generator=generator),), target

    class Foreign(Augmented):
        plain = None

    stored = Sealed(vectors()).census("train")
    assert Sealed(Augmented()).census("train") == stored
    foreign = Sealed(Foreign()).census("train")
    assert foreign.augmented
    assert not stored.augmented
    assert sorted(foreign.ids) == sorted(stored.ids)


def test_a_column_in_some_batches_only_is_refused(vectors: Base) -> None:
    """Half a column would shift every value after the gap."""

    class Half(vectors):
        plain = None

        def batches(self, split: Any, **options: Any) -> Any:
            for place, batch in enumerate(super().batches(split, **options)):
                yield replace(batch, source=["s"] * len(batch)) if place else batch

    with pytest.raises(TaskError, match="only some batches have source"):
        Sealed(Half()).census("eval")
