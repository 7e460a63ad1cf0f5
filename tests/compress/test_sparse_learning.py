"""Sparse learning empties the channels that will be cut; a control shows that training alone does not."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from reprune.compress.importance import channel_scores, lowest_removed
from reprune.compress.paired import batch_losses
from reprune.compress.structure.groups import find_groups
from reprune.compress.structured import cut
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.recover import recover
from reprune.compress.training.shaping import Moment
from reprune.compress.training.sparse_learning import SparsePush
from reprune.core.errors import CompressionError
from reprune.core.params import DistillParams, PruneParams
from tests.compress.small_digits import DigitsTask, accuracy, trained

RECIPE = DistillParams(learning_rate=0.05, weight_decay=0.0)
STRENGTHS = {"group-norm": 0.01, "bn-scale": 0.3, "growing": 0.05}


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


class Stack(nn.Module):
    """A recurrent layer into a recurrent layer, both directions, and a head."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.one = kind(3, 4, bidirectional=True, batch_first=True)
        self.two = kind(8, 3, bidirectional=True, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.two(self.one(x)[0])[0].mean(1))


@cache
def dense():
    return trained(DigitsTask())


@cache
def groups():
    return find_groups(dense(), DigitsTask().example_inputs(2), ("head",))


def widths():
    return {group.name: group.width // 2 for group in groups()}


def push(method, strength):
    return SparsePush(method=method, strength=strength, groups=groups(), widths=widths())


def pushed(method, strength, work):
    lesson = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    shaper = push(method, strength)
    folder = work / f"{method} {strength}"
    return recover(
        lesson, RECIPE, seed=0, work=folder, say=lambda _: None, shapers=(shaper,)
    ).module


def doomed_share(module) -> dict[str, float]:
    """The norm of the half of each group's channels that is weakest, over that of the rest."""
    scores = channel_scores(DigitsTask(), module, groups(), PruneParams(criterion="l2"), 0)
    found = {}
    for name, score in scores.items():
        keep = set(lowest_removed(score, len(score) // 2))
        weak = [v for n, v in enumerate(score.tolist()) if n not in keep]
        strong = [v for n, v in enumerate(score.tolist()) if n in keep]
        found[name] = sum(weak) / sum(strong)
    return found


@cache
def control(folder):
    lesson = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    params = DistillParams(learning_rate=0.05, weight_decay=0.0, epochs=4)
    return recover(lesson, params, seed=0, work=folder, say=lambda _: None).module


@pytest.mark.slow
@pytest.mark.parametrize("method", ["group-norm", "growing"])
def test_channels_that_will_go_shrink_against_the_rest(method, tmp_path):
    """Their share of the norm falls well below that after the same training without a push."""
    plain = doomed_share(control(tmp_path))
    sparse = doomed_share(pushed(method, STRENGTHS[method], tmp_path))
    for name, share in plain.items():
        assert sparse[name] < 0.8 * share, (method, name, sparse, plain)


@pytest.mark.slow
def test_bn_scales_shrink_and_the_model_still_works(tmp_path):
    """Network slimming: the smallest scales come near zero, the accuracy stays."""
    module = pushed("bn-scale", STRENGTHS["bn-scale"], tmp_path)
    plain = control(tmp_path)
    weakest = [
        m.norm2.weight.detach().abs().sort().values[:12].mean().item() for m in (module, plain)
    ]
    assert weakest[0] < 0.5 * weakest[1]
    assert accuracy(DigitsTask(), module) > accuracy(DigitsTask(), dense()) - 0.1


@pytest.mark.slow
def test_a_cut_after_the_push_loses_less(tmp_path):
    """What the whole thing is for: the loss after a plain cut to the plan, nothing repaired."""
    params = PruneParams(criterion="l2", examples=200, compensate=False, recalibrate=False)
    losses = []
    for module in (pushed("growing", 0.05, tmp_path), control(tmp_path)):
        done = cut(DigitsTask(), module, groups(), widths(), params, 0, lambda _: None)
        tune = DigitsTask().batches("tune", epoch=0, seed=0)
        losses.append(batch_losses(DigitsTask(), done.module, tune, seed=0).mean)
    assert losses[0] < 0.5 * losses[1]


def test_growing_pushes_no_channel_that_stays():
    """The penalty's gradient is zero there, and grows from step to step elsewhere."""
    shaper = push("growing", 0.1)
    module = trained(DigitsTask(), epochs=0)
    shaper.begin(module, None)
    norms = shaper.norms()["conv1"]
    gone = set(range(16)) - set(lowest_removed(norms.double(), 8))
    sizes = []
    for step in (0, 10, 20, 200):
        module.zero_grad()
        shaper.after_backward(module, None, Moment(step=step, steps=300, steps_per_epoch=9))
        pulled = module.conv1.weight.grad.abs().sum(dim=(1, 2, 3))
        assert {n for n, value in enumerate(pulled.tolist()) if value > 0} == gone
        sizes.append(pulled.sum().item() / module.conv1.weight[sorted(gone)].abs().sum().item())
    assert sizes == pytest.approx([0.1, 0.2, 0.3, 1.0], rel=1e-5)


def test_bn_scale_needs_batch_norms():
    """A model without any is told so before it trains."""
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    found = find_groups(module, (torch.zeros(2, 4),), ())
    shaper = SparsePush(method="bn-scale", strength=0.1, groups=found, widths={})
    with pytest.raises(CompressionError, match="group-norm"):
        shaper.begin(module, None)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_pushed_too(kind):
    """Every gate, layer and direction of a unit, and what reads it: a stack of them alone is not refused."""
    module = Stack(kind)
    found = find_groups(module, (torch.zeros(2, 5, 3),), ())
    assert "one" in {group.name for group in found}
    widths = {group.name: group.width // 2 for group in found}
    shaper = SparsePush(method="growing", strength=0.1, groups=found, widths=widths)
    shaper.begin(module, None)
    norms = shaper.norms()["one"]
    own = [p for name, p in module.one.named_parameters() if "bias" in name or "weight_ih" in name]
    whole = sum(p.reshape(-1, 4, p[0].numel()).square().sum((0, 2)) for p in own)
    for end in ("", "_reverse"):
        again = getattr(module.one, f"weight_hh_l0{end}")
        whole += again.reshape(-1, 4, 4).square().sum((0, 2)) + again.square().sum(0)
        read = getattr(module.two, f"weight_ih_l0{end}")
        whole += read.square().sum(0).reshape(2, 4).sum(0)
    assert torch.allclose(norms, whole.detach().sqrt())
    gone = set(range(4)) - set(lowest_removed(norms.double(), 2))
    shaper.after_backward(module, None, Moment(step=0, steps=300, steps_per_epoch=9))
    for name, parameter in module.one.named_parameters():
        if "bias" in name:
            rows = parameter.grad.reshape(-1, 4).abs().sum(0)
            assert {n for n, value in enumerate(rows.tolist()) if value > 0} == gone


@pytest.mark.parametrize("method", ["group-norm", "growing"])
def test_a_finished_push_is_known_after_a_resume(method):
    """Killed between the last step and the look at `tune`, the model may still be kept."""
    shaper, again = push(method, 0.1), push(method, 0.1)
    module = trained(DigitsTask(), epochs=0)
    for one in (shaper, again):
        one.begin(module, None)
    shaper.after_step(module, None, Moment(step=8, steps=9, steps_per_epoch=9))
    assert shaper.settled
    assert not again.settled
    again.restore(shaper.state())
    assert again.settled
