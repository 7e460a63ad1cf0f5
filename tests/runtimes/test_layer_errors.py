"""The layers that differ most are the ones that were changed, by name and with their distance."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from reprune.runtimes.base import Source
from reprune.runtimes.layer_errors import worst_layers
from reprune.runtimes.onnx_source import float_onnx
from tests import zoo


def chain() -> Source:
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)))
    return Source(
        module=layers.eval(),
        example_inputs=(torch.randn(2, 8),),
        input_names=["x"],
        calibration=[(torch.randn(16, 8),)],
    )


def with_noise(source: Source, layer: str, strength: float) -> bytes:
    model = onnx.load_model_from_string(float_onnx(source))
    (tensor,) = [one for one in model.graph.initializer if one.name.endswith(f"{layer}.weight")]
    weight = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(weight + strength * weight[::-1], tensor.name))
    return bytes(model.SerializeToString())


@pytest.mark.slow
def test_the_same_file_differs_nowhere() -> None:
    source = chain()
    assert {error.relative for error in worst_layers(source, float_onnx(source))} == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["1.0", "3.0"])
def test_what_was_changed_is_named(layer: str) -> None:
    """Nothing before it differs; what comes after it carries the error on."""
    source = chain()
    found = worst_layers(source, with_noise(source, layer, 0.5), count=4)
    known = {error.layer: error.relative for error in found}
    before = [name for name in ("0.0", "1.0", "2.0", "3.0") if name < layer]
    assert {known[name] for name in before} <= {0.0}
    assert known[layer] > 0.05
    assert [error.relative for error in found] == sorted(known.values(), reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 20])
def test_an_engine_of_a_fixed_batch_size_is_fed_as_it_was_built(size: int) -> None:
    """As those of qnn are: 16 calibration examples, fewer and more than it takes in a call."""
    source = chain()
    model = onnx.load_model_from_string(with_noise(source, "1.0", 0.5))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del model.graph.value_info[:]
    found = worst_layers(source, model.SerializeToString(), count=4)
    known = {error.layer: error.relative for error in found}
    assert known["0.0"] == 0.0
    assert known["1.0"] > 0.05


@pytest.mark.slow
def test_an_engine_that_is_refused_names_no_layer() -> None:
    """It has an operator that ONNX Runtime lacks: who asked wanted to know more, and not another error."""
    source = chain()
    model = onnx.load_model_from_string(float_onnx(source))
    model.opset_import.append(onnx.helper.make_opsetid("of.a.device", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.domain = "of.a.device"
    assert worst_layers(source, model.SerializeToString()) == ()


@pytest.mark.slow
def test_a_quantised_net_names_its_layers() -> None:
    """int8 moves every layer of a real net a little; three of them are told."""
    from reprune.core.params import Target
    from reprune.runtimes.onnx_plan import CPU
    from reprune.runtimes.onnx_source import int8_onnx

    model = zoo.pruned("odd-cnn")
    source = Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        calibration=model.calibration,
    )
    content, _ = int8_onnx(source, Target(precision="int8"), CPU)
    found = worst_layers(source, content)
    names = dict(model.module.named_modules())
    assert len(found) == 3
    assert all(error.layer in names for error in found)
    assert all(0.0 < error.relative < 0.2 for error in found)
