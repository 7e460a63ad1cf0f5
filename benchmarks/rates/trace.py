"""A real A/A trace: units of one model under several names, taken as the benchmark step takes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from reprune.core.params import BenchmarkParams, Target
from reprune.judge.evidence import CONTROL, Unit
from reprune.measure.calls import Shape
from reprune.measure.latency import LatencyJob, take_units

Floats: TypeAlias = NDArray[np.float64]

# As many arms as a verdict can have; only CONTROL is left out.
ARMS = ("anchor", "candidate", "champion", "dense")
_WIDTHS = (3, 16, 32, 32)
_SIDE = 32
_IR_VERSION = 10
_OPSET = 17


def conv_net(path: Path) -> None:
    """Writes a small convolutional network (about half a millisecond a call) with fixed weights."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for place, (wide, out) in enumerate(itertools.pairwise(_WIDTHS)):
        kernel = random.normal(0, 0.1, (out, wide, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{place}"))
        conv, relu = f"c{place}", f"r{place}"
        nodes.append(helper.make_node("Conv", [last, f"w{place}"], [conv], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [conv], [relu]))
        last = relu
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, _WIDTHS[-1], 1, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def record(
    total: int, *, arms: Sequence[str] = ARMS, say: Callable[[str], None] = print
) -> tuple[Unit, ...]:
    """`total` units in which every arm is the same file: whatever differs is noise."""
    with TemporaryDirectory(prefix="reprune-rates-") as folder:
        path = Path(folder) / "net.onnx"
        conv_net(path)
        image = np.random.default_rng(1).normal(size=(1, 3, _SIDE, _SIDE)).astype(np.float32)
        job = LatencyJob(
            target=Target(),
            engines=dict.fromkeys(arms, path),
            shapes=(Shape(inputs=(image,), weight=1.0),),
            params=BenchmarkParams(),
            seed="error rates",
        )
        return take_units(job, total=total, say=say)


def block_logs(units: Sequence[Unit], arms: Sequence[str] = ARMS) -> Floats:
    """log(median call in ns) of every block in the order of time: (units, 2 arms)."""
    count = len(arms)
    logs = np.empty((len(units), 2 * count))
    for row, unit in zip(logs, units, strict=True):
        for arm in arms:
            taken = unit.arms[arm]
            first, second = (math.log(median(block)) for block in taken.blocks_ns)
            row[taken.order], row[2 * count - 1 - taken.order] = first, second
    return logs


def pair_logs(units: Sequence[Unit], arms: Sequence[str] = ARMS) -> Floats:
    """Each arm's two block logs, first and second: (units, arms, 2), arms in the order given."""
    return np.array(
        [
            [[math.log(median(block)) for block in unit.arms[arm].blocks_ns] for arm in arms]
            for unit in units
        ]
    )


def call_ratios(units: Sequence[Unit], *, most: int = 20_000) -> Floats:
    """Single calls over the median of their block, at most `most` of them, evenly spread."""
    ratios: list[float] = []
    for unit in units:
        for arm, taken in unit.arms.items():
            if arm != CONTROL:
                for block in taken.blocks_ns:
                    middle = median(block)
                    ratios += [call / middle for call in block]
    found: Any = np.array(ratios)
    return np.asarray(found[:: max(1, len(found) // most)][:most])
