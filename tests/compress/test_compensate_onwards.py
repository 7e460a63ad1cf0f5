"""What runs after a change is given other inputs: refitted to the dense network's outputs, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reprune.compress.compensate import compensated
from reprune.compress.planning.costs import cost_model
from reprune.compress.sensitivity.measure import measure
from reprune.compress.sensitivity.subject import Subject, removables
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import architecture_of, difference
from reprune.compress.structure.groups import find_groups
from reprune.compress.structured import cut
from reprune.core.params import PruneParams, SensitivityParams
from reprune.measure.profile import count_cost
from tests import models
from tests.compress.test_compensate import batches_of

SIZE = (64, 3, 6, 6)


class Residual(nn.Module):
    """What its only convolution gives is added to its input: linear, so that a reader can make up for it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Net(nn.Module):
    """A stem, a block, and three layers one after another; the last one sees one row an example."""

    def __init__(self, *, bends: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = Residual(4)
        self.near = nn.Conv2d(4, 8, 3, padding=1)
        self.far = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)
        self.act = nn.Tanh() if bends else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.near(self.block(self.stem(x))))
        out: Tensor = self.head(self.act(self.far(x)).mean((2, 3)))
        return out


def without_block(module: nn.Module, onwards: bool = True) -> tuple[Any, Any, tuple[Tensor, ...]]:
    """The network without its block, and what `compensated` makes of it."""
    inputs = (torch.randn(SIZE),)
    module.eval()
    blocks = [one for one in find_blocks(module, inputs, ()).blocks if one.name == "block"]
    assert blocks
    architecture = architecture_of(module, (), {}, blocks)
    sliced = apply(module, architecture)
    made = compensated(
        module, sliced, architecture, (), batches_of(inputs, 16), 1e-9, onwards=onwards
    )
    assert not made.unfitted
    return sliced, made, inputs


def test_the_next_layer_makes_up_for_a_removed_block() -> None:
    """All of it where the block is linear, and nothing without `onwards`."""
    torch.manual_seed(0)
    module = Net()
    sliced, made, inputs = without_block(module)
    assert difference(module, sliced, [inputs]) > 1e-2
    assert difference(module, made.module, [inputs]) < 1e-4
    assert not torch.equal(made.module.near.weight, sliced.near.weight)
    torch.manual_seed(0)
    sliced, same, _ = without_block(Net(), onwards=False)
    for name, value in same.module.state_dict().items():
        assert torch.equal(value, sliced.state_dict()[name])


def test_what_a_reader_cannot_make_up_for_the_layers_behind_it_can() -> None:
    """On images that no fit has seen the outputs are nearer to the dense network's where the layers behind
    the readers are refitted too.
    """
    torch.manual_seed(0)
    module = Net(bends=True).eval()
    with torch.no_grad():
        module.stem.weight.mul_(3.0)
        module.near.weight.mul_(3.0)
    inputs, fresh = (torch.randn(256, *SIZE[1:]),), (torch.randn(SIZE),)
    groups = find_groups(module, (inputs[0][:2],), ())
    architecture = architecture_of(module, groups, {"stem": range(2)})
    sliced = apply(module, architecture)
    apart = {}
    for onwards in (False, True):
        made = compensated(
            module, sliced, architecture, groups, batches_of(inputs, 32), 1e-3, onwards=onwards
        ).module
        with torch.no_grad():
            apart[onwards] = float((made(*fresh) - module(*fresh)).square().mean())
    assert apart[True] < 0.9 * apart[False]


def frozen(module: Net) -> None:
    module.near.bias.requires_grad_(False)


def tied(module: Net) -> None:
    module.other = nn.Conv2d(4, 8, 3, padding=1)
    module.other.weight = module.near.weight


class Again(nn.Module):
    """Calls a layer of another's once more, without having it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.others = [layer]

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.others[0](x[:, :4])


def twice(module: Net) -> None:
    module.far = nn.Sequential(Again(module.near), module.far)


def parametrised(module: Net) -> None:
    torch.nn.utils.parametrizations.weight_norm(module.near)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (frozen, "frozen"),
        (tied, "shares its weights"),
        (twice, "called more than once"),
        (parametrised, "made by a parametrisation"),
    ],
)
def test_weights_that_are_not_a_layers_own_to_change_stay(
    change: Callable[[Net], None], reason: str
) -> None:
    """Frozen ones, ones that another layer has too, a layer that is called twice, and made ones; named."""
    torch.manual_seed(0)
    module = Net()
    change(module)
    sliced, made, _ = without_block(module)
    assert reason in made.left["near"]
    assert torch.equal(made.module.near.weight, sliced.near.weight)
    assert torch.equal(made.module.near.bias, sliced.near.bias)
    assert not torch.equal(made.module.head.weight, sliced.head.weight)


def test_a_layer_is_not_refitted_to_fewer_rows_than_tell_its_weights() -> None:
    """64 examples give the head 64 rows: of 6 inputs it is refitted, of 17 it is not."""
    for width, changes in ((6, True), (17, False)):
        torch.manual_seed(0)
        module = Net(bends=True)
        module.far, module.head = nn.Conv2d(8, width, 3, padding=1), nn.Linear(width, 5)
        sliced, made, _ = without_block(module)
        assert torch.equal(made.module.head.weight, sliced.head.weight) != changes
        assert ("head" in made.left) != changes


class Routed(Net):
    """A layer that some examples are sent to, chosen by what comes to them."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        out = x.mean((2, 3))
        sent = self.extra(out[out[:, 0] > 0]).sum()
        return self.head(self.far(self.near(x)).mean((2, 3))) + sent


class Sometimes(Net):
    """A layer that is not called for every batch, and one that is given a single vector."""

    def __init__(self) -> None:
        super().__init__()
        self.extra, self.vector = nn.Linear(5, 5), nn.Linear(5, 5)
        self.given = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x) + self.vector(self.given)
        return self.extra(out) if float(x.detach()[0, 0, 0, 0]) > 0 else out


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        (Routed, {"extra": "other rows"}),
        (Sometimes, {"extra": "for every batch", "vector": "fewer than 4 rows"}),
    ],
)
def test_rows_that_cannot_be_paired_are_left_and_named(
    kind: Callable[[], Net], reasons: dict[str, str]
) -> None:
    torch.manual_seed(0)
    sliced, made, _ = without_block(kind())
    for name, reason in reasons.items():
        assert reason in made.left[name]
        kept = sliced.get_submodule(name).weight
        assert torch.equal(made.module.get_submodule(name).weight, kept)
    # Whether anything was set up at all decides what `prune` says of removed blocks.
    assert "near" in made.attempted
    assert kind is Routed or not set(made.attempted) & set(reasons)
    assert not torch.equal(made.module.near.weight, sliced.near.weight)


@pytest.mark.slow
def test_the_cut_and_its_sensitivity_obey_the_knob(
    model_task: Callable[..., Any], tmp_path: Path
) -> None:
    """Without a block: `prune.refit` readers repairs nothing by least squares, onwards most of the loss."""
    module, task = models.build("resnet-b"), model_task("resnet-b")
    inputs = models.inputs("resnet-b", 2)
    groups = find_groups(module, inputs, ())
    blocks = [one for one in find_blocks(module, inputs, ()).blocks if one.name == "block3"]
    cost = cost_model(module, groups, count_cost(module, inputs), blocks)
    subject = Subject(
        task=task, module=module, groups=(), cost=cost, blocks=removables(module, blocks, cost)
    )
    surgery, rows = {}, {}
    knobs: tuple[Any, ...] = ("readers", "onwards")
    for refit in knobs:
        prune = PruneParams(examples=128, criterion="l2", refit=refit)
        made = cut(task, module, groups, {}, prune, 0, str, blocks=blocks)
        surgery[refit] = made.surgery
        params = SensitivityParams(examples=64)
        table = measure(subject, params, prune, seed=0, work=tmp_path / refit, say=str)
        rows[refit] = table.blocks[0].loss_increase
    assert surgery["readers"].loss_compensated == surgery["readers"].loss_cut
    assert surgery["onwards"].loss_compensated < 0.5 * surgery["onwards"].loss_cut
    assert surgery["onwards"].kept == "compensated"
    assert rows["onwards"] < 0.5 * rows["readers"]
