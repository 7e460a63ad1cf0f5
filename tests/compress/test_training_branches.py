"""What forward() does in training only is tried too, without a trace; what does not train says nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.groups import survey


class Trained(nn.Module):
    """Two convolutions and a head; `more` is what training makes of the first ones' features."""

    def __init__(self, more: Callable[[Trained, Tensor], object]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3)
        self.auxiliary = nn.Linear(8, 5)
        self.head = nn.Linear(12, 5)
        self.more = more

    def forward(self, image: Tensor) -> object:
        x = F.relu(self.norm(self.first(image)))
        y = self.head(F.relu(self.second(x)).mean((2, 3)))
        return (y, self.more(self, x)) if self.training else y


def auxiliary(module: Trained, x: Tensor) -> Tensor:
    return module.auxiliary(x.mean((2, 3)))


def features(_: Trained, x: Tensor) -> Tensor:
    return x


def fails(_: Trained, __: Tensor) -> Tensor:
    raise RuntimeError("targets are wanted here")


def draws(_: Trained, x: Tensor) -> Tensor:
    """Another number of values each time, and from all generators that forward() may use."""
    kept = int(torch.rand(()) * 100) + random.randrange(100) + int(np.random.rand() * 100)
    return x.mean() * torch.ones(kept + 1)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (auxiliary, "in training a trial cut fails"),
        (features, "shape of an output"),
        (fails, ""),
        (draws, ""),
    ],
)
def test_channels_that_only_training_reads_are_left_out(
    more: Callable[[Trained, Tensor], object], reason: str
) -> None:
    """An auxiliary head, or features that are handed out, would stop the recovery that follows the cut."""
    torch.manual_seed(0)
    module = Trained(more).train()
    before = copy.deepcopy(module.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    found = survey(module, (torch.randn(2, 3, 9, 9, generator=torch.Generator()),), ())
    expected = ["second"] if reason else ["first", "second"]
    assert [group.name for group in found.groups] == expected
    assert reason in found.skipped.get("first", "")
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2][1], np.random.get_state()[1])
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


class Watched(nn.Module):
    """A residual block whose inside the model asks for in training."""

    def __init__(self) -> None:
        super().__init__()
        self.holder = Residual(nn.Sequential(nn.Conv2d(4, 4, 1)))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> object:
        y = self.head(self.holder(x))
        return (y, self.holder.inner[0].weight.square().sum()) if self.training else y


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def test_a_block_that_only_training_looks_into_stays() -> None:
    """What runs without it in eval mode would not train."""
    found = find_blocks(Watched().eval(), (torch.randn(2, 4, 5, 5),), ())
    assert found.blocks == ()
    assert "in training" in found.skipped["holder"]
