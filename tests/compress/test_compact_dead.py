"""Dead neurons go and the function stays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.compress.compact import Layer, sorted_by_weights, without_dead
from reprune.core.errors import CompressionError


def chain(seed, sizes, kept):
    random = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in pairwise(sizes):
        weight = random.normal(size=(outputs, inputs)) * (random.random((outputs, inputs)) < kept)
        layers.append(
            Layer(
                weight=weight.astype(np.float32),
                bias=random.normal(size=outputs).astype(np.float32),
            )
        )
    return layers


def run(layers, inputs):
    for number, layer in enumerate(layers):
        inputs = inputs @ layer.weight.T.astype(np.float64) + layer.bias
        inputs = np.maximum(inputs, 0) if number < len(layers) - 1 else inputs
    return inputs


@given(seed=st.integers(0, 10_000), kept=st.sampled_from((0.02, 0.1, 0.3, 1.0)))
@settings(max_examples=40, deadline=None)
def test_the_function_stays_and_nothing_dead_is_left(seed, kept):
    layers = chain(seed, (12, 10, 8, 6, 3), kept)
    before = [(layer.weight.copy(), layer.bias.copy()) for layer in layers]
    done = without_dead(layers)
    inputs = np.random.default_rng(seed).normal(size=(5, 12))
    assert np.allclose(run(layers, inputs), run(done, inputs), atol=1e-5)
    for first, second in pairwise(done):
        incoming, outgoing = first.weight.any(axis=1), second.weight.any(axis=0)
        assert np.array_equal(incoming, outgoing)
        assert not first.bias[~incoming].any()
    for layer, (weight, bias) in zip(layers, before, strict=True):
        assert np.array_equal(layer.weight, weight)
        assert np.array_equal(layer.bias, bias)


def test_sorting_keeps_the_function_and_orders_the_rows():
    layers = chain(4, (12, 10, 8, 3), 0.3)
    done = sorted_by_weights(layers)
    inputs = np.random.default_rng(0).normal(size=(5, 12))
    assert np.allclose(run(layers, inputs), run(done, inputs), atol=1e-6)
    for layer in done[:-1]:
        assert (np.diff(np.count_nonzero(layer.weight, axis=1)) <= 0).all()
    assert not np.array_equal(done[0].weight, layers[0].weight)


@pytest.mark.parametrize("padded", [False, True])
def test_convolutions_that_flatten_into_a_linear_layer(padded):
    random = np.random.default_rng(0)
    first = random.normal(size=(6, 2, 3, 3)).astype(np.float32)
    second = random.normal(size=(5, 6, 3, 3)).astype(np.float32)
    side = 4 if not padded else 8
    head = random.normal(size=(3, 5 * side * side)).astype(np.float32)
    first[[1, 4]] = 0
    second[2] = 0
    second[:, 5] = 0
    biases = [random.normal(size=size).astype(np.float32) for size in (6, 5, 3)]
    biases[0][1] = abs(biases[0][1])
    layers = [
        Layer(weight=first, bias=biases[0]),
        Layer(weight=second, bias=biases[1], padded=padded),
        Layer(weight=head, bias=biases[2]),
    ]

    def run_convolutions(chain):
        (w1, b1), (w2, b2), (w3, b3) = [
            (torch.tensor(layer.weight), torch.tensor(layer.bias)) for layer in chain
        ]
        x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        x = F.relu(F.conv2d(x, w1, b1, padding=int(padded)))
        x = F.relu(F.conv2d(x, w2, b2, padding=int(padded)))
        return F.linear(x.flatten(1), w3, b3)

    done = without_dead(layers)
    assert torch.allclose(run_convolutions(layers), run_convolutions(done), atol=1e-4)
    assert not done[0].weight[5].any()
    assert not done[2].weight.reshape(3, 5, -1)[:, 2].any()
    assert (
        done[1].weight[:, 1].any() == padded
    )  # a constant is no constant beside a border of zeros
    assert torch.allclose(
        run_convolutions(layers), run_convolutions(sorted_by_weights(layers)), atol=1e-4
    )


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(CompressionError, match="cannot feed"):
        without_dead([*chain(0, (4, 3), 1.0), *chain(0, (4, 2), 1.0)])
