"""Any number of examples through a call that takes exactly so many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.errors import BuildError
from reprune.runtimes.fixed_batch import in_batches, refuse_others

Array = np.ndarray[Any, np.dtype[Any]]
FLOAT, WHOLE = np.dtype("float32"), np.dtype("int64")


@given(st.integers(1, 40), st.integers(1, 9))
def test_every_example_comes_back_once_and_in_order(count: int, batch_size: int) -> None:
    seen: list[int] = []

    def call(inputs: Sequence[Array]) -> list[Array]:
        seen.append(len(inputs[0]))
        return [inputs[0] * 2, inputs[1].sum(axis=1)]

    first, second = np.arange(count), np.arange(3 * count).reshape(count, 3)
    doubled, sums = in_batches(call, [first, second], batch_size)
    assert doubled.tolist() == (first * 2).tolist()
    assert sums.tolist() == second.sum(axis=1).tolist()
    assert seen == [batch_size] * -(-count // batch_size)


def test_what_is_filled_up_is_an_example_again_and_not_zeros() -> None:
    given_to: list[Array] = []
    in_batches(lambda inputs: given_to.append(inputs[0]) or [inputs[0]], [np.arange(1, 6)], 4)
    assert [part.tolist() for part in given_to] == [[1, 2, 3, 4], [5, 5, 5, 5]]


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [np.zeros((2, 3), "float32")],
        [np.zeros((2, 3), "float64"), np.zeros((2,), "int64")],
        [np.zeros((2, 4), "float32"), np.zeros((2,), "int64")],
        [np.zeros((2, 3), "float32"), np.zeros((1,), "int64")],
        [np.zeros((0, 3), "float32"), np.zeros((0,), "int64")],
        [np.zeros((), "float32"), np.zeros((), "int64")],
    ],
)
def test_inputs_that_an_engine_was_not_built_for(inputs: list[Array]) -> None:
    signatures = [(FLOAT, (3,)), (WHOLE, ())]
    refuse_others([np.zeros((2, 3), "float32"), np.zeros((2,), "int64")], signatures)
    with pytest.raises(BuildError, match=r"takes float32 \[3\] and int64 \[\] for each example"):
        refuse_others(inputs, signatures)
