"""Every promise of the Task protocol that can be checked, broken one at a time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reprune.core.errors import TaskError
from reprune.task.bases import TextClassification
from reprune.task.bases.examples import Examples
from reprune.task.check import check_task
from reprune.task.protocol import Work
from reprune.task.seal import Sealed

Base = Any


def test_a_whole_task_passes_and_the_random_state_stays(vectors: Base) -> None:
    """Nothing is raised for a task of the bases, sealed or not, and torch's random state is untouched."""
    before = torch.random.get_rng_state()
    check_task(vectors(), seed=0)
    check_task(Sealed(vectors()), seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_sealed_task_is_checked_without_its_eval(vectors: Base) -> None:
    """Only open splits are read, so that a step which may not see eval can check its view."""

    class Broken(vectors):
        def batches(self, split: Any, **options: Any) -> Any:
            if split == "eval":
                raise RuntimeError("eval was read")
            return super().batches(split, **options)

    check_task(Sealed(Broken()), seed=0)
    with pytest.raises(TaskError, match="eval was read"):
        check_task(Broken(), seed=0)


class Bend(nn.Module):
    """A linear layer whose output is bent by a function."""

    def __init__(self, bend: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.bend = bend

    def forward(self, x: torch.Tensor) -> Any:
        return self.bend(self.linear(x))


def _model(make: Callable[[], Any]) -> dict[str, Any]:
    return {"model": lambda self: make()}


WIDTHS = itertools.count(3)

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "no module": (_model(lambda: "net"), "not an nn.Module"),
    "lazy layer": (
        _model(lambda: nn.Sequential(nn.ReLU(), nn.LazyLinear(3))),
        r"1 \(LazyLinear\) gets the shape of its weight from the first batch",
    ),
    "architecture changes": (_model(lambda: nn.Linear(5, next(WIDTHS))), "another architecture"),
    "wrong shape": (_model(lambda: nn.Linear(6, 3)), "of its own example inputs"),
    "batch statistics": (
        _model(
            lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False))
        ),
        "accept 1 of its own example inputs",
    ),
    "centred on the batch": (_model(lambda: Bend(lambda y: y - y.mean(0))), "depends on the batch"),
    "size depends on batch": (_model(lambda: Bend(lambda y: y.mean(0))), "its size depends"),
    "scalar": (_model(lambda: Bend(torch.sum)), "its size depends"),
    "dropout stays on": (
        _model(lambda: Bend(nn.functional.dropout)),
        "other outputs for the same inputs in eval mode",
    ),
    "not finite": (_model(lambda: Bend(lambda y: y / 0)), "not finite"),
    "dictionary": (_model(lambda: Bend(lambda y: {"logits": y})), "returns dict, not a tensor"),
    "double inputs": (
        {"transform": lambda self, inputs: tuple(x.double() for x in inputs)},
        "torch.float64, the model's parameters are torch.float32",
    ),
    "whole inputs": (
        {"transform": lambda self, inputs: tuple(x.long() for x in inputs)},
        r"torch.int64 \(4, 5\)",
    ),
    "list of inputs": ({"transform": lambda self, inputs: list(inputs)}, "must be a tuple"),
    "too few examples": (
        {"example_inputs": lambda self, size: (torch.zeros(1, 5),)},
        "must be the 4 examples",
    ),
    "names": ({"input_names": ("a", "b")}, r"names \['a', 'b'\]"),
    "outputs are a typo": ({"outputs_are": "logit"}, "did you mean 'logits'"),
    "outputs are nothing": ({"outputs_are": 0.0}, "says 0.0"),
    "outputs are two": ({"outputs_are": ("logits", 2.0)}, "tells of 2 outputs, the model gives 1"),
    "generates": ({"generate": lambda self: ...}, "generates sequences"),
    "no workload": ({"workload": lambda self: ()}, "0 shapes"),
    "weights": (
        {"workload": lambda self: (Work(inputs=self.example_inputs(2), weight=0.5),)},
        "sum to 0.5",
    ),
    "version moves": (
        {"data_version": property(lambda self: str(next(WIDTHS)))},
        "must be one text that stays the same",
    ),
    "fails inside": ({"model": lambda self: {}["net"]}, "KeyError: 'net'"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_broken_model_is_refused(vectors: Base, name: str) -> None:
    """Each is a TaskError in words."""
    members, words = MODELS[name]
    with pytest.raises(TaskError, match=words) as raised:
        check_task(type("Broken", (vectors,), members)(), seed=0)
    assert raised.value.where


def _loss(make: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    return {"loss": lambda self, module, batch, generator: make(module(*batch.inputs))}


def _records(make: Callable[[int], Any]) -> dict[str, Any]:
    return {"records": lambda self, outputs, batch: make(len(batch))}


LOSSES: dict[str, tuple[dict[str, Any], str]] = {
    "vector": (_loss(lambda y: y.mean(1)), "not a scalar"),
    "number": (_loss(lambda y: 0.5), "not a scalar"),
    "nan": (_loss(lambda y: (y * float("nan")).mean()), "is nan on the first batch"),
    "detached": (_loss(lambda y: y.detach().mean()), "has no gradient"),
    "no column": (_records(lambda n: {}), "gives no column"),
    "float": (_records(lambda n: {"correct": np.ones(n)}), "is float64"),
    "tensor": (_records(lambda n: {"correct": torch.ones(n)}), "is torch.float32"),
    "too few": (
        _records(lambda n: {"correct": np.ones(1, np.int64)}),
        "give one number an example",
    ),
    "not 0 or 1": (_records(lambda n: {"correct": np.full(n, 2)}), "must be 0 or 1"),
    "negative": (_records(lambda n: {"numerator": np.full(n, -1)}), "must be 0 or more"),
    "over one": (
        _records(lambda n: {"numerator": np.full(n, 3), "denominator": np.full(n, 2)}),
        "above its denominator",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_broken_loss_or_record_is_refused(vectors: Base, name: str) -> None:
    """Each is a TaskError that names the member and the column."""
    members, words = LOSSES[name]
    with pytest.raises(TaskError, match=words):
        check_task(type("Broken", (vectors,), members)(), seed=0)


def _batches(change: Callable[..., Any], only: str = "train") -> dict[str, Any]:
    """`batches` that hands what the base gives through `change(batches, options)` for one split."""

    def batches(self: Any, split: Any, **options: Any) -> Any:
        made = super(type(self), self).batches(split, **options)
        return change(self, made, options) if split == only else made

    return {"batches": batches}


def _shuffled(self: Any, made: Any, options: Any) -> Any:
    whole = list(made)
    random.SystemRandom().shuffle(whole)
    return whole


def _noisy(self: Any, made: Any, options: Any) -> Any:
    return (replace(b, inputs=tuple(x + torch.rand(()) for x in b.inputs)) for b in made)


def _fixed_order(self: Any, made: Any, options: Any) -> Any:
    return itertools.islice(self.plain("train"), options.get("start", 0), None)


def _by_epoch(self: Any, made: Any, options: Any) -> Any:
    return (replace(b, inputs=tuple(x + options["epoch"] for x in b.inputs)) for b in made)


def _no_start(self: Any, made: Any, options: Any) -> Any:
    return super(type(self), self).batches("train", **(options | {"start": 0}))


def _no_ranks(self: Any, made: Any, options: Any) -> Any:
    return super(type(self), self).batches("train", **(options | {"rank": 0, "world": 1}))


COUNTER = itertools.count()

BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "order not a function": (_batches(_shuffled), "second time|start=1"),
    "ids not stable": (
        _batches(
            lambda s, made, o: (replace(b, ids=[str(next(COUNTER)) for _ in b.ids]) for b in made)
        ),
        "other ids",
    ),
    "ids twice": (
        _batches(lambda s, made, o: (replace(b, ids=["a"] * len(b)) for b in made), "eval"),
        "the id 'a' stands there twice",
    ),
    "ids not text": (
        _batches(lambda s, made, o: (replace(b, ids=list(range(len(b)))) for b in made)),
        "is no text",
    ),
    "noise": (_batches(_noisy), "other inputs for the same id"),
    "same order": (_batches(_fixed_order), "the same order in epoch 0 and epoch 1"),
    "eval by epoch": (_batches(_by_epoch, "eval"), "differs between epochs"),
    "tune by epoch": (_batches(_by_epoch, "tune"), "differs between epochs"),
    "start": (_batches(_no_start), "start=1 does not give"),
    "ranks": (_batches(_no_ranks), "to rank 0 and to rank 1"),
    "no batch": (_batches(lambda s, made, o: (b.inputs for b in made)), "yields tuple"),
    "slices": (
        _batches(lambda s, made, o: (replace(b, slices={"ink": ["thin"]}) for b in made)),
        "slice 'ink' must be",
    ),
    "double": (
        _batches(
            lambda s, made, o: (replace(b, inputs=(b.inputs[0].double(),)) for b in made), "eval"
        ),
        "torch.float64",
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_broken_batches_are_refused(vectors: Base, name: str) -> None:
    """Each is a TaskError that names the split and says what to do."""
    members, words = BATCHES[name]
    with pytest.raises(TaskError, match=words) as raised:
        check_task(type("Broken", (vectors,), members)(), seed=0)
    assert "batches('" in raised.value.where


def test_augmented_train_is_a_function_of_seed_epoch_and_id(vectors: Base) -> None:
    """Augmentation from the given generator passes; from the global state it does not."""

    class Honest(vectors):
        def augment(self, inputs: Any, target: Any, generator: torch.Generator) -> Any:
            return (inputs[0] + torch.rand(5, generator=generator),), target

    class Loose(vectors):
        def augment(self, inputs: Any, target: Any, generator: torch.Generator) -> Any:
            return (inputs[0] + torch.rand(5),), target

    check_task(Honest(), seed=3)
    with pytest.raises(TaskError, match="seed augmentation with"):
        check_task(Loose(), seed=3)


class Tokens(TextClassification):
    def __init__(self) -> None:
        random = np.random.default_rng(0)
        super().__init__(
            Examples(
                inputs=(random.integers(0, 20, (60, 6)), np.ones((60, 6), np.float32)),
                targets=np.arange(60) % 2,
                ids=[str(row) for row in range(60)],
            ),
            {"train": range(40), "eval": range(40, 60)},
        )

    def model(self) -> nn.Module:
        return Speaks(2)


class Speaks(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.head = nn.Linear(4, outputs)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.head(self.embed(ids)) * mask[..., None]
        return hidden.mean(1) if self.head.out_features == 2 else hidden


def test_a_next_token_model_is_refused_with_the_reason() -> None:
    """A vocabulary of scores for each token is generation; one label a text is not."""
    check_task(Tokens(), seed=0)

    class Next(Tokens):
        def model(self) -> nn.Module:
            return Speaks(20)

    with pytest.raises(TaskError, match=r"generates sequences.*neither right nor wrong"):
        check_task(Next(), seed=0)
