"""AMC's published strategy for MobileNet (He et al. 2018), in our groups and our counting."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import find_groups
from reprune.measure.profile import count_cost

# Howard et al. 2017, table 1: outputs of the first convolution and of the 13 separable blocks, and which
# blocks halve the image.
DENSE = (3, 32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
HALVING = (2, 4, 6, 12)
PUBLISHED = (3, 24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752)


class MobileNet(nn.Module):
    """MobileNet v1 for 224 x 224 images and 1000 classes."""

    def __init__(self, widths: tuple[int, ...] = DENSE) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[1]), nn.ReLU(),
        ]  # fmt: skip
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths[1:]), 1):
            stride = 2 if number in HALVING else 1
            layers += [
                nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs), nn.ReLU(),
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def image() -> Tensor:
    torch.set_num_threads(1)
    return torch.zeros(1, 3, 224, 224)


def test_the_published_widths_leave_half_of_the_macs(image):
    """569 M MACs dense (Howard et al.); the published widths leave 51.7 % of them, not 50: of the pointwise
    convolutions, whose inputs the agent chose, 50.5 %, of the depthwise ones and the first layer more.
    """
    dense, small = (count_cost(MobileNet(widths), (image,)) for widths in (DENSE, PUBLISHED))
    assert (dense.cost.macs, small.cost.macs) == (568_740_352, 293_870_000)
    assert small.cost.macs / dense.cost.macs == pytest.approx(0.5, abs=0.02)
    pointwise = [
        sum(item.macs for item in counted.layers if _is_pointwise(item.layer))
        for counted in (dense, small)
    ]
    assert pointwise[1] / pointwise[0] == pytest.approx(0.5, abs=0.006)


def _is_pointwise(layer: str) -> bool:
    """The fourth of each six layers behind the first three."""
    name = layer.removeprefix("layers.")
    return name.isdigit() and int(name) >= 3 and (int(name) - 3) % 6 == 3


@pytest.mark.slow
def test_our_cut_and_our_cost_model_say_the_same():
    """The 14 widths are our groups; the cost model gives the count of the cut model, to the MAC. At 32 x 32:
    widths and groups are the same, and finding groups takes a forward pass for each.
    """
    torch.set_num_threads(1)
    image = torch.zeros(1, 3, 32, 32)
    module = MobileNet().eval()
    groups = find_groups(module, (torch.randn(2, 3, 32, 32),), ("head",))
    assert [group.width for group in groups] == list(DENSE[1:])
    widths = {group.name: keep for group, keep in zip(groups, PUBLISHED[1:], strict=True)}
    kept = {name: range(keep) for name, keep in widths.items()}
    cut = count_cost(apply(module, architecture_of(module, groups, kept)), (image,)).cost
    assert cut == count_cost(MobileNet(PUBLISHED), (image,)).cost
    assert cost_model(module, groups, count_cost(module, (image,)))(widths) == cut
