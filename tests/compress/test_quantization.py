"""Simulated int8: exact rounding, ranges that survive outliers, and training that makes a model fit it."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reprune.compress.paired import batch_losses
from reprune.compress.training.checkpoint import read_state
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.quantization import (
    FakeQuantizer,
    best_range,
    round_input,
    round_weight,
    simulated,
)
from reprune.compress.training.recover import CHECKPOINT, recover
from reprune.core.errors import CompressionError, Diverged
from reprune.core.params import DistillParams
from reprune.task.protocol import Batch
from tests.compress.small_digits import DigitsTask, trained


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@cache
def dense():
    return trained(DigitsTask())


@cache
def spiky():
    """The dense model's function, but some channels are hundreds of times as large as the others: one
    range for all of them leaves the others next to no resolution.
    """
    module = copy.deepcopy(dense())
    with torch.no_grad():
        for channel, factor in ((0, 300.0), (5, 120.0)):
            module.norm1.weight[channel] *= factor
            module.norm1.bias[channel] *= factor
            module.conv2.weight[:, channel] /= factor
    return module


def batches(split):
    return DigitsTask().batches(split, epoch=0, seed=0)


def float_loss(module):
    return batch_losses(DigitsTask(), module, batches("tune"), seed=0).mean


def int8_loss(module, bits=8):
    with simulated(module, batches("calibration"), bits=bits):
        return float_loss(module)


def learnt(work, student=None, seed=0, **knobs):
    params = DistillParams(**({"epochs": 3, "learning_rate": 0.01, "momentum": 0.0} | knobs))
    lesson = Lesson(
        task=DigitsTask(), student=student or spiky(), teacher=dense(), teacher_digest="x"
    )
    return recover(lesson, params, seed=seed, work=work, say=lambda _: None)


@pytest.mark.slow
def test_integers_hold_after_training_for_them_better_than_after_plain_recovery(tmp_path):
    """The same budget, seed by seed: at 4 bits the model that trained for them is the better one."""
    student = trained(DigitsTask(), epochs=5)
    recipe = {"learning_rate": 0.02, "momentum": 0.9, "weight": 0.0}
    losses = {"none": 0.0, "int4": 0.0}
    for seed in range(3):
        for quantize in losses:
            folder = tmp_path / f"{quantize} {seed}"
            done = learnt(folder, student, seed, quantize=quantize, **recipe)
            assert done.recovery.best_epoch > 0
            losses[quantize] += int8_loss(done.module, bits=4)
    assert losses["int4"] < 0.9 * losses["none"]


@pytest.mark.slow
def test_a_model_that_int8_ruins_is_repaired(tmp_path):
    """Channels of very different size: in floats nothing is wrong, and plain training sees nothing."""
    assert float_loss(spiky()) == pytest.approx(float_loss(dense()), rel=1e-3)
    assert int8_loss(spiky()) > 10 * float_loss(spiky())
    aware = learnt(tmp_path / "aware", quantize="int8")
    assert int8_loss(aware.module) < 0.6 * int8_loss(spiky())
    best = aware.recovery.epochs[aware.recovery.best_epoch - 1]
    assert best.tune_loss == pytest.approx(int8_loss(aware.module), rel=0.02)


@pytest.mark.slow
def test_what_is_returned_is_a_plain_float_module(tmp_path):
    """No hooks, no rounded weights, the state dict of the student's class."""
    module = learnt(tmp_path, epochs=1, quantize="int8").module
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    assert set(module.state_dict()) == set(dense().state_dict())
    row = module.head.weight[0]
    assert len(torch.unique((row / row.abs().max() * 127).round())) < len(torch.unique(row))


def test_ranges_are_in_the_checkpoint(tmp_path):
    """A run that goes on in the middle of an epoch rounds as it did before."""
    learnt(tmp_path, epochs=1, quantize="int8", ema=0.5)
    more = read_state(tmp_path / CHECKPOINT).more
    layers = {"conv1", "conv2", "depth", "head"}
    for whose in ("student", "judged"):
        assert {key.split("/")[1] for key in more if key.startswith(f"range-{whose}/")} == layers


def test_a_simulation_leaves_nothing_behind():
    """Outputs, weights and hooks are as before, also after an error inside."""
    module = copy.deepcopy(dense())
    x = next(iter(batches("tune"))).inputs[0]
    before, names = module(x), [name for name, _ in module.named_parameters()]
    with pytest.raises(RuntimeError), simulated(module, batches("calibration"), bits=3):
        assert not torch.equal(module(x), before)
        module(x[:, :, :1, :1].repeat(1, 3, 1, 1))
    assert torch.equal(module(x), before)
    assert [name for name, _ in module.named_parameters()] == names


@given(bits=st.integers(2, 8), seed=st.integers(0, 50))
def test_rounded_weights_lie_on_the_grid_of_their_channel(bits, seed):
    """At most 2^bits - 1 values a channel, none off by more than half a step, none beyond the largest."""
    layer = nn.Conv2d(3, 4, 3)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(seed))
    top = 2 ** (bits - 1) - 1
    rounded = round_weight(layer, bits=bits).detach()
    step = layer.weight.detach().abs().flatten(1).amax(1)[:, None, None, None] / top
    assert ((rounded - layer.weight).abs() <= step * 0.5001).all()
    assert torch.allclose(rounded / step, (rounded / step).round(), atol=1e-4)
    assert int((rounded / step).abs().max().round()) == top


def test_gradients_pass_rounding_and_stop_at_clipping():
    """Straight through inside the range, zero outside it; all of it for weights."""
    x = torch.tensor([-2.0, 0.1, 0.5, 3.0], requires_grad=True)
    round_input(x, (-1.0, 1.0), bits=8).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    layer = nn.Linear(3, 2)
    round_weight(layer, bits=4).sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones(2, 3))


def test_a_few_outliers_do_not_take_the_range():
    """At few bits the range is cut down to where the values are; without outliers it is not."""
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    spread = best_range(torch.cat([values, torch.tensor([40.0, -40.0])]), bits=4)
    assert 2.0 < spread[1] < 20.0
    even = torch.linspace(-1.0, 1.0, 1001)
    assert best_range(even, bits=8) == pytest.approx((-1.0, 1.0), abs=0.05)
    assert best_range(torch.zeros(5), bits=8) == (0.0, 0.0)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(input=x)


def test_a_training_that_diverges_in_its_last_step_says_so(tmp_path):
    """One step is an epoch here, and what layers are given after it has no range."""
    lesson = Lesson(
        task=DigitsTask(batch_size=900), student=dense(), teacher=dense(), teacher_digest="x"
    )
    params = DistillParams(epochs=1, learning_rate=1e38, warmup_epochs=0.0, quantize="int8")
    with pytest.raises(Diverged, match="not finite") as caught:
        recover(lesson, params, seed=0, work=tmp_path, say=lambda _: None)
    assert "distill.learning_rate" in caught.value.fix


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_have_no_range(value):
    module = copy.deepcopy(dense())
    with torch.no_grad():
        module.conv1.weight[0, 0, 0, 0] = value
    with pytest.raises(Diverged, match="not finite") as caught:
        FakeQuantizer(module=module).attach().calibrate(batches("calibration"))
    assert caught.value.where == "conv2"


def test_inputs_given_by_name_are_rounded_too():
    torch.manual_seed(0)
    module, x = Named(), torch.linspace(-1.0, 1.0, 32).view(8, 4)
    seen = Batch(inputs=(x,), targets=None, ids=[str(number) for number in range(8)])
    with simulated(module, [seen], bits=4):
        found = module(x)
    inner = module.inner
    rounded = round_input(x, best_range(torch.cat([x.flatten(), x.flatten()]), bits=4), bits=4)
    expected = torch.nn.functional.linear(rounded, round_weight(inner, bits=4), inner.bias)
    assert torch.allclose(found, expected)
    assert not torch.allclose(found, module(x))


def test_attention_that_calls_no_layers_is_refused():
    """Its loss would be that of floats and called that of integers."""
    module = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(CompressionError, match="self_attn"):
        FakeQuantizer(module=module).attach()
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(CompressionError, match="no convolution or linear"):
        FakeQuantizer(module=nn.ReLU()).attach()
