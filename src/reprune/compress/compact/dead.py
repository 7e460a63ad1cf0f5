"""Hidden neurons that do nothing: folded into the next bias, and put where they cost nothing.

Works on a chain of layers as numpy arrays. A neuron without incoming weights gives a constant; one
without outgoing weights is never read. In a compact file an empty row or column costs a part of a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import CompressionError

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """`weight` is (outputs, inputs, ...), `bias` (outputs). Between two layers stands an activation that
    works on each number alone; a channel may feed several inputs of the next layer (flattening).

    `padded` says that the layer pads its input with zeros: a constant channel is then not constant at
    the borders, and stays as it is.
    """

    weight: Array
    bias: Array
    padded: bool = False


def relu(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(values > 0, values, 0)


def without_dead(
    layers: Sequence[Layer], activation: Callable[[NDArray[Any]], NDArray[Any]] = relu
) -> list[Layer]:
    """The same function with every dead hidden neuron's weights and bias at zero; shapes are kept.

    A neuron without incoming weights adds activation(bias) times its outgoing weights to the next
    bias; one without outgoing weights just goes. Repeated until nothing is dead that still has
    weights. Inputs are not modified. Raises CompressionError for layers that do not fit each other.
    """
    done = [replace(layer, weight=layer.weight.copy(), bias=layer.bias.copy()) for layer in layers]
    for first, second in pairwise(done):
        if second.weight.shape[1] % len(first.bias):
            raise CompressionError(
                f"a layer of {len(first.bias)} outputs cannot feed one of {second.weight.shape[1]} inputs",
                where="compact",
            )
    changed = True
    while changed:
        changed = False
        for first, second in pairwise(done):
            changed |= _forward(first, second, activation)
            changed |= _backward(first, second)
    return done


def sorted_by_weights(layers: Sequence[Layer]) -> list[Layer]:
    """The same function (but for the order of sums) with the hidden neurons of each layer in order of
    how many incoming weights they have, most first: their order is free, and this one codes well.
    """
    done = list(layers)
    for place in range(len(done) - 1):
        first, second = done[place], done[place + 1]
        counts = np.count_nonzero(first.weight.reshape(len(first.bias), -1), axis=1)
        order = np.argsort(-counts, kind="stable")
        grouped = _grouped(second.weight, len(first.bias))[:, order]
        done[place] = replace(first, weight=first.weight[order], bias=first.bias[order])
        done[place + 1] = replace(second, weight=grouped.reshape(second.weight.shape))
    return done


def _grouped(weight: Array, outputs: int) -> Array:
    """The weight as (outputs of the layer, neurons that feed it, everything else); a view."""
    return weight.reshape(len(weight), outputs, -1)


def _forward(first: Layer, second: Layer, activation: Callable[[Any], Any]) -> bool:
    """Folds neurons without incoming weights; True where that changed anything."""
    outgoing = _grouped(second.weight, len(first.bias))
    empty = ~first.weight.reshape(len(first.bias), -1).any(axis=1)
    constant = activation(first.bias.astype(np.float64))
    if second.padded:
        empty &= constant == 0
    fed = empty & outgoing.any(axis=(0, 2))
    second.bias[...] += np.einsum(
        "oni,n->o", outgoing[:, fed].astype(np.float64), constant[fed]
    ).astype(np.float32)
    outgoing[:, fed] = 0
    return bool(fed.any())


def _backward(first: Layer, second: Layer) -> bool:
    """Empties neurons that nothing reads; True where that changed anything."""
    unread = ~_grouped(second.weight, len(first.bias)).any(axis=(0, 2))
    full = unread & (first.weight.reshape(len(first.bias), -1).any(axis=1) | (first.bias != 0))
    first.weight[full] = 0
    first.bias[full] = 0
    return bool(full.any())
