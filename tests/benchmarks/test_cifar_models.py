"""The benchmark's own networks, and what torch-pruning makes of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cifar_models import (
    DENSE_WIDTHS,
    BasicBlock,
    MobileNetV2,
    ResNet20,
    multiple_of_8,
)
from benchmarks.stock import stock_resnet20, widths_of
from reprune.compress.structure.architecture import Architecture, Removal, apply
from reprune.compress.structure.groups import survey
from reprune.measure.profile import count_cost
from tests.benchmarks.test_cifar import small

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def randomised(module):
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


@pytest.mark.slow
def test_resnet20_has_the_published_size():
    cost = count_cost(ResNet20(), (IMAGES,)).cost
    assert (cost.params, cost.macs) == (269_722, 40_551_040)


def test_a_width_of_zero_is_the_model_without_that_block():
    whole = randomised(ResNet20())
    without = apply(whole, Architecture(removed=(Removal(module="layer2.1"),)))
    widths = [0 if place == 4 else width for place, width in enumerate(DENSE_WIDTHS)]
    shorter = ResNet20(widths)
    shorter.load_state_dict(without.state_dict())
    with torch.no_grad():
        assert torch.equal(shorter.eval()(IMAGES), without.eval()(IMAGES))
    assert widths_of(without) == tuple(widths) == widths_of(shorter)


def test_a_first_block_without_its_convolutions_keeps_its_shortcut():
    widths = [0 if place == 3 else width for place, width in enumerate(DENSE_WIDTHS)]
    with torch.no_grad():
        assert ResNet20(widths).eval()(IMAGES).shape == (4, 10)


@pytest.mark.slow
def test_the_residual_stream_past_option_a_is_refused_with_a_reason():
    found = survey(randomised(ResNet20()), (IMAGES[:2],), ())
    inner = {f"layer{stage}.{place}.conv1" for stage in (1, 2, 3) for place in range(3)}
    assert {group.name for group in found.groups} == inner
    stream = {"conv1", *(name.replace("conv1", "conv2") for name in inner)}
    assert stream <= found.skipped.keys()
    assert all("outputs are off" in found.skipped[name] for name in stream)


def test_mobilenetv2_runs_and_halves_its_channels():
    module = MobileNetV2(0.5).eval()
    with torch.no_grad():
        assert module(IMAGES).shape == (4, 10)
    assert module.blocks[-1].layers[-1].num_features == 160


@given(st.floats(1, 2000))
def test_channels_are_a_multiple_of_8_that_loses_at_most_a_tenth(channels):
    found = multiple_of_8(channels)
    assert found % 8 == 0
    assert found >= 8
    assert found >= 0.9 * channels
    assert found <= max(8, channels + 8)


@pytest.mark.parametrize("method", ["tp_uniform", "tp_global", "tp_taylor"])
def test_the_peer_cuts_inside_blocks_only_and_its_model_is_ours_of_those_widths(method):
    from benchmarks.cifar import CifarTask

    task = CifarTask(small(), ResNet20, tune=8, calibration=16, batch_size=8)
    dense = randomised(ResNet20())
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    found = stock_resnet20(dense, method, 0.5, task, examples=8, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())
    assert all(found_ <= full for found_, full in zip(widths_of(found), DENSE_WIDTHS, strict=True))
    assert sum(widths_of(found)) < sum(DENSE_WIDTHS)
    assert found.linear.weight.shape == (10, 64)
    assert all(block.conv2.out_channels in {16, 32, 64} for block in blocks(found))
    if method == "tp_uniform":
        assert widths_of(found) == (8, 8, 8, 16, 16, 16, 32, 32, 32)
    if method == "tp_global":
        assert all(width % 8 == 0 for width in widths_of(found))


def blocks(module):
    return [layer for layer in module.modules() if isinstance(layer, BasicBlock)]
