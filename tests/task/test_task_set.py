"""Several tasks as one: what goes in once, what comes out under whose name, and members that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from reprune.core.errors import TaskError
from reprune.task.bases import TaskSet
from reprune.task.check import check_task
from reprune.task.outputs import outputs_of
from tests.task.conftest import Vectors


class Signs(Vectors):
    """The same vectors, asked something else."""

    input_names = ("vector",)

    def __init__(self, **options: Any) -> None:
        targets = np.arange(120) // 3 % 2
        super().__init__({"targets": targets, **options.pop("changed", {})}, **options)


class Classes(Vectors):
    input_names = ("vector",)


def set_of(weights: Mapping[str, float] | None = None, **members: type | Callable[[], Any]) -> Any:
    made = type("Pair", (TaskSet,), {"members": members, "weights": weights or {}})
    return made()


def test_a_set_keeps_the_protocol_of_a_task() -> None:
    """One input of one name goes in once; the whole is a task like any other."""
    pair = set_of(classes=Classes, signs=Signs)
    check_task(pair, seed=0)
    assert pair.input_names == ("vector",)
    assert len(pair.example_inputs(4)) == 1
    assert len(pair.workload()) == 1


def test_every_member_answers_as_it_does_alone() -> None:
    """Outputs, records and the weighted loss are the members' own, on the same frames."""
    pair = set_of({"signs": 3.0}, classes=Classes, signs=Signs)
    module = pair.model().eval()
    batch = next(iter(pair.batches("eval", epoch=0, seed=0)))
    generator = torch.Generator()
    with torch.no_grad():
        outputs = outputs_of(module, batch.inputs)
        whole = float(pair.loss(module, batch, generator))
        records = pair.records(outputs, batch)
        alone = {}
        for name, task in pair.tasks.items():
            own = next(iter(task.batches("eval", epoch=0, seed=0)))
            part = module.get_submodule(name)
            alone[name] = float(task.loss(part, own, generator))
            for column, values in task.records(outputs_of(part, own.inputs), own).items():
                assert np.array_equal(records[f"{name}.{column}"], values)
    assert whole == pytest.approx(alone["classes"] + 3.0 * alone["signs"])
    assert {name.partition(".")[0] for name in records} == {"classes", "signs"}
    assert len(outputs) == 2


def test_weights_lie_below_the_members_names() -> None:
    """What a member was trained as is loaded as it is, under its name."""
    pair = set_of(classes=Classes, signs=Signs)
    names = {name.partition(".")[2] for name in pair.model().state_dict()}
    assert names == set(Classes().model().state_dict())


def test_two_inputs_of_different_names_are_two() -> None:
    class Other(Signs):
        input_names = ("other",)

    pair = set_of(classes=Classes, signs=Other)
    check_task(pair, seed=0)
    assert pair.input_names == ("vector", "other")
    module = pair.model().eval()
    first, second = pair.example_inputs(3)
    with torch.no_grad():
        one, two = module(first, torch.zeros_like(second))
        again, other = module(torch.zeros_like(first), second)
    assert not torch.equal(one, again)
    assert not torch.equal(two, other)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ids": [f"w{row}" for row in range(120)]}, "the same examples in the same batches"),
        ({"inputs": (np.ones((120, 5), np.float32),)}, "the input 'vector' is not the same"),
        ({"slices": {"parity": ["odd"] * 120}}, "different things about the same frames"),
    ],
)
def test_members_that_do_not_share_their_frames_are_refused(
    changed: dict[str, Any], words: str
) -> None:
    pair = set_of(classes=Classes, signs=lambda: Signs(changed=changed))
    with pytest.raises(TaskError, match=words) as refused:
        list(pair.batches("eval", epoch=0, seed=0))
    assert refused.value.fix


def test_labels_are_kept_where_members_agree() -> None:
    """Then the data contract looks at them; members that mean other things have none."""
    same = set_of(classes=Classes, again=Classes)
    batch = next(iter(same.batches("eval", epoch=0, seed=0)))
    assert batch.labels == next(iter(Classes().batches("eval", epoch=0, seed=0))).labels
    other = set_of(classes=Classes, signs=Signs)
    assert next(iter(other.batches("eval", epoch=0, seed=0))).labels is None


def test_what_members_say_of_examples_is_joined() -> None:
    class Told(Signs):
        def shown(self, batch: Any) -> list[str]:
            return [f"example {name}" for name in batch.ids]

    pair = set_of(classes=Classes, signs=Told)
    batch = next(iter(pair.batches("eval", epoch=0, seed=0)))
    assert pair.shown(batch)[0] == f"signs: example {batch.ids[0]}"


def test_an_optimizer_of_one_member_is_not_dropped_silently() -> None:
    class Own(Signs):
        def optimizer(self, params: Any) -> Any:
            return torch.optim.SGD(params, lr=0.1)

    with pytest.raises(TaskError, match="'signs' has an optimizer of its own"):
        set_of(classes=Classes, signs=Own)


@pytest.mark.parametrize(
    ("weights", "words"),
    [({"sings": 1.0}, "weighs 'sings'"), ({"signs": 0.0}, "not above 0")],
)
def test_weights_of_nobody_and_of_nothing_are_refused(
    weights: dict[str, float], words: str
) -> None:
    with pytest.raises(TaskError, match=words):
        set_of(weights, classes=Classes, signs=Signs)
