"""Each criterion against its formula written out, how a group is folded and normalised, and the laws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.criteria.apart import mixes_examples, singles, taken_apart
from reprune.compress.importance import (
    CRITERIA,
    at_least,
    channel_scores,
    criterion_label,
    lowest_removed,
    normalized,
)
from reprune.compress.structure.groups import Group, find_groups, survey
from reprune.compress.structure.separate import separate
from reprune.compress.training.calls import calls_of
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.task.protocol import Batch
from tests import models

NORMALIZERS = ["none", "sum", "mean", "max", "standardize", "gaussian", "lamp"]


class Net(nn.Module):
    """Every way in which a layer holds channels: grouped, depthwise, transposed, normed, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(4, 5, 2, stride=2)
        self.fc = nn.Linear(5 * 16, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.norm(self.conv(F.avg_pool2d(image, 4))))))
        return self.head(F.relu(self.fc(F.relu(self.up(x)).flatten(1))))


class Examples:
    """A task of one module's own making: images to three numbers, 24 training examples."""

    def __init__(self, count: int = 24, size: int = 8, order: int = 0) -> None:
        self.count, self.size, self.order = count, size, order

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(module(*batch.inputs), batch.targets)  # type: ignore[arg-type]

    def batches(self, split: str, **_: object) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.count, 3, 8, 8, generator=generator)
        labels = torch.randint(0, 3, (self.count,), generator=generator)
        starts = list(range(0, self.count, self.size))
        for first in starts[self.order :] + starts[: self.order]:
            part = slice(first, first + self.size)
            names = [f"{split}-{n}" for n in range(self.count)[part]]
            yield Batch(inputs=(images[part],), targets=labels[part], ids=names)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Net().eval()
        with torch.no_grad():
            module.norm.weight.copy_(torch.tensor([0.5, -2.0, 1.0, 0.25]))
            module.norm.bias.normal_()
    return module


@pytest.fixture(scope="module")
def groups(net: nn.Module) -> tuple[Group, ...]:
    return find_groups(net, (torch.randn(2, 3, 8, 8),), ())


def scores_of(
    module: nn.Module, groups: tuple[Group, ...], task: object = None, **knobs: object
) -> dict[str, Tensor]:
    params = PruneParams(**{"examples": 24, **knobs})  # type: ignore[arg-type]
    return channel_scores(task or Examples(), module, groups, params, 0)  # type: ignore[arg-type]


def parts(module: nn.Module, name: str) -> list[Tensor]:
    """What a channel of a group has in each layer with a weight: (width, numbers), written out."""
    first = [
        module.conv.weight.flatten(1),
        module.norm.weight[:, None],
        module.depthwise.weight.flatten(1),
        module.up.weight.flatten(1),  # (in, out, 2, 2)
    ]
    found = {
        "conv": first,
        "up": [
            module.up.weight.transpose(0, 1).flatten(1),
            module.fc.weight.reshape(6, 5, 16).transpose(0, 1).flatten(1),
        ],
        "fc": [module.fc.weight, module.head.weight.T],
    }[name]
    return [part.detach().double() for part in found]


FOLDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda rows: rows.sum(0),
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0).values,
    "prod": lambda rows: rows.prod(0),
    "first": lambda rows: rows[0],
}


@pytest.mark.parametrize("reduction", FOLDS)
def test_magnitudes_are_norms_folded_over_the_layers_of_the_group(
    net: nn.Module, groups: tuple[Group, ...], reduction: str
) -> None:
    """l1, l2 and lamp on depthwise, transposed, normed and flattened layers, by hand."""
    fold = FOLDS[reduction]
    l1 = scores_of(net, groups, criterion="l1", reduction=reduction)
    l2 = scores_of(net, groups, criterion="l2", reduction=reduction)
    lamp = scores_of(net, groups, criterion="lamp", reduction=reduction)
    assert set(l1) == {"conv", "up", "fc"}
    for name in l1:
        weights = parts(net, name)
        squares = fold(torch.stack([part.square().sum(1) for part in weights]))
        assert torch.allclose(l1[name], fold(torch.stack([p.abs().sum(1) for p in weights])))
        assert torch.allclose(l2[name], squares.sqrt())
        expected = torch.stack([square / squares[squares >= square].sum() for square in squares])
        assert torch.allclose(lamp[name], expected)


def test_bn_scale_is_the_norms_own_scale_and_l2_without_one(
    net: nn.Module, groups: tuple[Group, ...]
) -> None:
    """Its size counts, not its sign; groups that no norm scales are ranked by their weights."""
    found = scores_of(net, groups, criterion="bn-scale")
    assert found["conv"].tolist() == [0.5, 2.0, 1.0, 0.25]
    assert torch.equal(found["fc"], scores_of(net, groups, criterion="l2")["fc"])


def test_fpgm_is_the_sum_of_distances_to_the_other_channels(
    net: nn.Module, groups: tuple[Group, ...]
) -> None:
    """Of each convolution and linear layer, not of the norms; the mean filter is the first to go."""
    found = scores_of(net, groups, criterion="fpgm")
    for name, scores in found.items():
        weights = [part for part in parts(net, name) if part.shape[1] > 1]
        expected = sum(
            torch.stack([(part - one).norm(dim=1).sum() for one in part]) for part in weights
        )
        assert torch.allclose(scores, expected)
    middle = copy.deepcopy(net)
    with torch.no_grad():
        for layer in (middle.fc.weight, middle.head.weight.T):
            layer[2] = layer[[0, 1, 3, 4, 5]].mean(0)
    assert int(scores_of(middle, groups, criterion="fpgm")["fc"].argmin()) == 2


def test_hessian_is_the_squared_gradient_of_every_single_example(
    net: nn.Module, groups: tuple[Group, ...]
) -> None:
    """1/2 w^2 E[g^2], by autograd one example at a time; torch-pruning keeps the last one only."""
    found = scores_of(net, groups, criterion="hessian")["fc"]
    task = Examples()
    squares = {name: torch.zeros(p.shape).double() for name, p in net.named_parameters()}
    for batch in task.batches("train"):
        for image, label in zip(batch.inputs[0], batch.targets, strict=True):  # type: ignore[call-overload]
            loss = F.cross_entropy(net(image[None]), label[None])
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            for (name, _), gradient in zip(net.named_parameters(), gradients, strict=True):
                squares[name] += gradient.double().square() / 24
    risen = {n: 0.5 * p.double().square() * squares[n] for n, p in net.named_parameters()}
    expected = (risen["fc.weight"].sum(1) + risen["fc.bias"] + risen["head.weight"].sum(0)).detach()
    assert torch.allclose(found, expected, rtol=1e-4)


def test_hessian_takes_a_batch_whole_where_it_cannot_be_taken_apart(
    net: nn.Module, groups: tuple[Group, ...]
) -> None:
    """Targets that are no tensors by example: a batch of B counts as B squared mean gradients."""

    class Whole(Examples):
        def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
            return super().loss(module, replace(batch, targets=batch.targets[0]), generator)  # type: ignore[index]

        def batches(self, split: str, **_: object) -> Iterator[Batch]:
            for batch in super().batches(split):
                yield replace(batch, targets=[batch.targets])

    found = scores_of(net, groups, Whole(), criterion="hessian")["fc"]
    expected = torch.zeros(6, dtype=torch.float64)
    for batch in Examples().batches("train"):
        loss = F.cross_entropy(net(*batch.inputs), batch.targets)  # type: ignore[arg-type]
        weights = [net.fc.weight, net.fc.bias, net.head.weight]
        out, bias, read = (
            (8 * 0.5 * (w.double() * g.double()).square()).detach()
            for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)
        )
        expected += (out.sum(1) + bias + read.sum(0)) / 3
    assert torch.allclose(found, expected, rtol=1e-4)


def test_a_batch_is_taken_apart_with_all_that_belongs_to_its_examples() -> None:
    """Nested targets, slices, sources and ids follow; one example alone is left as it is."""
    batch = Batch(
        inputs=(torch.arange(6.0).reshape(3, 2),),
        targets={"box": (torch.arange(3), torch.arange(3) * 2)},
        ids=["a", "b", "c"],
        slices={"kind": ["x", "y", "z"]},
        source=["s", "s", "t"],
    )
    _, second, _ = singles(batch)
    assert second.inputs[0].tolist() == [[2.0, 3.0]]
    assert second.targets["box"][1].tolist() == [2]  # type: ignore[index]
    assert (second.ids, second.slices, second.source) == (["b"], {"kind": ["y"]}, ["s"])
    assert next(singles(second)) is second
    whole = replace(batch, targets=[batch.targets])
    assert next(singles(whole)) is whole


def in_batch(module: nn.Module, batch: Batch, _: torch.Generator) -> Tensor:
    """Each example against the others of its batch (CLIP, two towers): alone it has nothing to lose."""
    likeness = module(*batch.inputs) @ batch.inputs[0].flatten(1)[:, :3].T
    return F.cross_entropy(likeness, torch.arange(len(batch)))


def weighted(module: nn.Module, batch: Batch, _: torch.Generator) -> Tensor:
    """A mean in which classes count differently: that of the examples' own is another."""
    weight = torch.tensor([0.1, 1.0, 9.0])
    return F.cross_entropy(module(*batch.inputs), batch.targets, weight=weight)  # type: ignore[arg-type]


def spread(module: nn.Module, batch: Batch, _: torch.Generator) -> Tensor:
    """How far examples are apart (as VICReg asks): of one alone it is NaN."""
    found = module(*batch.inputs)
    return ((found - found.mean(0)).square().sum(0) / torch.tensor(len(batch) - 1.0)).mean().neg()


def noisy(module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """A mean over examples, on inputs that are disturbed anew each time."""
    (images,) = batch.inputs
    images = images + torch.randn(images.shape, generator=generator)
    return F.cross_entropy(module(images), batch.targets)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "mixes"), [(in_batch, True), (spread, True), (weighted, False), (noisy, False)]
)
def test_a_loss_of_whole_batches_is_not_asked_of_single_examples(
    net: nn.Module, loss: Callable[..., Tensor], mixes: bool
) -> None:
    """What is a mean, however weighted, is taken apart; what is none, or has none, is not."""
    task = Examples()
    task.loss = loss  # type: ignore[method-assign]
    batches = list(task.batches("train"))
    assert [mixes_examples(task, net, one, seed=0) for one in batches] == [mixes] * 3  # type: ignore[arg-type]
    apart = taken_apart(task, net, batches, seed=0)  # type: ignore[arg-type]
    assert [len(one) for one in apart] == ([8, 8, 8] if mixes else [1] * 24)
    assert not mixes_examples(task, net, apart[0] if not mixes else next(singles(apart[0])), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["fisher", "hessian"])
def test_negatives_from_the_batch_give_scores(
    net: nn.Module, groups: tuple[Group, ...], criterion: str
) -> None:
    """Example by example such a loss has no gradient: every channel scored 0, and the last ones went."""
    task = Examples()
    task.loss = in_batch  # type: ignore[method-assign]
    found = scores_of(net, groups, task, criterion=criterion)["fc"]
    assert len(found[found > 1e-6].unique()) > 2


def test_activation_is_the_mean_size_of_what_the_readers_are_given(
    net: nn.Module, groups: tuple[Group, ...]
) -> None:
    """After norm and ReLU, over calibration; a flattened channel counts all its places."""
    found = scores_of(net, groups, criterion="activation")
    images = torch.cat([batch.inputs[0] for batch in Examples().batches("calibration")])
    with torch.no_grad():
        x = F.relu(net.depthwise(F.relu(net.norm(net.conv(F.avg_pool2d(images, 4))))))
        flat = F.relu(net.up(x)).flatten(1)
        wide = F.relu(net.fc(flat))
    assert torch.allclose(found["conv"], x.double().abs().mean((0, 2, 3)))
    assert torch.allclose(found["up"], flat.double().mean(0).reshape(5, 16).sum(1))
    assert torch.allclose(found["fc"], wide.double().mean(0))


def test_activation_of_what_no_layer_reads_is_that_of_its_makers(
    model_task: Callable[..., object],
) -> None:
    """A query-key dimension goes into a product: it counts by the size of its queries and keys."""
    module = separate(models.build("built-in-attention"))
    task = model_task("built-in-attention", examples=16)
    found = survey(module, models.inputs("built-in-attention", 2), (), dimensions=True).groups
    scores = scores_of(module, found, task, criterion="activation")
    group = next(group for group in found if group.name.endswith("query-dimensions"))
    expected = torch.zeros(group.width, dtype=torch.float64)
    for member in group.members:
        assert member.axis == "out"
        with calls_of(module.get_submodule(member.module)) as calls, torch.no_grad():
            for batch in task.batches("calibration", epoch=0, seed=0):  # type: ignore[attr-defined]
                module(*batch.inputs)
        rows = torch.cat([call.output.flatten(0, -2) for call in calls]).double().abs().mean(0)  # type: ignore[attr-defined]
        expected += torch.stack([rows[list(places)].sum() for places in member.positions])
    assert len(group.members) == 2
    assert torch.allclose(scores[group.name], expected, rtol=1e-6)


def test_a_residual_group_sums_over_every_writer_and_reader() -> None:
    """The trunk of a ResNet: all convolutions and norms that write to it and all that read it."""
    module = models.build("resnet-b")
    (trunk, *_) = find_groups(module, models.inputs("resnet-b", 2), ())
    writes = [module.stem[0], module.block1.conv2]
    reads = [module.block1.conv1, module.block2.conv1, module.block2.project[0]]
    norms = [module.stem[1], module.block1.bn2]
    expected = (
        sum(conv.weight.abs().sum((1, 2, 3)) for conv in writes)
        + sum(conv.weight.abs().sum((0, 2, 3)) for conv in reads)
        + sum(norm.weight.abs() for norm in norms)
    )
    found = scores_of(module, (trunk,), criterion="l1")["stem.0"]
    assert torch.allclose(found, expected.detach().double())


# --- laws -------------------------------------------------------------------------------------------

SCALED = {"l1": 1, "l2": 1, "fpgm": 1, "lamp": 0}


@pytest.mark.parametrize("criterion", SCALED)
def test_scaling_all_weights_scales_the_scores(
    net: nn.Module, groups: tuple[Group, ...], criterion: str
) -> None:
    """Magnitudes are homogeneous of degree 1, lamp of degree 0."""
    larger = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.mul_(4.0)  # exact in floating point
    before = scores_of(net, groups, criterion=criterion)
    after = scores_of(larger, groups, criterion=criterion)
    for name, scores in before.items():
        assert torch.allclose(after[name], 4.0 ** SCALED[criterion] * scores, rtol=1e-12)


def permuted(module: nn.Module, order: list[int]) -> nn.Module:
    """The same function with the channels of `fc` in another order."""
    result = copy.deepcopy(module)
    with torch.no_grad():
        result.fc.weight.copy_(module.fc.weight[order])
        result.fc.bias.copy_(module.fc.bias[order])
        result.head.weight.copy_(module.head.weight[:, order])
    return result


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(order=st.permutations(range(6)))
def test_permuted_channels_have_permuted_scores(
    net: nn.Module, groups: tuple[Group, ...], order: list[int]
) -> None:
    """No criterion but chance looks at a channel's place."""
    other = permuted(net, order)
    for criterion in sorted(set(CRITERIA) - {"random"}):
        before = scores_of(net, groups, criterion=criterion)["fc"]
        after = scores_of(other, groups, criterion=criterion)["fc"]
        assert torch.allclose(after, before[order], rtol=1e-4), criterion


@pytest.mark.parametrize("criterion", ["activation", "hessian", "taylor"])
def test_the_order_of_batches_does_not_matter(
    net: nn.Module, groups: tuple[Group, ...], criterion: str
) -> None:
    """Means over examples: a rotation of the batches changes nothing but the rounding."""
    one = scores_of(net, groups, Examples(), criterion=criterion)
    other = scores_of(net, groups, Examples(order=2), criterion=criterion)
    assert all(torch.allclose(one[name], other[name], rtol=1e-6) for name in one)


@pytest.mark.parametrize("criterion", ["activation", "hessian"])
def test_the_size_of_batches_does_not_matter(
    net: nn.Module, groups: tuple[Group, ...], criterion: str
) -> None:
    """Examples count one by one, so a ragged last batch weighs what it holds."""
    one = scores_of(net, groups, Examples(size=8), criterion=criterion)
    other = scores_of(net, groups, Examples(size=7), criterion=criterion)
    assert all(torch.allclose(one[name], other[name], rtol=1e-4) for name in one)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_criterion_touches_the_model(
    net: nn.Module, groups: tuple[Group, ...], criterion: str
) -> None:
    """Weights, gradients, flags, hooks and training modes stay; the same seed gives the same bits."""
    module = copy.deepcopy(net).train()
    module.conv.weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    first = scores_of(module, groups, criterion=criterion)
    again = scores_of(module, groups, criterion=criterion)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert [p.requires_grad for p in module.parameters()].count(False) == 1
    assert all(
        layer.training and not layer._forward_pre_hooks and not layer._forward_hooks
        for layer in module.modules()
    )


@pytest.mark.parametrize("criterion", sorted(set(CRITERIA) - {"random"}))
def test_equal_channels_tie_and_the_asked_number_is_kept(
    net: nn.Module, groups: tuple[Group, ...], criterion: str
) -> None:
    """All channels the same: all scores the same, and still exactly as many are kept as asked."""
    module = copy.deepcopy(net)
    with torch.no_grad():
        module.fc.weight.copy_(module.fc.weight[:1].expand(6, -1))
        module.fc.bias.fill_(0.5)
        module.head.weight.copy_(module.head.weight[:, :1].expand(-1, 6))
    scores = scores_of(module, groups, criterion=criterion)["fc"]
    assert torch.allclose(scores, scores[:1].expand(6), rtol=1e-5)
    for keep in range(1, 7):
        assert len(lowest_removed(scores, keep)) == keep


numbers = st.lists(
    st.floats(0, 1e3, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=1, max_size=12
)


@settings(deadline=None)
@given(values=numbers, normalizer=st.sampled_from(NORMALIZERS))
def test_normalising_keeps_the_order(values: list[float], normalizer: str) -> None:
    """What is cut of a group does not depend on the normaliser; the scores stay finite."""
    scores = torch.tensor(values, dtype=torch.float64)
    found = normalized(scores, normalizer)
    assert bool(found.isfinite().all())
    order = torch.sort(scores, stable=True).indices
    assert bool((found[order].diff() >= 0).all())


@settings(deadline=None)
@given(values=numbers.filter(lambda v: len(set(v)) > 1))
def test_normalisers_are_what_they_are_called(values: list[float]) -> None:
    """Sum 1, mean 1, largest 1, from 0 to 1, mean 0 and deviation 1; lamp ends in 1."""
    scores = torch.tensor(values, dtype=torch.float64)
    assert float(normalized(scores, "sum").sum()) == pytest.approx(1)
    assert float(normalized(scores, "mean").mean()) == pytest.approx(1)
    assert float(normalized(scores, "max").max()) == 1
    standard = normalized(scores, "standardize")
    assert (float(standard.min()), float(standard.max())) == (0, 1)
    gaussian = normalized(scores, "gaussian")
    assert float(gaussian.mean()) == pytest.approx(0, abs=1e-6)
    assert float(gaussian.std(correction=0)) == pytest.approx(1)
    largest = scores == scores.max()
    assert normalized(scores, "lamp")[largest].tolist() == pytest.approx(
        [1 / int(largest.sum())] * int(largest.sum())
    )


@settings(deadline=None)
@given(values=numbers)
def test_the_sum_of_all_that_are_not_smaller(values: list[float]) -> None:
    """Against the definition, also where scores tie."""
    scores = torch.tensor(values, dtype=torch.float64)
    expected = [sum(other for other in values if other >= one) or 1.0 for one in values]
    assert at_least(scores).tolist() == pytest.approx(expected)


def test_a_normaliser_that_cannot_work_is_refused() -> None:
    """lamp needs scores that are not negative; an unknown word lists the known ones."""
    with pytest.raises(CompressionError, match="not negative"):
        normalized(torch.tensor([-1.0, 2.0]), "lamp")
    with pytest.raises(CompressionError, match="not known"):
        normalized(torch.tensor([1.0]), "median")


def test_a_normaliser_reaches_the_scores(net: nn.Module, groups: tuple[Group, ...]) -> None:
    """`prune.normalizer` is applied to what the criterion gives."""
    raw = scores_of(net, groups, criterion="l2")
    shares = scores_of(net, groups, criterion="l2", normalizer="sum")
    assert torch.equal(shares["fc"], raw["fc"] / raw["fc"].sum())


def test_the_label_says_what_decides_which_channels_go() -> None:
    """The fold is part of it, the normaliser is not: it changes no choice."""
    assert criterion_label(PruneParams(criterion="l2")) == "l2"
    assert criterion_label(PruneParams(criterion="l2", normalizer="max")) == "l2"
    assert criterion_label(PruneParams(criterion="l2", reduction="max")) == "l2 (max)"
