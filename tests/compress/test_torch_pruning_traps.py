"""What torch-pruning 1.6 and torch.nn.utils.prune get wrong without a word, each with what happens here.

The first sentence of a test is the trap, as met by running it; the assertions are our behaviour. The
traps that are set by attention (5b, 6, 7) and by layers of one's own (12) are in
test_torch_pruning_attention_traps.py, more on heads in test_heads.py, masks in test_masks.py.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from reprune.compress.bundle import load_module, stored_tensors
from reprune.compress.importance import channel_scores, lowest_removed
from reprune.compress.planning.allocate import Problem, allocate, ladder
from reprune.compress.structure.architecture import apply, read_architecture, write_architecture
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Group, Member, find_groups, survey
from reprune.compress.structure.probe import Probe
from reprune.compress.structured import CutResult, cut
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.measure.profile import count_cost
from tests import models
from tests.resnets import ResNet20

ModelTask = Callable[..., object]
PLAIN = PruneParams(criterion="l2", examples=32, compensate=False, recalibrate=False)


def quiet(_: str) -> None:
    """Says nothing."""


def cut_to(
    task: object, name: str, share: float, params: PruneParams = PLAIN
) -> tuple[nn.Module, CutResult]:
    module = models.build(name)
    groups = find_groups(module, models.inputs(name, 2), ())
    widths = {group.name: max(1, round(share * group.width)) for group in groups}
    return module, cut(task, module, groups, widths, params, 0, quiet)  # type: ignore[arg-type]


def scores(task: object, module: nn.Module, name: str, **knobs: object) -> dict[str, Tensor]:
    groups = find_groups(module, models.inputs(name, 2), ())
    params = PruneParams(**{"examples": 64, **knobs})  # type: ignore[arg-type]
    return channel_scores(task, module, groups, params, 0)  # type: ignore[arg-type]


def problem(widths: dict[str, int], *, round_to: int, min_keep: float, fraction: float) -> Problem:
    """Widths under a budget of all channels, none dearer than another."""
    rungs = {
        name: ladder(width, round_to=round_to, min_keep=min_keep) for name, width in widths.items()
    }
    return Problem(
        rungs=rungs,
        rises={name: tuple(0.1 * (steps[-1] - s) for s in steps) for name, steps in rungs.items()},
        cost=lambda chosen: float(sum((widths | dict(chosen)).values())),
        limit=fraction * sum(widths.values()),
    )


def test_1_defaults_are_not_shared_between_prunings(model_task: ModelTask) -> None:
    """Its channel-group arguments are one mutable default: a second pruner inherits the first model's
    layers. Here nothing of it is written to, and a second cut has the bits of a first one.
    """
    tp = pytest.importorskip("torch_pruning")
    names = ("in_channel_groups", "out_channel_groups", "num_heads")
    defaults = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    # A stock pruner that ran in this process before, as the benchmarks' peers do, may have left layers there.
    before = [list(map(id, defaults[name].default)) for name in names]
    task = model_task("gated")
    _, first = cut_to(task, "gated", 0.5)
    cut_to(model_task("plain"), "plain", 0.5)
    _, again = cut_to(task, "gated", 0.5)
    assert [list(map(id, defaults[name].default)) for name in names] == before
    ours, others = first.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(ours[key], others[key]) for key in ours)


@pytest.mark.parametrize("allocator", ["uniform", "sensitivity"])
def test_2_the_least_share_is_kept_within_one_step(allocator: str) -> None:
    """Its max_pruning_ratio is not enforced inside a step. Here no group falls below min_keep."""
    widths = {"a": 32, "b": 64, "c": 64}
    found = allocate(allocator, problem(widths, round_to=1, min_keep=0.5, fraction=0.55))
    assert all(found[name] >= widths[name] / 2 for name in widths)
    with pytest.raises(CompressionError, match=r"smallest reachable fraction is 0\.5"):
        allocate(allocator, problem(widths, round_to=1, min_keep=0.5, fraction=0.1))


@pytest.mark.parametrize("allocator", ["uniform", "sensitivity"])
def test_3_rounding_to_zero_does_not_leave_a_group_whole(allocator: str) -> None:
    """Its round_to rounds down, and a group that comes to 0 stays whole in silence: 32, 64, 64 at a
    fifth with 16. Here each keeps at least one multiple and less than all of it.
    """
    widths = {"a": 32, "b": 64, "c": 64}
    found = allocate(allocator, problem(widths, round_to=16, min_keep=0.01, fraction=0.4))
    assert all(keep % 16 == 0 and 0 < keep < widths[name] for name, keep in found.items())
    savings = [
        sum(allocate(allocator, problem(widths, round_to=8, min_keep=0.01, fraction=f)).values())
        for f in (0.5, 0.4, 0.38, 0.32, 0.2)
    ]
    assert savings == sorted(savings, reverse=True)  # a smaller budget never leaves more


def test_4_layers_are_cut_by_their_own_share() -> None:
    """Its isomorphic mode without global_pruning mixes the indices of layers: 32/16/32 for 16/32/32.
    Here the uniform allocator halves each by itself.
    """
    widths = {"a": 32, "b": 64, "c": 64}
    found = allocate("uniform", problem(widths, round_to=1, min_keep=0.01, fraction=0.5))
    assert found == {"a": 16, "b": 32, "c": 32}


def test_5_a_second_cut_is_of_what_was_asked_not_of_what_is_left(model_task: ModelTask) -> None:
    """Its iterative local pruning compounds. Here widths are numbers of channels: cutting again to the
    same widths is refused as no cut, and cutting in two goes to exactly the width asked.
    """
    task = model_task("plain")
    _, first = cut_to(task, "plain", 0.75)
    inputs = models.inputs("plain", 2)
    groups = find_groups(first.module, inputs, ())
    with pytest.raises(CompressionError, match="nothing is cut"):
        same = {group.name: group.width for group in groups}
        cut(task, first.module, groups, same, PLAIN, 0, quiet)  # type: ignore[arg-type]
    second = cut(task, first.module, groups, {"first.0": 4, "second.0": 8}, PLAIN, 0, quiet)  # type: ignore[arg-type]
    assert second.module.first[0].out_channels == 4
    assert second.module.second[0].out_channels == 8


@pytest.mark.parametrize("criterion", ["l1", "taylor", "hessian", "activation", "lamp", "fpgm"])
def test_8_equal_scores_and_frozen_models_are_cut_as_asked(
    model_task: ModelTask, criterion: str
) -> None:
    """All scores equal, or all parameters frozen, and it prunes nothing without a warning."""
    task = model_task("plain")
    module = models.build("plain").requires_grad_(False)
    for parameter in module.parameters():
        parameter.fill_(0.5)
    groups = find_groups(module, models.inputs("plain", 2), ())
    params = PruneParams(criterion=criterion, examples=32)
    said: list[str] = []
    result = cut(task, module, groups, {"first.0": 5, "second.0": 7}, params, 0, said.append)  # type: ignore[arg-type]
    assert (result.module.first[0].out_channels, result.module.second[0].out_channels) == (5, 7)
    assert any("frozen parameters too: first.0, first.1" in line for line in said)
    assert survey(module, models.inputs("plain", 2), ()).frozen[:2] == ("first.0", "first.1")


def test_9_a_width_is_what_is_kept(model_task: ModelTask) -> None:
    """Its manual_prune_width(ratio=.25) prunes three quarters. Here a number is what is left."""
    _, result = cut_to(model_task("plain"), "plain", 0.25)
    (first, second) = result.surgery.groups
    assert (first.width, first.requested, first.keep) == (8, 2, 2)
    assert (second.width, second.keep) == (16, 4)


@pytest.mark.slow
def test_10_the_hessian_accumulates(model_task: ModelTask) -> None:
    """Its HessianImportance never accumulates: only the last sample counts. Here each counts alike."""
    module = models.build("plain")
    whole = scores(model_task("plain", examples=64), module, "plain", criterion="hessian")
    half = scores(
        model_task("plain", examples=64), module, "plain", criterion="hessian", examples=32
    )
    assert not torch.allclose(whole["first.0"], half["first.0"], rtol=1e-3)

    class Once:
        """The 32 examples of one batch, once or twice over."""

        def __init__(self, times: int) -> None:
            self.times, self.task = times, model_task("plain", examples=32)
            self.loss = self.task.loss  # type: ignore[attr-defined]

        def batches(self, split: str, **knobs: object):
            for _ in range(self.times):
                yield from self.task.batches(split, **knobs)  # type: ignore[attr-defined]

    once = scores(Once(1), module, "plain", criterion="hessian")
    twice = scores(Once(2), module, "plain", criterion="hessian")
    assert torch.allclose(once["first.0"], twice["first.0"], rtol=1e-6)


def test_11_taylor_sees_batch_norm_and_needs_no_gradients_of_others(model_task: ModelTask) -> None:
    """Its TaylorImportance ignores BatchNorm (gamma x 100 changes nothing) and crashes without
    gradients. Here gamma and beta count, gradients are made here, and those of the model stay None.
    """
    task, module = model_task("plain"), models.build("plain")
    before = scores(task, module, "plain", criterion="taylor")["first.0"]
    scaled = copy.deepcopy(module)
    with torch.no_grad():
        scaled.first[1].weight[3] *= 100
    after = scores(task, scaled, "plain", criterion="taylor")["first.0"]
    assert float(after[3] / after.sum()) > 2 * float(before[3] / before.sum())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_13_a_record_of_a_cut_holds_each_layer_once(model_task: ModelTask, tmp_path: Path) -> None:
    """Its history has two rows for one prune, the second with all channels, so a replay is wrong. Here
    the record is checked when applied, and replaying it gives the very bits.
    """
    module, result = cut_to(model_task("unet"), "unet", 0.5)
    places = [(item.module, item.axis) for item in result.architecture.cuts]
    assert len(places) == len(set(places))
    write_architecture(tmp_path / "a.json", result.architecture)
    again = apply(module, read_architecture(tmp_path / "a.json"))
    assert difference(result.module, again, [models.inputs("unet", 3)]) == 0.0


def test_14_looking_leaves_the_mode_and_the_batch_alone() -> None:
    """Its build_dependency leaves the model in eval mode, and takes a tensor of one example apart."""
    module = models.build("flattened").train()
    one = survey(module, models.inputs("flattened", 1), ())
    assert all(layer.training for layer in module.modules())
    assert one.groups == survey(module, models.inputs("flattened", 4), ()).groups


def test_15_parametrised_and_masked_layers_are_told_apart() -> None:
    """weight_norm is a KeyError there, a prune mask a TypeError. Here the first is left out with a
    reason and the second refused with its cure, and neither model is harmed.
    """
    normed = models.build("plain")
    nn.utils.parametrizations.weight_norm(normed.second[0])
    found = survey(normed, models.inputs("plain", 2), ())
    assert [group.name for group in found.groups] == []
    assert "parametrised" in found.skipped["second.0"]
    masked = models.build("plain")
    nn.utils.prune.l1_unstructured(masked.second[0], "weight", 0.5)
    with pytest.raises(CompressionError, match="make it permanent first"):
        survey(masked, models.inputs("plain", 2), ())
    assert masked(*models.inputs("plain", 2)).isfinite().all()


def test_15b_a_masked_model_that_ran_is_refused_not_broken() -> None:
    """deepcopy of a torch.nn.utils.prune model fails after a forward pass with gradients, and its state
    dict has other names. Here it is refused before it is copied; made permanent, it is cut.
    """
    module = models.build("plain")
    nn.utils.prune.l1_unstructured(module.first[0], "weight", 0.5)
    module(*models.inputs("plain", 2)).sum().backward()
    with pytest.raises(CompressionError, match=r"prune\.remove"):
        survey(module, models.inputs("plain", 2), ())
    nn.utils.prune.remove(module.first[0], "weight")
    groups = find_groups(module, models.inputs("plain", 2), ())
    sliced = apply(module, architecture_of(module, groups, {"first.0": [0, 3]}))
    assert torch.equal(sliced.first[0].weight, module.first[0].weight[[0, 3]])  # zeros and all


def test_16_several_inputs_and_outputs_in_a_dict_need_no_transform(model_task: ModelTask) -> None:
    """Outputs in a mapping need an output_transform there."""
    _, result = cut_to(model_task("two-input"), "two-input", 0.5)
    assert set(result.module(*models.inputs("two-input", 2))) == {"logits", "extra"}


@pytest.mark.slow
def test_padded_shortcuts_are_not_taken_for_sums() -> None:
    """Option-A shortcuts: padding is taken for an element-wise operation; the cut "succeeds" and the
    network is silently another. Here the padded trunk is left out with a reason.
    """
    module = ResNet20().eval()
    found = survey(module, (torch.randn(2, 3, 16, 16),), ())
    assert "changed the function" in found.skipped["layers.3.conv2"]
    assert {group.name for group in found.groups} == {f"layers.{n}.conv1" for n in range(9)}


def test_a_model_with_a_lambda_is_saved_and_rebuilt(tmp_path: Path) -> None:
    """torch.save of the model, and its own state dict, fail where the model holds a lambda."""

    def factory() -> nn.Module:
        module = models.PlainCNN()
        module.activation = lambda x: x
        return module

    torch.manual_seed(0)
    module = factory().eval()
    groups = find_groups(module, models.inputs("plain", 2), ())
    architecture = architecture_of(module, groups, {"second.0": [1, 2, 5]})
    sliced = apply(module, architecture)
    save_file(stored_tensors(sliced), tmp_path / "weights.safetensors")
    again = load_module(tmp_path / "weights.safetensors", architecture, factory)
    assert difference(sliced, again, [models.inputs("plain", 3)]) == 0.0


def test_scattered_channels_never_leave_attention() -> None:
    """Without num_heads 192 scattered channels go, forward() still runs, and channels are in wrong
    heads. Here nothing of attention is a group of single channels, and LayerNorm keeps the trunk.
    """
    module = models.build("attention")
    inputs = models.inputs("attention", 2)
    found = survey(module, inputs, ())
    attention = {"query", "key", "value", "mix"}
    for group in found.groups:
        makers = {member.module for member in group.members}
        assert group.unit != "channel" or not makers & attention
        assert "norm" not in makers
    exact = module.double()
    for group in found.groups:
        kept = {group.name: range(1, group.width)}
        sliced = apply(exact, architecture_of(exact, [group], kept))
        assert difference(mask(exact, [group], kept), sliced, [inputs]) < 1e-9


def test_a_nearly_even_attention_does_not_hide_scattered_channels() -> None:
    """A trial in float32 passes where attention is so even that its heads hardly matter: outputs of the
    wrong cut were off by 1e-4. Here trials run in float64 and allow for rounding only.
    """
    module = models.build("attention")
    with torch.no_grad():
        for layer in (module.query, module.key):
            layer.weight.mul_(1e-3)
            layer.bias.zero_()
    inputs = models.inputs("attention", 2)
    single = tuple((channel,) for channel in range(16))
    layers = [("query", "out"), ("key", "out"), ("value", "out"), ("mix", "in")]
    scattered = Group(
        name="query",
        width=16,
        members=tuple(Member(module=m, axis=axis, positions=single) for m, axis in layers),  # type: ignore[arg-type]
    )
    probe = Probe(module, inputs)
    assert "changed the function" in str(probe.fault(scattered))
    kept = {"query": [0, 1, 2, 3, 8, 9, 10, 12]}
    exact = module.double()
    sliced = apply(exact, architecture_of(exact, [scattered], kept))
    apart = difference(mask(exact, [scattered], kept), sliced, [inputs])
    (scale,) = probe.scales
    assert 1e-9 * scale < apart < 1e-4 * scale  # what float32 would have let pass


class Subclassed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def test_what_is_subclassed_or_functional_is_counted_and_cut() -> None:
    """Its counter goes by exact type: a subclass of Linear costs 0, as do functions and attention."""
    torch.manual_seed(0)
    module = nn.Sequential(Subclassed(4, 8), nn.ReLU(), Subclassed(8, 3)).eval()
    inputs = (torch.randn(2, 4),)
    assert count_cost(module, inputs).cost.macs == 4 * 8 + 8 * 3
    (group,) = find_groups(module, inputs, ())
    sliced = apply(module, architecture_of(module, [group], {group.name: [0, 5]}))
    assert count_cost(sliced, inputs).cost.macs == 4 * 2 + 2 * 3


def test_shares_are_not_truncated() -> None:
    """Asking for 40 or 24 of 300 hidden units gives 39 and 23 there. Here exactly that many are kept."""
    ranks = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert len(lowest_removed(ranks, 40)) == 40
    assert len(lowest_removed(ranks, 24)) == 24
