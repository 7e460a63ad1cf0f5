"""TensorRT: real builds by TensorRT-RTX without a GPU, errors that name things, and the names in use."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.runtimes import tensorrt_build
from reprune.runtimes.base import (
    Compiling,
    DeviceTimed,
    NvidiaRuntime,
    Quantising,
    Source,
    get_runtime,
)
from reprune.runtimes.cuda import gpu_count
from reprune.runtimes.isolated import compile_isolated
from reprune.runtimes.tensorrt import RTX, TensorRT
from tests import zoo

RUNTIMES_FOLDER = Path(tensorrt_build.__file__).parent
NAMES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text(encoding="utf-8"))
# What CI converts of the larger models; the rest is deep.
HARDEST = {("residual", "int8-fp16"), ("segmentation", "fp16"), ("minilm", "int8-fp16")}
FULL_VERSIONS = ("10.16.1.11", "11.4.0.106")
RTX_VERSION = "rtx-1.7.1.116"
without_gpu = pytest.mark.skipif(gpu_count() > 0, reason="this machine has a CUDA device")


def rtx_target(precision: str = "fp32", **more: object) -> Target:
    return Target(runtime="tensorrt-rtx", precision=precision, batch_size=4, **more)


def source(model: zoo.ZooModel, **more: object) -> Source:
    return Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        calibration=model.calibration,
        **more,
    )


def plain(module: nn.Module, *inputs: Tensor) -> Source:
    return Source(module=module.eval(), example_inputs=inputs, input_names=["x"])


# --- building for real, ahead of time -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8-fp16"])
def test_a_cut_net_becomes_an_engine_without_a_gpu(precision: str, tmp_path: Path) -> None:
    """Parsed and built by the real library, in a process of its own."""
    engine = tmp_path / "net.engine"
    fact = get_runtime("tensorrt-rtx").build(
        source(zoo.pruned("odd-cnn")), rtx_target(precision), engine
    )
    assert engine.stat().st_size > 10_000
    assert fact.details["TensorRT"] == get_runtime("tensorrt-rtx").version()
    assert int(fact.details["network layers"]) > 5
    assert ("largest value in fp16" in fact.details) == (precision != "fp32")
    assert ("quantised layers" in fact.details) == (precision != "fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.engine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(*pair, marks=[] if pair in HARDEST else pytest.mark.deep)
        for pair in itertools.product(
            ("residual", "segmentation", "minilm"), ("fp32", "fp16", "int8", "int8-fp16")
        )
    ],
)
def test_every_model_of_the_zoo_becomes_an_engine(
    name: str, precision: str, tmp_path: Path
) -> None:
    """A residual net, a segmentation net and MiniLM, all of them cut."""
    if name == "minilm" and not zoo.has_minilm:
        pytest.skip("the weights of MiniLM are not installed")
    engine = tmp_path / "net.engine"
    get_runtime("tensorrt-rtx").build(source(zoo.pruned(name)), rtx_target(precision), engine)
    assert engine.stat().st_size > 100_000


@pytest.mark.slow
def test_int8_in_fp16_is_symmetric_and_computes_what_the_module_does(tmp_path: Path) -> None:
    """What the builder is given, run by ONNX Runtime: TensorRT takes no zero points."""
    model, runtime = zoo.pruned("odd-cnn"), get_runtime("tensorrt-rtx")
    assert isinstance(runtime, Compiling)
    assert isinstance(runtime, Quantising)
    runtime.prepare(source(model), rtx_target("int8-fp16"), tmp_path)
    proto = onnx.load(tmp_path / "model.onnx")
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    pairs = [n for n in proto.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    scales = {held[node.input[1]].dtype for node in pairs}
    points = [held[node.input[2]] for node in pairs if len(node.input) > 2]
    assert len(pairs) >= 10
    assert scales == {np.dtype(np.float16)}
    assert not any(point.any() for point in points)
    assert all(point.dtype == np.int8 for point in points)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    (found,) = session.run(None, {"image": model.held[0].numpy()})
    with torch.no_grad():
        expected = model.module(*model.held).numpy()
    assert (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected) > 0.995
    assert set(runtime.quantisable(source(model), rtx_target("int8-fp16"))) >= {"head"}
    assert runtime.quantisable(source(model), rtx_target("fp16")) == ()


def prepared(folder: Path, content: bytes, sparsity: str = "") -> Path:
    """What `prepare` leaves."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "source.json").write_text(json.dumps({"sparsity": sparsity}))
    return folder


def gemm() -> bytes:
    """One product with a weight of 2:4 zeros."""
    weight = np.tile(np.array([[1.0], [2.0], [0.0], [0.0]], np.float32), (2, 8))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.slow
def test_an_engine_for_another_compute_capability(tmp_path: Path) -> None:
    """Named ones only, and the error lists them."""
    folder = prepared(tmp_path / "p", gemm())
    known, unknown = (rtx_target(options={"compute_capability": one}) for one in ("8.6", "9.0"))
    compile_isolated(known, folder, tmp_path / "net.engine", seconds=120)
    with pytest.raises(BuildError, match=r"no compute capability 9\.0(.|\n)*SM86"):
        compile_isolated(unknown, folder, tmp_path / "no.engine", seconds=120)
    assert not (tmp_path / "no.engine").exists()


class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.det(x)


@pytest.mark.slow
def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    """ONNX knows the determinant, TensorRT does not."""
    with pytest.raises(BuildError, match="operator Det of the layer") as caught:
        get_runtime("tensorrt-rtx").build(
            plain(Determinant(), torch.randn(2, 3, 3)), rtx_target(), tmp_path / "net.engine"
        )
    assert "replace the operator" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a\x12"])
def test_a_corrupt_model_is_an_error_and_no_crash(content: bytes, tmp_path: Path) -> None:
    """Some parsers fall over what they half read: this one is not even asked."""
    with pytest.raises(BuildError, match="no ONNX model"):
        compile_isolated(
            rtx_target(), prepared(tmp_path / "p", content), tmp_path / "e", seconds=60
        )


def test_open_dimensions_besides_the_batch_are_refused(tmp_path: Path) -> None:
    """No profile could be made for them: the input is named."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["text"], ["y"])],
        "g",
        [helper.make_tensor_value_info("text", TensorProto.FLOAT, ["batch", "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder = prepared(tmp_path / "p", model.SerializeToString())
    with pytest.raises(BuildError, match="input 'text' has open dimensions"):
        compile_isolated(rtx_target(), folder, tmp_path / "e", seconds=60)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workspace": 3}, "workspace"),
        ({"workspace_mb": 0}, "workspace_mb"),
        ({"tf32": "x"}, "tf32"),
    ],
)
def test_unknown_options_are_refused_before_anything_is_built(
    options: dict[str, object], said: str, tmp_path: Path
) -> None:
    """With the list of those that there are."""
    net = plain(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(BuildError, match=said) as caught:
        get_runtime("tensorrt-rtx").build(net, rtx_target(options=options), tmp_path / "e")
    assert "builder_optimization_level" in caught.value.fix


@pytest.mark.slow
def test_an_overflow_stops_before_the_builder(tmp_path: Path) -> None:
    """A weight that has no fp16 names its layer; kept in fp32 by name, it builds."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight[0, 0] = 1e5
    given = plain(net, torch.zeros(2, 4))
    runtime = get_runtime("tensorrt-rtx")
    assert isinstance(runtime, Compiling)
    with pytest.raises(BuildError, match=r"model\.1\.weight"):
        runtime.prepare(given, rtx_target("fp16"), tmp_path)
    runtime.prepare(given, rtx_target("fp16", float_layers=("1",)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_sparsity_that_no_kernel_was_picked_for_is_not_claimed(
    pattern: str, tmp_path: Path
) -> None:
    """Without a device nothing is timed, so nothing is picked; the flag alone makes no use of zeros."""
    folder = prepared(tmp_path / "p", gemm(), pattern)
    assert compile_isolated(rtx_target(), folder, tmp_path / "e", seconds=120).sparsity == ""


# --- what the builder says ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "used", "layers"),
    [
        (
            "(Sparsity) TRT inference plan picked sparse implementation for layers: conv1, conv2",
            1,
            2,
        ),
        ("(Sparsity) TRT inference plan picked sparse implementation for layers:", 0, 0),
        ("(Sparsity) Chose 1 layer(s) using sparse tactics: conv7", 1, 1),
        ("(Sparsity) Chose 0 layer(s) using sparse tactics: ", 0, 0),
        ("(Sparsity) Found 3 layer(s) eligible to use sparse tactics: a, b, c", 0, 0),
    ],
)
def test_the_log_says_whether_sparsity_was_used(words: str, used: int, layers: int) -> None:
    """Eligible is not chosen."""
    log = tensorrt_build.Log(messages=[("INFO", "Loaded engine"), ("INFO", words)])
    found, named = tensorrt_build.sparse_layers(log)
    assert found == bool(used)
    assert len([layer for layer in named.split(",") if layer.strip()]) == layers


DLA_LOG = """---------- Layers Running on DLA ----------
[DlaLayer] {ForeignNode[/cnn/cnn.0/Conv.../cnn/cnn.11/Relu]}
---------- Layers Running on GPU ----------
[GpuLayer] POOLING: /pool/GlobalAveragePool
[GpuLayer] SHUFFLE: reshape_after_/linear/Gemm"""


def test_layers_that_fall_back_to_the_gpu_are_counted_and_bounded() -> None:
    """By name, and more than the target allows are an error."""
    log = tensorrt_build.Log(messages=[("INFO", line) for line in DLA_LOG.splitlines()])
    assert tensorrt_build.fallback_layers(log) == [
        "POOLING: /pool/GlobalAveragePool",
        "SHUFFLE: reshape_after_/linear/Gemm",
    ]
    target = Target(runtime="tensorrt", device="dla:0", precision="fp16")
    order = tensorrt_build.Order(content=b"", target=target)
    fact = tensorrt_build._fact(order, log, (), {})
    assert fact.fallbacks == 2
    strict = Target(
        runtime="tensorrt", device="dla:0", precision="fp16", options={"max_fallbacks": 1}
    )
    with pytest.raises(BuildError, match=r"2 layers fall back(.|\n)*GlobalAveragePool"):
        tensorrt_build._fact(tensorrt_build.Order(content=b"", target=strict), log, (), {})


@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype"])
def test_the_inspector_of_both_versions_is_summed_up(key: str) -> None:
    """10 and 11 write a tensor's type under different names."""
    layers = [
        {"Name": "a", "LayerType": "CaskConvolution", "Outputs": [{key: "Int8"}]},
        {"Name": "b", "LayerType": "CaskConvolution", "Outputs": [{key: "Row major linear FP16"}]},
        {"Name": "c", "LayerType": "Reformat", "Outputs": [{key: "Half"}]},
    ]
    found = tensorrt_build.inspected(json.dumps({"Layers": layers, "Bindings": []}))
    assert found == {
        "engine layers": "3",
        "outputs by type": "fp16 2, int8 1",
        "layers by kind": "CaskConvolution 2, Reformat 1",
    }
    assert tensorrt_build.inspected(json.dumps({"Layers": ["a", "b"]}))["engine layers"] == "2"
    assert tensorrt_build.inspected("") == {}


def refusing(logger: object) -> object:
    raise TypeError("pybind11::init(): factory function returned nullptr")


@pytest.mark.parametrize("kind", [refusing, lambda logger: None])
def test_a_type_error_and_none_both_mean_that_there_is_no_device(kind: object) -> None:
    """TensorRT says it in either way, and its log says why."""
    log = tensorrt_build.Log(messages=[("ERROR", "CUDA initialization failure with error: 35")])
    with pytest.raises(BuildError, match=r"no usable CUDA device.*error: 35"):
        tensorrt_build.made_by(kind, object(), log)


# --- without a device ---------------------------------------------------------------------------


@without_gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_a_driver_opening_is_an_error_that_says_what_to_do(
    name: str, tmp_path: Path
) -> None:
    """Nothing of TensorRT is created, so nothing can crash."""
    (tmp_path / "net.engine").write_bytes(b"a plan")
    with pytest.raises(BuildError, match="no CUDA device") as caught:
        get_runtime(name).open(tmp_path / "net.engine", Target(runtime=name))
    assert "nvidia-smi" in caught.value.fix
    assert caught.value.exit_code == 2


@without_gpu
def test_without_a_driver_the_full_library_is_not_even_imported(tmp_path: Path) -> None:
    """The error comes before the export, before the import and before a child process."""
    net = plain(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(BuildError, match="no CUDA device"):
        get_runtime("tensorrt").build(net, Target(runtime="tensorrt"), tmp_path / "e")
    with pytest.raises(BuildError, match="no CUDA device"):
        get_runtime("tensorrt").binding(Target(runtime="tensorrt"))


def test_importing_the_runtime_loads_neither_torch_nor_tensorrt_nor_cuda() -> None:
    """What is timed is the runtime alone."""
    code = (
        "import sys; from reprune.runtimes.base import get_runtime; get_runtime('tensorrt');"
        "print([n for n in ('torch', 'tensorrt_rtx_bindings', 'tensorrt', 'cuda.bindings', 'onnx') "
        "if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_runtimes_promise() -> None:
    """A DLA and used sparsity are of the full library alone."""
    full, rtx = get_runtime("tensorrt"), get_runtime("tensorrt-rtx")
    for runtime in (full, rtx):
        assert isinstance(runtime, Compiling)
        assert isinstance(runtime, NvidiaRuntime)
        assert runtime.capabilities.dynamic_batch is False
    assert full.capabilities.sparsity == ("2:4",)
    assert rtx.capabilities.devices == ("gpu",)
    assert TensorRT(RTX).binding(rtx_target()) == rtx.binding(rtx_target())


# --- names --------------------------------------------------------------------------------------

# What each variable of the two modules that touch TensorRT holds.
HOLDS = {
    "trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "given": "ITensor",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime": "Runtime",
    "cache": "ITimingCache",
}
FILES = ("tensorrt_build.py", "tensorrt_session.py", "tensorrt.py", "timing_cache.py")
# Of TensorRT-RTX alone, and asked for only where the library has it.
RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}


# The engine as a path, and an OSError.
OURS = {("ICudaEngine", "read_bytes"), ("ParserError", "strerror")}


def used_names() -> set[tuple[str, str]]:
    """(class, attribute) for each attribute of a TensorRT object that the source names."""
    found = set()
    for file in FILES:
        for node in ast.walk(ast.parse((RUNTIMES_FOLDER / file).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
                continue
            owner = node.value
            if isinstance(owner, ast.Attribute) and ast.unparse(owner.value) in {
                "trt",
                "self._trt",
            }:
                found.add((owner.attr, node.attr))
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            name = "trt" if name == "_trt" else name
            if name in HOLDS and ast.unparse(owner) in {name, f"self.{name}", "self._trt"}:
                found.add((HOLDS[name], node.attr))
    return found


@pytest.mark.parametrize("version", [*FULL_VERSIONS, RTX_VERSION])
def test_every_name_that_is_used_exists_in_this_version(version: str) -> None:
    """Read out of the source, so that a name which 11 has dropped cannot come back."""
    known = {kind: set(names.split()) for kind, names in NAMES[version].items()}
    used = used_names()
    if version in FULL_VERSIONS:
        used = used - RTX_ONLY
    assert {(kind, name) for kind, name in used - OURS if name not in known[kind]} == set()


def test_the_names_are_really_found() -> None:
    """An empty list would pass the test above."""
    used = used_names()
    assert ("Builder", "build_serialized_network") in used
    assert ("IExecutionContext", "execute_async_v3") in used
    assert ("BuilderFlag", "SPARSE_WEIGHTS") in used
    assert ("IBuilderConfig", "set_timing_cache") in used
    assert {kind for kind, _ in used} >= {*HOLDS.values()}
    gone = set(NAMES[FULL_VERSIONS[0]]["BuilderFlag"].split()) - set(
        NAMES[FULL_VERSIONS[1]]["BuilderFlag"].split()
    )
    assert {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"} <= gone


# --- with a device ------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(gpu_count() == 0, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", zoo.FAST)
def test_on_a_gpu_an_engine_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    """And its calls are timed by the device's clock."""
    model, engine = zoo.pruned(name), tmp_path / "net.engine"
    target = rtx_target()
    fact = get_runtime("tensorrt-rtx").build(source(model), target, engine)
    assert isinstance(fact, BuildFact)
    session = get_runtime("tensorrt-rtx").open(engine, target)
    held = [tensor.numpy() for tensor in model.held]
    (found, *_) = session.run(held)
    with torch.no_grad():
        expected = model.module(*model.held).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert isinstance(session, DeviceTimed)
    few = [array[:4] for array in held]
    assert min(session.call_ns(few, 20)) > 0
