"""The Fisher score of heads, neurons and channels against gates that are really there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from reprune.compress.criteria.apart import singles
from reprune.compress.criteria.fisher import fisher
from reprune.compress.importance import channel_scores
from reprune.compress.structure.groups import Group, survey
from reprune.compress.structure.separate import separate
from reprune.core.params import PruneParams
from reprune.task.protocol import Batch
from tests import models


def gate_scores(task: object, module: nn.Module, group: Group, examples: int) -> torch.Tensor:
    """The mean squared gradient of a gate that multiplies the inputs of the group's readers."""
    total = torch.zeros(group.width, dtype=torch.float64)
    count = 0
    for batch in task.batches("train", epoch=0, seed=0):
        for one in singles(batch):
            gate = torch.ones(group.width, requires_grad=True)
            hooks = []
            for member in group.members:
                if member.axis != "in":
                    continue
                layer = module.get_submodule(member.module)

                def scale(layer, given, member=member, gate=gate):
                    dim = 1 if isinstance(layer, nn.Conv2d) else -1
                    where = torch.full((given[0].shape[dim],), -1)
                    for channel, positions in enumerate(member.positions):
                        where[list(positions)] = channel
                    factor = torch.where(where >= 0, gate[where.clamp(min=0)], torch.ones(()))
                    shape = [1] * given[0].ndim
                    shape[dim] = -1
                    return (given[0] * factor.view(shape),)

                hooks.append(layer.register_forward_pre_hook(scale))
            task.loss(module, one, torch.Generator()).backward()
            for hook in hooks:
                hook.remove()
            total += len(one) ** 2 * gate.grad.double().square()
            count += len(one)
        if count >= examples:
            return total / count
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "vit", "built-in-attention", "resnet-b", "concat"])
def test_the_score_is_the_squared_gradient_of_a_gate(
    name: str, model_task: Callable[..., object]
) -> None:
    """Heads (many positions), neurons, channels with several readers: all as an explicit gate says."""
    module = separate(models.build(name))
    task = model_task(name, examples=32)
    groups = survey(module, models.inputs(name, 2), ()).groups
    params = PruneParams(criterion="fisher", examples=32)
    scores = channel_scores(task, module, groups, params, 0)
    for group in groups[:3]:
        expected = gate_scores(task, module, group, 32)
        assert torch.allclose(scores[group.name], expected, rtol=1e-3, atol=1e-12), group.name


def test_score_dimensions_have_a_gate_of_their_own(model_task: Callable[..., object]) -> None:
    """A query-key dimension scores as the scaling of its queries alone does."""
    module = separate(models.build("built-in-attention"))
    task = model_task("built-in-attention", examples=32)
    found = survey(module, models.inputs("built-in-attention", 2), (), dimensions=True).groups
    (group,) = [group for group in found if group.name.endswith("query-dimensions")]
    scores = fisher(task, module, [group], params=PruneParams(examples=32), seed=0)[group.name]
    queries = group.members[0]
    total = torch.zeros(group.width, dtype=torch.float64)
    (batch,) = task.batches("train", epoch=0, seed=0)
    for one in singles(batch):
        module.zero_grad()
        F.mse_loss(module(*one.inputs), one.targets).backward()
        layer = module.get_submodule(queries.module)
        rows = (layer.weight * layer.weight.grad).sum(1) + layer.bias * layer.bias.grad
        gate = torch.stack([rows[list(places)].sum() for places in queries.positions])
        total += gate.detach().double().square()
    assert torch.allclose(scores, total / 32, rtol=1e-3, atol=1e-14)


def test_a_neuron_that_nobody_reads_counts_for_nothing(model_task: Callable[..., object]) -> None:
    """Its gate changes nothing, however large the weights are that make it."""
    module = models.build("flattened")
    with torch.no_grad():
        module.fc2.weight[:, 3] = 0.0
        module.fc1.weight[3] *= 100.0
    task = model_task("flattened", examples=64)
    groups = survey(module, models.inputs("flattened", 2), ()).groups
    (group,) = [group for group in groups if group.name == "fc1"]
    score = fisher(task, module, [group], params=PruneParams(examples=64), seed=0)["fc1"]
    assert score[3] == 0.0
    assert (score[[0, 1, 2, 4]] > 0.0).all()


class Words(nn.Module):
    """Two recurrent layers in one, whose units the linear layer reads."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(3, 4, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layers_own_reading_counts(kind: type[nn.RNNBase]) -> None:
    """The gate of a hidden unit is on what the layer itself, the next one and the head read of it."""
    torch.manual_seed(0)
    module = Words(kind).eval()
    inputs, targets = torch.randn(6, 5, 3), torch.randn(6, 2)
    batch = Batch(inputs=(inputs,), targets=targets, ids=[str(n) for n in range(6)])
    task = SimpleNamespace(
        batches=lambda *_, **__: iter([batch]),
        loss=lambda net, one, _: F.mse_loss(net(*one.inputs), one.targets),
    )
    (group,) = [one for one in survey(module, (inputs,), ()).groups if one.name == "rnn"]
    scores = fisher(task, module, [group], params=PruneParams(examples=6), seed=0)["rnn"]
    expected = torch.zeros(4, dtype=torch.float64)
    for one in singles(batch):
        gate = torch.ones(4, requires_grad=True)
        reading = {
            name: tensor * gate.repeat(tensor.shape[1] // 4)
            for name, tensor in module.named_parameters()
            if "weight_hh" in name or "weight_ih_l1" in name or name == "head.weight"
        }
        F.mse_loss(functional_call(module, reading, one.inputs), one.targets).backward()
        expected += gate.grad.double().square() / 6
    assert torch.allclose(scores, expected, rtol=1e-3, atol=1e-12)
