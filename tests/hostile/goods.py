"""Fifty honest files of six formats: none may be refused, and mutants are made of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from tests.chain import POLICY
from tests.tflite_files import Tensor, operator, tflite

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "core" / "samples"


def safetensors_files() -> list[bytes]:
    draw = np.random.default_rng(0)
    kinds = (np.float32, np.float16, np.float64, np.int8, np.int64, np.uint8, np.bool_)
    found = [
        save({"w": draw.normal(size=(3, 4)).astype(kind), "b.c": np.zeros(2, np.float32)})
        for kind in kinds
    ]
    found.append(save({f"layers.{n}.weight": np.ones((2, 2), np.float32) for n in range(40)}))
    found.append(save({"scalar": np.array(1.5, np.float32)}, metadata={"format": "pt"}))
    found.append(save({"\u00e9t\u00e9": np.ones(3, np.float32), "empty": np.zeros(0, np.float32)}))
    found.append(save({"a/b/../c": np.ones(2, np.float32), "a": np.ones((1, 1, 1, 2), np.int16)}))
    found.append(save({"big": draw.normal(size=(64, 64)).astype(np.float32)}))
    return found


def onnx_files() -> list[bytes]:
    return [
        _onnx(width, kind, depth)
        for width, kind, depth in (
            (4, np.float32, 1), (8, np.float32, 2), (1, np.float32, 1), (16, np.float32, 4),
            (4, np.float64, 1), (3, np.float32, 3), (2, np.float16, 1), (5, np.float32, 8),
            (6, np.float64, 2),
        )
    ] + [_branches(), _constant()]  # fmt: skip


def _onnx(width: int, kind: Any, depth: int) -> bytes:
    draw = np.random.default_rng(width)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes, weights = [], []
    for number in range(depth):
        weights.append(
            numpy_helper.from_array(draw.normal(size=(width, width)).astype(kind), f"w{number}")
        )
        nodes.append(helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"h{number}"]))
        nodes.append(helper.make_node("Relu", [f"h{number}"], [f"x{number + 1}"]))
    shape = ["n", width]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", code, shape)],
        [helper.make_tensor_value_info(f"x{depth}", code, shape)],
        weights,
    )
    return _model(graph)


def _model(graph: Any) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _constant() -> bytes:
    value = numpy_helper.from_array(np.ones((2, 2), np.float32), "v")
    node = helper.make_node("Constant", [], ["y"], value=value)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    return _model(helper.make_graph([node], "g", [], [out]))


def _branches() -> bytes:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    sides = []
    for value in (0.0, 1.0):
        tensor = helper.make_tensor("v", TensorProto.FLOAT, [1], [value])
        sides.append(
            helper.make_graph(
                [helper.make_node("Constant", [], ["y"], value=tensor)], "s", [], [out]
            )
        )
    node = helper.make_node("If", ["c"], ["y"], then_branch=sides[0], else_branch=sides[1])
    cond = helper.make_tensor_value_info("c", TensorProto.BOOL, [1])
    return _model(helper.make_graph([node], "g", [cond], [out]))


def tflite_files() -> list[bytes]:
    found = []
    for width in (1, 2, 4, 8, 16, 3):
        tensors = [
            Tensor("args_0", (2, width)),
            Tensor("c", (2, width), values=np.ones((2, width), np.float32)),
            Tensor("y", (2, width)),
        ]
        found.append(tflite(tensors, [operator("ADD", [0, 1], [2])], inputs=[0], outputs=[2]))
    two = [Tensor(f"t{n}", (2, 4)) for n in range(4)]
    nodes = [operator("ADD", [0, 1], [2]), operator("MUL", [2, 1], [3])]
    found.append(tflite(two, nodes, inputs=[0, 1], outputs=[3]))
    whole = [Tensor("a", (4,), "INT8", (0.5,), 3), Tensor("b", (4,), "INT8", (0.25,), 1)]
    found.append(tflite(whole, [operator("ADD", [0, 0], [1])], inputs=[0], outputs=[1]))
    return found


def npz_files() -> list[bytes]:
    draw = np.random.default_rng(1)
    sets: list[list[Any]] = [
        [np.zeros((2, 3), np.float32)],
        [draw.normal(size=(8, 10)).astype(np.float32), np.arange(8)],
        [np.zeros(0, np.float16)],
        [np.ones((1, 2, 3, 4), np.int8), np.array([True, False])],
        [np.asfortranarray(draw.normal(size=(3, 5)))],
    ]
    found = []
    for number, arrays in enumerate(sets):
        stream = io.BytesIO()
        (np.savez_compressed if number % 2 else np.savez)(stream, *arrays)
        found.append(stream.getvalue())
    return found


def pickled_files() -> list[bytes]:
    import torch

    weight = torch.arange(12.0).reshape(3, 4)
    sets: list[Any] = [
        {"w": weight, "tied": weight, "view": weight[:, 1]},
        {"a.b": torch.zeros(2, dtype=torch.bfloat16), "n": torch.tensor(3)},
    ]
    found = []
    for state in sets:
        stream = io.BytesIO()
        torch.save(state, stream)
        found.append(stream.getvalue())
    stream = io.BytesIO()
    torch.save(sets[0], stream, _use_new_zipfile_serialization=False)
    return [*found, stream.getvalue()]


def manifests() -> list[bytes]:
    paths = sorted(path for path in SAMPLES.rglob("*.json"))
    return [path.read_bytes() for path in paths][:8]


def policies() -> list[bytes]:
    shipped = sorted(ROOT.glob("src/reprune/template*/policy.yaml"))
    found = [POLICY.encode(), *(path.read_bytes() for path in shipped)]
    value = yaml.safe_load(POLICY)
    strict = {**value, "mode": "enforce"}
    loose = {key: value[key] for key in ("targets", "latency", "quality")}
    return [*found, *(yaml.safe_dump(each).encode() for each in (value, strict, loose))][:5]
