"""Four networks whose widths are cut: residual, plain, inverted residual and one with skip connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.cifar_models import MobileNetV2, ResNet20
from examples.membrane.task.membrane import UNet
from reprune.compress.structure.groups import Group, find_groups
from reprune.task.protocol import Batch


@dataclass(frozen=True, kw_only=True)
class Model:
    """`make` gives it with random weights; `shape` is that of one input; `keep` is not cut."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    keep: tuple[str, ...] = ()

    def groups(self, module: nn.Module) -> tuple[Group, ...]:
        """What the product finds in it."""
        return find_groups(module, (torch.randn(2, *self.shape),), self.keep)


class Chain(nn.Module):
    """Four convolutions one after another, as facts about the staircase were measured on."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.layers(image).mean((2, 3)))


class Rows:
    """As much of a task as engines are built from: random inputs, the same every time."""

    input_names = ("image",)

    def __init__(self, model: Model) -> None:
        self.model = model

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch_size)
        return (torch.randn(batch_size, *self.model.shape, generator=generator),)

    def batches(self, split: str, *, epoch: int, seed: int) -> Iterator[Batch]:  # noqa: ARG002  # one split
        (inputs,) = self.example_inputs(8)
        yield Batch(inputs=(inputs,), targets=torch.zeros(8), ids=[str(row) for row in range(8)])


MODELS = {
    model.name: model
    for model in (
        Model(name="resnet20", make=ResNet20, shape=(3, 32, 32)),
        Model(name="chain", make=Chain, shape=(3, 32, 32)),
        Model(name="mobilenetv2", make=MobileNetV2, shape=(3, 32, 32)),
        Model(name="unet", make=UNet, shape=(1, 64, 64)),
    )
}
