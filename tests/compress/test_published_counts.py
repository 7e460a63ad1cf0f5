"""Figures that others published, reproduced with our groups, our surgery and our counting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Group, survey
from reprune.measure.profile import count_cost
from tests.resnets import ResNet18, ResNet20


def published_macs(module: nn.Module, inputs: Tensor) -> int:
    """The count of torch-pruning's README, written out: what its hooks add for each kind of layer.

    Multiply-accumulates of convolutions and linear layers, one for every bias of a linear layer (once,
    whatever the batch), two for every number that a BatchNorm is given, one for every number that a
    ReLU makes or a pooling is given. Sums of residuals and functions of torch are not seen.
    """
    found = [0]

    def add(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            found[0] += made.shape[0] * layer.weight.numel() * made.shape[2] * made.shape[3]
        elif isinstance(layer, nn.Linear):
            found[0] += made.shape[0] * layer.weight.numel() + layer.out_features
        elif isinstance(layer, nn.BatchNorm2d):
            found[0] += 2 * given[0].numel()
        elif isinstance(layer, nn.ReLU):
            found[0] += made.numel()
        elif isinstance(layer, nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            found[0] += given[0].numel()

    hooks = [layer.register_forward_hook(add) for layer in module.modules()]  # type: ignore[arg-type]
    with torch.no_grad():
        module(inputs)
    for hook in hooks:
        hook.remove()
    return found[0]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def half(groups: tuple[Group, ...]) -> dict[str, range]:
    return {group.name: range(group.width // 2) for group in groups}


@pytest.mark.slow
def test_resnet_18_at_half_its_channels() -> None:
    """1.822177768 G to 0.487202536 G MACs, 11.689512 M to 3.05588 M parameters, to the last one."""
    torch.manual_seed(0)
    module = ResNet18().eval()
    small, image = torch.randn(2, 3, 64, 64), torch.randn(1, 3, 224, 224)
    found = survey(module, (small,), ())
    assert list(found.skipped) == ["fc"]  # its outputs are the classes
    assert (
        sorted(group.width for group in found.groups)
        == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
    )
    cut = apply(module, architecture_of(module, found.groups, half(found.groups)))
    assert (parameters(module), parameters(cut)) == (11_689_512, 3_055_880)
    assert published_macs(module, image) == 1_822_177_768
    assert published_macs(cut, image) == 487_202_536
    # Ours, beside it: multiply-accumulates alone.
    assert count_cost(module, (image,)).cost.macs == 1_814_073_344
    assert count_cost(cut, (image,)).cost.macs == 483_149_824


@pytest.mark.slow
def test_the_published_counts_are_torch_prunings_own() -> None:
    """Its counter agrees with the convention above on its own cut of the same model."""
    tp = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    module, image = ResNet18().eval(), torch.randn(1, 3, 224, 224)
    assert tp.utils.count_ops_and_params(module, (image,)) == (1_822_177_768, 11_689_512)
    pruner = tp.pruner.MagnitudePruner(
        module,
        (image,),
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[module.fc],
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    macs, params = tp.utils.count_ops_and_params(module, (image,))
    assert (macs, params) == (487_202_536, 3_055_880)
    assert published_macs(module, image) == macs


@pytest.mark.slow
def test_resnet_20_with_padded_shortcuts_is_cut_where_it_is_right() -> None:
    """The real CIFAR shape, 40.9 M MACs: inside every block exactly, the padded trunk not at all.

    torch-pruning cuts the trunk as well, and computes another function.
    """
    torch.manual_seed(0)
    module, images = ResNet20().eval(), torch.randn(2, 3, 32, 32)
    assert count_cost(module, (images,)).cost.macs == pytest.approx(40.9e6, rel=0.01)
    found = survey(module, (images,), ())
    assert {group.name for group in found.groups} == {f"layers.{n}.conv1" for n in range(9)}
    trunk = {"conv1", *(f"layers.{n}.conv2" for n in range(9))}
    assert trunk <= set(found.skipped)
    assert all("trial cut" in found.skipped[name] for name in trunk)
    exact = module.double()
    kept = half(found.groups)
    cut = apply(exact, architecture_of(exact, found.groups, kept))
    assert difference(mask(exact, found.groups, kept), cut, [(images.double(),)]) < 1e-9
