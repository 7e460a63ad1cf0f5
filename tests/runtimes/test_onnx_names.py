"""Names of fused operators: one rule for what the runtime added, whoever reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from reprune.runtimes.onnx_layers import layer_times
from reprune.runtimes.onnx_names import plain
from reprune.runtimes.onnx_operators import caller

SUFFIXES = ("_nchwc", "_nhwc", "_fused", "_quant", "_token_3", "/duplicated")


@given(st.sampled_from(["", "fused "]), st.lists(st.sampled_from(SUFFIXES), max_size=4))
def test_whatever_was_added_is_taken_off(prefix: str, added: list[str]) -> None:
    """In any order and number, down to the graph's own name, which may itself look so."""
    for own in ("a/Conv", "relu_quant"):
        assert plain(prefix + own + "".join(added), {own}) == own
    assert plain("a/Convolved", {"a/Conv"}) == "a/Convolved"


@pytest.mark.parametrize("added", SUFFIXES)
def test_operators_and_layers_agree_on_whose_a_name_is(added: str) -> None:
    """A node that a pass replaced is its module's for both."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["first"], name="a/Conv"),
            helper.make_node("Conv", ["first", "w"], ["second"], name="b/Conv"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("second", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph)
    assert caller(model)(f"b/Conv{added}", "Conv") == "b/Conv"
    assert caller(model)(f"second{added}", "Conv") == "b/Conv"
    events = [
        {
            "cat": "Node",
            "name": f"{name}_kernel_time",
            "dur": took,
            "args": {"node_index": str(index)},
        }
        for index, (name, took) in enumerate([("a/Conv", 10), (f"b/Conv{added}", 20)])
    ]
    found = layer_times(model.SerializeToString(), events, ("a", "b"), calls=1)
    assert [one.layer for one in found] == ["a", "b"]
