"""Recovery with few values: what training returns is coded exactly, zeros stay, a resume changes nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reprune.compress.compact.learning import BookShaper
from reprune.compress.training.recover import Lesson, recover
from reprune.compress.training.shaping import Moment
from reprune.core.errors import CompressionError
from reprune.core.params import DistillParams
from reprune.runtimes.compact import decode, encode, recoded
from tests.compress.small_digits import DigitsTask, accuracy, trained

BITS = {
    f"{layer}.{part}": bits
    for layer in ("conv1", "conv2", "depth", "head")
    for part, bits in (("weight", 2), ("bias", 5))
}


def sparse(module):
    """Half of each weight tensor at zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter[parameter.abs() < parameter.abs().median()] = 0
    return module


def bits_of(module):
    names = {name for name, _ in module.named_parameters()}
    return {name: bits for name, bits in BITS.items() if name in names}


@pytest.mark.slow
def test_two_bits_a_weight_learn_what_rounding_lost(tmp_path):
    task = DigitsTask()
    dense = sparse(trained(task))
    bits = bits_of(dense)
    rounded = copy.deepcopy(dense)
    BookShaper(bits=bits).begin(rounded, None)
    lesson = Lesson(task=task, student=dense, teacher=dense, teacher_digest="d")
    params = DistillParams(epochs=3, learning_rate=0.02, weight=0.0)
    found = recover(
        lesson, params, seed=0, work=tmp_path, say=lambda _: None, shapers=[BookShaper(bits=bits)]
    ).module
    tensors = {
        name: recoded(parameter.detach().numpy())
        for name, parameter in found.named_parameters()
        if name in bits
    }
    again = decode(encode(tensors, coding="mcu"))
    for name, parameter in found.named_parameters():
        if name not in bits:
            continue
        assert np.array_equal(again[name].values(), parameter.detach().numpy())
        most = 4 if parameter.dim() > 1 else 30
        assert len(np.unique(again[name].codes[again[name].codes > 0])) <= most
        assert not parameter.detach()[dense.get_parameter(name) == 0].any()
    assert accuracy(task, found) > accuracy(task, rounded) + 0.02


def steps(module, shaper, first, last, optimizer):
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    for step in range(first, last):
        moment = Moment(step=step, steps=20, steps_per_epoch=10)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        shaper.after_backward(module, optimizer, moment)
        optimizer.step()
        shaper.after_step(module, optimizer, moment)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def shaper():
    return BookShaper(bits={"0.weight": 2, "0.bias": 4, "2.weight": 3}, refit=5)


def test_its_state_goes_on_in_the_same_bits():
    whole, part = small(), small()
    first = shaper()
    first.begin(whole, None)
    steps(whole, first, 0, 20, torch.optim.SGD(whole.parameters(), lr=0.3))
    second = shaper()
    second.begin(part, None)
    steps(part, second, 0, 7, torch.optim.SGD(part.parameters(), lr=0.3))
    resumed = small()
    third = shaper()
    third.begin(resumed, None)
    resumed.load_state_dict(part.state_dict())
    third.restore(second.state())
    steps(resumed, third, 7, 20, torch.optim.SGD(resumed.parameters(), lr=0.3))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_hidden_weights_add_up_steps_too_small_to_be_seen():
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -1.0]]))
    one = BookShaper(bits={"weight": 1}, refit=1000)
    one.begin(module, None)
    seen = []
    for step in range(30):
        with torch.no_grad():
            module.weight[0, 0] -= 0.05
        one.after_step(module, None, Moment(step=step, steps=1000, steps_per_epoch=1000))
        seen.append(module.weight[0, 0].item())
    assert seen[0] == pytest.approx(1.0, abs=0.01)
    assert seen[-1] == pytest.approx(-1.0, abs=0.01)


def test_mistakes_are_named():
    with pytest.raises(CompressionError, match=r"did you mean '0\.weight'"):
        BookShaper(bits={"0.weigth": 3}).begin(small(), None)
    with pytest.raises(CompressionError, match="between 1 and 7"):
        BookShaper(bits={"0.weight": 9})
    one, other = shaper(), BookShaper(bits={"0.weight": 2})
    one.begin(small(), None)
    other.begin(small(), None)
    with pytest.raises(CompressionError, match="begin again"):
        one.restore(other.state())


def test_values_that_are_few_already_are_coded_exactly():
    steps_ = np.array([-0.75, 0.0, 0.25, 0.5, 0.75, -0.25, 0.75], dtype=np.float32)
    found = recoded(steps_)
    assert np.array_equal(found.values(), steps_)
    assert np.array_equal(found.book[1:], np.array([-3, -2, -1, 1, 2, 3], np.float32) / 4)
    odd = np.array([0.1, 0.0, -0.0, 7.3], dtype=np.float32)
    assert np.array_equal(recoded(odd).values(), odd)
    assert len(recoded(np.zeros((2, 2))).book) == 1
    with pytest.raises(CompressionError, match="300 values"):
        recoded(np.arange(1, 301))
