"""Padded shortcuts become convolutions where that is exact, and nothing else is touched."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from reprune.core.params import Target
from reprune.runtimes.base import Source
from reprune.runtimes.onnx_rewrite import rewrite
from reprune.runtimes.onnxruntime import OnnxRuntime
from tests import models

END = np.iinfo(np.int64).max


def shortcut(channels, pads, slices, *, size=(7, 6), value=None, mode="constant", more=()):
    """image -> slices (axis, step, start) -> Pad -> out, as the exporter writes it."""
    constants, nodes, name = [], [], "image"

    def constant(label, numbers, dtype=np.int64):
        constants.append(numpy_helper.from_array(np.asarray(numbers, dtype=dtype), label))
        return label

    for number, (axis, step, start) in enumerate(slices):
        given = [
            constant(f"{part}{number}", [one])
            for part, one in (("start", start), ("end", END), ("axis", axis), ("step", step))
        ]
        nodes.append(helper.make_node("Slice", [name, *given], [f"cut{number}"]))
        name = f"cut{number}"
    padding = [name, constant("pads", pads)]
    if value is not None:
        padding.append(constant("value", value, np.float32))
    nodes.append(helper.make_node("Pad", padding, ["out"], mode=mode))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, *size])
    outputs = [
        helper.make_tensor_value_info(label, TensorProto.FLOAT, None) for label in ("out", *more)
    ]
    graph = helper.make_graph(nodes, "shortcut", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def channel_pads(before, after):
    return [0, before, 0, 0, 0, after, 0, 0]


def operators(content):
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


def run(content, image):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 5),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    slices=st.sampled_from([((2, 2), (3, 2)), ((3, 3), (2, 2)), ((2, 2),), ((3, 1), (2, 4))]),
)
def test_the_rewritten_graph_gives_the_same_bits(channels, before, after, size, slices):
    slices = [(axis, step, 0) for axis, step in slices]
    content = shortcut(channels, channel_pads(before, after), slices, size=size)
    changed = rewrite(content)
    assert operators(changed) == ["Conv"]
    image = np.random.default_rng(0).standard_normal((2, channels, *size)).astype(np.float32)
    for before_it, after_it in zip(run(content, image), run(changed, image), strict=True):
        np.testing.assert_array_equal(before_it, after_it)


def test_nothing_of_the_old_parts_is_left_behind():
    graph = onnx.load_model_from_string(rewrite(usual())).graph
    assert [tensor.name for tensor in graph.initializer] == ["out_shortcut_weight"]
    assert not {value.name for value in graph.value_info} & {"cut0", "cut1"}


def usual(**more):
    return shortcut(4, channel_pads(2, 2), [(2, 2, 0), (3, 2, 0)], **more)


UNTOUCHED = {
    "begins at the second pixel": lambda: shortcut(4, channel_pads(2, 2), [(2, 2, 1)]),
    "is no shortcut: every pixel stays": lambda: shortcut(4, channel_pads(2, 2), []),
    "slices channels": lambda: shortcut(4, channel_pads(2, 2), [(1, 2, 0)]),
    "slices an axis twice": lambda: shortcut(4, channel_pads(2, 2), [(2, 2, 0), (2, 2, 0)], size=(9, 9)),
    "pads pixels": lambda: shortcut(4, [0, 2, 1, 0, 0, 2, 0, 0], [(2, 2, 0)]),
    "takes channels away": lambda: shortcut(4, channel_pads(-1, 2), [(2, 2, 0)]),
    "pads with ones": lambda: usual(value=1.0),
    "repeats the edge": lambda: usual(mode="edge"),
    "is read elsewhere": lambda: usual(more=("cut1",)),
    "does not know its channels": lambda: shortcut("c", channel_pads(2, 2), [(2, 2, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(UNTOUCHED))
def test_what_is_not_wholly_such_a_shortcut_keeps_its_bytes(name):
    content = UNTOUCHED[name]()
    if name == "slices an axis twice":  # the part behind the first slice is one
        assert operators(rewrite(content)) == ["Slice", "Conv"]
    else:
        assert rewrite(content) == content


def test_padding_with_an_explicit_zero_is_the_same():
    assert operators(rewrite(usual(value=0.0))) == ["Conv"]


@pytest.mark.slow
def test_an_exported_resnet_with_option_a_has_no_slice_or_pad_left(tmp_path):
    module = models.build("resnet-a", seed=0)
    inputs = models.inputs("resnet-a", 3)
    engine = tmp_path / "engine.onnx"
    OnnxRuntime().build(
        Source(module=module, example_inputs=inputs, input_names=["image"]), Target(), engine
    )
    assert not {"Slice", "Pad"} & set(operators(engine.read_bytes()))
    with torch.no_grad():
        expected = module.eval()(*inputs).numpy()
    found = OnnxRuntime().open(engine, Target()).run([inputs[0].numpy()])[0]
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1.0, abs(expected).max()))
