"""Several tasks as one: what goes in once, what comes out under whose name, and members that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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


def set_of(
    weights: Mapping[str, float] | None = None,
    labels_of: str = "",
    **members: type | Callable[[], Any],
) -> Any:
    said = {"members": members, "weights": weights or {}, "labels_of": labels_of}
    return type("Pair", (TaskSet,), said)()


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


class Plain(Signs):
    """The same answers without labels."""

    def batches(self, split: Any, **how: Any) -> Any:
        return (replace(batch, labels=None) for batch in super().batches(split, **how))


def test_labels_are_those_of_one_member_in_every_batch() -> None:
    """Of the one that is named, or of the only one that has some: two members whose labels happen to agree in
    a batch must not give labels in that batch alone.
    """
    wanted = [batch.labels for batch in Classes().batches("eval", epoch=0, seed=0)]
    for pair in (
        set_of(classes=Classes, signs=Plain),
        set_of(labels_of="classes", classes=Classes, signs=Signs),
    ):
        assert [batch.labels for batch in pair.batches("eval", epoch=0, seed=0)] == wanted
    rare = np.zeros(120, dtype=np.int64)
    rare[60] = 1
    other = set_of(
        signs=lambda: Signs(changed={"targets": rare}),
        other=lambda: Signs(changed={"targets": 0 * rare}),
    )
    assert {batch.labels for batch in other.batches("eval", epoch=0, seed=0)} == {None}
    check_task(other, seed=0)
    with pytest.raises(TaskError, match="has the labels of 'nobody'"):
        set_of(labels_of="nobody", classes=Classes)


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


class Noted(nn.Module):
    """Says how often it ran, and gives something more in training; `aside` is what a loss may ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.runs = self.given = 0

    def forward(self, x: Tensor) -> Any:
        self.runs += 1
        y = self.norm(self.layer(x))
        return (y, 0.5 * y) if self.training else y

    def aside(self) -> Tensor:
        return self.layer.weight.square().sum()


class Loud(Signs):
    """A loss that looks into the module: its mode, what it gives beside, its weights."""

    def model(self) -> nn.Module:
        return Noted()

    def loss(self, module: Any, batch: Any, generator: torch.Generator) -> Tensor:
        assert isinstance(module, Noted)
        assert module.given == 0
        given = module(*batch.inputs)
        first = given[0] if module.training else given
        return nn.functional.cross_entropy(first, torch.as_tensor(batch.targets)) + module.aside()


class Twice(Loud):
    """Two passes over the same inputs, and one over others."""

    def loss(self, module: Any, batch: Any, generator: torch.Generator) -> Tensor:
        module(*batch.inputs)
        module(*(2 * given for given in batch.inputs))
        return super().loss(module, batch, generator)


def test_the_loss_runs_the_set_once_as_a_whole() -> None:
    """Whoever listens to the module hears it, as distillation does; no member runs twice for it."""
    pair = set_of({"loud": 2.0}, classes=Classes, loud=Loud)
    module = pair.model().train()
    heard: list[Any] = []
    module.register_forward_hook(lambda _, given, output: heard.append((given, output)))
    batch = next(iter(pair.batches("train", epoch=0, seed=0)))
    loss = pair.loss(module, batch, torch.Generator())
    assert [len(output) for _, output in heard] == [3]
    assert heard[0][0] == batch.inputs
    loud = module.get_submodule("loud")
    assert loud.runs == 1
    assert int(loud.norm.num_batches_tracked) == 1
    assert not loud._forward_hooks
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    alone = pair.tasks["loud"].loss(loud, pair._part("loud", batch), torch.Generator())
    other = pair.tasks["classes"].loss(
        module.get_submodule("classes"), pair._part("classes", batch), torch.Generator()
    )
    assert torch.equal(loss, torch.stack([other, 2.0 * alone]).sum())


def test_a_member_that_asks_again_is_run_again() -> None:
    """Two passes of one batch may differ by their dropout, and other inputs have another answer."""
    pair = set_of(twice=Twice)
    module = pair.model().train()
    batch = next(iter(pair.batches("train", epoch=0, seed=0)))
    pair.loss(module, batch, torch.Generator())
    assert module.get_submodule("twice").runs == 3


class Engine(nn.Module):
    """The outputs of a module, and none of its parts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.run = (module,)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run[0](*inputs)


def test_an_engine_of_a_set_has_the_loss_of_its_module() -> None:
    """As far as outputs tell it; a member whose loss looks inside says so by an AttributeError."""
    pair = set_of({"signs": 3.0}, classes=Classes, signs=Signs)
    module = pair.model().eval()
    batch = next(iter(pair.batches("eval", epoch=0, seed=0)))
    with torch.no_grad():
        losses = [pair.loss(each, batch, torch.Generator()) for each in (module, Engine(module))]
        assert torch.equal(*losses)
        inside = set_of(loud=LooksInside)
        engine = Engine(inside.model().eval())
        batch = next(iter(inside.batches("eval", epoch=0, seed=0)))
        with pytest.raises(AttributeError):
            inside.loss(engine, batch, torch.Generator())


class LooksInside(Signs):
    """A weight of the module is part of the loss."""

    def loss(self, module: Any, batch: Any, generator: torch.Generator) -> Tensor:
        return super().loss(module, batch, generator) + module.get_submodule("0").weight.sum()


def test_what_protects_layers_is_joined_and_never_dropped() -> None:
    """The set's own words and the members'; "none may go" of one member, others left to be found."""

    class Kept(Signs):
        keep = ("0",)
        blocks = ()

    class Own(TaskSet):
        members = {"kept": Kept, "signs": Signs}
        keep = ("signs",)
        features = ("signs.0",)

        def shown(self, batch: Any) -> list[str]:
            return ["mine"] * len(batch)

    own = Own()
    assert own.keep == ("signs", "kept.0")
    assert own.features == ("signs.0",)
    assert own.blocks == ()  # type: ignore[attr-defined]  # given where members say something
    assert own.blocks_sought == ("signs",)  # type: ignore[attr-defined]
    assert own.shown(own.example_inputs(2)) == ["mine"]
    assert not hasattr(set_of(signs=Signs), "blocks")


@pytest.mark.parametrize("name", ["places", "train", "type", "forward"])
def test_a_member_with_a_name_of_every_module_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match=f"called '{name}'"):
        set_of(**{name: Signs})


def test_outputs_are_told_apart_by_member() -> None:
    pair = set_of(classes=Classes, signs=Signs)
    outputs = outputs_of(pair.model().eval(), pair.example_inputs(2))
    found = pair.outputs_of_members(outputs)
    assert {name: len(own) for name, own in found.items()} == {"classes": 1, "signs": 1}
