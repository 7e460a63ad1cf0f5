"""Scores of channels: what each criterion sums, ties, determinism, and third-party criteria."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress import importance
from reprune.compress.importance import CRITERIA, channel_scores, lowest_removed
from reprune.compress.structure.groups import find_groups
from reprune.core.errors import CompressionError, UnknownName
from reprune.core.params import PruneParams
from tests import models


def scored(model_task: Callable[..., object], name: str, criterion: str, seed: int = 0) -> dict:
    module = models.build(name)
    groups = find_groups(module, models.inputs(name, 2), ())
    params = PruneParams(criterion=criterion, examples=64)
    return channel_scores(model_task(name), module, groups, params, seed)


@settings(deadline=None)
@given(
    scores=st.lists(st.floats(-10, 10), min_size=1, max_size=20),
    data=st.data(),
)
def test_exactly_the_asked_number_is_kept(scores: list[float], data: st.DataObject) -> None:
    """Any scores, any width: as many as asked, none of them lower than one that went."""
    keep = data.draw(st.integers(1, len(scores)))
    kept = lowest_removed(torch.tensor(scores, dtype=torch.float64), keep)
    assert len(kept) == keep
    assert list(kept) == sorted(set(kept))
    gone = [score for index, score in enumerate(scores) if index not in kept]
    assert not gone or min(scores[index] for index in kept) >= max(gone)


def test_equal_scores_keep_the_first_channels() -> None:
    """torch-pruning cuts nothing where all scores tie; here the tie is broken by the index."""
    assert lowest_removed(torch.ones(6), 4) == (0, 1, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("name", ["concat", "separable", "unet", "two-input", "flattened"])
def test_every_criterion_scores_every_architecture(
    model_task: Callable[..., object], name: str, criterion: str
) -> None:
    """A finite score for each channel, none negative; the same seed gives the same bits."""
    first = scored(model_task, name, criterion)
    again = scored(model_task, name, criterion)
    for group, scores in first.items():
        assert scores.dtype == torch.float64
        assert bool((scores >= 0).all())
        assert bool((scores > 0).any())
        assert torch.equal(scores, again[group])


def test_l1_and_l2_are_the_norms_of_all_weights_of_a_channel(
    model_task: Callable[..., object],
) -> None:
    """Against a sum written out by hand: what makes, scales and reads the channel."""
    module = models.build("flattened")
    weights = [
        torch.cat([module.conv.weight[c].flatten(), module.fc1.weight[:, 16 * c : 16 * c + 16].flatten()])
        for c in range(6)
    ]  # fmt: skip
    l1 = scored(model_task, "flattened", "l1")["conv"]
    l2 = scored(model_task, "flattened", "l2")["conv"]
    assert torch.allclose(l1, torch.stack([w.abs().sum() for w in weights]).double())
    assert torch.allclose(l2, torch.stack([w.norm() for w in weights]).double())


def test_taylor_is_weight_times_gradient_with_norms_and_biases(
    model_task: Callable[..., object],
) -> None:
    """Against autograd by hand, one batch: convolution, gamma, beta and reader are all in the sum."""
    task = model_task("plain", examples=32)
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    found = channel_scores(task, module, groups, PruneParams(examples=32), 0)["second.0"]
    (batch,) = task.batches("train", epoch=0, seed=0)
    task.loss(module, batch, torch.Generator()).backward()
    conv, norm = module.second
    expected = (
        (conv.weight * conv.weight.grad).abs().sum(dim=(1, 2, 3))
        + (norm.weight * norm.weight.grad).abs()
        + (norm.bias * norm.bias.grad).abs()
        + (module.head.weight * module.head.weight.grad).abs().sum(dim=0)
    )
    assert torch.allclose(found, expected.double())


def test_taylor_sees_batch_norm(model_task: Callable[..., object]) -> None:
    """A channel whose norm is off (gamma and beta zero) scores lowest; torch-pruning ignores gamma."""
    module = models.build("plain")
    with torch.no_grad():
        module.first[1].weight[3] = 0.0
        module.first[1].bias[3] = 0.0
    groups = find_groups(module, models.inputs("plain", 2), ())
    found = channel_scores(model_task("plain"), module, groups, PruneParams(examples=64), 0)
    assert int(found["first.0"].argmin()) == 3


def test_taylor_works_on_a_frozen_model_and_leaves_it_alone(
    model_task: Callable[..., object],
) -> None:
    """Neither requires_grad nor gradients nor BatchNorm statistics nor flags of the model change."""
    module = models.build("plain").train().requires_grad_(False)
    mean = module.first[1].running_mean.clone()
    groups = find_groups(module, models.inputs("plain", 2), ())
    with torch.no_grad():
        found = channel_scores(model_task("plain"), module, groups, PruneParams(examples=64), 0)
    assert bool((found["first.0"] > 0).any())
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert torch.equal(module.first[1].running_mean, mean)
    assert module.training


def test_a_random_choice_follows_its_seed(model_task: Callable[..., object]) -> None:
    """Another seed gives other scores."""
    one = scored(model_task, "plain", "random", seed=1)["first.0"]
    assert not torch.equal(one, scored(model_task, "plain", "random", seed=2)["first.0"])


def test_an_unknown_criterion_lists_the_known_ones(model_task: Callable[..., object]) -> None:
    """A misspelt criterion names the nearest and all others."""
    with pytest.raises(UnknownName, match="taylor") as caught:
        scored(model_task, "plain", "tailor")
    assert all(name in str(caught.value) for name in CRITERIA)


def test_a_loss_that_is_not_finite_is_an_error(model_task: Callable[..., object]) -> None:
    """NaN scores would sort anywhere; they are refused with the group's name."""
    task = model_task("plain")
    task.loss = lambda module, batch, generator: F.mse_loss(
        module(*batch.inputs), batch.targets * float("nan")
    )
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    with pytest.raises(CompressionError, match=r"first\.0.*finite"):
        channel_scores(task, module, groups, PruneParams(examples=32), 0)


def test_a_criterion_of_another_package_is_found_and_checked(
    model_task: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point in reprune.importance is used by name; scores of a wrong shape are refused."""

    def shortened(task: object, module: nn.Module, groups: list, *, params: object, seed: int):
        return {group.name: torch.ones(group.width - 1) for group in groups}

    monkeypatch.setattr(importance, "shortened", shortened, raising=False)
    point = SimpleNamespace(name="short", value="reprune.compress.importance:shortened")
    monkeypatch.setattr(
        "reprune.core.plugins.entry_points",
        lambda group: [point] if group == "reprune.importance" else [],
    )
    with pytest.raises(CompressionError, match="'short' gave no finite score"):
        scored(model_task, "plain", "short")
