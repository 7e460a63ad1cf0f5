"""ONNX Runtime's fused operators are called after the modules that they compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from reprune.core.params import Target
from reprune.runtimes.base import Source
from reprune.runtimes.onnx_operators import caller
from reprune.runtimes.onnxruntime import OnnxRuntime
from tests.models import build, inputs

HEAVY = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "QLinearConv", "QGemm")


def timed(
    module: nn.Module, given: tuple[torch.Tensor, ...], folder: Path, precision: str
) -> set[str]:
    """The modules that the heavy operators of the engine are called after."""
    engine, target = folder / "engine.onnx", Target(precision=precision)  # type: ignore[arg-type]
    names = [f"input{place}" for place in range(len(given))]
    calibration = [given] if precision == "int8" else []
    source = Source(module=module, example_inputs=given, input_names=names, calibration=calibration)
    OnnxRuntime().build(source, target, engine)
    arrays = [tensor.numpy() for tensor in given]
    found = OnnxRuntime().operator_times(engine, target, arrays, calls=3)
    assert len({one.operator for one in found}) == len(found)
    return {one.operator.rpartition("/")[0] for one in found if one.type in HEAVY}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"), [("resnet-b", "fp32"), ("unet", "fp32"), ("unet", "int8")]
)
def test_every_convolution_is_known_by_its_module(
    name: str, precision: str, tmp_path: Path
) -> None:
    """Fused with norms, activations and sums, in blocked or 8-bit form: each has its own module's name."""
    module = build(name)
    layers = {
        layer
        for layer, inner in module.named_modules()
        if isinstance(inner, (nn.Conv2d, nn.Linear))
    }
    assert timed(module, inputs(name, 2), tmp_path, precision) == layers


def test_of_two_branches_the_one_that_was_fused_is_meant() -> None:
    """A sum of a shortcut and a convolution is computed with the last convolution before it."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["early"], name="short/Conv"),
            helper.make_node("Conv", ["x", "w"], ["late"], name="long/Conv"),
            helper.make_node("Add", ["early", "late"], ["sum"], name="block/Add"),
            helper.make_node("Relu", ["sum"], ["relu_7"], name="block/Relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("relu_7", TensorProto.FLOAT, [1])],
    )
    called = caller(helper.make_model(graph))
    assert called("relu_7_nchwc", "Conv") == "long/Conv"
    assert called("fused long/Conv", "FusedConv") == "long/Conv"
    assert called("long/Conv_quant", "QLinearConv") == "long/Conv"
    assert called("sum", "Add") == "block/Add"
    assert called("early_token_3", "Conv") == "short/Conv"
    assert called("ReorderOutput", "ReorderOutput") == "ReorderOutput"
    assert called("relu_7_token_1_of_another", "Conv") == "relu_7_token_1_of_another"
