"""Costs against values computed by hand: functional operators and subclasses count, nothing is hidden."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.core.errors import TaskError
from reprune.measure.profile import count_cost


class Applied(nn.Module):
    """A model that is one function of its inputs and of one weight."""

    def __init__(self, function: object, weight: Tensor | None = None) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(weight) if weight is not None else None

    def forward(self, *inputs: Tensor) -> Tensor:
        extra = (self.weight,) if self.weight is not None else ()
        return self.function(*inputs, *extra)  # type: ignore[operator, no-any-return]


def macs(module: nn.Module, *inputs: Tensor) -> int:
    counted = count_cost(module, inputs)
    assert counted.uncounted == ()
    assert sum(layer.macs for layer in counted.layers) == counted.cost.macs
    return counted.cost.macs


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    per_group_in=st.integers(1, 3),
    per_group_out=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    batch=st.integers(1, 3),
)
def test_a_convolution_counts_as_the_formula_says(
    groups: int,
    per_group_in: int,
    per_group_out: int,
    kernel: int,
    stride: int,
    bias: bool,
    batch: int,
) -> None:
    """MACs are outputs x kernel area x inputs a group, for one example whatever the batch; bias is free."""
    cin, cout = groups * per_group_in, groups * per_group_out
    conv = nn.Conv2d(cin, cout, kernel, stride=stride, groups=groups, bias=bias)
    counted = count_cost(conv, (torch.zeros(batch, cin, 9, 8),))
    height, width = (9 - kernel) // stride + 1, (8 - kernel) // stride + 1
    assert counted.cost.macs == height * width * cout * kernel**2 * per_group_in
    weights = cout * per_group_in * kernel**2 + (cout if bias else 0)
    assert counted.cost.params == weights
    assert counted.cost.bytes == 4 * weights
    assert counted.layers[0].output_shape == (1, cout, height, width)
    assert counted.uncounted == ()


def test_a_linear_layer_over_tokens_counts_every_token() -> None:
    """Seven tokens of a sequence cost seven times one token."""
    assert macs(nn.Linear(16, 5), torch.zeros(2, 7, 16)) == 7 * 16 * 5
    assert macs(nn.Linear(16, 5), torch.zeros(2, 16)) == 16 * 5


def test_functional_operators_are_counted() -> None:
    """What has no module of its own belongs to the module that called it."""
    conv = Applied(lambda x, w: F.conv2d(x, w, stride=2), torch.zeros(6, 3, 3, 3))
    assert macs(conv, torch.zeros(1, 3, 9, 9)) == 4 * 4 * 6 * 27
    linear = Applied(F.linear, torch.zeros(6, 3))
    assert macs(linear, torch.zeros(1, 3)) == 18
    einsum = Applied(lambda x, w: torch.einsum("btc,dc->btd", x, w), torch.zeros(6, 3))
    assert macs(einsum, torch.zeros(2, 5, 3)) == 5 * 3 * 6
    product = Applied(lambda a, b: a @ b.transpose(1, 2))
    assert macs(product, torch.zeros(2, 5, 3), torch.zeros(2, 4, 3)) == 5 * 4 * 3
    vector = Applied(lambda a, w: a[0] @ w, torch.zeros(3))
    assert macs(vector, torch.zeros(1, 5, 3)) == 15
    transposed = nn.ConvTranspose2d(8, 4, 2, groups=2)
    assert macs(transposed, torch.zeros(1, 8, 5, 5)) == 25 * 8 * 2 * 4


class Scaled(nn.Linear):
    """A layer of the user's own that inherits from Linear and computes a little more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2.0 + F.linear(x, self.weight)


def test_a_subclassed_layer_counts_what_it_really_does() -> None:
    """The class is not looked up in a table: both products are seen."""
    net = nn.Sequential(Scaled(4, 3), nn.ReLU(), nn.Linear(3, 2))
    counted = count_cost(net, (torch.zeros(1, 4),))
    shares = {layer.layer: (layer.type, layer.macs, layer.params) for layer in counted.layers}
    assert shares["0"] == ("Scaled", 24, 15)
    assert shares["2"] == ("Linear", 6, 8)
    assert counted.cost.macs == 30


def test_attention_counts_scores_and_values() -> None:
    """Two products over all pairs of positions for every head, by any of torch's ways to it."""
    attend = Applied(F.scaled_dot_product_attention)
    q, k, v = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 7, 4), torch.zeros(1, 2, 7, 4)
    assert macs(attend, q, k, v) == 2 * 5 * 7 * 4 * 2
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.zeros(1, 6, 8)
    wanted = 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8
    assert macs(Applied(lambda x: layer(x, x, x)[0]), x) == wanted
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert macs(encoder, x) == wanted + 2 * 6 * 8 * 16


def test_recurrent_layers_are_counted_step_by_step() -> None:
    """An LSTM has four gates, a GRU three, for each step and direction."""
    x = torch.zeros(3, 5, 4)
    assert macs(nn.LSTM(4, 6, batch_first=True), x) == 5 * 4 * (4 * 6 + 6 * 6)
    both = nn.GRU(4, 6, batch_first=True, bidirectional=True)
    assert macs(both, x) == 2 * 5 * 3 * (4 * 6 + 6 * 6)


class Branch(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.inner = Applied(function)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.inner(x).sum()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.fft.rfft(x).real, "aten._fft_r2c"),
        (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
        (lambda x: torch.linalg.inv(x.T @ x + torch.eye(4)), "aten.linalg_inv_ex"),
    ],
)
def test_an_operator_without_a_formula_is_named_with_its_layer(function: object, name: str) -> None:
    """The rest is counted as usual, and the reader learns what is missing."""
    counted = count_cost(Branch(function), (torch.ones(1, 4),))
    assert counted.uncounted == (f"{name} in inner",)
    assert counted.cost.macs >= 8


def test_an_operator_of_somebody_else_is_named() -> None:
    """A library's own operator may multiply as much as it likes: it is not taken for free."""
    with torch.library._scoped_library("reprune_test", "DEF") as library:
        library.define("secret(Tensor x) -> Tensor")
        library.impl("secret", lambda x: x @ x, "CPU")
        secret = torch.ops.reprune_test.secret.default
        counted = count_cost(Applied(lambda x: secret(x[0])), (torch.ones(1, 3, 3),))
    assert "reprune_test.secret in the model itself" in counted.uncounted


def test_what_is_free_by_convention_is_not_reported() -> None:
    """Normalisation, activation, pooling, indexing and softmax add nothing and raise no alarm."""
    net = nn.Sequential(
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.PReLU(),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.Dropout(),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Softmax(-1),
    )
    assert macs(net, torch.zeros(2, 4, 8, 8)) == 0
    table = Applied(lambda ids, w: F.embedding(ids, w).mean(1), torch.zeros(9, 3))
    assert macs(table, torch.zeros(2, 5, dtype=torch.int64)) == 0


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("kept", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(100), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.second(self.first(self.first(x)))}


def test_tied_weights_are_stored_once_and_used_as_often_as_they_are() -> None:
    """Parameters and bytes count tensors, MACs count uses; scratch buffers are not stored."""
    counted = count_cost(Tied(), (torch.zeros(5, 4),))
    assert counted.cost.params == 16
    assert counted.cost.bytes == 16 * 4 + 3 * 8
    shares = {layer.layer: (layer.params, layer.macs) for layer in counted.layers}
    assert shares == {"first": (16, 32), "second": (0, 16)}


def test_counting_leaves_no_trace() -> None:
    """Training modes, statistics, hooks and the random numbers are as they were before."""
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.LSTM(4, 4))
    net.train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    state = torch.random.get_rng_state()
    count_cost(net, (torch.ones(3, 4),))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in net] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_a_model_that_does_not_run_on_its_example_is_the_tasks_mistake() -> None:
    """The error says so, and the hooks are gone all the same."""
    net = nn.Linear(4, 2)
    with pytest.raises(TaskError, match="does not run on its own example inputs"):
        count_cost(net, (torch.zeros(1, 5),))
    assert not net._forward_hooks
