"""Wanda and SparseGPT: the order of their errors, exact patterns, and brute force on a tiny layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from torch import Tensor, nn

from reprune.compress.compensate import recalibrate
from reprune.compress.losses import first_batches
from reprune.compress.masks import reconstruct as module_under_test
from reprune.compress.masks.choosing import (
    choose_masks,
    count_zeros,
    keep_highest,
    plan_counts,
    plan_pattern,
    plan_sparsity,
    verify_masks,
    zeros_for,
)
from reprune.compress.masks.layer_inputs import input_products, input_sums, patches
from reprune.compress.masks.maskable import maskable
from reprune.compress.masks.masked import mask_model
from reprune.compress.masks.reconstruct import (
    DAMPING,
    METHODS,
    RIDGE,
    reconstruct,
    sparsegpt,
    to_matrix,
    towards_dense,
    wanda_mask,
)
from reprune.compress.masks.scores import magnitude
from reprune.compress.masks.semistructured import (
    UNSTRUCTURED,
    parse_pattern,
    pattern_mask,
    verify_pattern,
)
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from reprune.task.protocol import Batch
from tests import models

F64 = torch.float64


def layer(seed: int, *, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A weight and the X'X of correlated inputs of very different sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    x = normal(512, columns // 2) @ normal(columns // 2, columns) + 0.3 * normal(512, columns)
    x *= normal(columns).exp()
    return normal(rows, columns), x.T @ x


def error(weight: Tensor, new: Tensor, gram: Tensor) -> float:
    """|X W' - X V'|^2, all outputs together."""
    apart = weight - new
    return float(torch.einsum("ri,ij,rj->", apart, gram, apart))


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", UNSTRUCTURED])
def test_looking_at_inputs_helps_and_refitting_helps_more(pattern: str) -> None:
    """SparseGPT < Wanda < magnitude in the error of the outputs: the law on 20 layers, and each pair of
    means far apart.
    """
    errors: list[tuple[float, float, float]] = []
    for seed in range(20):
        weight, gram = layer(seed, rows=16, columns=32)
        zeros = weight.numel() // 2 if pattern != "1:4" else weight.numel() * 3 // 4
        if pattern == UNSTRUCTURED:
            plain = keep_highest(weight.abs(), zeros)
        else:
            plain = pattern_mask(weight.abs(), *parse_pattern(pattern))
        looked = wanda_mask(weight, gram, zeros, pattern)
        refitted, kept = sparsegpt(weight, gram, zeros, pattern)
        for mask in (plain, looked, kept):
            assert int((~mask).sum()) == zeros
            assert pattern == UNSTRUCTURED or verify_pattern(mask, *parse_pattern(pattern))
        assert torch.equal(refitted != 0, kept)
        errors.append(
            (
                error(weight, refitted, gram),
                error(weight, weight * looked, gram),
                error(weight, weight * plain, gram),
            )
        )
    ordered = [gpt < wanda < plain for gpt, wanda, plain in errors]
    assert sum(ordered) >= 19
    gpt, wanda, plain_mean = (sum(column) for column in zip(*errors, strict=True))
    assert gpt < 0.8 * wanda
    assert wanda < 0.5 * plain_mean


def best_for(weight: Tensor, gram: Tensor, kept: tuple[int, ...]) -> float:
    """The least error of one row with only the columns `kept`: exact least squares."""
    index = torch.tensor(kept)
    solution = torch.linalg.solve(gram[index][:, index], gram[index] @ weight)
    new = torch.zeros_like(weight)
    new[index] = solution
    return error(weight[None], new[None], gram)


def test_brute_force_bounds_sparsegpt_on_a_tiny_layer() -> None:
    """All 36 ways of 2:4 on 8 columns, each refitted exactly: never below any of them."""
    ratios = []
    for seed in range(10):
        weight, gram = layer(seed, rows=4, columns=8)
        refitted, kept = sparsegpt(weight, gram, 16, "2:4")
        halves = [tuple(pair) for pair in combinations(range(4), 2)]
        for row in range(4):
            best = min(
                best_for(weight[row], gram, (*left, *(4 + i for i in right)))
                for left, right in product(halves, halves)
            )
            own_columns = tuple(kept[row].nonzero().flatten().tolist())
            own = error(weight[row][None], refitted[row][None], gram)
            exact = best_for(weight[row], gram, own_columns)
            assert own >= exact * (1 - 1e-9) >= best * (1 - 1e-9)
            ratios.append(own / error(weight[row][None], (weight * kept)[row][None], gram))
    # Refitting takes a good part of what the same mask alone would cost.
    assert sorted(ratios)[len(ratios) // 2] < 0.75


def test_the_update_is_least_squares_where_order_cannot_matter() -> None:
    """Masking the first column alone leaves every other one to make good: the optimum, in closed form."""
    weight, gram = layer(3, rows=5, columns=6)
    weight[:, 0] = 1e-6
    refitted, kept = sparsegpt(weight, gram, 5, block=6)
    assert torch.equal(kept, torch.tensor([[False] + [True] * 5]).expand(5, 6))
    mean = gram.diagonal().mean()
    damped = gram + DAMPING * mean * torch.eye(6, dtype=F64)
    rest = torch.linalg.solve(damped[1:, 1:], damped[1:] @ weight.T).T
    assert torch.allclose(refitted[:, 1:], rest, rtol=1e-9)


def test_blocks_are_only_a_way_of_computing_it() -> None:
    weight, gram = layer(1, rows=6, columns=16)
    one = sparsegpt(weight, gram, 48, "2:4", block=16)
    many = sparsegpt(weight, gram, 48, "2:4", block=4)
    assert torch.equal(one[1], many[1])
    assert torch.allclose(one[0], many[0], rtol=1e-8, atol=1e-12)


def test_inputs_that_are_never_on_are_masked_first() -> None:
    weight, gram = torch.ones(3, 8, dtype=F64), torch.eye(8, dtype=F64)
    gram[2, 2] = gram[5, 5] = 0.0
    for mask in (wanda_mask(weight, gram, 6), sparsegpt(weight, gram, 6)[1]):
        assert mask[:, [2, 5]].any().item() is False
        assert int((~mask).sum()) == 6
    silent = torch.zeros(8, 8, dtype=F64)
    refitted, kept = sparsegpt(weight, silent, 12, "2:4")
    assert int((~kept).sum()) == 12
    assert torch.equal(refitted, kept.to(F64))


def test_wanda_shares_zeros_evenly_between_rows() -> None:
    weight, gram = layer(2, rows=3, columns=8)
    assert (~wanda_mask(weight, gram, 7)).sum(dim=1).tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=1, bias=False), (2, 4, 7, 6)),
        (nn.Conv2d(4, 6, 3, dilation=2, padding=2, groups=2, bias=False), (2, 4, 7, 6)),
        (
            nn.Conv2d(4, 4, 3, groups=4, padding_mode="circular", padding=1, bias=False),
            (2, 4, 5, 5),
        ),
        (nn.Conv1d(3, 5, 4, padding="same", padding_mode="reflect", bias=False), (2, 3, 9)),
        (nn.Conv3d(2, 3, (1, 2, 3), stride=2, bias=False), (2, 2, 3, 6, 7)),
        (nn.Conv2d(3, 2, 3, bias=False), (3, 6, 6)),
    ],
)
def test_patches_times_the_matrix_is_the_convolution(
    conv: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = patches(conv, x, 10_000, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    parts = to_matrix(conv, conv.weight.detach()).unflatten(0, (conv.groups, -1))
    got = torch.einsum("rgi,goi->rgo", rows, parts).flatten(1)
    out = conv(x).detach()
    out = out if out.ndim == len(conv.kernel_size) + 2 else out[None]
    assert torch.allclose(got, out.movedim(1, -1).flatten(0, -2), atol=1e-5)


def test_sums_are_of_all_calls_and_leave_no_hook() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False))
    module.append(module[0])
    x = torch.randn(5, 3)
    gram = input_sums(module, "0", [Batch(inputs=(x,), targets=None, ids=list("abcde"))])
    y = module[0](x).detach()
    expected = x.double().T @ x.double() + y.double().T @ y.double()
    assert gram is not None
    assert torch.allclose(gram[0], expected)
    assert not module[0]._forward_pre_hooks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["plain", "separable", "unet", "attention", "two-input"])
def test_whole_models_are_masked_exactly_as_planned(
    name: str, method: str, model_task: Callable
) -> None:
    task = model_task(name)
    module = models.build(name)
    before = copy.deepcopy(module.state_dict())
    batches = first_batches(task, "calibration", examples=64, seed=0)
    for pattern in (UNSTRUCTURED, "2:4"):
        weights = maskable(module, pattern=pattern)
        plan = (
            plan_pattern(weights.shapes, pattern)
            if pattern != UNSTRUCTURED
            else plan_counts(
                weights.shapes, {n: zeros_for(s.numel(), 0.6) for n, s in weights.shapes.items()}
            )
        )
        result = reconstruct(module, batches, plan, method)  # type: ignore[arg-type]
        again = reconstruct(module, batches, plan, method)  # type: ignore[arg-type]
        verify_masks(result.module, result.masks, plan)
        assert count_zeros(result.masks) == plan.zeros
        for key, tensor in result.module.state_dict().items():
            assert torch.equal(tensor, again.module.state_dict()[key])
            if method == "wanda":
                kept = result.masks.get(key, torch.ones_like(tensor, dtype=torch.bool))
                assert torch.equal(tensor[kept], before[key][kept])
        assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())


def test_layers_whose_inputs_nobody_shows_go_by_magnitude(model_task: Callable) -> None:
    """Attention calls its last projection as a function; the LSTM's inner inputs are its own."""
    task = model_task("built-in-attention")
    module = models.build("built-in-attention")
    weights = maskable(module)
    scores = magnitude(module, weights.names)
    plan = plan_sparsity(scores, 0.5, "local")
    result = reconstruct(module, list(task.batches("calibration", epoch=0, seed=0)), plan, "wanda")
    assert result.by_magnitude == ("attention.out_proj.weight",)
    expected = choose_masks(scores, plan)
    for name in result.by_magnitude:
        assert torch.equal(result.masks[name], expected[name])
    said: list[str] = []
    for criterion, names in (("wanda", result.by_magnitude), ("magnitude", UNSET)):
        made = mask_model(
            task, module, plan, PruneParams(criterion=criterion), seed=0, say=said.append
        )
        assert made.surgery.by_magnitude == names


class Crossed(nn.Module):
    """Attention from three tokens to five others, whose values are something else again."""

    def __init__(self, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.attention = make(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[:, :3], value=torch.tanh(x[:, 3:]), key=x[:, 3:])[0]


def attended(count: int = 6) -> list[Batch]:
    inputs = torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(0))
    return [Batch(inputs=(inputs,), targets=None, ids=[str(n) for n in range(count)])]


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_queries_keys_and_values_are_seen(method: str) -> None:
    """Each third of the one weight by what it is multiplied with, as three linear layers would be."""
    torch.manual_seed(0)
    module = Crossed(nn.MultiheadAttention).eval()
    sums = input_products(module, "attention", attended())
    assert sums is not None
    x = attended()[0].inputs[0].double()
    own = [
        part.flatten(0, 1) for part in (x[:, :3], x[:, 3:], torch.tanh(x[:, 3:].float()).double())
    ]
    assert torch.allclose(sums.own, torch.stack([rows.T @ rows for rows in own]))
    weights = {"attention.in_proj_weight": module.attention.in_proj_weight.abs()}
    plan = plan_sparsity(weights, 0.5, "local")
    found = reconstruct(module, attended(), plan, method).masks["attention.in_proj_weight"]
    rows = module.attention.in_proj_weight.detach().double().chunk(3)
    for mask, weight, gram in zip(found.chunk(3), rows, sums.own, strict=True):
        mine = wanda_mask(weight, gram, 32) if method == "wanda" else sparsegpt(weight, gram, 32)[1]
        assert torch.equal(mask, mine)


def test_attention_with_a_forward_of_its_own_is_not_looked_into() -> None:
    """Nobody knows what its arguments are."""

    class Own(nn.MultiheadAttention):
        pass

    assert input_products(Crossed(Own).eval(), "attention", attended()) is None


def test_inputs_come_from_the_model_as_pruned_so_far(model_task: Callable) -> None:
    task = model_task("flattened")
    module = models.build("flattened")
    batches = first_batches(task, "calibration", examples=64, seed=0)
    weights = maskable(module)
    plan = plan_sparsity(magnitude(module, weights.names), 0.6, "local")
    result = reconstruct(module, batches, plan, "sparsegpt")
    half = copy.deepcopy(module)
    half.conv.load_state_dict(result.module.conv.state_dict())
    sums = input_products(half, "fc1", batches, module)
    assert sums is not None
    assert sums.others is not None
    zeros = {item.tensor: item.zeros for item in plan.tensors}["fc1.weight"]
    weight = module.fc1.weight.detach().double()
    towards = towards_dense(weight, sums.own[0], sums.others[0])
    assert not torch.allclose(towards, weight, atol=1e-3)
    expected, _ = sparsegpt(towards, sums.own[0], zeros)
    assert torch.equal(result.module.fc1.weight, expected.float())


def images(size: int) -> list[Batch]:
    """Four batches of `size` each."""
    return [
        Batch(
            inputs=(torch.randn(size, 8, 6, 6),),
            targets=torch.zeros(size),
            ids=[f"{number}/{row}" for row in range(size)],
        )
        for number in range(4)
    ]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_the_fit_to_the_dense_outputs_has_the_least_penalised_error(seed: int) -> None:
    """No matrix near it has less; where the inputs are the dense model's it is the dense weight."""
    generator = torch.Generator().manual_seed(seed)
    theirs = torch.randn(40, 6, dtype=F64, generator=generator)
    mine = theirs + 0.5 * torch.randn(40, 6, dtype=F64, generator=generator)
    weight = torch.randn(3, 6, dtype=F64, generator=generator)
    gram = mine.T @ mine
    damping = RIDGE * gram.diagonal().mean()

    def cost(matrix: Tensor) -> float:
        apart = theirs @ weight.T - mine @ matrix.T
        return float(apart.square().sum() + damping * (matrix - weight).square().sum())

    best = towards_dense(weight, gram, theirs.T @ mine)
    for _ in range(5):
        near = best + 0.01 * torch.randn(3, 6, dtype=F64, generator=generator)
        assert cost(near) > cost(best)
    same = towards_dense(weight, gram, gram)
    assert torch.allclose(same, weight)
    assert (
        towards_dense(weight, torch.zeros(6, 6, dtype=F64), torch.zeros(6, 6, dtype=F64)) is weight
    )


def test_later_layers_make_up_for_what_earlier_ones_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On images that no fit has seen, outputs are nearer to the dense model's than if each layer were fitted
    to its own outputs, and nearer than Wanda's.
    """
    torch.manual_seed(0)
    batches = images(64)
    module = recalibrate(Normed().eval(), batches)
    plan = plan_pattern(maskable(module, pattern="1:4").shapes, "1:4")
    fresh = torch.randn(64, 8, 6, 6)

    def apart(method: str) -> float:
        made = reconstruct(module, batches, plan, method, renew=True).module  # type: ignore[arg-type]
        with torch.no_grad():
            return float((made(fresh) - module(fresh)).square().mean())

    ours, wanda = apart("sparsegpt"), apart("wanda")
    monkeypatch.setattr(module_under_test, "towards_dense", lambda weight, *_: weight)
    own = apart("sparsegpt")
    assert ours < 0.98 * own < wanda


class Normed(nn.Module):
    """Two convolutions with a BatchNorm behind each; the first's images have a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.norm(self.first(x + 1.0)).relu()))


@pytest.mark.parametrize("method", METHODS)
def test_statistics_are_renewed_before_the_next_layer_is_looked_at(method: str) -> None:
    """So that later layers see the inputs that they will get; without `renew` no statistic changes."""
    torch.manual_seed(0)
    batches = images(32)
    module = recalibrate(Normed().eval(), batches)
    plan = plan_pattern(maskable(module, pattern="1:4").shapes, "1:4")
    result = reconstruct(module, batches, plan, method, renew=True).module  # type: ignore[arg-type]
    fresh = recalibrate(result, batches)
    for name in ("norm", "last"):
        mine, again = result.get_submodule(name), fresh.get_submodule(name)
        assert torch.allclose(mine.running_mean, again.running_mean, atol=1e-3)
        assert torch.allclose(mine.running_var, again.running_var, rtol=1e-2)
        assert not torch.allclose(mine.running_mean, module.get_submodule(name).running_mean)
    stale = reconstruct(module, batches, plan, method).module  # type: ignore[arg-type]
    assert torch.equal(stale.norm.running_mean, module.norm.running_mean)
    assert not torch.equal(stale.second.weight, result.second.weight)
    seen, unseen = (input_sums(one, "second", batches) for one in (result, stale))
    assert seen is not None
    assert unseen is not None
    assert float((seen - unseen).abs().max()) > 1.0


def test_zeros_are_not_shared_out_between_layers(model_task: Callable) -> None:
    module = models.build("plain")
    plan = plan_sparsity(magnitude(module, maskable(module).names), 0.5, "global")
    with pytest.raises(CompressionError, match=r"plan\.scope"):
        reconstruct(module, [], plan, "wanda")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_named(value: float) -> None:
    """Ranked by them, any weight could go; SparseGPT would end in a Cholesky factorisation's words."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    x = torch.randn(5, 3)
    x[2, 1] = value
    with pytest.raises(CompressionError, match="calibration"):
        input_sums(module, "1", [Batch(inputs=(x,), targets=None, ids=list("abcde"))])
