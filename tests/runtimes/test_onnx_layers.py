"""Every fused operator of ONNX Runtime is given to the layer of the module that it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprune.core.params import Precision, Target
from reprune.runtimes.base import LayerTimed, Source
from reprune.runtimes.onnxruntime import OnnxRuntime

LAYERS = ("stem", "left", "right", "join", "head")


class Branches(nn.Module):
    """A residual sum that is fused into a convolution, a concatenation, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left, self.right = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.join = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        stem = self.stem(image).relu()
        left = (self.left(stem) + stem).relu()
        right = torch.max_pool2d(self.right(stem).relu(), 3, 1, 1)
        return self.head(self.join(torch.cat([left, right], dim=1)).relu().mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_operator_belongs_to_the_layer_it_came_from(
    precision: Precision, tmp_path: Path
) -> None:
    """All of the graph's time is in the five layers; sums and pools are with the layer that made their
    input, the concatenation with the one that reads it, whatever was fused and renamed.
    """
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16)
    runtime, target = OnnxRuntime(), Target(precision=precision)
    engine = tmp_path / "branches.onnx"
    source = Source(
        module=Branches().eval(),
        example_inputs=(images[:2],),
        input_names=("image",),
        calibration=[(images,)],
    )
    runtime.build(source, target, engine)
    inputs = [np.asarray(images[:1])]
    assert isinstance(runtime, LayerTimed)
    found = {one.layer: one for one in runtime.layer_times(engine, target, inputs, 20, LAYERS)}
    assert set(found) == set(LAYERS)
    assert all(one.us > 0 for one in found.values())
    assert found["left"].kinds == ("Conv", "Add", "Relu")
    assert found["right"].kinds == ("Conv", "Relu", "MaxPool")
    assert sorted(found["join"].kinds) == ["Concat", "Conv", "ReduceMean", "Relu"]
    assert found["stem"].kinds == ("Conv", "Relu")
    assert found["head"].kinds == ("Gemm",)
    operators = runtime.operator_times(engine, target, inputs, 20)
    # Both are medians of whole microseconds, the layers' within the tick: half a tick an operator apart.
    told, summed = (
        sum(values) for values in ([o.median_us for o in operators], [f.us for f in found.values()])
    )
    assert summed == pytest.approx(told + 0.5 * len(operators), rel=0.5)


@pytest.mark.slow
def test_layers_that_a_following_activation_was_fused_into_keep_their_time(tmp_path: Path) -> None:
    """The runtime calls them by another name then."""
    module = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    example = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    source = Source(module=module.eval(), example_inputs=(example,), input_names=("row",))
    engine = tmp_path / "rows.onnx"
    OnnxRuntime().build(source, Target(), engine)
    times = OnnxRuntime().layer_times(
        engine, Target(), [np.asarray(example[:1])], 5, ("0", "2", "4")
    )
    assert [one.layer for one in times] == ["0", "2", "4"]
    assert [one.kinds for one in times] == [("Gemm", "Relu"), ("Gemm", "Relu"), ("Gemm",)]
