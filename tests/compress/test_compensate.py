"""Repairs without training: exact where a repair exists, harmless where none does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import nn

from reprune.compress.compensate import compensate, compensated, recalibrate
from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.sensitivity.moments import input_moments, refits, repaired
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of, difference
from reprune.compress.structure.groups import find_groups
from reprune.task.protocol import Batch
from tests import models

RIDGE = 1e-3


def batches_of(inputs: tuple[torch.Tensor, ...], size: int) -> list[Batch]:
    count = len(inputs[0])
    return [
        Batch(
            inputs=tuple(tensor[first : first + size] for tensor in inputs),
            targets=None,
            ids=[str(n) for n in range(first, min(first + size, count))],
        )
        for first in range(0, count, size)
    ]


def twins(name: str) -> nn.Module:
    """A model whose first group's channel 0 is three times its channel 1: losing it loses nothing."""
    module = models.build(name)
    with torch.no_grad():
        for tensor in module.conv.parameters():
            tensor[0] = 3.0 * tensor[1]
    return module


@pytest.mark.parametrize("name", ["flattened"])
def test_a_redundant_channel_is_compensated_exactly(name: str) -> None:
    """Where the kept channels span the removed one, the compensated network is the dense one."""
    module = twins(name)
    inputs = models.inputs(name, 256)
    groups = find_groups(module, models.inputs(name, 2), ())
    architecture = architecture_of(module, groups, {"conv": range(1, 6)})
    sliced = apply(module, architecture)
    batches = batches_of(inputs, 64)
    repaired = compensate(module, sliced, architecture, groups, batches, 1e-9)
    assert difference(module, sliced, [inputs]) > 1e-2
    assert difference(module, repaired, [inputs]) < 1e-4


class Strided(nn.Module):
    """A reader with stride, dilation, odd padding and a bias, whose input channels 0 and 1 are equal."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 4, 1)
        self.read = nn.Conv2d(
            4, 5, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), padding_mode=mode
        )
        self.head = nn.Conv2d(5, 2, 1)
        with torch.no_grad():
            for tensor in self.make.parameters():
                tensor[0] = tensor[1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.read(torch.tanh(self.make(image)))))


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_patches_are_what_the_convolution_reads(mode: str) -> None:
    """Stride, dilation, padding and its mode are followed, or the fit could not be exact."""
    torch.manual_seed(1)
    module = Strided(mode).eval()
    inputs = (torch.randn(64, 3, 8, 8),)
    groups = find_groups(module, inputs, ())
    architecture = architecture_of(module, groups, {"make": (1, 2, 3)})
    repaired = compensate(
        module, apply(module, architecture), architecture, groups, batches_of(inputs, 16), 1e-9
    )
    assert difference(module, repaired, [inputs]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet-b", "concat", "separable", "unet", "two-input", "attention"]
)
def test_compensation_lowers_the_loss_of_a_cut(
    model_task: Callable[..., object], name: str
) -> None:
    """Half of every group gone: the compensated network is nearer to the dense one's outputs."""
    task = model_task(name, examples=256)
    module = task.teacher
    groups = find_groups(module, models.inputs(name, 2), ())
    kept = {group.name: range(group.width - group.width // 2) for group in groups}
    architecture = architecture_of(module, groups, kept)
    sliced = apply(module, architecture)
    batches = first_batches(task, "calibration", examples=256, seed=0)
    repaired = compensate(module, sliced, architecture, groups, batches, 1e-3)
    held_out = first_batches(task, "tune", examples=256, seed=0)
    before = mean_loss(task, sliced, held_out, seed=0)
    assert mean_loss(task, repaired, held_out, seed=0) < 0.8 * before


class Leaning(nn.Module):
    """`make` gives in channel 2 a thousandth of what it gives in channel 0."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(4, 3, bias=False)
        self.read = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.eye(4)[[0, 1, 0]] + torch.eye(4)[[3, 3, 3]])
            self.make.weight[2] *= 1e-3
            self.read.weight.fill_(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(torch.relu(self.make(x)))


def test_no_weight_grows_beyond_reason() -> None:
    """A kept whisper of the removed channel would fit it with a weight of 500: no integer type holds
    that beside the others. What can be had within the limit still is.
    """
    module = Leaning()
    inputs = (torch.rand(64, 4, generator=torch.Generator().manual_seed(0)),)
    groups = find_groups(module, inputs, ("read",))
    architecture = architecture_of(module, groups, {"make": (1, 2)})
    sliced = apply(module, architecture)
    repaired = compensate(module, sliced, architecture, groups, batches_of(inputs, 64), 1e-9)
    largest = float(sliced.read.weight.detach().abs().max())
    assert float(repaired.read.weight.detach().abs().max()) <= 4.0 * largest
    assert difference(module, repaired, [inputs]) < 0.8 * difference(module, sliced, [inputs])


def test_few_examples_and_a_strong_ridge_leave_the_weights() -> None:
    """The penalty pulls to the weights as they are, not to zero: nothing to learn, nothing changed."""
    module = models.build("flattened")
    groups = find_groups(module, models.inputs("flattened", 2), ())
    architecture = architecture_of(module, groups, {"fc1": range(6)})
    sliced = apply(module, architecture)
    batches = batches_of(models.inputs("flattened", 2), 2)
    repaired = compensate(module, sliced, architecture, groups, batches, 1e9)
    assert torch.allclose(repaired.fc2.weight, sliced.fc2.weight, atol=1e-5)


def test_only_readers_change_and_the_arguments_do_not() -> None:
    """Dense and cut networks stay as they are; layers that lost no input keep their bits."""
    module = models.build("resnet-b")
    inputs = models.inputs("resnet-b", 64)
    groups = find_groups(module, models.inputs("resnet-b", 2), ())
    architecture = architecture_of(module, groups, {"block2.conv1": range(8)})
    sliced = apply(module, architecture)
    before = copy.deepcopy((module.state_dict(), sliced.state_dict()))
    repaired = compensate(module, sliced, architecture, groups, batches_of(inputs, 32), 1e-3)
    changed = [
        key
        for key, value in repaired.state_dict().items()
        if not torch.equal(value, before[1][key])
    ]
    assert changed == ["block2.conv2.weight"]
    for network, state in zip((module, sliced), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_dead_input_leaves_the_layer_as_it_is() -> None:
    """A reader that only ever sees zeros has no scale to fit on; it is left alone, not made NaN."""
    module = models.build("flattened")
    with torch.no_grad():
        module.conv.weight.zero_()
        module.conv.bias.fill_(-1.0)
    groups = find_groups(models.build("flattened"), models.inputs("flattened", 2), ())
    architecture = architecture_of(module, groups, {"conv": range(3)})
    sliced = apply(module, architecture)
    batches = batches_of(models.inputs("flattened", 8), 8)
    repaired = compensate(module, sliced, architecture, groups, batches, 1e-3)
    assert torch.equal(repaired.fc1.weight, sliced.fc1.weight)


def test_recalibration_averages_the_batches(model_task: Callable[..., object]) -> None:
    """The first norm gets the plain mean of the batches' statistics; only statistics differ."""
    module = models.build("plain")
    inputs = models.inputs("plain", 96)
    batches = batches_of(inputs, 32)
    result = recalibrate(module, batches)
    with torch.no_grad():
        made = [module.first[0](batch.inputs[0]) for batch in batches]
    norm = result.first[1]
    means = torch.stack([value.mean(dim=(0, 2, 3)) for value in made]).mean(dim=0)
    variances = torch.stack([value.var(dim=(0, 2, 3)) for value in made]).mean(dim=0)
    assert torch.allclose(norm.running_mean, means, atol=1e-5)
    assert torch.allclose(norm.running_var, variances, atol=1e-5)
    assert norm.momentum == module.first[1].momentum
    changed = {
        key.rpartition(".")[2]
        for key, value in result.state_dict().items()
        if not torch.equal(value, module.state_dict()[key])
    }
    assert changed == {"running_mean", "running_var"}
    assert not any(layer.training for layer in result.modules())


def test_batches_of_one_example_do_not_break_recalibration() -> None:
    """A last batch of one has no variance: it is left out, and alone it changes nothing."""
    module = models.build("plain")
    inputs = models.inputs("plain", 33)
    first = recalibrate(module, batches_of((inputs[0][:32],), 32))
    both = recalibrate(module, batches_of(inputs, 32))
    assert torch.equal(first.first[1].running_mean, both.first[1].running_mean)
    alone = recalibrate(module, batches_of(models.inputs("plain", 1), 1))
    assert torch.equal(alone.first[1].running_mean, module.first[1].running_mean)


@pytest.mark.parametrize("name", ["resnet-b", "concat", "separable", "unet", "attention"])
def test_what_is_kept_in_memory_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are replayed, and targets gathered together, are those that would be computed."""
    from reprune.compress import layer_calls

    torch.manual_seed(3)
    module = models.build(name)
    inputs = models.inputs(name, 24)
    groups = find_groups(module, models.inputs(name, 2), ())
    kept = {group.name: range(0, group.width, 2) for group in groups}
    architecture = architecture_of(module, groups, kept)
    sliced = apply(module, architecture)
    batches = batches_of(inputs, 8)
    whole = compensate(module, sliced, architecture, groups, batches, 1e-3).state_dict()
    fitted = sliced.state_dict()
    assert any(not torch.equal(tensor, fitted[key]) for key, tensor in whole.items())
    for limits in ((0, 0), (20_000, 5_000)):
        monkeypatch.setattr(layer_calls, "REPLAY_BYTES", limits[0])
        monkeypatch.setattr(layer_calls, "TARGET_BYTES", limits[1])
        again = compensate(module, sliced, architecture, groups, batches, 1e-3).state_dict()
        assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())


class Counted(nn.Conv2d):
    """Counts the examples that really went through it."""

    seen: ClassVar[list[int]] = []

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(given))
        return super().forward(given)


@pytest.mark.parametrize(
    ("replay", "gathered", "counted"),
    [(2**30, 2**30, 8 + 8 + 24 + 24), (0, 0, 8 + 8 + 3 * 24 + 3 * 24)],
)
def test_what_compensation_forwarded_is_what_it_says_at_most(
    replay: int, gathered: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch shows the order, one the sizes; then a pass of either network in all, or one a layer where
    memory keeps nothing.
    """
    from reprune.compress import layer_calls

    torch.manual_seed(4)
    layers = 4
    module = nn.Sequential(*(Counted(4, 4, 3, padding=1) for _ in range(layers))).eval()
    inputs = (torch.randn(24, 4, 6, 6),)
    groups = find_groups(module, (inputs[0][:2],), ())
    architecture = architecture_of(module, groups, {group.name: range(3) for group in groups})
    sliced = apply(module, architecture)
    monkeypatch.setattr(layer_calls, "REPLAY_BYTES", replay)
    monkeypatch.setattr(layer_calls, "TARGET_BYTES", gathered)
    Counted.seen.clear()
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 8), RIDGE)
    really = sum(Counted.seen) / layers
    assert made.attempted == ("1", "2", "3")
    assert made.forwarded == counted
    assert 0.6 * counted <= really <= counted


class Siamese(nn.Module):
    """A body that is called twice, and a head whose layers are called once."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Counted(4, 6, 3, padding=1)
        self.head = nn.Sequential(*(Counted(6, 6, 3, padding=1) for _ in range(3)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(image)) + torch.relu(self.body(image.flip(3))))


def test_what_runs_again_is_counted_again() -> None:
    """The body's outputs cannot be kept, as it is called twice: it runs for each layer behind it."""
    torch.manual_seed(4)
    module = Siamese().eval()
    inputs = (torch.randn(24, 4, 6, 6),)
    groups = find_groups(module, (inputs[0][:2],), ())
    architecture = architecture_of(module, groups, {group.name: range(4) for group in groups})
    sliced = apply(module, architecture)
    Counted.seen.clear()
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 8), RIDGE)
    assert made.attempted == ("head.1", "head.2")
    assert made.forwarded == 8 + 8 + 24 + 2 * 24
    assert sum(Counted.seen) / 5 <= made.forwarded


class Massive(nn.Module):
    """Tokens whose reader `read` is normalised; channel 0 of `make` fires a thousandfold on few of them."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(8, 24)
        self.read = nn.Linear(24, 12)
        self.norm = nn.LayerNorm(12)
        with torch.no_grad():
            self.make.weight[0], self.make.bias[0] = 0.0, -3.0
            self.make.weight[0, 0] = 1.0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(self.read(torch.relu(self.make(tokens))))


def test_massive_tokens_are_not_paid_for_by_the_others() -> None:
    """One token in 40 that the next norm makes small again: fitted as if it counted as much as its size,
    the reader is ruined for all others. The closed form of sensitivity says the same.
    """
    torch.manual_seed(1)
    module = Massive().eval()
    tokens = torch.randn(32, 40, 8).clamp(-2.0, 2.0)
    tokens[:, 0, 0] = 3000.0
    groups = find_groups(module, (tokens[:2],), ())
    kept = {"make": range(1, 22)}
    architecture = architecture_of(module, groups, kept)
    sliced = apply(module, architecture)
    batches = batches_of((tokens,), 8)
    closed = repaired(
        module,
        groups,
        kept,
        refits(module, groups, kept, input_moments(module, ["read"], batches), RIDGE),
    )
    others = (tokens[:, 1:],)
    plain = mean_square(module, sliced, others)
    fitted = compensate(module, sliced, architecture, groups, batches, RIDGE)
    assert mean_square(module, fitted, others) < 0.5 * plain
    assert mean_square(module, closed, others) < 0.5 * plain


class Routed(nn.Module):
    """An expert that only tokens of a positive first feature are given."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(8, 24)
        self.read = nn.Linear(24, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        chosen = tokens[:, 0] > 0.0
        out = tokens.new_zeros(len(tokens), 12)
        out[chosen] = self.read(torch.relu(self.make(tokens[chosen])))
        return out


@pytest.mark.parametrize("given", ["later", "never"])
def test_a_reader_that_a_batch_gives_nothing_is_fitted_by_the_others(given: str) -> None:
    """No row in the first batch, or in any: then it stays as it is, and that is said."""
    torch.manual_seed(1)
    module = Routed().eval()
    groups = find_groups(module, (torch.rand(2, 8),), ())
    kept = {"make": range(12)}
    architecture = architecture_of(module, groups, kept)
    sliced = apply(module, architecture)
    tokens = torch.randn(256, 8)
    away = slice(None, 64) if given == "later" else slice(None)
    tokens[away, 0] = -1.0
    batches = batches_of((tokens,), 64)
    done = compensated(module, sliced, architecture, groups, batches, RIDGE)
    moments = input_moments(module, ["read"], batches)
    closed = repaired(module, groups, kept, refits(module, groups, kept, moments, RIDGE))
    assert set(done.unfitted) == (set() if given == "later" else {"read"})
    assert set(moments) == ({"read"} if given == "later" else set())
    seen = (torch.rand(64, 8),)
    plain = mean_square(module, sliced, seen)
    for one in (done.module, closed):
        if given == "later":
            assert mean_square(module, one, seen) < 0.5 * plain
        else:
            assert mean_square(sliced, one, seen) == 0.0


def mean_square(one: nn.Module, other: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    with torch.no_grad():
        return float((one(*inputs) - other(*inputs)).square().mean())
