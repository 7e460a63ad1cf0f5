"""Core ML packages: made anywhere, the same bytes each time, and holding what the module computes.

Deep: MiniLM, and the larger CNNs in the precisions that another test has.
"""

from __future__ import annotations

import datetime
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from torch import Tensor, nn

from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.policy import ParityRules
from reprune.runtimes.base import Source, cannot_run_here, get_runtime
from reprune.runtimes.coreml import CoreMl, CoreMlSession, specification
from reprune.runtimes.coreml_convert import explained
from reprune.runtimes.coreml_package import MODEL, WEIGHTS, pack, unpack
from tests import mil, models, zoo

RUNTIME = CoreMl()
off_macos = pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")


def source(model: zoo.ZooModel, sparsity: str = "") -> Source:
    return Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        sparsity=sparsity,
    )


def target(precision: str = "fp16", **options: str) -> Target:
    return Target(runtime="coreml", precision=precision, options=options)  # type: ignore[arg-type]


def built(folder: Path, made: Source, wanted: Target) -> bytes:
    path = folder / "net.mlpackage.zip"
    RUNTIME.build(made, wanted, path)
    return path.read_bytes()


def check_agrees(content: bytes, model: zoo.ZooModel, precision: str) -> None:
    """On the held examples, within the bounds that the policy has for the precision."""
    few = model.held
    with torch.no_grad():
        wanted = model.module(*few).numpy()
    (name,) = model.input_names
    found = np.concatenate(
        [mil.evaluate(content, {name: few[0][n : n + 1].numpy()})[0] for n in range(len(few[0]))]
    )
    assert found.shape == wanted.shape
    bounds = ParityRules().bounds(precision)
    cosine = float((found * wanted).sum() / np.sqrt((found**2).sum() * (wanted**2).sum()))
    answers = [one.argmax(1) if one.shape[1] > 1 else one > 0 for one in (found, wanted)]
    assert cosine >= bounds.min_cosine
    assert float((answers[0] == answers[1]).mean()) >= bounds.min_agreement
    if bounds.max_abs is not None:
        assert float(np.abs(found - wanted).max()) <= bounds.max_abs


CONSTEXPR = {"int8-weights": "constexpr_affine_dequantize", "palette4": "constexpr_lut_to_dense"}


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("fp32", "fp16", "palette4")]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8-weights", *SLOWER])
def test_a_pruned_cnn_holds_what_its_module_computes(tmp_path: Path, precision: str) -> None:
    model = zoo.pruned("odd-cnn")
    content = built(tmp_path, source(model), target(precision))
    check_agrees(content, model, precision)
    found = mil.operators(content)
    assert found.count("conv") == 4
    assert found.count(CONSTEXPR.get(precision, "none")) == {"int8-weights": 5, "palette4": 3}.get(
        precision, 0
    )
    description = specification(content).description
    assert [one.name for one in description.input] == ["image"]
    assert [one.name for one in description.output] == ["output_0"]
    assert list(description.input[0].type.multiArrayType.shape) == [1, 3, 32, 32]
    assert list(description.output[0].type.multiArrayType.shape) == [1, 10]


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision", ["fp16", pytest.param("int8-weights", marks=pytest.mark.deep)]
)
def test_a_pruned_segmentation_net_holds_what_its_module_computes(
    tmp_path: Path, precision: str
) -> None:
    model = zoo.pruned("segmentation")
    check_agrees(built(tmp_path, source(model), target(precision)), model, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    [
        "int8-weights",
        *(pytest.param(other, marks=pytest.mark.deep) for other in ("fp16", "fp32", "palette4")),
    ],
)
def test_a_pruned_residual_net_holds_what_its_module_computes(
    tmp_path: Path, precision: str
) -> None:
    model = zoo.pruned("residual")
    check_agrees(built(tmp_path, source(model), target(precision)), model, precision)


def masked(share: float) -> zoo.ZooModel:
    model = zoo.pruned("odd-cnn")
    with torch.no_grad():
        for layer in model.module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() >= 400:
                size = layer.weight.abs().flatten()
                least = size.kthvalue(int(share * len(size))).values
                layer.weight.mul_(layer.weight.abs() > least)
    return model


@pytest.mark.slow
def test_zeros_of_masked_weights_are_stored_in_a_bit_each(tmp_path: Path) -> None:
    model = masked(0.9)
    whole = built(tmp_path, source(model), target())
    sparse = built(tmp_path, source(model, "unstructured"), target())
    assert mil.operators(sparse).count("constexpr_sparse_to_dense") >= 3
    assert len(sparse) < 0.4 * len(whole)
    x = {"image": model.held[0][:1].numpy()}
    assert np.array_equal(mil.evaluate(whole, x)[0], mil.evaluate(sparse, x)[0])
    assert "unstructured" in RUNTIME.capabilities.stores_sparse


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8-weights", "palette4"])
def test_sparse_and_small_together_need_a_newer_system(tmp_path: Path, precision: str) -> None:
    model, path = masked(0.9), tmp_path / "net"
    fact = RUNTIME.build(source(model, "unstructured"), target(precision), path)
    older = path.stat().st_size
    assert "from iOS18 on only" in fact.notes[0]
    newer = target(precision, deployment="iOS18")
    fact = RUNTIME.build(source(model, "unstructured"), newer, path)
    assert fact.notes == ()
    assert path.stat().st_size < 0.8 * older
    check_agrees(path.read_bytes(), model, precision)


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes_on_any_day(tmp_path: Path) -> None:
    model = zoo.pruned("odd-cnn")
    one = built(tmp_path, source(model), target("palette4"))
    other = built(tmp_path, source(model), target("palette4"))
    assert one == other
    today = datetime.datetime.now(tz=datetime.UTC).date()
    for day in (today, today - datetime.timedelta(days=1)):
        assert day.isoformat().encode() not in one
    assert b"/tmp" not in one


@pytest.mark.slow
def test_several_inputs_and_outputs_keep_their_names_and_order(tmp_path: Path) -> None:
    module, inputs = models.build("two-input"), models.inputs("two-input", 3)
    made = Source(module=module, example_inputs=inputs, input_names=("image", "vector"))
    wanted = Target(runtime="coreml", batch_size=3, precision="fp16")
    description = specification(built(tmp_path, made, wanted)).description
    assert [one.name for one in description.input] == ["image", "vector"]
    shapes = {one.name: list(one.type.multiArrayType.shape) for one in description.output}
    assert shapes == {"output_0": [3, 5], "output_1": [3, 1]}


@pytest.mark.deep
@pytest.mark.slow
@pytest.mark.skipif(not zoo.has_minilm, reason="MiniLM's weights are not installed")
def test_minilm_converts_with_whole_numbers_as_inputs(tmp_path: Path) -> None:
    model = zoo.pruned("minilm")
    content = built(tmp_path, source(model), target("int8-weights"))
    description = specification(content).description
    kinds = {one.type.multiArrayType.dataType for one in description.input}
    assert kinds == {description.input[0].type.multiArrayType.ArrayDataType.Value("INT32")}
    assert mil.operators(content).count("constexpr_affine_dequantize") >= 25
    parameters = sum(one.numel() for one in model.module.parameters())
    assert len(content) < 1.2 * parameters


# --- what may go wrong ----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_operator_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(x)

    made = Source(module=Strange(), example_inputs=(torch.rand(2, 4),), input_names=("x",))
    with pytest.raises(BuildError, match=r"the operator \S*i0\S* cannot be converted to Core ML"):
        RUNTIME.build(made, target(), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_converter_are_told() -> None:
    assert explained(ValueError("\n  first line\nsecond")).what.endswith("Core ML: first line")
    assert explained(KeyError()).what.endswith("Core ML: KeyError")


def test_layers_cannot_stay_in_float_where_all_are_small(tmp_path: Path) -> None:
    model = zoo.pruned("odd-cnn")
    made = Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        float_layers=("head",),
    )
    with pytest.raises(BuildError, match="head cannot stay"):
        RUNTIME.build(made, target("int8-weights"), tmp_path / "net")
    named = structs.replace(target("int8-weights"), float_layers=("head",))
    with pytest.raises(BuildError, match="head cannot stay"):
        RUNTIME.build(source(model), named, tmp_path / "net")


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="did you mean 'deployment'"):
        RUNTIME.build(source(zoo.pruned("odd-cnn")), target(deploy="iOS17"), tmp_path / "net")
    with pytest.raises(BuildError, match="the option deployment of coreml is no 'iOS9'"):
        RUNTIME.build(source(zoo.pruned("odd-cnn")), target(deployment="iOS9"), tmp_path / "net")


@off_macos
def test_elsewhere_it_says_where_it_runs_and_how_to_get_there(tmp_path: Path) -> None:
    path = tmp_path / "net.mlpackage.zip"
    path.write_bytes(pack(b"model", b"weights"))
    with pytest.raises(BuildError, match="Core ML runs on macOS only") as caught:
        RUNTIME.open(path, target())
    assert "`run`" in caught.value.fix
    assert "kit" in caught.value.fix
    assert cannot_run_here(RUNTIME, target()) == "Core ML runs on macOS only"
    assert not RUNTIME.capabilities.latency
    assert cannot_run_here(get_runtime("onnxruntime"), Target()) == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", pack(b"model", b"weights")[:100]],
    ids=["empty", "other", "cut"],
)
def test_a_damaged_package_is_a_clear_error_first(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.mlpackage.zip"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"net\.mlpackage\.zip: this package is damaged"):
        RUNTIME.open(path, target())
    with pytest.raises(BuildError, match="cannot be read"):
        RUNTIME.open(tmp_path / "missing", target())


def test_a_flipped_bit_is_seen() -> None:
    content = bytearray(pack(b"model" * 50, b"weights" * 50))
    content[content.index(b"weights" * 50) + 9] ^= 1
    with pytest.raises(BuildError, match="damaged"):
        unpack(bytes(content), where="net")


@pytest.mark.parametrize("name", ["../evil", "Data/other", "/etc/passwd"])
def test_a_package_with_other_files_is_refused(name: str) -> None:
    packed = io.BytesIO(pack(b"model", b"weights"))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BuildError, match="no package of a Core ML model"):
        unpack(packed.getvalue(), where="net")


@given(st.binary(max_size=99), st.none() | st.binary(max_size=99))
def test_packing_loses_nothing_and_repeats(model: bytes, weights: bytes | None) -> None:
    content = pack(model, weights)
    assert content == pack(model, weights)
    found = unpack(content, where="net")
    assert found[MODEL] == model
    assert found.get(WEIGHTS) == weights


class Doubling:
    """Stands in for the model that only macOS can load: two outputs, in the wrong order."""

    def predict(self, given: dict[str, Any]) -> dict[str, Any]:
        assert given["x"].shape == (2, 3)
        assert given["x"].dtype == np.float32
        return {"output_1": -given["x"], "output_0": given["x"] * 2}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_session_runs_any_number_of_examples(tmp_path: Path, count: int) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, -x

    made = Source(module=Two(), example_inputs=(torch.rand(2, 3),), input_names=("x",))
    wanted = Target(runtime="coreml", precision="fp16", batch_size=2)
    session = CoreMlSession(Doubling(), specification(built(tmp_path, made, wanted)))
    x = np.random.default_rng(0).normal(size=(count, 3))
    one, other = session.run([x])
    assert np.array_equal(one, x.astype(np.float32) * 2)
    assert np.array_equal(other, -x.astype(np.float32))
    with pytest.raises(BuildError, match="does not run on these inputs"):
        session.run([np.zeros((2, 4), np.float32)])
    with pytest.raises(BuildError, match="does not run on these inputs"):
        session.run([np.zeros((0, 3), np.float32)])


def test_naming_the_runtime_loads_neither_torch_nor_coremltools() -> None:
    code = (
        "import sys; from reprune.runtimes.base import get_runtime\n"
        "get_runtime('coreml'); get_runtime('litert'); get_runtime('edgetpu')\n"
        "assert not {'torch', 'coremltools', 'ai_edge_litert'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
