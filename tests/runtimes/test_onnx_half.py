"""fp16 written into an ONNX model: the same function, fp32 at its ends; what does not fit is named."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from reprune.core.errors import BuildError
from reprune.runtimes.onnx_export import export_onnx
from reprune.runtimes.onnx_half import refuse_overflow, to_half
from tests import zoo


def run(content: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options)
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


def resizing() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 13, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(13, 27, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(27, 10),
    ).eval()


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def exported(module: nn.Module, *inputs: Tensor) -> bytes:
    return export_onnx(module, inputs, [f"x{n}" for n in range(len(inputs))])


def types(content: bytes) -> dict[str, int]:
    proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    values = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    found = {v.name: v.type.tensor_type.elem_type for v in values}
    return found | {t.name: t.data_type for t in proto.graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [zoo.FAST[0], *(pytest.param(name, marks=pytest.mark.slow) for name in zoo.NAMES[1:])]
)
def test_a_converted_model_computes_the_same_with_fp32_ends(name: str) -> None:
    """A CNN of odd channel counts, a residual net, a segmentation net and MiniLM, all of them cut."""
    if name == "minilm" and not zoo.has_minilm:
        pytest.skip("the weights of MiniLM are not installed")
    model = zoo.pruned(name)
    content = export_onnx(model.module, model.example_inputs, model.input_names)
    half = to_half(content)
    held = [tensor.numpy() for tensor in model.held]
    expected, found = run(content, held), run(half.content, held)
    assert [x.dtype for x in found] == [np.float32] * len(found)
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() < 0.02 * np.abs(one).max() + 0.01
        cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine > 0.9999
    assert len(half.content) < 0.6 * len(content)
    ends = {v.name for v in onnx.load_model_from_string(content).graph.input}
    inside = {kind for tensor, kind in types(half.content).items() if tensor not in ends}
    assert TensorProto.FLOAT16 in inside


@pytest.mark.slow
def test_only_the_slots_that_know_no_fp16_stay_fp32() -> None:
    """Resize takes its scales in fp32 and its image in fp16."""
    proto = onnx.load_model_from_string(to_half(exported(resizing(), IMAGE)).content)
    kinds = types(proto.SerializeToString())
    (resize,) = [node for node in proto.graph.node if node.op_type == "Resize"]
    assert [kinds[resize.input[0]], kinds[resize.input[2]]] == [10, 1]
    assert kinds[resize.output[0]] == TensorProto.FLOAT16


@pytest.mark.slow
def test_named_layers_compute_in_fp32_between_casts() -> None:
    """A module by its dotted name; its weight is there in fp32 and nowhere in fp16."""
    content = exported(resizing(), IMAGE)
    half = to_half(content, keep=["3"])
    kinds = types(half.content)
    weights = [name for name in kinds if name.startswith("model.3.weight")]
    assert [kinds[name] for name in weights] == [TensorProto.FLOAT]
    (expected,), (found,) = (run(one, [IMAGE.numpy()]) for one in (content, half.content))
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.slow
def test_a_pattern_that_fits_no_layer_is_refused() -> None:
    """A misspelt layer would otherwise be converted in silence."""
    with pytest.raises(BuildError, match="no layer of the exported model is called 'head'"):
        to_half(exported(resizing(), IMAGE), keep=["head"])


@pytest.mark.slow
def test_an_overflowing_weight_is_refused_by_name_and_can_be_kept() -> None:
    """70000 has no fp16; kept in fp32 the layer computes what it did."""
    net = resizing()
    with torch.no_grad():
        net[6].weight[0, 0] = 70_000.0
    content = exported(net, IMAGE)
    with pytest.raises(BuildError, match=r"model\.6\.weight.*7e\+04.*65504"):
        to_half(content)
    (expected,), (found,) = (
        run(one, [IMAGE.numpy()]) for one in (content, to_half(content, keep=["6"]).content)
    )
    # The column of that weight too: what the last layer computes is the model's output, in fp32.
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)


class Peak(nn.Module):
    """What its middle layer makes has no fp16; its last one brings that back into bounds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.up, self.down = (nn.Linear(8, 8) for _ in range(3))
        self.after = nn.Linear(8, 4)
        with torch.no_grad():
            self.up.weight *= 1e6
            self.down.weight *= 1e-6
            self.up.weight.clamp_(-6e4, 6e4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        high = self.up(torch.tanh(self.before(x)))
        return self.after(torch.tanh(self.down(high))), high


@pytest.mark.slow
def test_layers_kept_in_fp32_hand_fp32_to_each_other_and_out() -> None:
    """An overflow between two of them is cured, and the large tensor that is an output besides is whole."""
    x = 3 * torch.randn(16, 8, generator=torch.Generator().manual_seed(3))
    content = exported(Peak().eval(), x)
    expected = run(content, [x.numpy()])
    assert np.abs(expected[1]).max() > 65504
    with pytest.raises(BuildError, match="up"):
        refuse_overflow(content, [[x.numpy()]])
    # Kept alone it hands its numbers to a layer in fp16: that one is named.
    with pytest.raises(BuildError, match="down"):
        refuse_overflow(content, [[x.numpy()]], keep=["up"])
    assert refuse_overflow(content, [[x.numpy()]], keep=["up", "down"]) < 65504
    half = to_half(content, keep=["up", "down"]).content
    for found, whole in zip(run(half, [x.numpy()]), expected, strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-2, atol=1e-2 * np.abs(whole).max())


@pytest.mark.slow
def test_a_first_layer_kept_in_fp32_reads_the_input_itself() -> None:
    """Numbers of the input that have no fp16 reach it."""
    x = 1e6 * torch.randn(4, 8, generator=torch.Generator().manual_seed(4))
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        net[0].weight *= 1e-6
    content = exported(net, x)
    (expected,), (found,) = (
        run(one, [x.numpy()]) for one in (content, to_half(content, keep=["0"]).content)
    )
    np.testing.assert_allclose(found, expected, atol=1e-2)


@pytest.mark.slow
def test_an_overflow_on_real_inputs_names_the_layer() -> None:
    """Weights fit and what they compute does not: only real inputs show it."""
    net = resizing()
    with torch.no_grad():
        net[6].weight.mul_(1e5 / 4)
    content = exported(net, IMAGE)
    with pytest.raises(BuildError, match=r"\b6 \(|6/Gemm") as caught:
        refuse_overflow(content, [[100 * IMAGE.numpy()]])
    assert "float_layers" in caught.value.fix
    # Kept in fp32 nothing overflows, and the layers before it compute numbers that fit.
    assert refuse_overflow(content, [[100 * IMAGE.numpy()]], keep=["6"]) < 65504


@pytest.mark.slow
def test_the_whole_batch_is_looked_at() -> None:
    """The one bad example is the last of twenty, in the second batch."""
    inputs = np.tile(IMAGE.numpy()[:1], (20, 1, 1, 1))
    inputs[-1] *= 1e7
    with pytest.raises(BuildError, match="fp16 cannot hold"):
        refuse_overflow(exported(resizing(), IMAGE), [[IMAGE.numpy()], [inputs]])


class Masked(nn.Module):
    """Attention over the tokens that a mask leaves, by the lowest number of fp32, as transformers do."""

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        lowest = (1.0 - mask) * torch.finfo(torch.float32).min
        return torch.softmax(scores + lowest, dim=-1)


@pytest.mark.slow
def test_a_mask_of_the_lowest_number_stays_a_mask() -> None:
    """It is no overflow, and no infinity times zero either."""
    # What is added to the mask must not push it over the edge.
    scores, mask = 40 * torch.randn(2, 5), torch.tensor([[1.0, 1, 0, 0, 1], [1, 0, 1, 1, 1]])
    content = exported(Masked(), scores, mask)
    assert refuse_overflow(content, [[scores.numpy(), mask.numpy()]]) <= 65504
    half = to_half(content)
    assert any("stand for infinity" in note for note in half.notes)
    (found,) = run(half.content, [scores.numpy(), mask.numpy()])
    np.testing.assert_allclose(found, Masked()(scores, mask).numpy(), atol=2e-3)
    assert (found[0, 2:4] == 0).all()


def test_an_input_that_is_read_twice_and_an_output_that_is_read_again() -> None:
    """Both ends are cast once, and whoever reads them inside reads fp16."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"], name="add"),
            helper.make_node("Relu", ["y"], ["z"], name="relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in "yz"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.array([[1.0, -2.0, 3.0]], np.float32)
    y, z = run(to_half(model.SerializeToString()).content, [x])
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(z, np.maximum(2 * x, 0))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(min_value=-65000, max_value=65000, width=32), min_size=3, max_size=3).filter(
        lambda values: all(value == 0 or abs(value) > 1e-4 for value in values)
    )
)
def test_converted_constants_are_the_nearest_fp16(values: list[float]) -> None:
    """Adding a constant to zero gives the constant, rounded once."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array(values, np.float32), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (found,) = run(to_half(model.SerializeToString()).content, [np.zeros((1, 3), np.float32)])
    np.testing.assert_array_equal(found[0], np.array(values, np.float16).astype(np.float32))


def test_control_flow_is_refused_by_name() -> None:
    """A loop holds a graph of its own."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "If", ["c"], ["y"], name="choose", then_branch=branch, else_branch=branch
            )
        ],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(BuildError, match=r"the operator If \(choose\)"):
        to_half(model.SerializeToString())
