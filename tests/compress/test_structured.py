"""The whole cut: widths kept exactly, equality proven, the best repair chosen, the same bits each time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import nn

from reprune.compress import structured
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import difference
from reprune.compress.structure.groups import Group, find_groups
from reprune.compress.structured import CutResult, cut
from reprune.core.artifacts import Surgery
from reprune.core.documents import canonical
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from tests import models
from tests.compress.small_digits import DigitsTask, accuracy, trained


def quiet(_: str) -> None:
    """Says nothing."""


def half(groups: tuple[Group, ...]) -> dict[str, int]:
    return {group.name: max(1, group.width // 2) for group in groups}


def cut_half(
    model_task: Callable[..., object], name: str, params: PruneParams | None = None
) -> tuple[nn.Module, CutResult]:
    task = model_task(name)
    module = models.build(name)
    groups = find_groups(module, models.inputs(name, 2), ())
    return module, cut(
        task, module, groups, half(groups), params or PruneParams(examples=128), 0, quiet
    )


@pytest.mark.parametrize("name", models.MODELS)
def test_every_architecture_is_cut_to_the_widths_asked_for(
    model_task: Callable[..., object], name: str
) -> None:
    """Asked and achieved widths agree and are recorded; less is left; the outputs are finite."""
    _, result = cut_half(model_task, name)
    surgery = result.surgery
    assert surgery.groups
    assert all(item.keep == item.requested == item.width // 2 for item in surgery.groups)
    assert surgery.after.params < surgery.before.params
    assert surgery.after.macs < surgery.before.macs
    assert surgery.after.params == sum(p.numel() for p in result.module.parameters())
    assert 0.0 <= surgery.equality_max_abs < 1e-3
    assert not any(layer.training for layer in result.module.modules())
    assert msgspec.json.decode(canonical(surgery), type=Surgery) == surgery


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-b", "separable", "two-input"])
def test_the_same_seed_gives_the_same_bytes(model_task: Callable[..., object], name: str) -> None:
    """Two cuts agree in every bit of weights, architecture and record, whatever the global seed is."""
    torch.manual_seed(1)
    _, first = cut_half(model_task, name)
    torch.manual_seed(2)
    _, second = cut_half(model_task, name)
    assert first.architecture == second.architecture
    assert first.surgery == second.surgery
    for one, other in zip(
        first.module.state_dict().values(), second.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_the_dense_model_is_not_changed(model_task: Callable[..., object]) -> None:
    """A cut leaves weights, statistics, flags and requires_grad of its input alone."""
    task = model_task("resnet-b")
    module = models.build("resnet-b").train()
    module.stem[0].weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    groups = find_groups(module, models.inputs("resnet-b", 2), ())
    cut(task, module, groups, half(groups), PruneParams(examples=64), 0, quiet)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(layer.training for layer in module.modules())
    assert not module.stem[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.slow
def test_the_repair_with_the_lowest_loss_is_kept(model_task: Callable[..., object]) -> None:
    """What is kept is the best of what was tried, and what was not allowed was not tried."""
    for compensates, recalibrates in [(True, True), (True, False), (False, True), (False, False)]:
        params = PruneParams(examples=128, compensate=compensates, recalibrate=recalibrates)
        _, result = cut_half(model_task, "resnet-b", params)
        surgery = result.surgery
        losses = {
            "cut": surgery.loss_cut,
            "compensated": surgery.loss_compensated,
            "recalibrated": surgery.loss_recalibrated,
        }
        assert (losses["compensated"] is not None) == compensates
        assert (losses["recalibrated"] is not None) == recalibrates
        assert losses[surgery.kept] == min(v for v in losses.values() if v is not None)
        assert surgery.loss_dense < surgery.loss_cut


def test_a_model_without_batch_norm_is_not_recalibrated(model_task: Callable[..., object]) -> None:
    """There are no statistics to renew, and the record says that it was not tried."""
    _, result = cut_half(model_task, "flattened")
    assert result.surgery.loss_recalibrated is None


def test_the_unrepaired_cut_is_the_sliced_model(model_task: Callable[..., object]) -> None:
    """Without repairs the result is the dense weights, sliced: rebuilding from the cuts gives its bits."""
    params = PruneParams(examples=64, compensate=False, recalibrate=False)
    module, result = cut_half(model_task, "unet", params)
    again = apply(module, result.architecture)
    assert difference(again, result.module, [models.inputs("unet", 4)]) == 0.0


@pytest.mark.parametrize("criterion", ["l1", "random", "taylor"])
def test_equal_scores_still_cut_what_was_asked(
    model_task: Callable[..., object], criterion: str
) -> None:
    """torch-pruning prunes nothing where all scores are equal, without a warning; here widths hold."""
    task = model_task("plain")
    module = models.build("plain")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.1)
    groups = find_groups(module, models.inputs("plain", 2), ())
    result = cut(
        task,
        module,
        groups,
        {"first.0": 3, "second.0": 5},
        PruneParams(criterion=criterion, examples=64),
        0,
        quiet,
    )
    assert result.module.first[0].out_channels == 3
    assert result.module.second[0].out_channels == 5


@pytest.mark.parametrize(
    ("widths", "reason"),
    [
        ({"firts.0": 4}, r"did you mean 'first\.0'"),
        ({"head": 2}, "no group 'head'"),
        ({"first.0": 0}, "cannot keep 0 of 8"),
        ({"first.0": 9}, "cannot keep 9 of 8"),
        ({"first.0": 8, "second.0": 16}, "nothing is cut"),
        ({}, "nothing is cut"),
    ],
)
def test_impossible_widths_are_refused(
    model_task: Callable[..., object], widths: dict[str, int], reason: str
) -> None:
    """Unknown groups, widths out of range, and a cut that would do nothing are errors."""
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    with pytest.raises(CompressionError, match=reason):
        cut(model_task("plain"), module, groups, widths, PruneParams(), 0, quiet)


def test_a_wrong_group_is_never_cut_silently(model_task: Callable[..., object]) -> None:
    """The option-A trunk, forced through as torch-pruning sees it, ends in an error and no model."""
    from reprune.compress.structure.coupling import couple, trace

    module = models.build("resnet-a")
    stem = couple(trace(module, models.inputs("resnet-a", 2)), "stem.0").group
    with pytest.raises(CompressionError, match=r"not the masked one|does not run|shape"):
        cut(
            model_task("resnet-a"),
            module,
            [stem],
            {"stem.0": stem.width - 2},
            PruneParams(examples=64),
            0,
            quiet,
        )


def test_a_difference_that_is_not_a_number_is_infinite() -> None:
    """NaN on one side only is no equality; the same infinities on both sides are one."""
    whole = nn.Linear(2, 2)
    broken = copy.deepcopy(whole)
    with torch.no_grad():
        broken.bias[0] = float("nan")
    inputs = (torch.ones(1, 2),)
    assert difference(whole, broken, [inputs]) == float("inf")
    with torch.no_grad():
        whole.bias[0] = broken.bias[0] = float("-inf")
    assert difference(whole, broken, [inputs]) == 0.0


def test_the_bound_on_the_difference_is_the_parameter(
    model_task: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far rounding takes the two apart is the machine's (on some nothing): it is given here."""
    monkeypatch.setattr(structured, "difference", lambda *_: 5e-4)
    _, done = cut_half(model_task, "resnet-b", PruneParams(examples=64, equality_max_abs=1e-3))
    assert done.surgery.equality_max_abs == 5e-4
    with pytest.raises(CompressionError, match="not the masked one"):
        cut_half(model_task, "resnet-b", PruneParams(examples=64, equality_max_abs=1e-4))


def test_a_loss_that_is_not_finite_is_an_error(model_task: Callable[..., object]) -> None:
    """A cut whose loss cannot be compared is not returned."""
    task = model_task("plain")
    whole = task.loss
    task.loss = lambda module, batch, generator: (
        whole(module, batch, generator) / (0.0 if batch.ids[0].startswith("cal") else 1.0)
    )
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    with pytest.raises(CompressionError, match="loss of the cut model"):
        cut(task, module, groups, half(groups), PruneParams(examples=64), 0, quiet)


def test_progress_is_said(model_task: Callable[..., object]) -> None:
    """A person sees the difference and the losses of what was tried."""
    said: list[str] = []
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    cut(
        model_task("plain"),
        module,
        groups,
        half(groups),
        PruneParams(examples=64),
        0,
        said.append,
    )
    assert "sliced and masked outputs differ" in said[0]
    assert "calibration loss: dense" in said[1]
    assert "compensated" in said[1]


def test_channels_that_score_alike_are_said(model_task: Callable[..., object]) -> None:
    """Of a group whose channels a criterion does not tell apart, the first ones are kept, with a word."""
    said: list[str] = []
    module = models.build("plain")
    with torch.no_grad():
        for parameter in (*module.second.parameters(), *module.head.parameters()):
            parameter.fill_(0.1)
    groups = find_groups(module, models.inputs("plain", 2), ())
    knobs = PruneParams(criterion="l1", examples=64)
    cut(model_task("plain"), module, groups, half(groups), knobs, 0, said.append)
    assert said[0] == "all channels score the same in second.0: the first ones are kept"


def test_a_loss_of_whole_batches_is_said(model_task: Callable[..., object]) -> None:
    """A criterion that wants single examples says that the loss has none."""
    said: list[str] = []
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    task = model_task("plain")
    task.loss = lambda module, batch, _: module(*batch.inputs).std()  # type: ignore[attr-defined]
    knobs = PruneParams(criterion="hessian", examples=64, compensate=False)
    cut(task, module, groups, half(groups), knobs, 0, said.append)
    assert said[0].startswith("the loss is no mean of its examples'")


@pytest.mark.slow
def test_on_real_digits_compensation_saves_most_of_a_one_shot_cut() -> None:
    """A trained CNN, half of every group gone: compensation brings back the loss on calibration, and
    the accuracy on examples it did not see; recalibration alone brings back less.
    """
    task = DigitsTask()
    module = trained(task)
    groups = find_groups(module, task.example_inputs(2), ())
    plain = PruneParams(compensate=False, recalibrate=False)
    result = cut(task, module, groups, half(groups), PruneParams(), 0, quiet)
    unrepaired = cut(task, module, groups, half(groups), plain, 0, quiet)
    surgery = result.surgery
    assert surgery.kept == "compensated"
    assert surgery.loss_compensated < 0.2 * surgery.loss_cut
    assert surgery.loss_compensated < surgery.loss_recalibrated < surgery.loss_cut
    assert accuracy(task, result.module) > 0.9
    assert accuracy(task, unrepaired.module) < 0.6
