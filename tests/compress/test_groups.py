"""Which groups are found, that each is right, and that what cannot be cut is left out by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Survey, survey
from reprune.core.errors import CompressionError, TaskError
from tests import models
from tests.compress.test_depth_plan import Net

GROUPS = {
    "plain": {"first.0": 8, "second.0": 16},
    "flattened": {"conv": 6, "fc1": 12},
    "resnet-a": {"block1.conv1": 8, "block2.conv1": 16, "block3.conv1": 16},
    "resnet-b": {
        "stem.0": 8,
        "block1.conv1": 8,
        "block2.conv1": 16,
        "block2.conv2": 16,
        "block3.conv1": 16,
    },
    "concat": {"left.0": 6, "right.0": 10, "mix": 8, "grow": 8},
    "gated": {"conv.0": 6, "out": 8},
    "chunked": {"conv.0": 6, "one": 8},
    "fixed-split": {"one": 8},
    "separable": {"stem.0": 8, "expand.0": 16},
    "unet": {"enter.0": 4, "down.0": 16, "up": 8, "leave.0": 8},
    "two-input": {"conv.0": 8, "embed": 8, "join": 12},
    "attention": {"heads": 4, "wide": 24},
    "built-in-attention": {"wide": 24},
    "bert": {
        "layers.0:heads": 3,
        "layers.0.wide": 48,
        "layers.1:heads": 3,
        "layers.1.wide": 48,
        "pool": 24,
    },
    "vit": {
        "blocks.0.attn:heads": 4,
        "blocks.0.mlp.0": 20,
        "blocks.1.attn:heads": 4,
        "blocks.1.mlp.0": 20,
    },
    "vit-fixed": {"blocks.0.mlp.0": 20, "blocks.1.mlp.0": 20},
    "grouped-queries": {
        "layers.0.attention:heads": 2,
        "layers.0.gate": 24,
        "layers.1.attention:heads": 2,
        "layers.1.gate": 24,
    },
    "one-key-head": {
        "layers.0.attention:heads": 4,
        "layers.0.gate": 24,
        "layers.1.attention:heads": 4,
        "layers.1.gate": 24,
    },
    "lookups": {"word": 8, "place": 6, "one": 6, "wide": 12},
}


def found_in(name: str, keep: tuple[str, ...] = ()) -> tuple[nn.Module, Survey]:
    module = models.build(name)
    return module, survey(module, models.inputs(name, 2), keep)


@pytest.mark.parametrize("name", models.MODELS)
def test_exactly_the_groups_that_can_be_cut_are_found(name: str) -> None:
    """Every architecture yields its known groups and widths, and a reason for all that is left out."""
    module, found = found_in(name)
    assert {group.name: group.width for group in found.groups} == GROUPS[name]
    makers = {
        member.module for group in found.groups for member in group.members if member.axis == "out"
    }
    layers = {
        layer or parameter
        for layer, part in module.named_modules()
        for parameter, weight in part.named_parameters(recurse=False)
        if weight.dim() > 1
    }
    assert layers - makers == set(found.skipped)
    assert all(found.skipped.values())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(GROUPS)), seed=st.integers(0, 3))
def test_any_joint_cut_is_the_masked_model(data: st.DataObject, name: str, seed: int) -> None:
    """Whatever channels of however many groups go: sliced and masked models are one function."""
    module = models.build(name, seed=seed)
    inputs = models.inputs(name, 3, seed=seed)
    found = survey(module, inputs, ())
    kept = {
        group.name: sorted(
            data.draw(st.sets(st.integers(0, group.width - 1), min_size=1), label=group.name)
        )
        for group in found.groups
    }
    sliced = apply(module, architecture_of(module, found.groups, kept))
    assert difference(mask(module, found.groups, kept), sliced, [inputs]) < 1e-4


@pytest.mark.parametrize("name", models.MODELS)
def test_the_model_looked_at_is_not_changed(name: str) -> None:
    """Weights, gradients, training flags, requires_grad and hooks are what they were."""
    module = models.build(name).train()
    frozen = next(module.parameters()).requires_grad_(False)
    next(module.children()).eval()
    before = copy.deepcopy(module.state_dict())
    flags = [layer.training for layer in module.modules()]
    state = torch.get_rng_state()
    survey(module, models.inputs(name, 2), ())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [layer.training for layer in module.modules()] == flags
    assert not frozen.requires_grad
    assert sum(parameter.requires_grad for parameter in module.parameters()) == (
        len(list(module.parameters())) - 1
    )
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_kept_layers_are_not_cut_and_kept_containers_cover_their_layers() -> None:
    """`keep` protects the outputs of a layer or of all layers of a container; inputs may be cut."""
    _, found = found_in("resnet-b", keep=("block1.conv1", "block3"))
    assert {group.name for group in found.groups} == {"stem.0", "block2.conv1"}
    assert "keep" in found.skipped["block1.conv1"]
    # block2.conv2 writes into the same trunk as block3.conv2, so it is protected with it.
    assert "block3.conv2 is named in `keep`" in found.skipped["block2.conv2"]


def test_an_unknown_name_in_keep_is_refused() -> None:
    """A misspelt protected layer is an error that names the nearest one, never silently ignored."""
    with pytest.raises(TaskError, match=r"block1\.conv1"):
        found_in("resnet-b", keep=("block1.con1",))


def test_a_gated_unit_makes_one_channel_of_two() -> None:
    """Channels that are multiplied with each other after chunk() go together."""
    _, found = found_in("gated")
    (conv, *_) = found.groups[0].members
    assert conv.positions[1] == (1, 7)


class Doubled(nn.Module):
    """One layer's outputs twice in a row, added to those of a layer that is as wide as both."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 12)
        self.small = nn.Linear(8, 6)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.small(x))
        return self.head(F.relu(torch.cat([y, y], dim=1) + self.wide(x)))


def test_channels_that_meet_elsewhere_become_one() -> None:
    """Two outputs of `wide` are added to one of `small`: all three go, or none."""
    torch.manual_seed(0)
    (group,) = survey(Doubled(), (torch.randn(3, 8),), ()).groups
    positions = {(member.module, member.axis): member.positions for member in group.members}
    assert group.width == 6
    assert positions["wide", "out"][1] == positions["head", "in"][1] == (1, 7)
    assert positions["small", "out"][1] == (1,)


def test_a_flattened_channel_is_all_its_positions() -> None:
    """A linear layer after flatten loses every position of the channel, and only those."""
    _, found = found_in("flattened")
    reader = found.groups[0].members[-1]
    assert (reader.module, reader.axis) == ("fc1", "in")
    assert reader.positions[2] == tuple(range(32, 48))


class Beside(nn.Module):
    """An image and a row of numbers joined after the image is flattened, or two images before they are."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 6, 3, stride=2)
        self.other = nn.Linear(5, 8) if how == "numbers" else nn.Conv2d(3, 4, 3, stride=2)
        self.wide = nn.Linear(6 * 16 + (8 if how == "numbers" else 4 * 16), 12)
        self.head = nn.Linear(12, 3)
        self.how = how

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        x = F.relu(self.image(image))
        y = F.relu(self.other(numbers if self.how == "numbers" else image))
        if self.how == "before":
            return self.head(F.relu(self.wide(torch.cat([x, y], 1).flatten(1))))
        if self.how == "turned":
            y = y.permute(0, 2, 3, 1)
        return self.head(F.relu(self.wide(torch.cat([x.flatten(1), y.flatten(1)], 1))))


@pytest.mark.parametrize(
    ("how", "widths"),
    [
        ("numbers", {"image": 6, "other": 8, "wide": 12}),
        ("after", {"image": 6, "other": 4, "wide": 12}),
        ("before", {"image": 6, "other": 4, "wide": 12}),
        ("turned", {"image": 6, "wide": 12}),
    ],
)
def test_what_is_flattened_and_joined_is_followed(how: str, widths: dict[str, int]) -> None:
    """Every joint cut is the masked model; an image that is flattened channels last stays, as proven."""
    torch.manual_seed(0)
    module = Beside(how).eval()
    inputs = (torch.randn(2, 3, 9, 9), torch.randn(2, 5))
    found = survey(module, inputs, ())
    assert {group.name: group.width for group in found.groups} == widths
    kept = {group.name: range(1, group.width, 2) for group in found.groups}
    sliced = apply(module, architecture_of(module, found.groups, kept))
    assert difference(mask(module, found.groups, kept), sliced, [inputs]) < 1e-5


def test_option_a_shortcuts_are_left_out_and_named() -> None:
    """Padding moves channels: torch-pruning's group for it is silently wrong, so it is not offered."""
    _, found = found_in("resnet-a")
    for layer in ("stem.0", "block2.conv2", "block3.conv2"):
        assert "changed the function" in found.skipped[layer]


def test_zeros_do_not_hide_a_wrong_cut() -> None:
    """A block whose last norm starts at zero is still found to be padded, because trials perturb."""
    module = models.build("resnet-a")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    found = survey(module, models.inputs("resnet-a", 2), ())
    assert {group.name for group in found.groups} == set(GROUPS["resnet-a"])


class Chain(nn.Module):
    """a -> b -> c -> d; what `step` does with it is up to the test."""

    def __init__(self, step: Callable[[Chain, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Linear(8, 6)
        self.b = nn.Linear(6, 6)
        self.c = nn.Linear(6, 7)
        self.d = nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.randn(6))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(self.step(self, F.relu(self.a(x))))))


def twice(chain: Chain, x: Tensor) -> Tensor:
    return F.relu(chain.b(F.relu(chain.b(x))))


def scaled(chain: Chain, x: Tensor) -> Tensor:
    return chain.b(x * chain.scale) + x


def normalised(chain: Chain, x: Tensor) -> Tensor:
    return chain.b(x.softmax(dim=-1)) + x


def backwards(chain: Chain, x: Tensor) -> Tensor:
    return chain.b(x) + x.flip(-1)


def through_its_own_weight(chain: Chain, x: Tensor) -> Tensor:
    return chain.b(F.linear(F.linear(x, chain.a.weight.t()), chain.a.weight)) + x


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (twice, "called 2 times"),
        (scaled, "belongs to no layer: scale"),
        (normalised, "changed the function"),
        (backwards, "changed the function"),
        (through_its_own_weight, "trial cut"),
    ],
)
def test_what_a_cut_would_break_is_left_out_with_a_reason(
    step: Callable[[Chain, Tensor], Tensor], reason: str
) -> None:
    """Reused layers, bare parameters, functions over channels, permutations, weights used twice."""
    torch.manual_seed(0)
    module = Chain(step)
    found = survey(module, (torch.randn(4, 8),), ())
    assert [group.name for group in found.groups] == ["c"]
    assert reason in found.skipped["a"]


def test_tied_weights_are_left_out() -> None:
    """Two layers with one weight cannot be sliced apart; the reason names the partner."""
    torch.manual_seed(0)
    module = Chain(lambda chain, x: chain.b(x))
    module.c = nn.Linear(6, 6)
    module.c.weight = module.b.weight
    module.d = nn.Linear(6, 3)
    found = survey(module, (torch.randn(4, 8),), ())
    assert found.groups == ()
    assert "shares a weight with" in found.skipped["b"]


def test_parametrised_weights_are_left_out_and_stay_whole() -> None:
    """weight_norm breaks torch-pruning's trace; here its layer is left out, and still works after."""
    module = models.build("resnet-b")
    nn.utils.parametrizations.weight_norm(module.block1.conv1)
    inputs = models.inputs("resnet-b", 2)
    expected = module(*inputs)
    found = survey(module, inputs, ())
    assert {group.name for group in found.groups} == {
        "block2.conv1",
        "block2.conv2",
        "block3.conv1",
    }
    assert "parametrised" in found.skipped["block1.conv1"]
    assert torch.equal(module(*inputs), expected)


def test_pruning_masks_must_be_made_permanent_first() -> None:
    """torch.nn.utils.prune masks are refused with the call that makes them permanent."""
    module = models.build("plain")
    nn.utils.prune.l1_unstructured(module.second[0], "weight", 0.5)
    with pytest.raises(CompressionError, match=r"prune\.remove"):
        survey(module, models.inputs("plain", 2), ())


def test_a_frozen_model_has_the_same_groups() -> None:
    """requires_grad=False everywhere hides nothing, also inside no_grad."""
    module = models.build("separable").requires_grad_(False)
    with torch.no_grad():
        found = survey(module, models.inputs("separable", 2), ())
    assert {group.name: group.width for group in found.groups} == GROUPS["separable"]


def test_a_batch_of_one_is_traced_as_a_batch() -> None:
    """torch-pruning unpacks a bare tensor's batch; we hand it tuples, so one example gives the same."""
    module = models.build("flattened")
    one = survey(module, models.inputs("flattened", 1), ())
    assert one.groups == survey(module, models.inputs("flattened", 2), ()).groups


def test_the_models_own_error_is_reported() -> None:
    """An input that the model refuses is reported as it is, not as a second call's confusion."""
    with pytest.raises(CompressionError, match="expected input"):
        survey(models.build("plain"), (torch.randn(2, 4, 8, 8),), ())


def test_a_model_that_autograd_cannot_see_is_refused() -> None:
    """Outputs that do not depend on the parameters give an error, not an empty list of groups."""

    class Blind(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(CompressionError, match="autograd"):
        survey(Blind(3, 3), (torch.randn(2, 3),), ())


def test_packed_attention_in_a_residual_connection_ends() -> None:
    """torch-pruning multiplies its indices there, round and round: they are given up, the rest is found."""
    torch.manual_seed(0)
    found = survey(Net().eval(), (torch.randn(2, 1, 8, 8),), ())
    assert "followed" in found.skipped["stem"]
    assert {group.name for group in found.groups} == {"blocks.0.conv1", "blocks.1.conv1"}


class Stacked(nn.Module):
    """A split with its sizes written out, one part of which is used twice (YOLOv8's C2f)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.cut = nn.Conv2d(8, 16, 1)
        self.more = nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Conv2d(24, 12, 1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(F.relu(self.cut(F.relu(self.stem(x)))).split((8, 8), 1))
        parts.append(parts[-1] + self.more(parts[-1]))
        return self.head(F.relu(self.out(torch.cat(parts, 1))))


def test_a_node_that_cannot_be_followed_costs_its_own_groups_alone() -> None:
    """torch-pruning's maps fail at the concatenation, and what does not lead there is cut all the same."""
    torch.manual_seed(0)
    found = survey(Stacked().eval(), (torch.randn(2, 3, 9, 9),), ())
    assert {group.name: group.width for group in found.groups} == {"stem": 8, "out": 12}
    assert "cannot be followed through a concat" in found.skipped["more"]
    assert "cannot be followed to more" in found.skipped["cut"]


class Masked(nn.Module):
    """Padded shortcuts (see "resnet-a") behind logits of which one is hidden by `fill`."""

    def __init__(self, fill: float, add: bool) -> None:
        super().__init__()
        self.net = models.build("resnet-a")
        self.fill = fill
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        hidden = torch.arange(logits.shape[1]) == 1
        if self.add:
            return logits + torch.zeros_like(logits).masked_fill(hidden, self.fill)
        return logits.masked_fill(hidden, self.fill)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("fill", [-1e4, -1e9, torch.finfo(torch.float32).min, float("-inf")])
def test_masked_logits_do_not_hide_a_wrong_cut(fill: float, add: bool) -> None:
    """Relative to the fill value of masked logits any cut would be right; relative to the others none is."""
    found = survey(Masked(fill, add), models.inputs("resnet-a", 2), ())
    assert {group.name for group in found.groups} == {f"net.{name}" for name in GROUPS["resnet-a"]}
    assert "changed the function" in found.skipped["net.stem.0"]


class Chosen(nn.Module):
    """Padded shortcuts behind logits of which all but the two largest are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.net = models.build("resnet-a")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        least = logits.topk(2, dim=1).values[:, -1:]
        return logits.masked_fill(logits < least, -1e9)


def test_logits_that_are_masked_by_their_values_do_not_hide_a_wrong_cut() -> None:
    """Which entries are filled depends on the weights: they move from one run to another."""
    found = survey(Chosen(), models.inputs("resnet-a", 2), ())
    assert {group.name for group in found.groups} == {f"net.{name}" for name in GROUPS["resnet-a"]}


def test_what_is_not_a_number_is_no_proof() -> None:
    """A model whose outputs hold NaN cannot show that a cut is right: none is offered."""

    class Broken(Masked):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return torch.cat([logits, torch.full_like(logits, float("nan"))], dim=1)

    found = survey(Broken(0.0, False), models.inputs("resnet-a", 2), ())
    assert not found.groups
