"""Which weights may be masked, and masks chosen from scores: exact counts, laws, known answers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from reprune.compress.masks.choosing import (
    apply_masks,
    choose_masks,
    count_zeros,
    keep_highest,
    plan_counts,
    plan_pattern,
    plan_sparsity,
    tensor_sparsity,
    verify_masks,
    zero_masked,
    zeros_for,
)
from reprune.compress.masks.maskable import maskable
from reprune.compress.masks.scores import magnitude
from reprune.compress.masks.semistructured import parse_pattern, pattern_mask, verify_pattern
from reprune.core.errors import CompressionError, TaskError


class Tied(nn.Module):
    """An embedding shared with the output layer, two layers that share a weight, an LSTM, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.lstm = nn.LSTM(8, 4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm((2, 8))
        self.bilinear = nn.Bilinear(4, 4, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.out = nn.Linear(8, 12, bias=False)
        self.out.weight = self.embed.weight


def test_weights_are_found_once_and_what_is_left_out_has_a_reason() -> None:
    module = Tied()
    module.attention.out_proj.weight.requires_grad_(False)
    found = maskable(module, keep=("lstm",))
    assert set(found.names) == {
        "one.weight",
        "attention.in_proj_weight",
        "depthwise.weight",
        "up.weight",
    }
    assert found.shapes["one.weight"] == (8, 8)
    assert found.size == 64 + 24 * 8 + 36 + 64
    assert set(found.skipped) == {
        "embed.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "attention.out_proj.weight",
        "norm.weight",
        "norm.bias",
        "bilinear.weight",
    }
    assert "embedding" in found.skipped["embed.weight"]
    assert "keeps 'lstm'" in found.skipped["lstm.weight_ih_l0"]
    assert "frozen" in found.skipped["attention.out_proj.weight"]
    assert "Bilinear" in found.skipped["bilinear.weight"]


def test_a_pattern_leaves_out_what_no_kernel_takes() -> None:
    found = maskable(Tied(), pattern="3:6")
    assert found.names == ()
    assert "no multiple of 6" in found.skipped["one.weight"]
    assert "transposed" in found.skipped["up.weight"]
    assert "grouped" in found.skipped["depthwise.weight"]
    assert "one.weight" in maskable(Tied(), pattern="2:4").names


def test_memory_shared_in_another_shape_is_not_masked() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6))
    module[1].weight = nn.Parameter(module[0].weight.detach().t())
    found = maskable(module)
    assert found.names == ()
    assert "shares memory with '1.weight'" in found.skipped["0.weight"]


def test_parametrised_and_hooked_weights_are_never_masked_silently() -> None:
    normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    assert maskable(normed).names == ()
    assert all("parametrisation" in reason for reason in maskable(normed).skipped.values())
    hooked = nn.Sequential(nn.Linear(4, 4))
    torch_prune.l1_unstructured(hooked[0], "weight", amount=0.5)
    with pytest.raises(CompressionError, match="hook"):
        maskable(hooked)
    torch_prune.remove(hooked[0], "weight")
    assert maskable(hooked).names == ("0.weight",)


def test_an_unknown_name_in_keep_is_answered_with_the_nearest() -> None:
    with pytest.raises(TaskError, match="did you mean 'lstm'"):
        maskable(Tied(), keep=("lstn",))


def test_magnitude_masks_the_smallest() -> None:
    scores = {"a": torch.tensor([[3.0, 1.0], [4.0, 1.5]]), "b": torch.tensor([[9.0, 2.0]])}
    plan = plan_sparsity(scores, 0.5)
    masks = choose_masks(scores, plan)
    assert masks["a"].tolist() == [[True, False], [True, False]]
    assert masks["b"].tolist() == [[True, False]]
    assert [(item.tensor, item.zeros) for item in plan.tensors] == [("a", 2), ("b", 1)]
    local = choose_masks(scores, plan_sparsity(scores, 0.25, "local"))
    assert local["a"].tolist() == [[True, False], [True, True]]
    assert count_zeros(local) == 2  # one of four; half of two rounds up to one


def test_counts_round_half_up() -> None:
    assert [zeros_for(10, share) for share in (0.0, 0.04, 0.05, 0.9, 0.95, 1.0)] == [
        0,
        0,
        1,
        9,
        10,
        10,
    ]
    with pytest.raises(CompressionError, match="between 0 and 1"):
        zeros_for(10, 1.2)


few = st.lists(st.integers(min_value=-3, max_value=3), min_size=1, max_size=40)


@given(values=few, data=st.data())
def test_counts_are_exact_whatever_the_ties(values: list[int], data: st.DataObject) -> None:
    """Every kept score is at least as high as every masked one; of equal ones the first are kept."""
    scores = torch.tensor(values, dtype=torch.float32)
    zeros = data.draw(st.integers(min_value=0, max_value=len(values)))
    kept = keep_highest(scores, zeros)
    assert int((~kept).sum()) == zeros
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert sorted(order[: len(values) - zeros]) == kept.nonzero().flatten().tolist()


@given(
    seed=st.integers(0, 1000),
    sparsity=st.floats(0.05, 0.6),
    power=st.integers(-3, 3),
    scope=st.sampled_from(["global", "local"]),
)
@settings(deadline=None)
def test_masks_are_idempotent_and_do_not_depend_on_scale(
    seed: int, sparsity: float, power: int, scope: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.rand(shape, generator=generator)
        for name, shape in (("a", (5, 8)), ("b", (7, 4)))
    }
    plan = plan_sparsity(scores, sparsity, scope)  # type: ignore[arg-type]
    masks = choose_masks(scores, plan)
    assert count_zeros(masks) == plan.zeros == sum(item.zeros for item in plan.tensors)
    again = choose_masks({n: s * masks[n] for n, s in scores.items()}, plan, alive=masks)
    scaled = choose_masks({n: s * 2.0**power for n, s in scores.items()}, plan)
    for name in scores:
        assert torch.equal(again[name], masks[name])
        assert torch.equal(scaled[name], masks[name])
    if scope == "global":
        kept = torch.cat([scores[n][masks[n]] for n in scores])
        gone = torch.cat([scores[n][~masks[n]] for n in scores])
        assert not len(gone) or float(kept.min()) >= float(gone.max())


@pytest.mark.slow
@given(seed=st.integers(0, 1000), shares=st.lists(st.floats(0, 1), min_size=1, max_size=4))
@settings(deadline=None)
@pytest.mark.parametrize("kind", ["global", "local", "2:4"])
def test_growing_masks_only_grow_and_never_compound(
    kind: str, seed: int, shares: list[float]
) -> None:
    """Whatever the steps in between, the end has the counts of the plan, and the dead stay dead."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": torch.Size((6, 8)), "b": torch.Size((4, 12))}
    first = {n: torch.rand(s, generator=generator) for n, s in shapes.items()}
    plan = plan_pattern(shapes, kind) if ":" in kind else plan_sparsity(first, 0.7, kind)  # type: ignore[arg-type]
    masks = {n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items()}
    for share in (*sorted(shares), 1.0):
        scores = {n: torch.rand(s, generator=generator) for n, s in shapes.items()}
        grown = choose_masks(scores, plan, share=share, alive=masks)
        assert all(not bool((grown[n] & ~masks[n]).any()) for n in shapes)
        if kind == "global":
            assert count_zeros(grown) == zeros_for(plan.zeros, share)
        masks = grown
    assert count_zeros(masks) == plan.zeros
    if kind == "2:4":
        assert all(verify_pattern(mask, 2, 4) for mask in masks.values())


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_died_outside_the_pattern_stays_dead(share: float) -> None:
    """Three of four are dead already: the pattern, which wants two of them back, does not get them."""
    alive = {"a": torch.tensor([[False, False, False, True, True, True, True, True]])}
    scores = {"a": torch.tensor([[9.0, 8.0, 7.0, 1.0, 4.0, 3.0, 2.0, 1.0]])}
    plan = plan_pattern({"a": torch.Size((1, 8))}, "2:4")
    kept = choose_masks(scores, plan, share=share, alive=alive)["a"]
    assert not bool((kept & ~alive["a"]).any())
    if share == 1.0:
        assert kept.tolist() == [[False, False, False, True, True, True, False, False]]


@given(
    n=st.integers(1, 5),
    more=st.integers(1, 4),
    groups=st.integers(1, 4),
    conv=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(deadline=None)
def test_a_pattern_keeps_exactly_n_of_m_along_the_inputs(
    n: int, more: int, groups: int, conv: bool, seed: int
) -> None:
    m = n + more
    shape = (3, m * groups, 3, 2) if conv else (3, m * groups)
    scores = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float()
    mask = pattern_mask(scores, n, m)
    assert mask.shape == scores.shape
    assert verify_pattern(mask, n, m)
    assert int(mask.sum()) == scores.numel() // m * n
    assert n == 1 or not verify_pattern(mask, n - 1, m)
    # By hand: channels 0..m-1 of the first output at the first kernel position.
    first = scores[0, :m, 0, 0] if conv else scores[0, :m]
    kept = mask[0, :m, 0, 0] if conv else mask[0, :m]
    order = sorted(range(m), key=lambda i: (-float(first[i]), i))
    assert kept.nonzero().flatten().tolist() == sorted(order[:n])


def test_the_pattern_of_a_convolution_runs_along_its_channels() -> None:
    """NVIDIA groups input channels at each kernel position, not neighbours in memory."""
    weight = torch.ones(1, 4, 1, 4)
    weight[:, 2:] = 0  # 2 of 4 channels at every position
    assert verify_pattern(weight, 2, 4)
    weight = torch.ones(1, 4, 1, 4)
    weight[..., 2:] = 0  # 2 of 4 neighbours in memory: full at half of the positions
    assert not verify_pattern(weight, 2, 4)
    assert not verify_pattern(torch.zeros(2, 6), 2, 4)


@pytest.mark.parametrize("pattern", ["4:2", "4:4", "0:4", "2", "a:b", "2:4:8"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(CompressionError, match="is no pattern"):
        parse_pattern(pattern)
    assert parse_pattern("2:4") == (2, 4)


def test_masked_weights_are_positive_zero_and_the_input_is_untouched() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-1.0, torch.inf], [2.0, -3.0]]))
    before = copy.deepcopy(module.state_dict())
    mask = {"weight": torch.tensor([[False, False], [True, True]])}
    masked = apply_masks(module, mask)
    assert masked.weight.tolist() == [[0.0, 0.0], [2.0, -3.0]]
    assert not bool(torch.signbit(masked.weight[0]).any())
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    verify_masks(masked, mask)
    with pytest.raises(CompressionError, match="2 masked weights are not zero"):
        verify_masks(module, mask)


def test_masks_that_do_not_fit_are_refused() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(CompressionError, match="did you mean 'weight'"):
        zero_masked(module, {"wieght": torch.ones(3, 2, dtype=torch.bool)})
    with pytest.raises(CompressionError, match="shape"):
        zero_masked(module, {"weight": torch.ones(2, 3, dtype=torch.bool)})
    with pytest.raises(CompressionError, match="float32"):
        zero_masked(module, {"weight": torch.ones(3, 2)})


def test_a_tensor_is_never_emptied_and_bad_scores_are_refused() -> None:
    scores: dict[str, Tensor] = {"a": torch.full((2, 2), 0.1), "b": torch.ones(4, 4)}
    expected = plan_sparsity(scores, 0.4)  # what global scores mask now does not bind
    assert [item.zeros for item in expected.tensors] == [4, 4]
    with pytest.raises(CompressionError, match="every weight would be masked in: a"):
        choose_masks(scores, expected)
    with pytest.raises(CompressionError, match="at least one has to stay"):
        plan_sparsity(scores, 0.95, "local")
    plan = plan_counts({n: s.shape for n, s in scores.items()}, {"a": 3, "b": 15})
    assert count_zeros(choose_masks(scores, plan)) == 18
    with pytest.raises(CompressionError, match="no finite number"):
        choose_masks({**scores, "a": torch.full((2, 2), torch.nan)}, plan)
    with pytest.raises(CompressionError, match="other tensors"):
        choose_masks({"a": scores["a"]}, plan)


def test_verification_knows_the_plan() -> None:
    module = nn.Linear(8, 2)
    plan = plan_pattern({"weight": module.weight.shape}, "2:4")
    masks = choose_masks(magnitude(module, ["weight"]), plan)
    masked = apply_masks(module, masks)
    verify_masks(masked, masks, plan)
    facts = tensor_sparsity(masks, plan)
    assert [(f.tensor, f.size, f.requested, f.zeros, f.pattern) for f in facts] == [
        ("weight", 16, 8, 8, "2:4")
    ]
    crowded = {"weight": torch.tensor([[True] * 4 + [False] * 4] * 2)}
    with pytest.raises(CompressionError, match="pattern"):
        verify_masks(apply_masks(module, crowded), crowded, plan)
    fewer = {"weight": torch.zeros(2, 8, dtype=torch.bool)}
    with pytest.raises(CompressionError, match="16 weights are masked, not 8"):
        verify_masks(apply_masks(module, fewer), fewer, plan)
