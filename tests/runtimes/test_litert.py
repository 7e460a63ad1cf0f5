"""LiteRT without its converter: sessions, damaged files, ranges, the names of layers, what may go wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.runtimes import litert_build
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.litert import LiteRt
from reprune.runtimes.litert_check import CheckSpec, check
from reprune.runtimes.litert_convert import ConvertSpec, convert, explained
from reprune.runtimes.litert_layers import layers_of
from reprune.runtimes.litert_ranges import ranges_of
from reprune.runtimes.tflite_file import TfliteModel, TfliteOperator, TfliteTensor, read_tflite
from reprune.runtimes.torch_program import export_program
from tests import tflite_files as made

TARGET = Target(runtime="litert")


def adding(batch: int = 2) -> bytes:
    """Adds 1, 2, 3 to the last dimension."""
    return made.tflite(
        [
            made.Tensor("x", (batch, 3)),
            made.Tensor("c", (3,), values=[1, 2, 3]),
            made.Tensor("y", (batch, 3)),
        ],
        [made.operator("ADD", [0, 1], [2], options=schema.AddOptionsT())],
        inputs=[0],
        outputs=[2],
    )


def reshaping(kind: str, scale: float = 0.0, zero: int = 0) -> bytes:
    """(1, 4) -> (1, 2, 2), as stored."""
    scales = (scale,) if scale else ()
    return made.tflite(
        [
            made.Tensor("x", (1, 4), kind, scales, zero),
            made.Tensor("s", (3,), "INT32", values=[1, 2, 2]),
            made.Tensor("y", (1, 2, 2), kind, scales, zero),
        ],
        [made.operator("RESHAPE", [0, 1], [2], options=schema.ReshapeOptionsT())],
        inputs=[0],
        outputs=[2],
    )


def engine(folder: Path, content: bytes) -> Path:
    path = folder / "net.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_number_of_examples_runs_on_a_fixed_batch_size(tmp_path: Path, count: int) -> None:
    x = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    (found,) = LiteRt().open(engine(tmp_path, adding()), TARGET).run([x])
    assert np.array_equal(found, x + np.array([1, 2, 3], np.float32))


def test_two_sessions_share_nothing(tmp_path: Path) -> None:
    path = engine(tmp_path, adding())
    one, other = LiteRt().open(path, TARGET), LiteRt().open(path, TARGET)
    (first,) = one.run([np.zeros((2, 3), np.float32)])
    other.run([np.full((2, 3), 9.0, np.float32)])
    assert first.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_an_int8_engine_takes_and_gives_floats(tmp_path: Path) -> None:
    session = LiteRt().open(engine(tmp_path, reshaping("INT8", 0.5, -3)), TARGET)
    (found,) = session.run([np.array([[0.0, 0.26, -1.1, 1000.0]], np.float32)])
    assert found.dtype == np.float32
    assert found.tolist() == [[[0.0, 0.5], [-1.0, 65.0]]]


def test_numbers_are_narrowed_and_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    session = LiteRt().open(engine(tmp_path, reshaping("INT32")), TARGET)
    (found,) = session.run([np.array([[1, 2, 3, 4]], np.int64)])
    assert found.tolist() == [[[1, 2], [3, 4]]]
    with pytest.raises(BuildError, match="holds numbers up to 2147483647"):
        session.run([np.array([[1, 2, 3, 2**31]], np.int64)])


@pytest.mark.parametrize("shape", [(2, 4), (2,), (0, 3), (2, 3, 1)])
def test_inputs_of_another_form_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    session = LiteRt().open(engine(tmp_path, adding()), TARGET)
    with pytest.raises(BuildError, match="does not run on these inputs"):
        session.run([np.zeros(shape, np.float32)])


@pytest.mark.parametrize("content", [b"", b"hello" * 99, adding()[:200], adding()[:-40]], ids=len)
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BuildError, match=r"net\.tflite: LiteRT cannot load it"):
        LiteRt().open(engine(tmp_path, content), TARGET)
    with pytest.raises(BuildError, match="this"):
        read_tflite(content, where="net.tflite")


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be read"):
        LiteRt().open(tmp_path / "net.tflite", TARGET)


def test_an_operator_that_nobody_knows_is_named(tmp_path: Path) -> None:
    content = made.tflite(
        [made.Tensor("x", (1, 4)), made.Tensor("y", (1, 4))],
        [made.operator("CUSTOM", [0], [1], custom="Whatever")],
        inputs=[0],
        outputs=[1],
    )
    assert [one.name for one in read_tflite(content, where="").operators] == ["CUSTOM Whatever"]
    with pytest.raises(BuildError, match="Whatever"):
        LiteRt().open(engine(tmp_path, content), TARGET)


def test_running_loads_no_torch(tmp_path: Path) -> None:
    path = engine(tmp_path, adding())
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from reprune.core.params import Target\n"
        "from reprune.runtimes.base import get_runtime\n"
        "runtime = get_runtime('litert'); assert 'ai_edge_litert' not in sys.modules\n"
        f"runtime.open(Path({str(path)!r}), Target()).run([numpy.zeros((1, 3), numpy.float32)])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_check_tells_the_shapes_and_what_cannot_be_loaded(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"0": np.zeros((2, 3), np.float32)}, tmp_path / "x.safetensors")
    path = engine(tmp_path, adding())
    spec = CheckSpec(engine=str(path), name="net", inputs=str(tmp_path / "x.safetensors"))
    assert check(spec).outputs == ((2, 3),)
    path.write_bytes(b"nothing")
    with pytest.raises(BuildError, match="net: LiteRT cannot load it"):
        check(spec)


# --- ranges ---------------------------------------------------------------------------------------


def test_ranges_are_the_least_and_largest_and_hold_zero() -> None:
    batches = [[np.full((2, 3), value, np.float32)] for value in (5.0, 7.0)]
    found = ranges_of(adding(), batches, "minmax")
    assert found["x"] == (0.0, 7.0, 2)
    assert found["y"] == (0.0, 10.0, 2)
    assert "c" not in found


def test_percentiles_leave_out_a_rare_outlier_and_nothing_else() -> None:
    values = np.linspace(-1.0, 1.0, 60_000, dtype=np.float32).reshape(-1, 3)
    values[0, 0] = 3.0
    whole = ranges_of(adding(20_000), [[values]], "minmax")["x"]
    cut = ranges_of(adding(20_000), [[values]], "percentile")["x"]
    assert whole.high == 3.0
    step = (whole.high - whole.low) / 2048
    assert cut.high == pytest.approx(1.0, abs=2 * step)
    assert cut.low == pytest.approx(-1.0, abs=2 * step)


def test_ranges_need_examples_that_are_finite() -> None:
    with pytest.raises(BuildError, match="needs calibration examples"):
        ranges_of(adding(), [], "minmax")
    with pytest.raises(BuildError, match="x is not finite"):
        ranges_of(adding(), [[np.full((2, 3), np.inf, np.float32)]], "minmax")


# --- the names of layers --------------------------------------------------------------------------


def product(output: str, weight: str = "w", bias: str = "b") -> TfliteOperator:
    def tensor(name: str, constant_bytes: int = 0) -> TfliteTensor:
        return TfliteTensor(
            name=name, type="FLOAT32", shape=(1,), constant_bytes=constant_bytes, scales=0
        )

    return TfliteOperator(
        name="FULLY_CONNECTED",
        version=1,
        inputs=(tensor("query;"), tensor(weight, 4), tensor(bias, 4)),
        outputs=(tensor(output),),
        knobs={},
    )


def graph(*operators: TfliteOperator) -> TfliteModel:
    return TfliteModel(inputs=(), outputs=(), operators=operators, graphs=1)


def test_fused_operators_find_their_own_module() -> None:
    model = graph(
        product("norm;;query;1"),
        product("norm;;key;;query;1"),
        product("norm;;value;;query;1"),
        product("serving_default_output_0_output", weight="head;1", bias="head;"),
    )
    assert layers_of(model, ["query", "key", "value", "head"]) == {
        "query": ("norm;;query;1",),
        "key": ("norm;;key;;query;1",),
        "value": ("norm;;value;;query;1",),
        "head": ("serving_default_output_0_output",),
    }


def test_a_module_that_runs_twice_has_two_operators() -> None:
    model = graph(product("same;1"), product("same;2"))
    assert layers_of(model, ["same"]) == {"same": ("same;1", "same;2")}


def test_modules_that_cannot_be_told_apart_are_not_named() -> None:
    assert layers_of(graph(product("a;;b;1"), product("a;;b;2")), ["a", "b"]) == {}


@given(st.permutations(["a", "b", "c", "d"]), st.data())
def test_every_layer_that_is_named_owns_its_operators_alone(
    names: list[str], data: st.DataObject
) -> None:
    subsets = st.lists(st.sampled_from(names), min_size=1, unique=True)
    operators = [
        product(f"{';;'.join(data.draw(subsets))};{number}", "w", "w") for number in range(4)
    ]
    found = layers_of(graph(*operators), names)
    tensors = [tensor for owned in found.values() for tensor in owned]
    assert len(tensors) == len(set(tensors))
    for name, owned in found.items():
        assert all(name in tensor.rpartition(";")[0].split(";;") for tensor in owned)


# --- what may go wrong ----------------------------------------------------------------------------

converts_elsewhere = pytest.mark.skipif(
    find_spec("litert_torch") is not None, reason="this environment has litert-torch itself"
)


def small() -> Source:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
    inputs = (torch.randn(4, 3, 8, 8),)
    return Source(
        module=module, example_inputs=inputs, input_names=("image",), calibration=[inputs]
    )


def script(folder: Path, text: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@converts_elsewhere
def test_a_missing_environment_is_named_with_the_way_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        LiteRt().build(small(), TARGET, tmp_path / "net.tflite")
    assert "python -m venv .venv-litert" in caught.value.fix
    assert "reprune[litert-convert]" in caught.value.fix
    assert "python:" in caught.value.fix
    assert not (tmp_path / "net.tflite").exists()


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    target = Target(runtime="litert", python="/nowhere/python")
    with pytest.raises(BuildError, match="/nowhere/python"):
        LiteRt().build(small(), target, tmp_path / "net.tflite")


def test_a_converter_that_crashes_is_a_clear_error(tmp_path: Path) -> None:
    target = Target(runtime="litert", python=script(tmp_path, "kill -SEGV $$"))
    with pytest.raises(RepruneError, match="converting to LiteRT was killed by signal 11"):
        LiteRt().build(small(), target, tmp_path / "net.tflite")
    assert not (tmp_path / "net.tflite").exists()


def test_a_converter_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert_build, "CONVERTING_SECONDS", 0.3)
    target = Target(runtime="litert", python=script(tmp_path, "exec sleep 60"))
    with pytest.raises(RepruneError, match="did not end within"):
        LiteRt().build(small(), target, tmp_path / "net.tflite")


@pytest.mark.slow
@converts_elsewhere
def test_an_environment_without_the_converter_says_what_to_install(tmp_path: Path) -> None:
    target = Target(runtime="litert", python=sys.executable)
    with pytest.raises(BuildError, match=r"litert_torch[\s\S]*reprune\[litert-convert\]"):
        LiteRt().build(small(), target, tmp_path / "net.tflite")


def test_another_version_of_torch_is_refused(tmp_path: Path) -> None:
    spec = ConvertSpec(program="", torch="1.0.0", destination=str(tmp_path / "net.tflite"))
    with pytest.raises(BuildError, match=r"written by torch 1\.0\.0"):
        convert(spec)


def test_the_operator_that_cannot_be_converted_is_named() -> None:
    missing = RuntimeError("Lowering not found: aten.i0.default\n\nWhile executing %i0 : ...")
    assert "the operator aten.i0.default cannot" in explained(missing).what
    within = RuntimeError(
        "Unsupported ir element type: complex<f32>\n\nWhile executing %v : "
        "call_function[target=torch.ops.aten.view_as_real.default](args = (%x,), kwargs = {})"
    )
    assert "aten.view_as_real.default" in explained(within).what
    assert "complex<f32>" in explained(within).what


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "dynamic"}, "did you mean 'activations'"),
        ({"io": "int4"}, "the option io of litert is no"),
    ],
)
def test_unknown_options_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    target = Target(runtime="litert", options=options)
    with pytest.raises(BuildError, match=message):
        LiteRt().build(small(), target, tmp_path / "net.tflite")


def test_a_model_that_is_no_graph_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    source = Source(module=Branching(), example_inputs=(torch.randn(2, 3),), input_names=("x",))
    with pytest.raises(BuildError, match="cannot be written as a graph"):
        export_program(source, 1)
    with pytest.raises(BuildError, match="names 2 inputs and gives 1"):
        export_program(
            Source(
                module=nn.Identity(),
                example_inputs=(torch.randn(2, 3),),
                input_names=("x", "y"),
            ),
            1,
        )


def test_it_is_registered_and_says_what_it_can() -> None:
    runtime = get_runtime("litert")
    assert runtime.suffix == ".tflite"
    assert "int8" in runtime.capabilities.precisions
    assert not runtime.capabilities.dynamic_batch
    assert runtime.version().split(".")[0].isdigit()
    assert runtime.binding(TARGET) == {}
