"""Real models, converted to LiteRT in its own environment: they run, and agree with their modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor, nn

from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.policy import ParityRules
from reprune.runtimes.base import Source
from reprune.runtimes.litert import LiteRt
from reprune.runtimes.tflite_file import read_tflite
from tests import models, zoo
from tests.litert_environment import converter_python

pytestmark = pytest.mark.slow

RUNTIME = LiteRt()


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(runtime="litert", python=converter_python())


def source(model: zoo.ZooModel, float_layers: tuple[str, ...] = ()) -> Source:
    return Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        calibration=model.calibration,
        float_layers=float_layers,
    )


def check_agrees(model: zoo.ZooModel, path: Path, target: Target) -> None:
    """On the held examples, within the bounds that the policy has for the precision."""
    with torch.no_grad():
        wanted = model.module(*model.held).numpy()
    (found,) = RUNTIME.open(path, target).run([one.numpy() for one in model.held])
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    bounds = ParityRules().bounds(target.precision)
    cosine = float((found * wanted).sum() / np.sqrt((found**2).sum() * (wanted**2).sum()))
    answers = [one.argmax(1) if one.shape[1] > 1 else one > 0 for one in (found, wanted)]
    assert cosine >= bounds.min_cosine
    assert float((answers[0] == answers[1]).mean()) >= bounds.min_agreement
    if bounds.max_abs is not None:
        assert float(np.abs(found - wanted).max()) <= bounds.max_abs


@pytest.mark.parametrize("name", zoo.FAST)
def test_a_pruned_model_agrees_in_every_precision(
    tmp_path: Path, target: Target, name: str
) -> None:
    model, sizes = zoo.pruned(name), {}
    for precision in RUNTIME.capabilities.precisions:
        wanted = structs.replace(target, precision=precision)
        path = tmp_path / f"{precision}.tflite"
        RUNTIME.build(source(model), wanted, path)
        check_agrees(model, path, wanted)
        sizes[precision] = path.stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.4 * sizes["fp32"]
    assert sizes["int8-weights"] < 0.4 * sizes["fp32"]


# The last model converted is kept, so tests of the same one follow each other.


def test_whole_int8_leaves_no_float_and_still_speaks_floats(tmp_path: Path, target: Target) -> None:
    model, path = zoo.pruned("segmentation"), tmp_path / "net.tflite"
    int8 = structs.replace(target, precision="int8", options={"io": "int8"})
    RUNTIME.build(source(model), int8, path)
    check_agrees(model, path, int8)
    read = read_tflite(path.read_bytes(), where="")
    tensors = [tensor for one in read.operators for tensor in (*one.inputs, *one.outputs)]
    assert {one.type for one in tensors} <= {"INT8", "INT32"}


def test_layers_are_left_in_float_and_others_are_not(tmp_path: Path, target: Target) -> None:
    model, path = zoo.pruned("odd-cnn"), tmp_path / "net.tflite"
    int8 = structs.replace(target, precision="int8")
    names = RUNTIME.quantisable(source(model), int8)
    assert names == ("layers.0.0", "layers.1.0", "layers.2.0", "layers.3.0", "head")
    RUNTIME.build(source(model, ("layers.1.0", "head")), int8, path)
    check_agrees(model, path, int8)
    kinds = [
        one.inputs[1].type
        for one in read_tflite(path.read_bytes(), where="").operators
        if one.name in ("CONV_2D", "FULLY_CONNECTED")
    ]
    assert kinds == ["INT8", "FLOAT32", "INT8", "INT8", "FLOAT32"]
    with pytest.raises(BuildError, match=r"the layer layers\.9 cannot be left in float"):
        RUNTIME.build(source(model, ("layers.9",)), int8, path)
    named = structs.replace(int8, float_layers=("layers.1*", "head", "haed"))
    left = tmp_path / "named.tflite"
    fact = RUNTIME.build(source(model), named, left)
    assert left.read_bytes() == path.read_bytes()
    assert fact.float_layers == ("layers.1.0", "head")
    assert any("'haed'" in note for note in fact.notes)
    assert RUNTIME.quantisable(source(model), named) == ("layers.0.0", "layers.2.0", "layers.3.0")


def test_int8_needs_calibration(tmp_path: Path, target: Target) -> None:
    model = zoo.pruned("odd-cnn")
    bare = Source(
        module=model.module, example_inputs=model.example_inputs, input_names=model.input_names
    )
    int8 = structs.replace(target, precision="int8")
    with pytest.raises(BuildError, match="needs calibration examples"):
        RUNTIME.build(bare, int8, tmp_path / "net.tflite")
    with pytest.raises(BuildError, match="does not take ranges by entropy"):
        RUNTIME.build(source(model), structs.replace(int8, ranges="entropy"), tmp_path / "net")


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, target: Target) -> None:
    from reprune.runtimes import litert_build

    model, int8 = zoo.pruned("odd-cnn"), structs.replace(target, precision="int8")
    for name in ("one", "other"):
        litert_build._LAST.clear()
        RUNTIME.build(source(model), int8, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "one").read_bytes()


@pytest.mark.deep
@pytest.mark.skipif(not zoo.has_minilm, reason="MiniLM's weights are not installed")
@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_minilm_agrees_with_its_worst_layers_in_float(
    tmp_path: Path, target: Target, activations: str
) -> None:
    model, path = zoo.pruned("minilm"), tmp_path / "net.tflite"
    RUNTIME.build(source(model), target, path)
    check_agrees(model, path, target)
    int8 = structs.replace(target, precision="int8", options={"activations": activations})
    names = RUNTIME.quantisable(source(model), int8)
    assert "bert.encoder.layer.5.attention.self.value" in names
    worst = [name for name in names if name.endswith("output.dense") and "attention" not in name]
    kept = ("head", *worst) if activations == "static" else ("head",)
    fact = RUNTIME.build(source(model, kept), int8, path)
    assert fact.float_layers == kept
    check_agrees(model, path, int8)
    if activations == "static":
        assert "SOFTMAX" in fact.notes[0]


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path, target: Target) -> None:
    """Twelve outputs: the eleventh is called output_10, which is before output_2 in a dictionary's eyes."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = models.build("two-input")

        def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
            found = self.inner(image, vector)
            more = {f"{10 - n}": found["logits"] * float(n) for n in range(10)}
            return {"z": found["logits"], **more, "a": found["extra"]}

    module, inputs = Many().eval(), models.inputs("two-input", 5)
    three = structs.replace(target, batch_size=3)
    path = tmp_path / "net.tflite"
    made = Source(module=module, example_inputs=inputs, input_names=("image", "vector"))
    RUNTIME.build(made, three, path)
    found = RUNTIME.open(path, three).run([one.numpy() for one in inputs])
    with torch.no_grad():
        wanted = list(module(*inputs).values())
    assert len(found) == len(wanted) == 12
    for one, other in zip(found, wanted, strict=True):
        assert np.allclose(one, other.numpy(), atol=1e-5)


def test_an_operator_that_cannot_be_converted_is_named(tmp_path: Path, target: Target) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(x)

    made = Source(module=Strange(), example_inputs=(torch.rand(2, 4),), input_names=("x",))
    with pytest.raises(BuildError, match=r"the operator aten\.i0\.default cannot be converted"):
        RUNTIME.build(made, target, tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_outputs_without_a_batch_are_refused(tmp_path: Path, target: Target) -> None:
    class Summed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=0)

    made = Source(module=Summed(), example_inputs=(torch.rand(2, 4),), input_names=("x",))
    with pytest.raises(BuildError, match="does not have the batch as its first dimension"):
        RUNTIME.build(made, target, tmp_path / "net.tflite")
