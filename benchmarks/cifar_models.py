"""The two networks of the CIFAR-10 benchmarks, own definitions: ResNet-20 (He et al. 2016, section 4.2,
shortcut option A) and MobileNetV2 (Sandler et al. 2018, table 2) with strides for images of 32 x 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
STAGES = ((16, 1), (32, 2), (64, 2))
BLOCKS_A_STAGE = 3
DENSE_WIDTHS = (16, 16, 16, 32, 32, 32, 64, 64, 64)

# expansion, channels, blocks, stride of the first block: table 2 with two strides of 2 taken out.
INVERTED = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class Shortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new; the identity where nothing
    changes. It is also what is left of a removed block: the block's input was rectified already.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.grows = outputs - inputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.grows:
            return x
        half = self.grows // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, `width` channels between them, and the option-A shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """`widths`: channels between the two convolutions of each of the nine blocks; 0 removes the block's
    convolutions and leaves its shortcut.
    """

    def __init__(self, widths: Sequence[int] = DENSE_WIDTHS) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.conv1 = nn.Conv2d(3, STAGES[0][0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0][0])
        stages, inputs = [], STAGES[0][0]
        for number, (outputs, first_stride) in enumerate(STAGES):
            blocks: list[nn.Module] = []
            for place in range(BLOCKS_A_STAGE):
                stride = first_stride if place == 0 else 1
                width = self.widths[number * BLOCKS_A_STAGE + place]
                blocks.append(
                    BasicBlock(inputs, outputs, stride, width)
                    if width
                    else Shortcut(inputs, outputs, stride)
                )
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(STAGES[-1][0], CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3 depthwise), project (1x1) without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = _conv_bn_relu6(inputs, hidden, kernel=1) if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *_conv_bn_relu6(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    """Widths are multiples of 8 as in the authors' code; the last convolution keeps its 1,280 channels."""

    def __init__(self, width: float = 0.5) -> None:
        super().__init__()
        inputs = multiple_of_8(32 * width)
        self.stem = nn.Sequential(*_conv_bn_relu6(3, inputs, kernel=3))
        blocks: list[nn.Module] = []
        for expansion, channels, count, first_stride in INVERTED:
            outputs = multiple_of_8(channels * width)
            for place in range(count):
                stride = first_stride if place == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*_conv_bn_relu6(inputs, 1280, kernel=1))
        self.linear = nn.Linear(1280, CLASSES)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(image)))
        return self.linear(x.mean(dim=(2, 3)))


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, one more where that would take away over a tenth."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _conv_bn_relu6(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 over the fan-out, as the authors of the paper did."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
